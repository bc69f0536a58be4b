"""Which processes met the machine in one state."""

from __future__ import annotations

import numpy as np
import pytest

from trtgate.verdict.states import enough_in_one, in_quiet, in_state

# As seen on two virtual cores of an EPYC: most of the time, and for some minutes.
NEAR = {"control-matmul": 0.253e-3, "control-copy": 2.6e-3}
APART = {"control-matmul": 0.260e-3, "control-copy": 1.3e-3}
LOUD = {"control-matmul": 0.40e-3, "control-copy": 3.9e-3}


def met(*states: dict[str, float], seed: int = 0) -> list[dict[str, float]]:
    """What fixed work takes in processes that meet these states, by 3 % more or less."""
    rng = np.random.default_rng(seed)
    return [{name: each * float(np.exp(rng.uniform(-0.03, 0.03))) for name, each in state.items()} for state in states]


@pytest.mark.parametrize("seed", range(10))
def test_of_processes_beside_a_neighbour_the_quiet_ones_count(seed: int) -> None:
    work = met(*[NEAR] * 8, *[LOUD] * 6, seed=seed)
    assert enough_in_one(work, 8) == in_quiet(work) == list(range(8))


@pytest.mark.parametrize("seed", range(10))
def test_where_few_met_the_quietest_state_those_count_that_met_one_together(seed: int) -> None:
    """Copies of the other state are twice as fast, and small networks take a third longer in it."""
    work = met(*[APART] * 5, *[NEAR] * 11, seed=seed)
    assert len(in_quiet(work)) < 8
    assert enough_in_one(work, 8) == list(range(5, 16))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("before", "counts"), [(NEAR, range(8, 16)), (APART, range(8))])
def test_those_count_that_met_the_machine_as_the_baseline_did(
    before: dict[str, float], counts: range, seed: int
) -> None:
    work = met(*[APART] * 8, *[NEAR] * 8, seed=seed)
    assert enough_in_one(work, 8, before) == in_state(work, before) == list(counts)


def test_copies_that_go_up_and_down_within_minutes_are_one_state() -> None:
    """As seen in 16 processes, in which engines lay 7 % apart at most."""
    copies = [2.55, 2.72, 2.81, 2.73, 2.63, 2.77, 2.49, 2.52, 2.57, 2.98, 2.84, 2.75, 2.77, 2.93, 2.5, 3.05]
    work = [{"control-matmul": 0.252e-3, "control-copy": each * 1e-3} for each in copies]
    assert in_quiet(work) == in_state(work, NEAR) == list(range(16))
    slower = [{**each, "control-matmul": 0.252e-3 * 1.2} for each in work]
    assert in_state(slower, NEAR) == []
    assert in_quiet([*work, *slower]) == list(range(16))


def test_where_too_few_did_the_machine_is_told_as_it_is_now() -> None:
    work = met(*[NEAR] * 9, *[APART] * 5)
    assert enough_in_one(work, 8, APART) == list(range(9))
    assert enough_in_one(met(*[NEAR] * 9), 8, LOUD) == list(range(9))


def test_none_counts_where_no_state_was_met_often_enough() -> None:
    assert enough_in_one(met(*[NEAR] * 5, *[APART] * 5, *[LOUD] * 5), 8) == []
    assert enough_in_one([], 2) == []


def test_without_fixed_work_all_count() -> None:
    assert enough_in_one([{}] * 3, 2) == enough_in_one([{}] * 3, 2, NEAR) == [0, 1, 2]
