"""The race: order, warm-up, dropped rounds, what is reported. The arms here are scripted, no clock is read."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trtgate.expectations import Expectation
from trtgate.judge import floor_verdict
from trtgate.kinds import REFERENCE, Block
from trtgate.measure.race import Arm, NoMonitor, Race, Schedule, block_length, run_race, warm_up
from trtgate.records import from_race
from trtgate.report.pages import run_table
from trtgate.report.terminal import table_text
from trtgate.verdict import Outcome, Reason

QUICK = Schedule(rounds=3, block_seconds=0.01, warm_up_seconds=0.0)


class Scripted:
    """An arm whose every inference takes the next of its times, for ever the last one."""

    def __init__(self, name: str, *seconds: float, log: list[str] | None = None) -> None:
        self.arm = Arm(name, self.block)
        self.sizes: list[int] = []
        self._seconds = list(seconds)
        self._log = log if log is not None else []

    def block(self, n: int) -> Block:
        self.sizes.append(n)
        self._log.append(self.arm.name)
        times = [self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0] for _ in range(n)]
        return Block(np.array(times))


def test_rounds_go_there_and_back_and_odd_ones_the_other_way() -> None:
    log: list[str] = []
    a, b = Scripted("a", 1e-3, log=log), Scripted("b", 1e-3, log=log)
    run_race([a.arm, b.arm], QUICK)
    timed = log[-3 * 8 :: 2]  # every second call is the lead-in
    assert "".join(timed) == "abbabaababba"


def test_the_lead_in_is_not_counted() -> None:
    a, slow = Scripted("a", 1e-3), Scripted("slow", 10e-3)
    race = run_race([a.arm], QUICK)
    assert sum(block.size for block in race.blocks["a"]) == 3 * 10
    assert a.sizes[-2:] == [10, 5], "for 10 ms"
    run_race([slow.arm], QUICK)
    assert slow.sizes[-2] == QUICK.lead_in_iterations


def test_an_arm_elsewhere_is_led_in_by_the_same_request() -> None:
    a, led = Scripted("a", 1e-3), []

    def together(lead_in: int, n: int) -> Block:
        led.append((lead_in, n))
        return a.arm.block(n)

    run_race([replace(a.arm, led=together)], QUICK)
    assert set(led) == {(10, 5)}


def test_blocks_last_long_enough_and_hold_enough_iterations() -> None:
    schedule = Schedule()
    assert block_length(0.5, schedule) == 10
    assert block_length(1e-4, schedule) == 1000


def test_a_slow_engine_has_a_shorter_lead_in_and_where_asked_shorter_blocks() -> None:
    slow = Scripted("a", 0.1)
    run_race([slow.arm], QUICK)
    assert slow.sizes[-4:] == [1, 5, 1, 5]
    schedule = Schedule(block_iterations=5, block_limit_seconds=0.25, block_seconds=0.01)
    assert [block_length(latency, schedule) for latency in (1e-3, 0.04, 0.07, 0.15)] == [10, 5, 3, 3]


def test_one_engine_on_two_sides_has_blocks_of_equal_length() -> None:
    """The minimum of 20 iterations is smaller than that of 10, whatever the engine is."""
    arms = [Scripted("old", 1e-4).arm, Scripted("new", 2e-4).arm]
    for alike, sizes in ((False, (100, 50)), (True, (100, 100))):
        race = run_race(arms, replace(QUICK, alike=alike))
        assert tuple(race.blocks[name][0].size for name in ("old", "new")) == sizes


def test_warm_up_waits_for_two_windows_that_agree() -> None:
    cooling = Scripted("a", *np.linspace(3e-3, 1e-3, 40), 1e-3)
    latency, steady = warm_up(cooling.arm, Schedule(warm_up_seconds=0.02))
    assert steady
    assert latency == pytest.approx(1e-3)


def test_warm_up_gives_up_on_what_never_settles_and_says_so() -> None:
    restless = Scripted("a", *([1e-3] * 5 + [2e-3] * 5) * 400)
    _, steady = warm_up(restless.arm, Schedule(warm_up_seconds=0.01, warm_up_limit_seconds=0.5))
    assert steady is False


class Objector(NoMonitor):
    """Objects to the rounds with these numbers."""

    def __init__(self, *rounds: int) -> None:
        self._rounds = rounds
        self._seen = -1

    def stop(self) -> str | None:
        self._seen += 1
        return "throttled" if self._seen in self._rounds else None


def test_a_disturbed_round_is_dropped_whole_and_redone() -> None:
    arms = [Scripted("a", 1e-3).arm, Scripted("b", 1e-3).arm]
    race = run_race(arms, Schedule(rounds=10, block_seconds=0.01), monitor=Objector(0, 5))
    assert (race.rounds, race.dropped, race.complete) == (10, ("throttled", "throttled"), True)
    assert len(race.blocks["a"]) == len(race.blocks["b"]) == 10


@pytest.mark.parametrize(("decided_after", "rounds"), [(1, 8), (9, 15), (16, 30), (31, 60), (99, 60)])
def test_a_race_ends_with_the_first_look_at_which_nothing_is_open(decided_after: int, rounds: int) -> None:
    arms = [Scripted("a", 1e-3).arm]
    schedule = Schedule(block_seconds=0.01)
    assert run_race(arms, schedule, undecided=lambda race: race.rounds < decided_after).rounds == rounds


def test_too_many_disturbed_rounds_end_the_race() -> None:
    race = run_race([Scripted("a", 1e-3).arm], Schedule(rounds=10, block_seconds=0.01), monitor=Objector(*range(99)))
    assert not race.complete
    assert len(race.dropped) == 3


def test_a_race_of_which_nothing_is_left_is_invalid_and_can_be_shown() -> None:
    arms = [Scripted(REFERENCE.id, 2e-3).arm, Scripted("onnxruntime-int8", 1e-3).arm]
    race = run_race(arms, Schedule(rounds=5, block_seconds=0.01), monitor=Objector(*range(99)))
    record = from_race(race, "toy", "onnxruntime-int8", REFERENCE.id, 1, "file")
    verdict = floor_verdict(record, Expectation({"speedup": 1.0}))
    assert (verdict.outcome, verdict.reason) == (Outcome.INVALID, Reason.DISTURBED)
    assert "INVALID" in table_text(run_table([replace(record, verdicts=(verdict,))]))


def race_of(blocks: list[list[float]], statistic: str) -> Race:
    return Race({"a": tuple(map(np.array, blocks))}, {"a": True}, statistic=statistic)


def test_the_latency_is_the_median_over_rounds_of_the_block_statistic() -> None:
    blocks = [[1.0, 2.0, 9.0], [3.0, 4.0, 5.0], [2.0, 2.0, 8.0]]
    assert race_of(blocks, "median").latency("a") == 2.0
    assert race_of(blocks, "minimum").round_latencies("a").tolist() == [1.0, 3.0, 2.0]
    assert race_of(blocks, "lower_quartile").round_latencies("a").tolist() == [1.5, 3.5, 2.0]
