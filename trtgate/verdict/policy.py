"""Several decisions into one, and one run into an exit status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trtgate.verdict.decision import Decision, Reason, Verdict

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


# Of a whole gate in which nothing changed: how often it may say REGRESSED, whatever the noise looks like.
FAMILY_ALPHA = 0.01


def holm(decisions: Sequence[Decision], alpha: float = FAMILY_ALPHA) -> list[Decision]:
    """The decisions of one gate, with every REGRESSED that so many decisions could have produced by chance opened.

    Holm's step-down procedure (1979) over all decisions that have a p: of m of them the smallest must stay below
    alpha / m, the next below alpha / (m - 1), and so on. PASS needs no correction: a gate passes when all pass, so more
    of them make that rarer.
    """
    tested = sorted((each.p, index) for index, each in enumerate(decisions) if each.p is not None)
    corrected, largest = list(decisions), 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, p * (len(tested) - rank))
        decision = decisions[index]
        if decision.verdict is Verdict.REGRESSED and largest > alpha:
            of = f"one of {len(tested)} decisions" if len(tested) > 1 else "a decision"
            message = f"{decision.message}: {of} may say so by chance ({min(1.0, largest):.1%})"
            corrected[index] = replace(
                decision, verdict=Verdict.INCONCLUSIVE, reason=Reason.ONE_OF_MANY, message=message
            )
    return corrected


def more_may_decide(decision: Decision, family: int) -> bool:
    """Whether more processes may turn a decision, one of `family` in its report: it is open for its noise, or it is
    REGRESSED and so many decisions could have produced that by chance."""
    by_chance = (decision.p or 0.0) * family > FAMILY_ALPHA
    return decision.reason in {Reason.INTERVAL_TOO_WIDE, Reason.ONE_OF_MANY} or (
        decision.verdict is Verdict.REGRESSED and by_chance
    )


def exit_status(verdicts: Iterable[Verdict]) -> int:
    """0 when all passed, 1 when something regressed, 7 when something is invalid, 6 when something is inconclusive."""
    present = set(verdicts)
    return next((EXIT_STATUS[verdict] for verdict in SEVERITY if verdict in present), EXIT_PASS)
