"""The slowest calls of two interleaved arms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from trtgate.verdict import tails
from trtgate.verdict.outcome import Outcome
from trtgate.verdict.paired import LOOKS, bound_error


@pytest.mark.parametrize("rounds", LOOKS)
def test_the_interval_of_a_few_rounds_is_as_long_as_students_t_makes_it(rounds: int) -> None:
    alpha = bound_error(rounds)
    wanted = stats.t.ppf(1 - alpha, rounds - 1) / stats.norm.ppf(1 - alpha) * np.sqrt(rounds / (rounds - 1))
    assert tails.stretch(rounds, alpha) == pytest.approx(wanted, rel=1e-6)


def test_neighbours_that_come_and_go_make_no_regression_of_eight_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block meets a neighbour for some of its calls: both arms alike, but not in the same rounds."""
    monkeypatch.setattr(tails, "DRAWS", 400)
    rng = np.random.default_rng(3)

    def arm() -> list[np.ndarray]:
        blocks = []
        for share in rng.beta(0.3, 2.0, size=8):
            block = 1.0 + 0.05 * np.abs(rng.standard_normal(48))
            met = rng.random(48) < share
            block[met] *= 1.0 + rng.exponential(0.6) * rng.uniform(0.5, 1.5, met.sum())
            blocks.append(block)
        return blocks

    found = [tails.decide_tails(arm(), arm(), delta=0.25).outcome for _ in range(120)]
    assert found.count(Outcome.REGRESSED) <= 1


def test_a_stall_in_one_arm_alone_is_a_regression_after_eight_rounds() -> None:
    rng = np.random.default_rng(0)
    old = [1.0 + 0.01 * rng.random(48) for _ in range(8)]
    new = [np.where(np.arange(48) % 12 == 0, 2.0, 1.0) * (1.0 + 0.01 * rng.random(48)) for _ in range(8)]
    assert tails.decide_tails(old, new, delta=0.25).outcome is Outcome.REGRESSED
    assert tails.decide_tails(old, [block[::-1] for block in old], delta=0.25).outcome is Outcome.PASS


def arms_with_bursts(rng: np.random.Generator, rounds: int, calls: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two arms alike; a neighbour spoils a part of one block in eight, of either."""
    arms: list[list[np.ndarray]] = [[], []]
    for _ in range(rounds):
        for arm in arms:
            block = 1.0 + 0.05 * np.abs(rng.standard_normal(calls))
            if rng.random() < 1 / 8:
                block[: int(rng.integers(1, calls // 3))] *= rng.uniform(1.5, 5.0)
            arm.append(block)
    return arms[0], arms[1]


def test_bursts_that_spoil_rounds_of_either_arm_leave_a_long_race_decided() -> None:
    rng = np.random.default_rng(1)
    same, slowed = [], []
    for _ in range(30):
        old, new = arms_with_bursts(rng, 60, 96)
        same.append(tails.decide_tails(old, new, delta=0.25).outcome)
        stalled = [np.where(rng.random(96) < 0.02, 2.0, 1.0) * block for block in new]
        slowed.append(tails.decide_tails(old, stalled, delta=0.25).outcome)
    assert same.count(Outcome.REGRESSED) == 0
    assert same.count(Outcome.PASS) >= 24
    assert slowed.count(Outcome.PASS) == 0
    assert slowed.count(Outcome.REGRESSED) >= 24


def test_what_is_in_a_few_rounds_of_one_arm_alone_is_seen() -> None:
    rng = np.random.default_rng(2)
    old = [1.0 + 0.01 * rng.random(96) for _ in range(60)]
    new = [np.where(np.arange(96) < (40 if index % 6 == 0 else 0), 5.0, 1.0) * block for index, block in enumerate(old)]
    assert tails.decide_tails(old, new, delta=0.25).outcome is Outcome.REGRESSED
