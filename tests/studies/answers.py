"""How often the rules on answers are wrong, by simulation: an engine errs on some photos' crops more than on others'.

    python tests/studies/answers.py [--trials N]

Every photo has its own probability that a crop of it flips, drawn from a beta distribution whose mean is the true share
and whose spread makes the crops of a photo resemble each other as said (intracluster correlation). A share is put to
its floor at the floor itself, where an error is likeliest, and a loss to its limit at the limit; then with a share
above its floor, and with nothing lost at all.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.verdict import Outcome
from trtgate.verdict.agreement import Accuracy, Agreement, decide_accuracy, decide_agreement
from trtgate.verdict.shares import size_of

Ints = npt.NDArray[np.int64]
# Photos and crops of each: what is shipped, what was, and users' own.
SHAPES = ((40, 6), (24, 10), (6, 40), (20, 1), (240, 1), (1000, 1))
COMMON = (0.0, 0.1, 0.2)
FLOORS = (0.85, 0.93, 0.96, 0.98)
LIMIT = 0.03
GAINED = (0.0, 0.01, 0.03)
MOVED = (0.005, 0.01, 0.02)


@dataclass(frozen=True)
class Row:
    """One situation: what was decided in how many of the trials."""

    rule: str
    photos: int
    crops: int
    common: float
    truth: str
    outcomes: Counter[Outcome]

    @property
    def trials(self) -> int:
        return sum(self.outcomes.values())

    def share(self, outcome: Outcome) -> float:
        return self.outcomes[outcome] / self.trials

    def __str__(self) -> str:
        shares = " | ".join(
            f"{self.share(each):.1%}" for each in (Outcome.REGRESSED, Outcome.INCONCLUSIVE, Outcome.PASS)
        )
        return f"| {self.rule} | {self.photos} x {self.crops} | {self.common:g} | {self.truth} | {shares} |"


def flips(rng: np.random.Generator, photos: int, crops: int, common: float, share: float) -> Ints:
    """How many crops of each photo flip."""
    if common == 0 or share == 0:
        return rng.binomial(crops, share, photos)
    spread = 1 / common - 1
    return rng.binomial(crops, rng.beta(share * spread, (1 - share) * spread, photos))


@cache
def agreement_outcome(n: int, top1: int, photos: int, effective: float, floor: float) -> Outcome:
    return decide_agreement(Agreement(n, top1, n, 1.0, 99.0, True, (), photos, effective), floor=floor).outcome


@cache
def accuracy_outcome(n: int, lost: int, gained: int, photos: int, effective: float, limit: float) -> Outcome:
    return decide_accuracy(Accuracy(n, n, n, n, n, lost, gained, photos, effective), max_drop=limit).outcome


def share_trial(
    rng: np.random.Generator, photos: int, crops: int, common: float, truth: float, floor: float
) -> Outcome:
    """The verdict on one sample of a true share."""
    flipped = flips(rng, photos, crops, common, 1 - truth)
    values = (np.arange(crops) < flipped[:, None]).astype(np.float64).ravel()
    size = size_of(values, np.repeat(np.arange(photos), crops))
    n = photos * crops
    return agreement_outcome(n, n - int(flipped.sum()), photos, size.effective, floor)


def loss_trial(
    rng: np.random.Generator, photos: int, crops: int, common: float, lost: float, gained: float, limit: float
) -> Outcome:
    """The verdict on one sample of true shares lost and gained."""
    moved = flips(rng, photos, crops, common, lost + gained)
    down = rng.binomial(moved, lost / (lost + gained))
    which = np.arange(crops)
    values = (which < down[:, None]) * 2.0 - (which < moved[:, None])
    size = size_of(values.ravel(), np.repeat(np.arange(photos), crops))
    return accuracy_outcome(photos * crops, int(down.sum()), int((moved - down).sum()), photos, size.effective, limit)


def simulate(trials: int, shapes: tuple[tuple[int, int], ...] = SHAPES, seed: int = 1) -> Iterator[Row]:
    """All situations; deterministic for the same arguments."""
    for photos, crops in shapes:
        for common in COMMON if crops > 1 else (0.0,):
            cases: list[tuple[str, str, Callable[..., Outcome]]] = [
                ("agreement", f"{floor:.1%}, the floor", partial(share_trial, truth=floor, floor=floor))
                for floor in FLOORS
            ]
            cases.append(("good", "99.0%, floor 98.5%", partial(share_trial, truth=0.99, floor=0.985)))
            for gained in GAINED:
                text = f"{LIMIT + gained:.0%} lost, {gained:.0%} gained"
                cases.append(("loss", text, partial(loss_trial, lost=LIMIT + gained, gained=gained, limit=LIMIT)))
            for moved in MOVED:
                text = f"{moved:.1%} lost, {moved:.1%} gained"
                cases.append(("no loss", text, partial(loss_trial, lost=moved, gained=moved, limit=LIMIT)))
            for rule, truth, trial in cases:
                rng = np.random.default_rng(seed)
                outcomes = Counter(trial(rng, photos, crops, common) for _ in range(trials))
                yield Row(rule, photos, crops, common, truth, outcomes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=5000)
    arguments = parser.parse_args()
    print("| rule | photos x crops | alike | truth | REGRESSED | INCONCLUSIVE | PASS |")
    print("| --- | --- | ---: | --- | ---: | ---: | ---: |")
    for row in simulate(arguments.trials):
        print(row, flush=True)


if __name__ == "__main__":
    main()
