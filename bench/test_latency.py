"""How long does one inference take? One pytest-benchmark record per engine and batch size."""

from typing import Any

import pytest

from trtgate.plugin.replay import REPLAY, replay
from trtgate.records import EngineRecord


@pytest.mark.with_reference
@pytest.mark.benchmark(timer=REPLAY, disable_gc=True)
def test_latency(record: EngineRecord, benchmark: Any) -> None:
    replay(benchmark, record)
