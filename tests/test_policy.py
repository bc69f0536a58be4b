"""One run, one exit status."""

from __future__ import annotations

import itertools

import pytest

from trtgate.verdict import Outcome
from trtgate.verdict.policy import exit_status


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
