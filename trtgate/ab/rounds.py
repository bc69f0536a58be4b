"""How long an A/B race goes on: for as long as more rounds may decide a series."""

from __future__ import annotations

from dataclasses import replace

from trtgate.expectations import Expectation
from trtgate.kinds import Device
from trtgate.measure.race import SCHEDULES, TAIL_CALLS, Race, Schedule
from trtgate.measure.remote import SIDES
from trtgate.records import from_race
from trtgate.verdict.metrics import BY_NAME, Sample, decide
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.paired import LOOKS
from trtgate.verdict.policy import more_may_decide

# Of one process, whose side has several.
BLOCK_ITERATIONS = 5
# Of a network that takes 50 ms fewer are enough: with six processes a side a round of 150 ms took 13 s before, 7 now.
BLOCK_LIMIT_SECONDS = 0.25


def schedule_for(device: Device, processes: int, rounds: int | None) -> Schedule:
    """The device's schedule with a side's time shared out among its processes.

    An arm's turn begins with the lead-in and ends with rest, so the race has none of its own; and the order of the arms
    (old new new old) is there and back already.
    """
    usual = SCHEDULES[device]
    return replace(
        usual,
        rounds=rounds or max(LOOKS),
        block_seconds=usual.block_seconds / processes,
        block_iterations=BLOCK_ITERATIONS,
        block_limit_seconds=BLOCK_LIMIT_SECONDS,
        warm_up_seconds=usual.warm_up_seconds / processes,
        passes=1,
        alike=True,
        fewest_calls=TAIL_CALLS // processes,
    )


def verdicts(race: Race, expectation: Expectation) -> list[Verdict]:
    """On each gated series of the new side against the old one: those that more rounds of the race could decide."""
    found = []
    for name in ("latency", "typical", "tail", "end_to_end", "end_to_end_tail"):
        metric, samples = BY_NAME[name], {side: _samples(race, side) for side in SIDES}
        if expectation.limits(metric).delta is None:
            continue
        verdict = decide(metric, samples["old"], samples["new"], expectation.limits(metric), "interleaved")
        found += [verdict] if verdict else []
    return found


def _samples(race: Race, side: str) -> list[Sample]:
    arms = [arm for arm in race.blocks if arm.startswith(f"{side} ")]
    return [from_race(race, "", arm, arm, 1, "").sample() for arm in arms]


def more_rounds_may_decide(race: Race, expectation: Expectation, races: int) -> bool:
    """Whether a series is open for its noise, or REGRESSED by what as many `races` as this run has could have produced
    by chance; where processes differ, more rounds of the same ones decide nothing."""
    found = verdicts(race, expectation)
    return any(more_may_decide(each, races * len(found)) for each in found)
