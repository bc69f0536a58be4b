"""Answers of both sides' builds: how far they lie apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trtgate.measure.remote import SIDES
from trtgate.verdict.agreement import Agreement, Rebuilt, furthest, nearest, rebuilt
from trtgate.workbench import Logits


def agreements_of(
    logits: Mapping[str, Sequence[Logits]],
    reference: Logits | None,
    pair: Callable[[Logits, Logits], Agreement],
    words: str = "PyTorch",
) -> tuple[dict[str, Agreement], Rebuilt | None]:
    """How far answers lie apart: new from old, each from the reference's, and each side's builds from each other; and
    what that says of the new builds.

    `logits` has float32[N,classes] of each build of a side, `pair` compares two of those, `words` are what the
    reference is called. Of several builds those that lie furthest apart are told, of new with old that new build which
    is furthest from every old one.
    """
    crossed = [[pair(old, new) for old in logits["old"]] for new in logits["new"]]
    found = {"new with old": furthest([nearest(some) for some in crossed])}
    within: dict[str, list[Agreement]] = {}
    for side in SIDES:
        finite = [each for each in logits[side] if np.isfinite(each).all()]
        within[side] = [pair(*two) for two in itertools.combinations(finite, 2)]
        if within[side]:
            found[f"{side} with {side}"] = furthest(within[side])
        if reference is not None:
            found[f"{side} with {words}"] = furthest([pair(reference, each) for each in logits[side]])
    return found, rebuilt(within["old"], crossed)
