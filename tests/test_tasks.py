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


# What the whole hides.


def test_answers_of_another_length_do_not_hide_the_others() -> None:
    task, found = TensorsTask(), [*rows(6, 4, count=1), *rows(5, 4, count=39)]
    other = [*rows(7, 4, count=1), *rounded(found[1:])]
    decision = judged(task, found, other)
    # One of 40 may be another one by rounding; the bound of the share tells.
    assert decision.verdict is Verdict.INCONCLUSIVE
    assert "share of answers of the same shape of y is 97.5%" in decision.message
    for expectation in (EXACT, NARROW):
        assert judged(task, found, [other[0], *rows(5, 4, count=39)], expectation).verdict is Verdict.REGRESSED
        worse = changed(other[1:], np.s_[:, 2], 0)
        assert judged(task, found, [other[0], *worse], expectation).verdict is Verdict.REGRESSED
        assert against(task, found, other, [other[0], *worse], expectation).verdict is Verdict.REGRESSED
        # Of the same shape again, which is better, and of none.
        assert against(task, found, other, rounded(found), expectation).verdict is Verdict.PASS
        assert against(task, found, rounded(found), rows(3, 4, count=40), expectation).verdict is Verdict.REGRESSED


def test_what_is_empty_on_both_sides_is_equal() -> None:
    empty = [{"where": np.zeros((0, 3), np.int64)} for _ in range(8)]
    assert judged(TensorsTask(), empty, empty).verdict is Verdict.PASS


def yolo() -> list[dict[str, Any]]:
    """Boxes in pixels beside scores, in one output."""
    found = rows(84, 2100)
    for row in found:
        row["y"][:4] = RANDOM.uniform(10, 640, (4, 2100))
        row["y"][4:] = RANDOM.uniform(0, 1e-3, (80, 2100))
        for at in RANDOM.integers(0, 2100, 20):
            row["y"][4 + RANDOM.integers(80), at] = RANDOM.uniform(0.5, 0.95)
    return found


def pixels_off(outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """As an INT8 engine has them: boxes off by some pixels."""
    found = rounded(outputs, 0.1)
    for row in found:
        row["y"][:4] += RANDOM.standard_normal((4, 2100)) * 3
    return found


@pytest.mark.parametrize("wrong", [lambda scores: scores * 0, lambda scores: 1 - scores])
def test_scores_beside_boxes_in_pixels_are_judged_by_their_own_signal(wrong: Any) -> None:
    task, reference = TensorsTask(), yolo()
    for old, expectation, verdict in (
        (rounded(reference), EXACT, Verdict.REGRESSED),
        (pixels_off(reference), NARROW, Verdict.INCONCLUSIVE),
    ):
        assert judged(task, reference, old, expectation).verdict is Verdict.PASS
        again = rounded(reference) if expectation is EXACT else pixels_off(reference)
        assert against(task, reference, old, again, expectation).verdict is Verdict.PASS
        new = [{"y": np.concatenate([row["y"][:4], wrong(row["y"][4:])])} for row in old]
        decision = judged(task, reference, new, expectation)
        assert (decision.verdict, "y, " in decision.message) == (verdict, True), decision
        decision = against(task, reference, old, new, expectation)
        assert decision.verdict is Verdict.REGRESSED
        assert " more" in decision.message


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("expectation", [EXACT, NARROW])
def test_one_dead_channel_of_64_is_found_and_named(kind: Any, expectation: Expectation) -> None:
    task, reference = TensorsTask(), [{"q": RANDOM.integers(1, 255, (64, 16, 16)).astype(kind)} for _ in range(8)]
    good = rounded(reference, 1e-6 if expectation is EXACT else 0.05)
    bad = changed(good, 7, 0, "q")
    assert judged(task, reference, good, expectation).verdict is Verdict.PASS
    for decision in (judged(task, reference, bad, expectation), against(task, reference, good, bad, expectation)):
        assert decision.verdict is Verdict.REGRESSED
        assert "q, 7 along axis 0 of a sample" in decision.message


def test_a_quiet_slice_and_a_single_flip_are_no_spoilt_slices() -> None:
    task, reference = TensorsTask(), rows(300, 5, count=20)
    for row in reference:
        row["y"][::2] *= 1e-4
    for seed in range(5):
        noisy, other = (rounded(reference, 0.05) for _ in range(2))
        for row in (*noisy, *other):  # as a type has it whose steps are as wide for all
            row["y"] += np.float32(1e-6) * RANDOM.standard_normal(row["y"].shape).astype(np.float32)
        other[seed]["y"][2 * seed] = 0.5
        assert judged(task, reference, other, NARROW).verdict is Verdict.PASS
        assert judged(task, reference, rounded(reference), EXACT).verdict is Verdict.PASS
