"""What a job of GitHub's prints: annotations, which are lines of its output, and text that is none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable

from trtgate.kinds import printable
from trtgate.verdict.outcome import Outcome, Verdict
from trtgate.verdict.policy import GOOD

# Set by GitHub's runner in every step.
VARIABLE = "GITHUB_ACTIONS"


def annotate(named: Iterable[tuple[str, Verdict]]) -> list[str]:
    """One line for each bad verdict: an error for what regressed, a warning for what could not be told; none outside
    of a job of GitHub's."""
    if not _in_job():
        return []
    # One verdict may be told by an engine and by its test.
    bad = dict.fromkeys((name, verdict) for name, verdict in named if verdict.outcome not in GOOD)
    return [
        f"::{'error' if verdict.outcome is Outcome.REGRESSED else 'warning'} "
        f"title={_property(f'trtgate: {name}' if name else 'trtgate')}::{_data(str(verdict))}"
        for name, verdict in bad
    ]


def quoted(text: str) -> str:
    """Text in which no line is a command: records that others wrote begin lines of it. As it is outside of a job."""
    if not _in_job():
        return text
    token = secrets.token_hex()  # nobody else knows what ends it
    return f"::stop-commands::{token}\n{text}\n::{token}::"


def _in_job() -> bool:
    return os.environ.get(VARIABLE) == "true"


def _data(text: str) -> str:
    """Text that stays in its line: a line of its own would be a command."""
    return printable(text.replace("\r", "\n")).replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
