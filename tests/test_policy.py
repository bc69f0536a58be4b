"""One run, one exit status."""

from __future__ import annotations

import itertools

import pytest

from trtgate.verdict import Outcome, Reason, Verdict
from trtgate.verdict.policy import exit_status, more_may_decide


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        ([], 0),
        ([Outcome.PASS, Outcome.IMPROVED], 0),
        ([Outcome.PASS, Outcome.INCONCLUSIVE], 6),
        ([Outcome.INCONCLUSIVE, Outcome.INVALID], 7),
        ([Outcome.INCONCLUSIVE, Outcome.INVALID, Outcome.REGRESSED, Outcome.IMPROVED], 1),
    ],
)
def test_exit_status(outcomes: list[Outcome], status: int) -> None:
    for order in itertools.permutations(outcomes):
        assert exit_status(order) == status


@pytest.mark.parametrize(("metric", "more"), [("cold_start", True), ("", False)])
def test_a_hosts_own_time_takes_the_second_look(metric: str, more: bool) -> None:
    """One process of six that a neighbour held up leaves it open, one of twelve does not."""
    assert more_may_decide(Verdict(Outcome.INVALID, Reason.HOST_CHANGED, "the host did", metric=metric), 1) is more
