"""Several decisions into one, and one run into an exit status."""

from __future__ import annotations

from collections.abc import Iterable

from trtgate.verdict.decision import Decision, Verdict

EXIT_PASS = 0
EXIT_REGRESSED = 1
EXIT_INCONCLUSIVE = 6
EXIT_INVALID = 7

# The worst first. A proven regression outweighs an unfit machine: it was proven on the rounds that counted.
SEVERITY = (Verdict.REGRESSED, Verdict.INVALID, Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.IMPROVED)
GOOD = frozenset({Verdict.PASS, Verdict.IMPROVED})
EXIT_STATUS = {
    Verdict.PASS: EXIT_PASS,
    Verdict.IMPROVED: EXIT_PASS,
    Verdict.INCONCLUSIVE: EXIT_INCONCLUSIVE,
    Verdict.INVALID: EXIT_INVALID,
    Verdict.REGRESSED: EXIT_REGRESSED,
}


def worst(decisions: Iterable[Decision]) -> Decision:
    """The decision that decides. Raises ValueError when there is none."""
    return min(decisions, key=lambda decision: SEVERITY.index(decision.verdict))


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """0 when all passed, 1 when something regressed, 7 when something is invalid, 6 when something is inconclusive."""
    present = set(verdicts)
    return next((EXIT_STATUS[verdict] for verdict in SEVERITY if verdict in present), EXIT_PASS)
