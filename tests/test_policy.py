"""One run, one exit status."""

from __future__ import annotations

import itertools

import pytest

from trtgate.verdict import Verdict
from trtgate.verdict.policy import exit_status


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([], 0),
        ([Verdict.PASS, Verdict.IMPROVED], 0),
        ([Verdict.PASS, Verdict.INCONCLUSIVE], 6),
        ([Verdict.INCONCLUSIVE, Verdict.INVALID], 7),
        ([Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.REGRESSED, Verdict.IMPROVED], 1),
    ],
)
def test_exit_status(verdicts: list[Verdict], status: int) -> None:
    for order in itertools.permutations(verdicts):
        assert exit_status(order) == status
