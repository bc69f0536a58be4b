"""The vocabulary of deciding: an outcome, the reason for it, and the verdict that holds both."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Outcome(enum.Enum):
    """What the gate says of one metric of one engine."""

    PASS = "PASS"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID = "INVALID"
    REGRESSED = "REGRESSED"


class Reason(enum.Enum):
    """Why: one code per rule that can decide."""

    # PASS and IMPROVED
    WITHIN_DELTA = "within_delta"
    WITHIN_ABSOLUTE_FLOOR = "within_absolute_floor"
    FASTER = "faster"
    FLOOR_MET = "floor_met"
    NO_FLOOR = "no_floor"
    AS_ASKED = "as_asked"
    ACKNOWLEDGED = "acknowledged"
    YARDSTICK = "yardstick"
    NO_LIMIT = "no_limit"
    SAME_ANSWERS = "same_answers"
    ANSWERS_KEPT = "answers_kept"
    WITHIN_REBUILDS = "within_rebuilds"
    # REGRESSED
    SLOWER = "slower"
    FAR_BEYOND_SPREAD = "far_beyond_spread"
    BELOW_FLOOR = "below_floor"
    ANSWERS_LOST = "answers_lost"
    NOT_FINITE = "not_finite"
    MISSING = "missing"
    OWN_RUN_FAILED = "own_run_failed"
    WRONG_PRECISION = "wrong_precision"
    # INCONCLUSIVE
    INTERVAL_TOO_WIDE = "interval_too_wide"
    TOO_FEW_ROUNDS = "too_few_rounds"
    TOO_FEW_IMAGES = "too_few_images"
    UNDERPOWERED = "underpowered"
    NOT_TOLD = "not_told"
    PROCESS_SPREAD = "process_spread"
    ONE_OF_MANY = "one_of_many"
    TOO_FEW_BUILDS = "too_few_builds"
    NOTHING_MEASURED = "nothing_measured"
    # INVALID
    DISTURBED = "disturbed"
    MACHINE_CHANGED = "machine_changed"
    HOST_CHANGED = "host_changed"
    NOT_COMPARABLE = "not_comparable"
    NO_RECORDS = "no_records"
    BROKEN = "broken"
    DIFFERENT_PHOTOS = "different_photos"


@dataclass(frozen=True)
class Verdict:
    """An outcome with the rule that made it, a sentence for people, and the numbers it rests on.

    `estimate`, `low` and `high` are a ratio with its interval where the rule has one (1.0 is no change); `p` is the
    probability of as much evidence for a regression had nothing changed. `metric` names what was decided on.
    """

    outcome: Outcome
    reason: Reason
    message: str
    estimate: float | None = field(default=None)
    low: float | None = field(default=None)
    high: float | None = field(default=None)
    p: float | None = field(default=None)
    metric: str = ""

    def __str__(self) -> str:
        return f"{self.outcome.value} ({self.reason.value}): {self.message}"


def broken(message: str) -> Verdict:
    """On a runtime that is installed and cannot do anything, or brings its process down: nothing was measured of it."""
    return Verdict(Outcome.INVALID, Reason.BROKEN, message)


def not_raced(what: str, option: str, why: str) -> Verdict:
    """On what an option names, and what was not measured all the same."""
    return Verdict(Outcome.INVALID, Reason.NO_RECORDS, f"{what} was asked for ({option}) and not measured: {why}")
