"""Several builds a side: a version is told from an unlucky build."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtgate.verdict import Reason, Verdict
from trtgate.verdict.paired import decide_paired
from trtgate.verdict.rebuilds import decide_rebuilds, spread_of, unlucky_builds

WOBBLE = np.array([1 + 0.002 * (i * 7 % 5) for i in range(15)])


def builds(*latencies: float) -> list[np.ndarray]:
    return [each * np.roll(WOBBLE, index) for index, each in enumerate(latencies)]


def test_a_slower_version_is_found_though_its_builds_differ() -> None:
    decision = decide_rebuilds(builds(1.0, 1.02, 0.99), builds(1.1, 1.13, 1.08), delta=0.05)
    assert (decision.verdict, decision.reason) == (Verdict.REGRESSED, Reason.SLOWER)


def test_one_unlucky_build_is_no_regression_and_is_named() -> None:
    old, new = builds(1.0, 1.01, 0.99), builds(1.0, 1.3, 1.01)
    assert decide_rebuilds(old, new, delta=0.05).verdict is Verdict.PASS
    [line] = unlucky_builds(new, 0.05)
    assert line.startswith("build 2 of 3 is slower than its side's median build by +28")
    assert unlucky_builds(old, 0.05) == []


def test_two_unlucky_builds_of_three_leave_it_open() -> None:
    decision = decide_rebuilds(builds(1.0, 1.01, 0.99), builds(1.2, 1.2, 1.0), delta=0.05)
    assert (decision.verdict, decision.reason) == (Verdict.INCONCLUSIVE, Reason.BUILD_SPREAD)
    assert "the builds overlap (old 993.960 to 1014.040 ms over 3 builds, new" in decision.message


def test_a_faster_version_is_no_luck_either() -> None:
    assert decide_rebuilds(builds(1.0, 1.1), builds(0.8, 0.7), delta=0.05).verdict is Verdict.IMPROVED
    assert decide_rebuilds(builds(1.0, 0.75), builds(0.8, 0.7), delta=0.05).reason is Reason.BUILD_SPREAD


def test_the_spread_is_of_the_builds_not_of_the_rounds() -> None:
    spread = spread_of(builds(1e-3, 1.1e-3))
    assert spread.log_range == pytest.approx(np.log(1.1), abs=0.01)
    assert "over 2 builds" in str(spread)


@given(st.lists(st.floats(0.5, 2.0), min_size=15, max_size=15), st.lists(st.floats(0.5, 2.0), min_size=15, max_size=15))
def test_one_build_a_side_is_the_paired_rule(old: list[float], new: list[float]) -> None:
    before, after = np.array(old), np.array(new)
    assert decide_rebuilds([before], [after], delta=0.05) == decide_paired(before, after, delta=0.05)


@given(st.permutations([1.0, 1.04, 1.2]), st.permutations([1.1, 1.06, 0.9]))
def test_the_order_of_builds_does_not_matter(old: list[float], new: list[float]) -> None:
    def plain(latencies: list[float]) -> list[np.ndarray]:
        return [each * WOBBLE for each in latencies]

    wanted = decide_rebuilds(plain([1.0, 1.04, 1.2]), plain([1.1, 1.06, 0.9]), delta=0.05)
    assert decide_rebuilds(plain(old), plain(new), delta=0.05) == wanted


def test_a_side_without_a_build_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="both sides"):
        decide_rebuilds([], builds(1.0), delta=0.05)
