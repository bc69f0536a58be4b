"""The paired rule: properties that must hold whatever the times are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtgate.verdict import Outcome, Reason
from trtgate.verdict.paired import (
    ALPHA,
    LOOKS,
    Words,
    bound_error,
    decide_floor,
    decide_paired,
    interval,
    rank_of_bound,
)

ROUNDS = 15
times = arrays(np.float64, ROUNDS, elements=st.floats(1e-4, 1e-1))
deltas = st.floats(0.005, 0.3)
MIRROR = {Outcome.REGRESSED: Outcome.IMPROVED, Outcome.IMPROVED: Outcome.REGRESSED}


def error_of_rank(rounds: int, k: int) -> float:
    return float(sum(math.comb(rounds, i) for i in range(k)) / 2**rounds)


def test_all_looks_together_spend_no_more_than_one_bound_may() -> None:
    ranks = {look: rank_of_bound(look) for look in LOOKS}
    assert ranks == {8: 1, 15: 2, 30: 6, 60: 17, 120: 41}
    assert sum(error_of_rank(look, k) for look, k in ranks.items()) <= ALPHA
    assert interval(np.arange(1.0, 16.0)) == (8.0, 2.0, 14.0)


@given(st.integers(0, 120))
def test_the_bound_keeps_its_error_and_is_the_tightest_that_does(rounds: int) -> None:
    k = rank_of_bound(rounds)
    assert error_of_rank(rounds, k) <= bound_error(rounds) < error_of_rank(rounds, k + 1)


@given(times, times, deltas)
def test_swapping_the_arms_swaps_the_outcome(old: np.ndarray, new: np.ndarray, delta: float) -> None:
    forward = decide_paired(old, new, delta=delta).outcome
    backward = decide_paired(new, old, delta=delta).outcome
    if forward in MIRROR or backward in MIRROR:
        assert backward is MIRROR.get(forward)


@given(times, times, deltas, st.sampled_from([2.0**-20, 2.0**10, 1024.0]))
def test_units_do_not_matter(old: np.ndarray, new: np.ndarray, delta: float, unit: float) -> None:
    plain = decide_paired(old, new, delta=delta, absolute_floor=1e-5)
    scaled = decide_paired(old * unit, new * unit, delta=delta, absolute_floor=1e-5 * unit)
    assert (plain.outcome, plain.reason) == (scaled.outcome, scaled.reason)


RANK = {Outcome.IMPROVED: 0, Outcome.PASS: 1, Outcome.INCONCLUSIVE: 2, Outcome.REGRESSED: 3}


@given(times, times, deltas, st.floats(1.0, 3.0))
def test_slower_never_looks_better(old: np.ndarray, new: np.ndarray, delta: float, factor: float) -> None:
    before = decide_paired(old, new, delta=delta).outcome
    after = decide_paired(old, new * factor, delta=delta).outcome
    assert RANK[after] >= RANK[before]


@given(times, st.integers(0, 7))
def test_too_few_rounds_give_no_outcome(old: np.ndarray, rounds: int) -> None:
    verdict = decide_paired(old[:rounds], 10 * old[:rounds], delta=0.05)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.TOO_FEW_ROUNDS)
    assert decide_floor(old[:rounds], old[:rounds], floor=5.0).reason is Reason.TOO_FEW_ROUNDS


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1e-3])
@pytest.mark.parametrize("side", ["old", "new"])
def test_impossible_times_are_refused(bad: float, side: str) -> None:
    good = np.full(ROUNDS, 1e-3)
    wrong = good.copy()
    wrong[7] = bad
    arms = (wrong, good) if side == "old" else (good, wrong)
    with pytest.raises(ValueError, match="finite and positive"):
        decide_paired(*arms, delta=0.05)
    with pytest.raises(ValueError, match="finite and positive"):
        decide_floor(*arms, floor=1.0)


def test_arms_of_different_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        decide_paired(np.ones(15), np.ones(14), delta=0.05)


def test_the_four_outcomes() -> None:
    old = np.full(ROUNDS, 1e-3)
    wide = old * np.linspace(0.9, 1.2, ROUNDS)
    assert decide_paired(old, old * 1.04, delta=0.05).outcome is Outcome.PASS
    assert decide_paired(old, old * 1.06, delta=0.05).outcome is Outcome.REGRESSED
    assert decide_paired(old, old * 0.90, delta=0.05).outcome is Outcome.IMPROVED
    assert decide_paired(old, wide, delta=0.05).outcome is Outcome.INCONCLUSIVE


def test_a_difference_below_the_absolute_floor_is_no_regression() -> None:
    old = np.full(ROUNDS, 20e-6)
    verdict = decide_paired(old, old * 1.09, delta=0.05, absolute_floor=20e-6)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, Reason.WITHIN_ABSOLUTE_FLOOR)
    assert decide_paired(old, old * 1.09, delta=0.05, absolute_floor=1e-6).outcome is Outcome.REGRESSED
    # Beyond twice delta it is no small one, whatever the floor.
    assert decide_paired(old, old * 1.11, delta=0.05, absolute_floor=20e-6).outcome is Outcome.REGRESSED
    # The floors of sizes and of whole seconds are by what two processes differ.
    much = decide_paired(old, old * 1.5, delta=0.05, absolute_floor=20e-6, words=Words(unit="MB"))
    assert much.reason is Reason.WITHIN_ABSOLUTE_FLOOR


def test_noise_that_both_arms_share_cancels() -> None:
    rng = np.random.default_rng(0)
    machine = np.exp(rng.normal(0, 0.3, ROUNDS))
    verdict = decide_paired(1e-3 * machine, 1.07e-3 * machine, delta=0.05)
    assert verdict.outcome is Outcome.REGRESSED
    assert verdict.estimate == pytest.approx(1.07)


def test_the_worked_example_of_the_documentation() -> None:
    ratios = [0.998, 1.027, 1.027, 1.029, 1.030, 1.031, 1.031, 1.032]
    ratios += [1.033, 1.034, 1.034, 1.036, 1.039, 1.041, 1.120]
    old = np.full(ROUNDS, 2e-3)
    outcomes = {delta: decide_paired(old, old * np.array(ratios), delta=delta).outcome for delta in (0.05, 0.035, 0.02)}
    assert outcomes == {0.05: Outcome.PASS, 0.035: Outcome.INCONCLUSIVE, 0.02: Outcome.REGRESSED}


@given(times, times, st.floats(0.1, 10))
def test_the_floor_asks_for_the_whole_interval(reference: np.ndarray, engine: np.ndarray, floor: float) -> None:
    verdict = decide_floor(reference, engine, floor=floor)
    assert verdict.low is not None
    assert verdict.high is not None
    assume(abs(verdict.low - floor) > 1e-9)
    assert (verdict.outcome is Outcome.PASS) == (verdict.low >= floor)
    assert (verdict.outcome is Outcome.REGRESSED) == (verdict.high < floor)


def test_without_a_floor_any_speedup_passes() -> None:
    assert decide_floor(np.ones(ROUNDS), 2 * np.ones(ROUNDS), floor=None).reason is Reason.NO_FLOOR
