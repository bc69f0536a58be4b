"""Several builds of the same engine on either side: is it the version that is slower, or one unlucky build?

A builder that chooses kernels by timing them may choose others the next time. With K builds a side, all raced in the
same rounds, a round's number of a side is the median over its builds; the paired rule decides on those. A change that
it shows counts only if the builds of the two sides do not overlap: as long as some new build is as fast as some old
one, what differs between builds explains it as well.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.paired import Floats, change_text, decide_paired


@dataclasses.dataclass(frozen=True)
class Spread:
    """How far the builds of one side lie apart: log of the slowest over the fastest median latency."""

    builds: tuple[float, ...]

    @property
    def log_range(self) -> float:
        return math.log(max(self.builds) / min(self.builds))

    def __str__(self) -> str:
        return f"{min(self.builds) * 1e3:.3f} to {max(self.builds) * 1e3:.3f} ms over {len(self.builds)} builds"


def spread_of(builds: Sequence[Floats]) -> Spread:
    """The spread of builds, float64[R] seconds each, of the same rounds."""
    return Spread(tuple(float(np.median(build)) for build in builds))


def decide_rebuilds(
    old: Sequence[Floats], new: Sequence[Floats], *, delta: float, absolute_floor: float = 0.0
) -> Decision:
    """Whether the new side is slower than the old one by more than `delta`, each side K builds of float64[R] seconds.

    With one build a side this is `decide_paired`. With more, REGRESSED and IMPROVED become INCONCLUSIVE
    (build_spread) where the builds of the sides overlap. Raises ValueError as `decide_paired` does, and for an empty
    side.
    """
    if not old or not new:
        raise ValueError("both sides need a build")
    decision = decide_paired(
        np.median(np.stack(old), 0), np.median(np.stack(new), 0), delta=delta, absolute_floor=absolute_floor
    )
    if min(len(old), len(new)) == 1:
        return decision
    before, after = spread_of(old), spread_of(new)
    overlap = min(after.builds) <= max(before.builds) and min(before.builds) <= max(after.builds)
    if overlap and decision.verdict in {Verdict.REGRESSED, Verdict.IMPROVED}:
        message = f"{decision.message}; but the builds overlap (old {before}, new {after})"
        return dataclasses.replace(decision, verdict=Verdict.INCONCLUSIVE, reason=Reason.BUILD_SPREAD, message=message)
    return decision


def unlucky_builds(builds: Sequence[Floats], delta: float) -> list[str]:
    """A sentence for every build that is slower than its side's median build by more than `delta`."""
    medians = spread_of(builds).builds
    middle = float(np.median(medians))
    return [
        f"build {index + 1} of {len(medians)} is slower than its side's median build by "
        f"{change_text(math.log(each / middle))}: an unlucky choice of kernels, not the version"
        for index, each in enumerate(medians)
        if math.log(each / middle) > math.log1p(delta)
    ]
