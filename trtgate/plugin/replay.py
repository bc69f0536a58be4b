"""The race's times replayed into pytest-benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from trtgate.records import KEY, EngineRecord
from trtgate.verdict.metrics import METRICS


class ReplayTimer:
    """A clock for pytest-benchmark that tells the times of a race that has already been run.

    pytest-benchmark reads the clock before and after each of its rounds; between those two reads this one advances by
    the next sample. So its table, its JSON and its --benchmark-compare show the interleaved measurement, through
    nothing but the `timer` of the public `benchmark` marker.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._samples: Iterator[float] = iter(())
        self._running = False

    def load(self, samples: tuple[float, ...]) -> None:
        """The seconds that the next rounds will seem to take."""
        self._samples = iter(samples)
        self._running = False

    def __call__(self) -> float:
        if self._running:
            self._now += next(self._samples)
        self._running = not self._running
        return self._now


REPLAY = ReplayTimer()


def replay(benchmark: Any, record: EngineRecord) -> None:
    """Show a record's rounds to pytest-benchmark; the test must be marked `benchmark(timer=REPLAY)`.

    Fails the test where benchmarks are disabled: under xdist nothing was measured undisturbed.
    """
    if not benchmark.enabled:
        pytest.fail("benchmarks are disabled (xdist or --benchmark-disable): nothing can be gated", pytrace=False)
    if not record.rounds:
        pytest.skip("the race has no round that counted")
    REPLAY.load(record.rounds)
    benchmark.extra_info[KEY] = {"model": record.model, "engine": record.engine, "batch": record.batch}
    benchmark.pedantic(_nothing, rounds=len(record.rounds), iterations=1)


def properties(record: EngineRecord) -> list[tuple[str, object]]:
    """Every metric of an engine by name, in the units of the JSON."""
    values = [(metric.name, record.value(metric.name)) for metric in METRICS]
    return [(f"trtgate.{name}", value) for name, value in values if value is not None]


def _nothing() -> None:
    return None
