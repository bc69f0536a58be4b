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


def calm(rng: np.random.Generator, calls: int = 96) -> np.ndarray:
    return 1.0 + 0.05 * np.abs(rng.standard_normal(calls))


def spoilt(rng: np.random.Generator, block: np.ndarray) -> np.ndarray:
    some = np.arange(block.size) < rng.integers(block.size // 10, block.size // 3)
    return block * np.where(some, rng.uniform(1.5, 5.0), 1.0)


def arms_with_bursts(rng: np.random.Generator, rounds: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two arms alike; a neighbour spoils a part of both blocks of one round in thirty, of either as it comes."""
    arms: list[list[np.ndarray]] = [[], []]
    for _ in range(rounds):
        neighbour = rng.random() < 1 / 30
        for arm in arms:
            block = calm(rng)
            arm.append(spoilt(rng, block) if neighbour else block)
    return arms[0], arms[1]


def test_bursts_that_spoil_rounds_of_both_arms_leave_a_long_race_decided() -> None:
    rng = np.random.default_rng(1)
    same, slowed = [], []
    for _ in range(15):
        old, new = arms_with_bursts(rng, 60)
        same.append(tails.decide_tails(old, new, delta=0.25).outcome)
        stalled = [np.where(rng.random(96) < 0.02, 2.0, 1.0) * block for block in new]
        slowed.append(tails.decide_tails(old, stalled, delta=0.25).outcome)
    assert same.count(Outcome.REGRESSED) == 0
    assert same.count(Outcome.PASS) >= 12
    assert slowed.count(Outcome.PASS) == 0
    assert slowed.count(Outcome.REGRESSED) >= 12


@pytest.mark.parametrize(
    ("rounds", "share", "calls", "times"),
    [(60, 0.1, 12, 2.5), (120, 0.05, 15, 3.0)],
)
def test_bursts_in_a_few_rounds_of_the_new_arm_pass_in_no_race(
    rounds: int, share: float, calls: int, times: float
) -> None:
    """All calls together have a tail that is 30 to 37 % longer; one race may happen to have few bursts."""
    rng = np.random.default_rng(7)
    found = []
    for _ in range(8):
        old, new = ([1.0 + 0.01 * np.abs(rng.standard_normal(100)) for _ in range(rounds)] for _ in range(2))
        for block in new:
            if rng.random() < share:
                block[rng.choice(100, calls, replace=False)] *= times
        found.append(tails.decide_tails(old, new, delta=0.25).outcome)
    assert found.count(Outcome.PASS) <= 1
    assert found.count(Outcome.IMPROVED) == 0


@pytest.mark.parametrize(
    ("every", "before", "now", "calls"),
    [
        (6, 1.3, 4.0, 20),
        (5, 2.0, 4.0, 30),
        (7, 1.01, 3.0, 100),
        (15, 1.3, 4.0, 40),
        (20, 1.5, 3.0, 50),
        (30, 2.0, 4.0, 100),
    ],
)
def test_stalls_of_the_engines_own_that_grow_do_not_pass(every: int, before: float, now: float, calls: int) -> None:
    """Both arms are far out in the same rounds, but too often for a machine's whim, or one of them far more, or by more
    than delta over all rounds."""
    rng = np.random.default_rng(3)
    old, new = ([1.0 + 0.01 * np.abs(rng.standard_normal(100)) for _ in range(60)] for _ in range(2))
    for index in range(0, 60, every):
        for blocks, times in ((old, before), (new, now)):
            blocks[index][rng.choice(100, calls, replace=False)] *= times
    assert tails.decide_tails(old, new, delta=0.25).outcome in {Outcome.REGRESSED, Outcome.INCONCLUSIVE}


def test_rounds_that_are_left_out_are_told() -> None:
    rng = np.random.default_rng(4)
    old, new = ([calm(rng) for _ in range(60)] for _ in range(2))
    for blocks in (old, new):
        blocks[30][:20] *= 3.0
    found = tails.decide_tails(old, new, delta=0.25)
    assert found.outcome is Outcome.PASS
    assert "without 1 of 60 rounds, in which both were disturbed" in found.message


@pytest.mark.parametrize("left_out", [0, 1])
def test_all_iterations_are_gone_through_once_for_each_choice_of_rounds(
    left_out: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, taken = np.random.default_rng(4), []
    old, new = ([calm(rng) for _ in range(60)] for _ in range(2))
    for blocks in (old, new):
        blocks[30][:20] *= 3.0 if left_out else 1.0
    monkeypatch.setattr(tails, "DRAWS", 2)
    plain = tails._plain
    monkeypatch.setattr(tails, "_plain", lambda *sides: taken.append(len(sides[0])) or plain(*sides))
    tails.decide_tails(old, new, delta=0.25)
    assert taken == [60, 59][: 1 + left_out]


def test_what_is_in_a_few_rounds_of_one_arm_alone_is_seen() -> None:
    rng = np.random.default_rng(2)
    old = [1.0 + 0.01 * rng.random(96) for _ in range(60)]
    new = [np.where(np.arange(96) < (40 if index % 6 == 0 else 0), 5.0, 1.0) * block for index, block in enumerate(old)]
    assert tails.decide_tails(old, new, delta=0.25).outcome is Outcome.REGRESSED
