"""Is the engine as much faster than PyTorch as it should be, and as fast as it was on the baseline's stack?"""

import pytest

from trtgate import judge
from trtgate.expectations import Expectation
from trtgate.plugin.gate import Gate
from trtgate.records import EngineRecord


def test_speedup_floor(
    record: EngineRecord, expectation: Expectation, gate: Gate, request: pytest.FixtureRequest
) -> None:
    verdict = judge.floor_verdict(record, expectation)
    gate.settle(request.node, verdict, record.model, record.engine, record.batch)


@pytest.mark.with_reference
def test_no_regression(record: EngineRecord, gate: Gate, request: pytest.FixtureRequest) -> None:
    if not gate.baseline:
        pytest.skip("no baseline; give --benchmark-compare=NAME")
    comparison = gate.comparison(record)
    if comparison is None:
        pytest.skip(f"the baseline has no {record.name}")
    gate.show(request.node, comparison.verdict, details=comparison.attribution)
