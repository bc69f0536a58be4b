"""Several verdicts into one, and one run into an exit status."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from trtgate.verdict.outcome import Outcome, Reason, Verdict

EXIT_PASS = 0
EXIT_REGRESSED = 1
EXIT_INCONCLUSIVE = 6
EXIT_INVALID = 7

# The worst first. A proven regression outweighs an unfit machine: it was proven on the rounds that counted.
SEVERITY = (Outcome.REGRESSED, Outcome.INVALID, Outcome.INCONCLUSIVE, Outcome.PASS, Outcome.IMPROVED)
GOOD = frozenset({Outcome.PASS, Outcome.IMPROVED})
EXIT_STATUS = {
    Outcome.PASS: EXIT_PASS,
    Outcome.IMPROVED: EXIT_PASS,
    Outcome.INCONCLUSIVE: EXIT_INCONCLUSIVE,
    Outcome.INVALID: EXIT_INVALID,
    Outcome.REGRESSED: EXIT_REGRESSED,
}


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict that decides. Raises ValueError when there is none."""
    return min(verdicts, key=lambda verdict: SEVERITY.index(verdict.outcome))


# Of a whole gate in which nothing changed: how often it may say REGRESSED, whatever the noise looks like.
FAMILY_ALPHA = 0.01


def holm(verdicts: Sequence[Verdict], others: int = 0) -> list[Verdict]:
    """The verdicts of one gate, with every REGRESSED that so many verdicts could have produced by chance opened.

    Holm's step-down procedure (1979) over all verdicts that have a p: of m of them the smallest must stay below
    alpha / m, the next below alpha / (m - 1), and so on. PASS needs no correction: a gate passes when all pass, so more
    of them make that rarer. `others` is how many verdicts of that gate are not known yet.
    """
    tested = sorted((each.p, index) for index, each in enumerate(verdicts) if each.p is not None)
    corrected, largest, family = list(verdicts), 0.0, len(tested) + others
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, p * (family - rank))
        verdict = verdicts[index]
        if verdict.outcome is Outcome.REGRESSED and largest > FAMILY_ALPHA:
            of = f"one of {family} verdicts" if family > 1 else "a verdict"
            message = f"{verdict.message}: {of} may say so by chance ({min(1.0, largest):.1%})"
            corrected[index] = replace(
                verdict, outcome=Outcome.INCONCLUSIVE, reason=Reason.ONE_OF_MANY, message=message
            )
    return corrected


def more_may_decide(verdict: Verdict, family: int) -> bool:
    """Whether more processes may turn a verdict, one of `family` in its report: it is open for its noise, that of a
    host that changed too, or it is REGRESSED and so many verdicts could have produced that by chance."""
    by_chance = (verdict.p or 0.0) * family > FAMILY_ALPHA
    noise = verdict.reason in {Reason.INTERVAL_TOO_WIDE, Reason.ONE_OF_MANY}
    # Of a metric; what depends on the host altogether is no other thing in more processes.
    of_host = verdict.reason is Reason.HOST_CHANGED and bool(verdict.metric)
    return noise or of_host or (verdict.outcome is Outcome.REGRESSED and by_chance)


def exit_status(outcomes: Iterable[Outcome]) -> int:
    """0 when all passed, 1 when something regressed, 7 when something is invalid, 6 when something is inconclusive."""
    present = set(outcomes)
    return next((EXIT_STATUS[outcome] for outcome in SEVERITY if outcome in present), EXIT_PASS)
