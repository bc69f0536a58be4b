"""How answers are compared: what tasks make of wrong ones, and of those that tell nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from trtgate.expectations import Expectation, read_expectations
from trtgate.samples import Unlabelled
from trtgate.tasks.against import decide_scores
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.decision import Decision, Reason, Verdict

RANDOM = np.random.default_rng(0)
REAL = read_expectations()
EXACT, NARROW = (REAL.of("net.onnx", engine) for engine in ("openvino-fp32", "openvino-int8"))


class Some(Unlabelled):
    """Samples of which only the names are known."""

    digest = "some"

    def __init__(self, count: int) -> None:
        self.names = tuple(map(str, range(count)))


def judged(task: Task, reference: Outputs, got: Outputs, expectation: Expectation = EXACT) -> Decision:
    [decision] = task.decide(task.compare(reference, got, Some(len(reference))), expectation)  # type: ignore[arg-type]
    return decision


def against(task: Task, reference: Outputs, old: Outputs, new: Outputs, expectation: Expectation = EXACT) -> Decision:
    """What a baseline's answers make of new ones, through the JSON of their sessions."""
    samples: Any = Some(len(reference))
    summaries = [task.summary(task.compare(reference, each, samples)) for each in (old, new)]
    before, after = json.loads(json.dumps(summaries, allow_nan=False))
    return decide_scores(before, after, expectation)


def rows(*shape: int, count: int = 8, name: str = "y") -> list[dict[str, Any]]:
    return [{name: RANDOM.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def changed(outputs: Sequence[Any], at: Any, value: Any, name: str = "y") -> list[dict[str, Any]]:
    """The same answers with another value somewhere in one output."""
    found = [{key: np.array(array) for key, array in row.items()} for row in outputs]
    for row in found:
        row[name][at] = value
    return found


def rounded(outputs: Sequence[Any], share: float = 1e-6) -> list[dict[str, Any]]:
    """The same answers as another kernel computes them."""
    return [
        {
            key: array
            if array.dtype.kind != "f"
            else (array * (1 + share * RANDOM.standard_normal(array.shape))).astype(array.dtype)
            for key, array in row.items()
        }
        for row in outputs
    ]


# What is no number.


@pytest.mark.parametrize("own", [np.nan, np.inf, -np.inf])
def test_the_references_own_infinities_must_stand_where_they_stood(own: float) -> None:
    task, masked = TensorsTask(), changed(rows(8, 4), np.s_[::2], own)
    assert judged(task, masked, rounded(masked)).verdict is Verdict.PASS
    for wrong in (0.0, np.nan, np.inf, -np.inf):
        if wrong is own or wrong == own:
            continue
        other = changed(masked, np.s_[0, 0], wrong)
        assert judged(task, masked, other).reason is Reason.NOT_FINITE, wrong
        assert against(task, masked, masked, other).verdict is Verdict.REGRESSED


def test_a_reference_without_a_finite_number_measures_nothing() -> None:
    task = TensorsTask()
    nothing = changed(rows(8, 4), np.s_[:], np.nan)
    for reference, got in ((nothing, nothing), (changed(nothing, 0, -np.inf), changed(nothing, 0, -np.inf))):
        decision = judged(task, reference, got)
        assert (decision.verdict, decision.reason) == (Verdict.INCONCLUSIVE, Reason.NOTHING_MEASURED)
        assert "y: the reference has no finite number" in decision.message
    assert judged(task, nothing, rows(8, 4)).verdict is Verdict.REGRESSED
