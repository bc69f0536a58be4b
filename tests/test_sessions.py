"""The session rule: exact, and never a PASS from too few sessions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtgate.verdict import Outcome, Reason
from trtgate.verdict.metrics import Sample, numbers_of, numbers_of_processes
from trtgate.verdict.sessions import ALPHA, decide_sessions, rank_of_bound

medians = arrays(np.float64, st.integers(5, 7), elements=st.floats(1e-4, 1e-1))
deltas = st.floats(0.005, 0.3)
MIRROR = {Outcome.REGRESSED: Outcome.IMPROVED, Outcome.IMPROVED: Outcome.REGRESSED}


@pytest.mark.parametrize(("m", "n"), [(2, 2), (3, 4), (5, 5), (4, 6)])
def test_the_bound_is_that_of_all_permutations(m: int, n: int) -> None:
    statistics = [
        sum(a > b for a in chosen for b in set(range(m + n)) - set(chosen))
        for chosen in itertools.combinations(range(m + n), m)
    ]
    k = rank_of_bound(m, n)
    assert sum(u < k for u in statistics) / len(statistics) <= ALPHA
    assert sum(u <= k for u in statistics) / len(statistics) > ALPHA


def test_five_against_five_is_the_least_that_decides() -> None:
    assert rank_of_bound(5, 5) >= 1
    assert rank_of_bound(4, 4) == 0


@given(medians, medians, deltas)
def test_swapping_the_sides_swaps_the_outcome(old: np.ndarray, new: np.ndarray, delta: float) -> None:
    forward = decide_sessions(old, new, delta=delta).outcome
    backward = decide_sessions(new, old, delta=delta).outcome
    if forward in MIRROR or backward in MIRROR:
        assert backward is MIRROR.get(forward)


@example(np.full(5, 0.1), np.array([0.1, *[0.0625] * 4]), 0.25, 2.0**-10)
@given(medians, medians, deltas, st.sampled_from([2.0**-10, 2.0**10]))
def test_units_do_not_matter(old: np.ndarray, new: np.ndarray, delta: float, unit: float) -> None:
    plain = decide_sessions(old, new, delta=delta)
    assert plain.outcome is decide_sessions(old * unit, new * unit, delta=delta).outcome


RANK = {Outcome.IMPROVED: 0, Outcome.PASS: 1, Outcome.INCONCLUSIVE: 2, Outcome.REGRESSED: 3}


@given(medians, medians, deltas, st.floats(1.0, 3.0))
def test_slower_never_looks_better(old: np.ndarray, new: np.ndarray, delta: float, factor: float) -> None:
    before = decide_sessions(old, new, delta=delta).outcome
    after = decide_sessions(old, new * factor, delta=delta).outcome
    assert RANK[after] >= RANK[before]


@given(st.integers(1, 4), st.integers(1, 9), st.floats(0.5, 1.5))
def test_too_few_sessions_never_pass(few: int, many: int, factor: float) -> None:
    base = np.linspace(1.0, 1.01, 9)
    for old, new in ((base[:few], base[:many] * factor), (base[:many], base[:few] * factor)):
        assert decide_sessions(old, new, delta=0.05).outcome in {Outcome.INCONCLUSIVE, Outcome.REGRESSED}


def test_too_few_sessions_still_show_what_nobody_could_miss() -> None:
    one = np.array([1e-3])
    verdict = decide_sessions(one, one * 1.5, delta=0.05, spread=0.05)
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.FAR_BEYOND_SPREAD)
    assert decide_sessions(one, one * 1.15, delta=0.05, spread=0.05).reason is Reason.UNDERPOWERED
    assert decide_sessions(one, one, delta=0.05).reason is Reason.UNDERPOWERED


def test_the_four_outcomes_from_five_sessions() -> None:
    old = np.array([1.00, 1.01, 0.99, 1.005, 0.995])
    assert decide_sessions(old, old * 1.01, delta=0.05).outcome is Outcome.PASS
    assert decide_sessions(old, old * 1.08, delta=0.05).outcome is Outcome.REGRESSED
    assert decide_sessions(old, old * 0.90, delta=0.05).outcome is Outcome.IMPROVED
    wide = np.array([0.90, 0.96, 1.02, 1.10, 1.20])
    assert decide_sessions(old, wide, delta=0.05).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_impossible_times_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite and positive"):
        decide_sessions(np.array([1.0, bad]), np.ones(5), delta=0.05)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(ValueError, match="need a session"):
        decide_sessions(np.array([]), np.ones(5), delta=0.05)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(("m", "n"), [(300, 260), (40, 2000)])
def test_bounds_of_many_sessions_are_those_of_all_pairs(m: int, n: int, ties: bool) -> None:
    rng = np.random.default_rng(0)
    old, new = np.exp(rng.normal(-7, 0.01, m)), np.exp(rng.normal(-7, 0.01, n))
    if ties:
        old, new = old.round(6), new.round(6)
    found = decide_sessions(old, new, delta=0.05)
    pairs, k = np.sort(np.log(new)[:, None] - np.log(old)[None, :], None), rank_of_bound(m, n)
    wanted = np.exp([np.median(pairs), pairs[k - 1], pairs[-k]])
    np.testing.assert_allclose([found.estimate, found.low, found.high], wanted, rtol=1e-12)


@pytest.mark.parametrize("rounds", [(4, 4, 4), (5, 5), (3, 4, 2), (1, 1), ()])
@pytest.mark.parametrize("iterations", [20, None])
def test_the_numbers_of_all_processes_are_those_of_each(rounds: tuple[int, ...], iterations: int | None) -> None:
    rng, count = np.random.default_rng(0), sum(rounds) or 6
    latency = rng.uniform(1, 2, count)
    series = {"latency": latency, "reference_latency": 4 * latency[::-1], "plan_bytes": np.array([3.0])}
    series |= {"clock_hz": np.array([2e9])} | ({"host_memory": rng.uniform(1, 2, len(rounds))} if rounds else {})
    sizes = [iterations or int(rng.integers(5, 30)) for _ in range(count)]
    whole = Sample(series, {"latency": [rng.uniform(1, 9, size) for size in sizes]})
    found = numbers_of_processes(whole, rounds)
    wanted = numbers_of(whole.split(rounds) if rounds else [whole])
    assert found.keys() == wanted.keys() >= {"latency", "tail", "speedup", "cycles", "plan_bytes"}
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12)
