"""What GitHub shows beside a run: annotations, which are lines of a job's output."""

from __future__ import annotations

import os
from collections.abc import Iterable

from trtgate.verdict.decision import Decision, Verdict
from trtgate.verdict.policy import GOOD

# Set by GitHub's runner in every step.
VARIABLE = "GITHUB_ACTIONS"


def annotate(named: Iterable[tuple[str, Decision]]) -> list[str]:
    """One line for each bad decision: an error for what regressed, a warning for what could not be told; none outside
    of a job of GitHub's."""
    if os.environ.get(VARIABLE) != "true":
        return []
    # One decision may be told by an engine and by its test.
    bad = dict.fromkeys((name, decision) for name, decision in named if decision.verdict not in GOOD)
    return [
        f"::{'error' if decision.verdict is Verdict.REGRESSED else 'warning'} "
        f"title={_property(f'trtgate: {name}' if name else 'trtgate')}::{_data(str(decision))}"
        for name, decision in bad
    ]


def _data(text: str) -> str:
    """Text that stays in its line: a line of its own would be a command."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
