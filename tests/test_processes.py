"""Several processes a side: a version is told from an unlucky process or build."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtgate.verdict import Outcome, Reason
from trtgate.verdict.paired import decide_paired
from trtgate.verdict.processes import decide_processes, unlucky_builds

WOBBLE = np.array([1 + 0.002 * (i * 7 % 5) for i in range(15)])


def processes(*latencies: float) -> list[np.ndarray]:
    return [each * np.roll(WOBBLE, index) for index, each in enumerate(latencies)]


QUIET = processes(1.0, 1.01, 0.99, 1.005, 0.995, 1.0)


def test_a_slower_version_is_found_though_its_processes_differ() -> None:
    verdict = decide_processes(processes(1.0, 1.02, 0.99), processes(1.1, 1.13, 1.08), delta=0.05)
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.SLOWER)
    assert verdict.low is not None
    assert verdict.low < 1.08 / 1.02 * 1.01, "the interval is that of the processes, the rounds' own is narrower"


def test_a_pair_of_processes_alone_would_have_been_believed() -> None:
    """What one pair says with a narrow interval, six show to be the processes' own spread."""
    old, new = processes(1.0, 1.04, 1.07, 0.99, 1.06, 1.01), processes(1.07, 1.0, 1.03, 1.05, 0.98, 1.02)
    assert decide_paired(old[0], new[0], delta=0.05).outcome is Outcome.REGRESSED
    assert decide_processes(old, new, delta=0.05).outcome is Outcome.PASS


def test_one_process_of_six_that_is_far_off_changes_nothing() -> None:
    for outlier in (0.7, 1.4):
        new = [*QUIET[:5], outlier * WOBBLE]
        assert decide_processes(QUIET, new, delta=0.05).outcome is Outcome.PASS
        assert decide_processes(QUIET, [1.1 * each for each in new], delta=0.05).outcome is Outcome.REGRESSED


def test_one_unlucky_build_of_three_is_no_regression_and_is_named() -> None:
    old, new = processes(1.0, 1.01, 0.99), processes(1.0, 1.3, 1.01)
    verdict = decide_processes(old, new, delta=0.05)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.PROCESS_SPREAD)
    assert "old 993.960 to 1014.040 ms, new 1004.000 to" in verdict.message
    [line] = unlucky_builds(new, 0.05)
    assert line.startswith("build 2 of 3 is slower than its side's median build by +28")
    assert unlucky_builds(old, 0.05) == []


def test_two_unlucky_builds_of_three_leave_it_open_too() -> None:
    verdict = decide_processes(processes(1.0, 1.01, 0.99), processes(1.2, 1.2, 1.0), delta=0.05)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.PROCESS_SPREAD)


def test_a_faster_version_is_no_luck_either() -> None:
    old = processes(1.0, 1.1, 1.05)
    assert decide_processes(old, processes(0.8, 0.7, 0.75), delta=0.05).outcome is Outcome.IMPROVED
    assert decide_processes(processes(1.0, 0.75, 1.0), processes(0.8, 0.7, 0.72), delta=0.05).reason is (
        Reason.PROCESS_SPREAD
    )


def test_two_processes_a_side_say_nothing() -> None:
    verdict = decide_processes(processes(1.0, 1.0), processes(1.2, 1.2), delta=0.05)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.UNDERPOWERED)


TIMES = st.lists(st.floats(0.5, 2.0), min_size=15, max_size=15)


@given(TIMES, TIMES)
def test_one_process_a_side_is_the_paired_rule(old: list[float], new: list[float]) -> None:
    before, after = np.array(old), np.array(new)
    assert decide_processes([before], [after], delta=0.05) == decide_paired(before, after, delta=0.05)


@given(st.lists(TIMES, min_size=3, max_size=3), st.lists(TIMES, min_size=3, max_size=3))
def test_more_processes_decide_nothing_that_their_rounds_do_not(old: list[list[float]], new: list[list[float]]) -> None:
    before, after = ([np.array(each) for each in side] for side in (old, new))
    verdict = decide_processes(before, after, delta=0.05)
    rounds = decide_paired(np.median(before, 0), np.median(after, 0), delta=0.05)
    assert verdict.outcome in {rounds.outcome, Outcome.INCONCLUSIVE}
    assert verdict.estimate == rounds.estimate


@given(st.permutations([1.0, 1.04, 1.2]), st.permutations([1.1, 1.06, 0.9]))
def test_the_order_of_processes_does_not_matter(old: list[float], new: list[float]) -> None:
    def plain(latencies: list[float]) -> list[np.ndarray]:
        return [each * WOBBLE for each in latencies]

    wanted = decide_processes(plain([1.0, 1.04, 1.2]), plain([1.1, 1.06, 0.9]), delta=0.05)
    assert decide_processes(plain(old), plain(new), delta=0.05) == wanted


def test_a_side_without_a_process_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="both sides"):
        decide_processes([], processes(1.0), delta=0.05)
