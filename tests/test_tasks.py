"""How answers are compared: what tasks make of wrong ones, and of those that tell nothing."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtgate.expectations import Expectation, read_expectations
from trtgate.kinds import EngineRefused, UserError
from trtgate.samples import Unlabelled
from trtgate.tasks import detection
from trtgate.tasks.against import decide_all_scores, decide_scores, ranked_scores, scores_in
from trtgate.tasks.base import Outputs, Task, load_function
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import (
    EMPTY,
    Detection,
    Detections,
    average_precision_of,
    confidence_again,
    from_function,
    from_outputs,
    overlaps,
    paired,
    read_coco,
)
from trtgate.tasks.segmentation import Segmentation
from trtgate.tasks.slices import lost_slices
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import GOOD

# Of the test that runs: `own_random` gives each one its own.
RANDOM = np.random.default_rng(0)
REAL = read_expectations()
EXACT, NARROW = (REAL.of("net.onnx", engine) for engine in ("openvino-fp32", "openvino-int8"))


class Some(Unlabelled):
    """Samples of which only the names are known."""

    digest = "some"

    def __init__(self, count: int) -> None:
        self.names = tuple(map(str, range(count)))


def some(count: int) -> Any:
    return Some(count)


def judged(task: Task, reference: Outputs, got: Outputs, expectation: Expectation = EXACT) -> Verdict:
    [verdict] = task.decide(task.compare(reference, got, Some(len(reference))), expectation)  # type: ignore[arg-type]
    return verdict


def against(task: Task, reference: Outputs, old: Outputs, new: Outputs, expectation: Expectation = EXACT) -> Verdict:
    """What a baseline's answers make of new ones, through the JSON of their sessions."""
    samples: Any = Some(len(reference))
    summaries = [task.summary(task.compare(reference, each, samples)) for each in (old, new)]
    before, after = json.loads(json.dumps(summaries, allow_nan=False))
    return decide_scores(before, after, expectation)


@pytest.fixture(autouse=True)
def own_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """A generator for each test, so that none depends on those before it."""
    monkeypatch.setitem(globals(), "RANDOM", np.random.default_rng(0))


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
    assert judged(task, masked, rounded(masked)).outcome is Outcome.PASS
    for wrong in (0.0, np.nan, np.inf, -np.inf):
        if wrong is own or wrong == own:
            continue
        other = changed(masked, np.s_[0, 0], wrong)
        assert judged(task, masked, other).reason is Reason.NOT_FINITE, wrong
        assert against(task, masked, masked, other).outcome is Outcome.REGRESSED


def test_nan_where_the_reference_has_integers_and_the_other_way_round() -> None:
    whole = [{"y": np.arange(400)} for _ in range(8)]
    floats = [{"y": row["y"].astype(np.float32)} for row in whole]
    assert judged(TensorsTask(), whole, floats, NARROW).outcome is Outcome.PASS
    spoilt = [*changed(floats[:1], 7, np.nan), *floats[1:]]
    assert judged(TensorsTask(), whole, spoilt, NARROW).reason is Reason.NOT_FINITE
    assert judged(TensorsTask(), spoilt, whole, NARROW).reason is Reason.NOT_FINITE


def test_boxes_that_only_the_engine_gives_in_another_form_are_no_mistake_of_the_users() -> None:
    task = Detection(from_outputs("b", "s", "l", "xyxy"))
    reference = [{"b": np.ones((2, 4)), "s": np.ones(2), "l": np.ones(2, np.int64)}] * 3
    with pytest.raises(EngineRefused, match=r"of the engine's answers, not of the reference's: .*\[2, 5\]"):
        task.compare(reference, [{**row, "b": np.ones((2, 5))} for row in reference], some(3))


def test_a_reference_without_a_finite_number_measures_nothing() -> None:
    task = TensorsTask()
    nothing = changed(rows(8, 4), np.s_[:], np.nan)
    for reference, got in ((nothing, nothing), (changed(nothing, 0, -np.inf), changed(nothing, 0, -np.inf))):
        verdict = judged(task, reference, got)
        assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED)
        assert "y: the reference has no finite number" in verdict.message
    assert judged(task, nothing, rows(8, 4)).outcome is Outcome.REGRESSED


FLOAT32_MIN = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("expectation", [EXACT, NARROW])
def test_what_became_as_large_as_a_mask_is_no_mask(kind: Any, expectation: Expectation) -> None:
    reference = [{"y": row["y"].astype(kind)} for row in rows(2, 8, 8)]
    for wrong in (1e30, 1e35, -1.5e31, FLOAT32_MIN):
        got = changed(reference, (0, slice(4)), wrong)
        for task in (TensorsTask(), Segmentation("y")):
            verdict = judged(task, reference, got, expectation)
            assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.NOT_FINITE), (task, wrong)
            assert against(task, reference, reference, got, expectation).outcome is Outcome.REGRESSED
            own = (task.own(each, some(8))["scores"] for each in (reference, got))
            assert decide_scores(*own, expectation).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("own", [-1e30, -np.inf, FLOAT32_MIN, 0.7 * FLOAT32_MIN, FLOAT32_MIN / 2])
def test_a_mask_may_be_written_in_another_way_and_hides_no_noise(own: float, kind: Any) -> None:
    task = TensorsTask()
    plain = [{"y": row["y"].astype(kind)} for row in rows(8, 8)]
    reference = changed(plain, np.s_[:, :4], own)
    for other in (-1e30, -np.inf, FLOAT32_MIN, -1.0023e30):
        got = changed(rounded(plain), np.s_[:, :4], other)
        if other != -1.0023e30 or own == -1e30:
            assert judged(task, reference, got).outcome is Outcome.PASS, other
        noisy = [{"y": row["y"] + RANDOM.normal(0, 1, (8, 8)).astype(kind)} for row in got]
        assert judged(task, reference, noisy, NARROW).outcome is Outcome.REGRESSED
    for wrong in (0.0, 1e30, np.nan, -65504.0):
        assert judged(task, reference, changed(reference, (0, 0), wrong), NARROW).reason is Reason.NOT_FINITE


@pytest.mark.parametrize("own", [-1e4, -65504.0, -1e9])
@pytest.mark.parametrize("expectation", [EXACT, NARROW])
def test_a_number_that_is_written_for_none_hides_no_noise(own: float, expectation: Expectation) -> None:
    """As attention has it above the diagonal: all else has no share of the power."""
    task, above = TensorsTask(), np.triu(np.ones((16, 16), bool), 1)
    plain = rows(2, 16, 16)
    reference = changed(plain, np.s_[:, above], own)
    assert judged(task, reference, rounded(reference), expectation).outcome is Outcome.PASS
    for wrong in (0, -1):
        got = [{"y": np.where(above, row["y"], wrong * row["y"]).astype(np.float32)} for row in reference]
        assert judged(task, reference, got, expectation).outcome is Outcome.REGRESSED
        assert against(task, reference, rounded(reference), got, expectation).outcome is Outcome.REGRESSED
    # What stands for it has to be about as much.
    for wrong in (0, 0.5 * own):
        assert judged(task, reference, changed(reference, (0, above), wrong), expectation).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("wrong", ["one answer to all", "the sample before"])
def test_answers_that_are_stuck_beside_what_all_have_in_common(wrong: str) -> None:
    """Temperatures of 400 and something have 30 dB of SQNR to those of any other sample."""
    task = TensorsTask()
    reference = [{"y": 400 + 10 * row["y"]} for row in rows(4, count=20)]
    noisy = [{"y": row["y"] + RANDOM.normal(0, 3, 4).astype(np.float32)} for row in reference]
    got = [reference[7]] * 20 if wrong == "one answer to all" else [reference[-1], *reference[:-1]]
    assert judged(task, reference, noisy, NARROW).outcome is Outcome.PASS
    verdict = judged(task, reference, got, NARROW)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED)
    assert "y: one answer to all samples would be as near" in verdict.message
    # Anchors are the same to all samples, and one or two samples tell nothing.
    assert judged(task, [reference[0]] * 20, [noisy[0]] * 20, NARROW).outcome is Outcome.PASS
    assert judged(task, reference[:2], got[:2], NARROW).outcome is Outcome.PASS


@pytest.mark.parametrize("size", [1.0, 1.5e31, 1.5e200])
def test_numbers_of_any_size_are_numbers(size: float) -> None:
    task, reference = TensorsTask(), [{"y": row["y"].astype(np.float64) * size} for row in rows(8, 8)]
    assert judged(task, reference, rounded(reference)).outcome is Outcome.PASS
    for expectation in (EXACT, NARROW):
        doubled = [{"y": 2 * row["y"]} for row in reference]
        assert judged(task, reference, doubled, expectation).reason is Reason.BELOW_FLOOR
        if size < FLOAT32_MIN * -1:
            own = (task.own(each, some(8))["scores"] for each in (reference, doubled))
            assert decide_scores(*own, expectation).outcome is Outcome.REGRESSED


# What the whole hides.


def test_answers_of_another_length_do_not_hide_the_others() -> None:
    task, found = TensorsTask(), [*rows(6, 4, count=1), *rows(5, 4, count=39)]
    other = [*rows(7, 4, count=1), *rounded(found[1:])]
    verdict = judged(task, found, other)
    # One of 40 may be another one by rounding; the bound of the share tells.
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "share of answers of the same shape of y is 97.5%" in verdict.message
    for expectation in (EXACT, NARROW):
        assert judged(task, found, [other[0], *rows(5, 4, count=39)], expectation).outcome is Outcome.REGRESSED
        worse = changed(other[1:], np.s_[:, 2], 0)
        assert judged(task, found, [other[0], *worse], expectation).outcome is Outcome.REGRESSED
        assert against(task, found, other, [other[0], *worse], expectation).outcome is Outcome.REGRESSED
        # Of the same shape again, which is better, and of none.
        assert against(task, found, other, rounded(found), expectation).outcome is Outcome.PASS
        assert against(task, found, rounded(found), rows(3, 4, count=40), expectation).outcome is Outcome.REGRESSED


def test_what_is_empty_on_both_sides_is_equal() -> None:
    empty = [{"where": np.zeros((0, 3), np.int64)} for _ in range(8)]
    assert judged(TensorsTask(), empty, empty).outcome is Outcome.PASS


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
    for old, expectation, outcome in (
        (rounded(reference), EXACT, Outcome.REGRESSED),
        (pixels_off(reference), NARROW, Outcome.INCONCLUSIVE),
    ):
        assert judged(task, reference, old, expectation).outcome is Outcome.PASS
        again = rounded(reference) if expectation is EXACT else pixels_off(reference)
        assert against(task, reference, old, again, expectation).outcome is Outcome.PASS
        new = [{"y": np.concatenate([row["y"][:4], wrong(row["y"][4:])])} for row in old]
        verdict = judged(task, reference, new, expectation)
        assert (verdict.outcome, "y, " in verdict.message) == (outcome, True), verdict
        verdict = against(task, reference, old, new, expectation)
        assert verdict.outcome is Outcome.REGRESSED
        assert " more" in verdict.message


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
@pytest.mark.parametrize("expectation", [EXACT, NARROW])
def test_one_dead_channel_of_64_is_found_and_named(kind: Any, expectation: Expectation) -> None:
    task, reference = TensorsTask(), [{"q": RANDOM.integers(1, 255, (64, 16, 16)).astype(kind)} for _ in range(8)]
    good = rounded(reference, 1e-6 if expectation is EXACT else 0.05)
    bad = changed(good, 7, 0, "q")
    assert judged(task, reference, good, expectation).outcome is Outcome.PASS
    for verdict in (judged(task, reference, bad, expectation), against(task, reference, good, bad, expectation)):
        assert verdict.outcome is Outcome.REGRESSED
        assert "q, 7 along axis 0 of a sample" in verdict.message


@pytest.mark.parametrize("size", [1e-25, 1e25])
def test_slices_of_numbers_of_any_size(size: float) -> None:
    task, reference = TensorsTask(), [{"y": np.float32(size) * row["y"]} for row in rows(8, 16)]
    reference[0]["y"][3] = 0
    good, again = rounded(reference, 1e-7), rounded(reference, 3e-7)
    assert judged(task, reference, good).outcome is Outcome.PASS
    assert against(task, reference, good, again).outcome is Outcome.PASS
    for row in reference:
        row["y"][:4] *= 1e-3
    dead = changed(reference, 2, 0)
    for verdict in (judged(task, reference, dead), against(task, reference, reference, dead)):
        assert (verdict.outcome, "y, 2 along axis 0 of a sample" in verdict.message) == (Outcome.REGRESSED, True)


@pytest.mark.parametrize(("value", "outcome"), [(1e-8, Outcome.PASS), (1e-2, Outcome.REGRESSED)])
def test_what_is_as_good_as_zero_beside_zeros(value: float, outcome: Outcome) -> None:
    task, reference = TensorsTask(), [{"y": np.zeros((4, 8), np.float32)} for _ in range(8)]
    new = changed(reference, (2, 3), value)
    own = [task.own(each, some(8))["scores"] for each in (reference, new)]
    for expectation in (EXACT, NARROW):
        assert judged(task, reference, new, expectation).outcome is outcome
        assert against(task, reference, reference, new, expectation).outcome is outcome
    assert decide_scores(*own, EXACT).outcome is outcome
    # However many there are.
    many = [{"y": np.zeros((1, 400, 500), np.float32)} for _ in range(8)]
    noisy = [{"y": np.float32(1e-5) * RANDOM.standard_normal((1, 400, 500)).astype(np.float32)} for _ in range(8)]
    noisy[3]["y"][0, 20, 30] += value
    assert judged(task, many, noisy).outcome is outcome
    assert decide_scores(*(task.own(each, some(8))["scores"] for each in (many, noisy)), EXACT).outcome is outcome


@pytest.mark.parametrize(
    ("engine", "share"),
    [("openvino-fp32", 1e-6), ("tensorrt-fp16", 5e-4), ("openvino-bf16", 4e-3), ("openvino-int8", 2e-2)],
)
@pytest.mark.parametrize("count", [8, 30])
def test_a_quiet_column_that_is_stuck_or_another_samples(engine: str, share: float, count: int) -> None:
    """Places of keypoints in pixels and how sure they are: half of everything is no worse answer than what is right."""
    task, expectation = TensorsTask(), REAL.of("net.onnx", engine)
    size = np.array([96, 96, 1])
    reference = [{"y": (size * RANDOM.random((17, 3))).astype(np.float32)} for _ in range(count)]
    old, new = rounded(reference, share), rounded(reference, share)
    # Noise that drowns what they say takes nothing of it, but by chance.
    loud = np.float32(96 * 3e-2 * (share < 1e-2) * (share > 1e-5))
    drowned = [
        [{"y": row["y"] + loud * RANDOM.standard_normal((17, 3)).astype(np.float32)} for row in new] for _ in range(2)
    ]
    for some in (new, drowned[0]):
        assert judged(task, reference, some, expectation).reason is not Reason.NOTHING_MEASURED
    for sides in ((old, new), drowned):
        assert against(task, reference, *sides, expectation).outcome is Outcome.PASS
    others = [{"y": np.where([True, True, False], a["y"], b["y"])} for a, b in zip(new, new[1:] + new, strict=False)]
    for wrong in (changed(new, np.s_[:, 2], 0), changed(new, np.s_[:, 2], 0.5), others):
        verdict = judged(task, reference, wrong, expectation)
        assert verdict.outcome is not Outcome.PASS or engine == "openvino-int8", verdict
        verdict = against(task, reference, old, wrong, expectation)
        assert (verdict.outcome, "y, 2 along axis 1" in verdict.message) == (Outcome.REGRESSED, True), verdict
    # One sample is no slice.
    if engine == "openvino-int8":
        assert against(task, reference, old, [others[0], *new[1:]], expectation).outcome is Outcome.PASS


def test_a_quiet_slice_and_a_single_flip_are_no_spoilt_slices() -> None:
    task, reference = TensorsTask(), rows(300, 5, count=20)
    for row in reference:
        row["y"][::2] *= 1e-4
    for seed in range(5):
        noisy, other = (rounded(reference, 0.05) for _ in range(2))
        for row in (*noisy, *other):  # as a type has it whose steps are as wide for all
            row["y"] += np.float32(1e-6) * RANDOM.standard_normal(row["y"].shape).astype(np.float32)
        other[seed]["y"][2 * seed] = 0.5
        assert judged(task, reference, other, NARROW).outcome is Outcome.PASS
        assert judged(task, reference, rounded(reference), EXACT).outcome is Outcome.PASS


@pytest.mark.parametrize("kind", ["sigmoid", "softmax in steps"])
def test_small_probabilities_that_are_rounded_otherwise_are_no_spoilt_slices(kind: str) -> None:
    """Of a thousand classes some are twice as probable to an INT8 engine on each of three samples, or less than a step;
    what is certain is a class of which nothing is left."""
    task = TensorsTask()

    def probable(logits: Any) -> list[dict[str, Any]]:
        powers = np.exp(logits)
        if kind == "sigmoid":
            return [{"y": row.astype(np.float32)} for row in powers / (powers + np.exp(4))]
        return [{"y": row.astype(np.float32)} for row in np.rint(powers / powers.sum(1, keepdims=True) * 256) / 256]

    for _ in range(10):
        logits = RANDOM.normal(0, 2, (3, 1000))
        logits[np.arange(3), [7, 8, 9]] += 9
        off = RANDOM.normal(0, 0.3, 1000) + RANDOM.normal(0, 0.3, logits.shape)
        off /= 1 if kind == "sigmoid" else 3
        exact = probable(logits) if kind == "sigmoid" else softmaxed(logits)
        verdict = judged(task, exact, probable(logits + off), NARROW)
        assert verdict.outcome is not Outcome.REGRESSED, verdict
    dead = changed(rounded(exact, 0.05), 7, 0)
    assert judged(task, exact, dead, NARROW).outcome is Outcome.REGRESSED


def softmaxed(logits: Any) -> list[dict[str, Any]]:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return [{"y": row.astype(np.float32)} for row in powers / powers.sum(1, keepdims=True)]


# Detectors.


def found_boxes(n: int = 5, score: float = 0.9) -> dict[str, Any]:
    corner = RANDOM.uniform(0, 100, (n, 2))
    return {
        "b": np.concatenate([corner, corner + 30], 1).astype(np.float32),
        "s": np.full(n, score, np.float32),
        "l": np.arange(n),
        "mask": RANDOM.standard_normal((n, 14, 14)).astype(np.float32),
    }


DETECTION = Detection(from_outputs("b", "s", "l", "xyxy"))


def by(function: Any) -> Detection:
    return Detection(from_function(function))


def test_nothing_above_the_threshold_tells_nothing() -> None:
    few = [found_boxes(score=0.3) for _ in range(60)]
    verdict = judged(DETECTION, few, [found_boxes(score=0.01) for _ in range(60)], NARROW)
    assert verdict.outcome is not Outcome.PASS
    verdict = judged(DETECTION, few, few)
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED)
    assert "threshold 0.5" in verdict.message


def test_outputs_that_a_detector_does_not_read_are_compared_by_value() -> None:
    sound = [found_boxes() for _ in range(60)]
    own = by(lambda outputs: (outputs["b"], outputs["s"], outputs["l"]))
    for task in (DETECTION, own):
        assert judged(task, sound, rounded(sound)).outcome is Outcome.PASS
        for bad in ([{**row, "mask": row["mask"] * -7} for row in sound], changed(sound, np.s_[:, 3], 0, "mask")):
            verdict = judged(task, sound, bad)
            assert (verdict.outcome, "mask" in verdict.message) == (Outcome.REGRESSED, True)
            verdict = against(task, sound, rounded(sound), bad)
            assert (verdict.outcome, "mask" in verdict.message) == (Outcome.REGRESSED, True)
    whole = by(lambda outputs: [dict(outputs.items())[name] for name in "bsl"])
    assert judged(whole, sound, [{**row, "mask": row["mask"] * -7} for row in sound]).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda row: (row["b"], row["s"][:3], row["l"]), r"\[5, 4\], \[3\], \[5\]"),
        (lambda row: (row["b"].T, row["s"], row["l"]), r"\[4, 5\], \[5\], \[5\]"),
        (lambda row: (row["b"], row["s"] * np.nan, row["l"]), "NaN or infinite"),
        (lambda row: (row["b"] * np.inf, row["s"], row["l"]), "NaN or infinite"),
        (lambda row: sys.exit(0), "SystemExit"),
    ],
)
def test_a_decode_that_gives_no_detections_is_told(function: Any, said: str) -> None:
    sound = [found_boxes() for _ in range(4)]
    with pytest.raises(UserError, match=said):
        judged(by(function), sound, sound)


def test_a_decode_that_fails_on_the_engines_answers_alone_spoils_them() -> None:
    sound = [found_boxes() for _ in range(4)]
    task = by(lambda row: (row["b"], np.sqrt(row["s"]), row["l"]))
    with np.errstate(invalid="ignore"):
        assert judged(task, sound, changed(sound, 0, -1.0, "s")).reason is Reason.NOT_FINITE


def test_outputs_of_other_shapes_than_boxes_and_scores_are_told() -> None:
    row = {"b": np.ones((5, 5), np.float32), "s": np.ones(5, np.float32), "l": np.arange(5), "t": np.ones((4, 5))}
    for boxes, scores, said in (("b", "s", r"b is of \[5, 5\]"), ("t", "s", r"\[4, 5\], not \[n,4\]")):
        with pytest.raises(UserError, match=said):
            from_outputs(boxes, scores, "l", "xyxy")(row)
    with pytest.raises(UserError, match="not of as many boxes"):
        from_outputs("x", "s", "l", "xyxy")({**row, "x": np.ones((3, 4))})
    # Scores of each class for all boxes, as what suppresses boxes takes them, are not those of each box.
    boxes, scores = np.zeros((1, 6, 4)), RANDOM.random((1, 6, 3))
    for fits in (scores, scores.reshape(2, 3, 3), scores[..., :1], scores[..., 0], scores.reshape(-1)):
        found = from_outputs("b", "s", "", "xyxy")({"b": boxes, "s": fits})
        assert found.scores.tolist() == fits.reshape(6, -1).max(1).tolist()
    for wrong in (scores.transpose(0, 2, 1), scores[0].T):
        with pytest.raises(UserError, match=r"3, 6\] are not of as many boxes; write decode"):
            from_outputs("b", "s", "", "xyxy")({"b": boxes, "s": wrong})


def test_annotations_of_other_photos_are_told() -> None:
    sound = [found_boxes() for _ in range(4)]
    with pytest.raises(UserError, match=r"none of the samples, such as 0, is in them \(they have other\.jpg\)"):
        judged(replace(DETECTION, truth={"other.jpg": EMPTY}), sound, sound)


def test_annotations_that_no_answer_has_anything_in_common_with_are_told() -> None:
    """With other labels, or in the photo's pixels: of a mAP of nothing nothing can be lost."""
    task, reference = Detection(from_outputs("b", "s", "l", "xyxy"), 0.5), many_boxes(240)
    found = [task.found(row) for row in reference]

    def marked(change: Callable[[Detections], Detections]) -> Verdict:
        truth = {str(index): change(each) for index, each in enumerate(found)}
        return judged(replace(task, truth=truth), reference, reference)

    assert marked(lambda each: each).outcome is Outcome.PASS
    assert marked(lambda each: each.at(each.labels == 40)).outcome is Outcome.PASS
    for wrong in (
        lambda each: replace(each, labels=each.labels + 100),
        lambda each: replace(each, boxes=5000 + 2.5 * each.boxes),
    ):
        verdict = marked(wrong)
        assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED)
        assert "boxes in annotations the reference finds none" in verdict.message


def test_boxes_found_again_need_not_have_been_missed_before() -> None:
    sure, unsure = ([found_boxes(score=score) for _ in range(60)] for score in (0.9, 0.1))
    assert against(DETECTION, unsure, sure, unsure).outcome is Outcome.PASS
    assert against(DETECTION, unsure, unsure, sure).outcome is Outcome.REGRESSED


def summary_of(decibels: float) -> dict[str, Any]:
    """A summary of one output with that SQNR."""
    score = {"name": "SQNR", "of": "y", "value": decibels, "key": "sqnr_db", "unit": "dB", "low": None, "high": None}
    return {"task": "tensors", "n": 8, "finite": True, "same": False, "text": f"{decibels} dB", "scores": [score]}


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ([50, 50, 50, 50, 25], [25] * 5, Outcome.REGRESSED),
        ([50, 50, 50, 50, 25], [25], Outcome.REGRESSED),
        ([50, 50, 50, 50, 25], [50] * 4 + [25], Outcome.REGRESSED),
        ([50, 25], [25, 25], Outcome.REGRESSED),
        ([25, 50], [50, 50], Outcome.PASS),
        ([50, 50, 50, 50, 25], [50] * 5, Outcome.PASS),
        # One that answers better than its like makes no loss.
        ([40, 40, 40, 40, 55], [40] * 5, Outcome.PASS),
        # Builds that differ, on either side; not a new side that is usually as bad as the old one was at times.
        ([50, 50, 50, 25, 25], [50, 50, 25, 25, 50], Outcome.PASS),
        ([50, 50, 50, 25, 25], [25, 25, 25, 50, 50], Outcome.REGRESSED),
        ([50, 40, 45, 50, 42], [42, 50, 45, 40, 50], Outcome.PASS),
        # Beyond rounding all are alike.
        ([100, 90, 65], [64, 61, 70], Outcome.PASS),
    ],
)
def test_one_old_side_that_is_bad_excuses_nothing(old: list[float], new: list[float], outcome: Outcome) -> None:
    before, after = ([summary_of(each) for each in side] for side in (old, new))
    for turned in (before, before[::-1]):
        assert decide_all_scores(turned, after, NARROW).outcome is outcome
        ranks = [each["scores"][0]["value"] for each in ranked_scores(turned, NARROW)]
        assert ranks == sorted(old) or min(old) > 60


# The user's own code.


def test_a_metric_that_is_no_number_is_told_and_infinity_keeps_its_sign() -> None:
    reference = rows(4)
    with pytest.raises(UserError, match="gives NaN for metric"):
        judged(TensorsTask(lambda a, b: float("nan")), reference, reference)
    with pytest.raises(UserError, match="SystemExit"):
        judged(TensorsTask(lambda a, b: sys.exit(0)), reference, reference)
    best, worst = (TensorsTask(lambda a, b, each=each: each) for each in (np.inf, -np.inf))
    wanted = Expectation({**EXACT.values, "metric": 0.5})
    assert judged(best, reference, reference, wanted).outcome is Outcome.PASS
    assert judged(worst, reference, reference, wanted).outcome is Outcome.REGRESSED
    samples: Any = Some(len(reference))
    for task, value in ((best, np.inf), (worst, -np.inf)):
        summary = json.loads(json.dumps(task.summary(task.compare(reference, reference, samples)), allow_nan=False))
        assert scores_in(summary)["metric", ""].value == value


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        (-0.001, -0.025, Outcome.REGRESSED),
        (-0.001, -0.00102, Outcome.PASS),
        (75.0, 74.96, Outcome.PASS),
        (75.0, 72.0, Outcome.REGRESSED),
        (np.inf, np.inf, Outcome.PASS),
        (np.inf, 1e9, Outcome.REGRESSED),
        (-np.inf, -np.inf, Outcome.PASS),
        (0.0, 0.0, Outcome.PASS),
        (0.0, -1e-12, Outcome.PASS),  # rounded otherwise
        (-1.00e-6, -1.04e-6, Outcome.PASS),
        (0.5, np.inf, Outcome.PASS),
    ],
)
def test_of_a_metric_of_any_scale_a_share_may_be_lost(old: float, new: float, outcome: Outcome) -> None:
    reference, values = rows(4), iter((old, new))
    verdict = against(TensorsTask(lambda a, b: next(values)), reference, rounded(reference), rounded(reference))
    assert verdict.outcome is outcome, verdict


def test_each_folder_has_its_own_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ModuleType("helping")  # somebody else's, of that name
    monkeypatch.setitem(sys.modules, "helping", installed)
    for name, value in (("a", 1.0), ("b", 0.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.py").write_text(
            "def score(*_):\n    from helping import other\n    return now() + other()\n\nfrom helping import now\n"
        )
        (tmp_path / name / "helping.py").write_text(f"import aiding\n\ndef now():\n    return {value}\n\nother = now\n")
        (tmp_path / name / "aiding.py").touch()
        (tmp_path / name / "statistics.py").write_text(f"def score(*_):\n    return {value}\n")
    for module, factor in (("metrics", 2), ("statistics", 1)):
        scores = [load_function(f"{module}:score", tmp_path / name, name) for name in "ab"]
        assert [score() for score in (*scores, *scores)] == [factor, 0.0] * 2
    assert (sys.modules["helping"], sys.modules.get("aiding")) == (installed, None)
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(UserError, match="leaving:score cannot be imported"):
        load_function("leaving:score", tmp_path, "x")


# Segmenters.


def areas(*shape: int, count: int = 40) -> list[dict[str, Any]]:
    """A rectangle of two hundredths on a background, the rest of the axes of one."""
    found = []
    for _ in range(count):
        array = np.full(shape, 0.01, np.float32)
        y, x = RANDOM.integers(0, 54, 2)
        array[..., y : y + 8, x : x + 10] = 0.9
        found.append({"m": array})
    return found


def test_a_segmenter_that_finds_nothing_does_not_pass() -> None:
    reference = areas(1, 64, 64)
    for expectation in (EXACT, NARROW):
        assert judged(Segmentation("m"), reference, rounded(reference), expectation).outcome is Outcome.PASS
        verdict = judged(Segmentation("m"), reference, changed(reference, np.s_[:], 0.01, "m"), NARROW)
        assert (verdict.outcome, "mean IoU" in verdict.message) == (Outcome.REGRESSED, True)
    # A pixel of a class that hardly is there is no half of the overlap.
    flat = [*changed(reference[1:], np.s_[:], 0.01, "m"), *reference[:1]]
    other = [*changed(flat[:1], (0, 3, 3), 0.9, "m"), *flat[1:]]
    assert judged(Segmentation("m"), flat, other, NARROW).outcome is Outcome.PASS


@pytest.mark.parametrize(("shape", "stays"), [((5, 8, 8), False), ((1, 5, 8, 8), True), ((4, 8, 8, 8), False)])
def test_batches_that_stay_and_volumes_have_classes(shape: tuple[int, ...], stays: bool) -> None:
    task, reference = Segmentation("m", stays=stays), rows(*shape, name="m")
    assert task.classes(reference[0]["m"]).size == reference[0]["m"].size // shape[int(stays)]
    assert judged(task, reference, rounded(reference)).outcome is Outcome.PASS
    assert judged(task, reference, rows(*shape, name="m")).outcome is Outcome.REGRESSED


def test_another_size_is_a_regression_that_is_told() -> None:
    reference = areas(1, 64, 64)
    found = Segmentation("m").compare(reference, areas(1, 32, 32, count=40), Some(40))  # type: ignore[arg-type]
    [verdict] = Segmentation("m").decide(found, EXACT)
    assert verdict.outcome is Outcome.REGRESSED
    assert "0: (1, 64, 64) became (1, 32, 32)" in found.worst_samples


def test_outputs_that_a_segmenter_does_not_read_are_compared_by_value() -> None:
    reference = [{**row, "edges": RANDOM.standard_normal((6, 4)).astype(np.float32)} for row in areas(1, 64, 64)]
    assert judged(Segmentation("m"), reference, rounded(reference)).outcome is Outcome.PASS
    bad = changed(reference, np.s_[3], 0, "edges")
    for verdict in (judged(Segmentation("m"), reference, bad), against(Segmentation("m"), reference, reference, bad)):
        assert (verdict.outcome, "edges, 3 along axis 0" in verdict.message) == (Outcome.REGRESSED, True)


def rare(count: int = 12, classes: int = 60) -> list[dict[str, Any]]:
    """Columns of as many classes, and a last one that is a square of 0.4 % of the pixels."""
    found = []
    for _ in range(count):
        labels = np.tile(np.arange(120) * (classes - 1) // 120, (120, 1))
        labels[20:28, 70:77] = classes - 1
        found.append({"m": labels})
    return found


def moved_class(reference: Sequence[Any], by: int) -> list[dict[str, Any]]:
    """The same with the last class further down."""
    found = []
    for row in reference:
        labels = np.tile(row["m"][:1], (120, 1))
        labels[20 + by : 28 + by, 70:77] = 59
        found.append({"m": labels})
    return found


def test_an_engine_that_moves_a_rare_class_loses_it_by_name() -> None:
    task, reference = Segmentation("m"), rare()
    old = [{"m": np.where(RANDOM.random((120, 120)) < 0.002, 0, row["m"])} for row in reference]
    assert judged(task, reference, moved_class(reference, 40), NARROW).outcome is Outcome.INCONCLUSIVE
    verdict = against(task, reference, old, moved_class(reference, 40), NARROW)
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
    assert "IoU of class 59 of m went from 99." in verdict.message
    assert "to 0.0%, 20.0% may be lost" in verdict.message
    # Border pixels are no move, nor is a class found again.
    for before, after in ((reference, old), (old, reference), (moved_class(reference, 40), old)):
        assert against(task, reference, before, after, NARROW).outcome is Outcome.PASS
    allowed = Expectation({**NARROW.values, "max_class_lost": 1.0})
    assert against(task, reference, old, moved_class(reference, 40), allowed).outcome is Outcome.PASS


HALF = REAL.of("net.onnx", "tensorrt-fp16")


def scene(count: int = 20, classes: int = 8, side: int = 64) -> list[dict[str, Any]]:
    """Logits of a background with a square of each class, the last of which is small."""
    found = []
    for _ in range(count):
        logits = RANDOM.normal(0, 0.1, (classes, side, side))
        logits[0] += 1
        for index in range(1, classes):
            y, x = RANDOM.integers(0, side - 8, 2)
            size = 8 if index < classes - 1 else 4
            logits[index, y : y + size, x : x + size] += 3
        found.append({"m": logits.astype(np.float32)})
    return found


def with_classes(outputs: Sequence[Any], order: Sequence[int]) -> list[dict[str, Any]]:
    return [{"m": row["m"][list(order)]} for row in outputs]


@pytest.mark.parametrize("whole", [False, True], ids=["logits", "classes"])
def test_a_floating_segmenter_that_has_a_small_class_elsewhere(whole: bool) -> None:
    """More than 98 % of the pixels are equal, and the mean of the overlaps is beyond its floor."""
    task, reference = Segmentation("m"), scene()

    def given(outputs: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"m": row["m"].argmax(0)} for row in outputs] if whole else list(outputs)

    for wrong in (changed(reference, 7, -1, "m"), with_classes(reference, (0, 1, 2, 3, 4, 5, 7, 6))):
        for expectation in (EXACT, HALF):
            assert judged(task, given(reference), given(rounded(reference)), expectation).outcome is Outcome.PASS
            verdict = judged(task, given(reference), given(wrong), expectation)
            assert verdict.outcome is Outcome.REGRESSED
            assert "IoU of class " in verdict.message
        # What the reference finds by mistake INT8 may have none of.
        found = [judged(task, given(reference), given(each), NARROW).outcome for each in (rounded(reference), wrong)]
        assert found == [Outcome.PASS, Outcome.INCONCLUSIVE]
        for expectation in (HALF, NARROW):
            allowed = Expectation({**expectation.values, "max_class_lost": 1.0})
            assert judged(task, given(reference), given(wrong), allowed).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda rows: changed(rows, np.s_[5, :6, :6], 9, "m"), "class 5"),
        (lambda rows: changed(rows, np.s_[:, :6, :6], 0, "m"), "m, "),
        (lambda rows: [{"m": row["m"] / 2} for row in rows], "SQNR of m is 6.0 dB"),
    ],
    ids=["a corner has a class", "a corner is empty", "half as sure"],
)
def test_a_segmenter_in_fp32_whose_masks_hide_what_is_wrong(wrong: Any, said: str) -> None:
    task, reference = Segmentation("m"), scene()
    verdict = judged(task, reference, wrong(reference))
    assert (verdict.outcome, said in verdict.message) == (Outcome.REGRESSED, True), verdict
    assert judged(task, reference, wrong(reference), NARROW).outcome is Outcome.PASS, "INT8 is judged by its masks"


def test_a_class_of_few_pixels_is_not_judged_by_itself() -> None:
    task, reference = Segmentation("m"), rare(1)
    assert against(task, reference, reference, moved_class(reference, 40), NARROW).outcome is not Outcome.REGRESSED


def test_a_session_that_kept_no_overlap_of_each_class_is_read() -> None:
    task, reference = Segmentation("m"), rare()
    samples: Any = Some(len(reference))
    old, new = (
        task.summary(task.compare(reference, each, samples)) for each in (reference, moved_class(reference, 40))
    )
    del old["kept"]["ious"]
    verdict = decide_scores(old, new, NARROW)
    assert (verdict.outcome, "of before there is no IoU of each class" in verdict.message) == (Outcome.PASS, True)


# What a second reader found.


def _of(name: str, arrays: list[np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{name: each} for each in arrays]


@pytest.mark.parametrize("mask", [-1e6, -1e9, float(np.finfo(np.float32).min)])
def test_a_mask_as_loud_as_masks_are_hides_no_dead_channel(mask: float) -> None:
    generator = np.random.default_rng(0)
    wanted = [generator.normal(size=(64, 8)).astype(np.float32) for _ in range(8)]
    for each in wanted:
        each[:, 0] = mask
    dead = [np.where(np.arange(8) == 0, each, 0).astype(np.float32) for each in wanted]
    reference = _of("y", wanted)
    found = TensorsTask().compare(reference, _of("y", dead), some(8))
    for engine in ("onnxruntime-fp32", "onnxruntime-int8"):
        decided = TensorsTask().decide(found, REAL.of("m.onnx", engine))
        assert any(each.outcome not in GOOD for each in decided), engine
    before = TensorsTask().compare(reference, reference, some(8))
    assert lost_slices(before.kept, found.kept, 60.0)
    assert not lost_slices(before.kept, before.kept, 60.0)


def test_an_empty_answer_beside_nothing_but_nan_is_nothing_measured() -> None:
    nothing = [np.full((3,), np.nan, np.float32), np.empty((0,), np.float32)]
    found = TensorsTask().compare(_of("y", nothing), _of("y", nothing), some(2))
    assert found.unmeasured


def test_what_pads_a_list_of_boxes_is_no_detection() -> None:
    boxes, scores = np.array([[0, 0, 9, 9], [np.nan] * 4], np.float32), np.array([0.9, -np.inf], np.float32)
    rows = [{"boxes": boxes, "scores": scores, "labels": np.zeros(2, np.int64)}]
    task = Detection(from_outputs("boxes", "scores", "labels", "xyxy"))
    found = task.compare(rows, rows, some(1))
    assert not found.spoilt
    assert all(each.value == 1.0 for each in found.scores)


def test_code_that_works_in_place_changes_nobody_elses_answers() -> None:
    def corners(outputs: Any) -> Any:
        boxes = outputs["boxes"]
        boxes[:, 2:] += boxes[:, :2]
        return boxes, outputs["scores"], np.zeros(len(boxes))

    rows = [{"boxes": np.array([[1, 2, 9, 9]], np.float32), "scores": np.array([0.9], np.float32)}]
    task = Detection(from_function(corners), metric=lambda a, b: float(np.sum(a[0]["scores"].__imul__(2))))
    for _ in range(2):
        found = task.compare(rows, [{name: each.copy() for name, each in rows[0].items()}], some(1))
        assert found.scores[0].value == 1.0
    assert rows[0]["boxes"].tolist() == [[1, 2, 9, 9]]
    assert rows[0]["scores"][0] == np.float32(0.9)


@pytest.mark.parametrize(
    ("name", "said"),
    [("mAP", "the task has a mAP already"), ("two\nlines", "must be one line of text"), ("x" * 101, "1 to 100")],
)
def test_a_score_of_the_users_own_hides_no_other_and_fits_into_a_table(name: str, said: str) -> None:
    rows = [{"boxes": np.array([[1, 2, 9, 9]], np.float32), "scores": np.array([0.9], np.float32)}]
    boxes = from_function(lambda outputs: (outputs["boxes"], outputs["scores"], np.zeros(1)))
    with pytest.raises(UserError, match=said):
        Detection(boxes, metric=lambda a, b: {name: 1.0}).compare(rows, rows, some(1))


def test_a_segmenter_that_finds_one_class_only_shows_nothing() -> None:
    rows = [{"mask": np.zeros((1, 8, 8), np.float32)} for _ in range(3)]
    assert Segmentation("mask", threshold=0.5).compare(rows, rows, some(3)).unmeasured


def test_a_decode_that_copies_its_outputs_is_given_a_mapping_like_any_other() -> None:
    def whole(outputs: Any) -> Any:
        copied = dict(outputs) | {}
        return copied["boxes"], copied["scores"], np.zeros(1)

    rows = [{"boxes": np.array([[1, 2, 9, 9]], np.float32), "scores": np.array([0.9], np.float32)}]
    assert all(each.value == 1.0 for each in Detection(from_function(whole)).compare(rows, rows, some(1)).scores)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _marked(**changed: Any) -> Callable[[Path], object]:
    """Writes COCO annotations of one box with that changed."""
    box = {"image_id": 0, "bbox": [0, 0, 8, 8], "category_id": 0, **changed}
    document = {"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": [box]}
    return lambda path: path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (_fifo, "cannot be read"),
        (_marked(bbox=[0, 0, math.nan, 8]), "bbox must be a finite number"),
        (_marked(bbox=[0, 0, -8, 8]), "of negative size"),
        (_marked(bbox=[0, 0, 8]), "ValueError"),
        (_marked(category_id=2**70), "category_id must be a whole number"),
        (_marked(category_id=None), "category_id must be a whole number"),
        (_marked(image_id=1), "KeyError"),
        (lambda path: path.write_text("[" * 100_000), "RecursionError"),
    ],
)
def test_annotations_that_are_none_are_one_sentence(write: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    write(tmp_path / "coco.json")
    with pytest.raises(UserError, match=said):
        read_coco(tmp_path / "coco.json")


def test_samples_that_say_little_fail_no_narrow_type_of_a_classifier() -> None:
    rng = np.random.default_rng(0)
    reference = [{"y": row} for row in rng.normal(0, 1, (8, 10)).astype(np.float32)]
    got = [{"y": row["y"] + rng.normal(0, 0.6, 10).astype(np.float32)} for row in reference]
    floors = read_expectations().of("net.onnx", "onnxruntime-int8")
    for doubt, outcome in (("", Outcome.REGRESSED), ("they are made up", Outcome.INCONCLUSIVE)):
        samples: Any = Some(8)
        samples.doubt = doubt
        task = Classification("y")
        outcomes = {each.outcome for each in task.decide(task.compare(reference, got, samples), floors)}
        assert outcome in outcomes <= {outcome, Outcome.INCONCLUSIVE}


def test_overlaps_of_many_boxes_are_not_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = RANDOM.uniform(0, 30, (70, 2))
    some = Detections(np.concatenate([boxes, boxes + 10], 1), RANDOM.random(70), RANDOM.integers(0, 2, 70))
    other = Detections(some.boxes + 1, RANDOM.random(70), some.labels)
    whole = paired(some, other), average_precision_of([some], [other])
    seen: list[int] = []

    def counted(a: Any, b: Any) -> Any:
        seen.append(len(a) * len(b))
        return overlaps(a, b)

    monkeypatch.setattr(detection, "OVERLAPS_AT_ONCE", 200)
    monkeypatch.setattr(detection, "overlaps", counted)
    assert (paired(some, other), average_precision_of([some], [other])) == whole
    assert max(seen) <= 200


def test_a_box_without_an_area_is_itself() -> None:
    point, box = np.array([[5.0, 5, 5, 5]]), np.array([[0.0, 0, 10, 10]])
    assert overlaps(point, point) == 1
    assert overlaps(point, box) == 0
    assert overlaps(box, box) == 1


def many_boxes(count: int = 60) -> list[dict[str, Any]]:
    """Of 41 classes, the last of which has a third of all boxes."""
    found = []
    for _ in range(count):
        n = int(RANDOM.integers(5, 12))
        corner = RANDOM.uniform(0, 500, (n, 2))
        boxes = np.concatenate([corner, corner + RANDOM.uniform(30, 120, (n, 2))], 1)
        found.append(
            {
                "b": boxes.astype(np.float32),
                "s": RANDOM.uniform(0.55, 1, n).astype(np.float32),
                "l": np.minimum(RANDOM.integers(0, 60, n), 40),
            }
        )
    return found


def test_an_exact_detector_that_never_finds_one_class_or_has_boxes_elsewhere() -> None:
    """Its floors leave both: 98 % of the boxes, of which each overlaps the wanted one by half."""
    task, reference = Detection(from_outputs("b", "s", "l", "xyxy"), 0.5), many_boxes()
    gone = [{name: each[row["l"] != 7] for name, each in row.items()} for row in reference]
    moved = [
        {**row, "b": row["b"] + np.float32(0.08) * (row["b"][:, 2:] - row["b"][:, :2])[:, [0, 1, 0, 1]]}
        for row in reference
    ]
    lenient = Expectation({**EXACT.values, "agreement": 0.95})
    assert judged(task, reference, rounded(reference), lenient).outcome is Outcome.PASS
    for wrong, said in ((gone, "boxes of class 7 found again are 0 of "), (moved, "mAP is ")):
        verdict = judged(task, reference, wrong, lenient)
        assert (verdict.outcome, said in verdict.message) == (Outcome.REGRESSED, True), verdict
        assert judged(task, reference, wrong, NARROW).outcome is Outcome.PASS
    # One box of many that flips proves nothing.
    one = [{name: each[1:] for name, each in reference[0].items()}, *reference[1:]]
    assert judged(task, reference, one).outcome is Outcome.PASS


# How sure a detector is.


def sure_of(scores: Callable[[Any], Any], count: int = 30) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Boxes whose scores differ among each other, and the same boxes with other scores."""
    reference = [{**found_boxes(), "s": RANDOM.uniform(0.9, 1.0, 5).astype(np.float32)} for _ in range(count)]
    return reference, [{**row, "s": scores(row["s"]).astype(np.float32)} for row in reference]


LESS_SURE = pytest.mark.parametrize(
    ("scores", "outcome"),
    [
        (lambda scores: 0.6 * scores, Outcome.REGRESSED),
        (lambda scores: 1 - 0.5 * scores, Outcome.REGRESSED),  # the order turned
        (lambda scores: 1.2 * scores, Outcome.REGRESSED),
        (lambda scores: scores**1.02, Outcome.PASS),
        (lambda scores: scores + RANDOM.normal(0, 0.01, scores.shape), Outcome.PASS),
    ],
)


@LESS_SURE
def test_scores_that_moved_under_boxes_that_stayed_are_a_loss(scores: Any, outcome: Outcome) -> None:
    reference, moved = sure_of(scores)
    for factor in (1, 100):  # whatever scale they have
        task = Detection(from_outputs("b", "s", "l", "xyxy"), 0.3 * factor)
        sides = [[{**row, "s": factor * row["s"]} for row in side] for side in (reference, moved)]
        verdict = against(task, sides[0], rounded(sides[0]), sides[1], NARROW)
        assert (verdict.outcome, "confidence kept" in verdict.message) == (outcome, True), verdict
        # By itself an engine of a narrow type has no floor of it, but where the file sets one.
        lenient = Expectation({**NARROW.values, "agreement": 0.9})
        assert judged(task, *sides, lenient).outcome is Outcome.PASS
        for strict in ({**lenient.values, "confidence": 0.97}, {**EXACT.values, "agreement": 0.9}):
            assert judged(task, *sides, Expectation(strict)).outcome is outcome
        told = Expectation({**EXACT.values, "agreement": 0.9, "confidence": 0.2})
        assert judged(task, *sides, told).outcome is Outcome.PASS


@settings(max_examples=20)
@given(st.floats(0, 3), st.integers(0, 2**32 - 1))
def test_confidence_is_one_less_what_scores_are_off_by(factor: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    corners = 100 * np.arange(6)[:, None] + random.uniform(0, 30, (6, 2))
    wanted = Detections(np.concatenate([corners, corners + 50], 1), random.uniform(0.1, 1, 6), np.arange(6))
    order = random.permutation(6)
    mine = Detections(wanted.boxes[order], factor * wanted.scores[order], wanted.labels[order])
    for score in confidence_again([wanted] * 3, [mine] * 3):
        assert score.value == pytest.approx(max(0, 1 - abs(1 - factor)))


def test_an_engine_of_a_narrow_type_may_be_as_unsure_as_it_was() -> None:
    task = Detection(from_outputs("b", "s", "l", "xyxy"), 0.3)
    reference, old = sure_of(lambda scores: 0.8 * scores)
    assert against(task, reference, old, rounded(old, 1e-3), NARROW).outcome is Outcome.PASS
    assert against(task, reference, old, reference, NARROW).outcome is Outcome.PASS
    less = [{**row, "s": np.float32(0.9) * row["s"]} for row in old]
    assert against(task, reference, old, less, NARROW).outcome is Outcome.REGRESSED
    # One sample proves nothing.
    assert against(task, reference[:1], old[:1], less[:1], NARROW).outcome is Outcome.INCONCLUSIVE


def test_a_session_that_kept_no_confidence_is_read() -> None:
    task = Detection(from_outputs("b", "s", "l", "xyxy"), 0.3)
    reference, moved = sure_of(lambda scores: 0.6 * scores)
    samples: Any = Some(len(reference))
    old, new = (task.summary(task.compare(reference, each, samples)) for each in (rounded(reference), moved))
    old["scores"] = [each for each in old["scores"] if each["key"] != "confidence"]
    verdict = decide_scores(old, new, NARROW)
    assert (verdict.outcome, "of before there is no confidence kept, no" in verdict.message) == (Outcome.PASS, True)


def test_where_no_box_is_found_again_none_is_sure() -> None:
    reference, _ = sure_of(lambda scores: scores)
    away = [{**row, "b": row["b"] + 1000} for row in reference]
    assert "boxes found again" in against(DETECTION, reference, reference, away).message
    assert against(DETECTION, reference, away, rounded(reference)).outcome is Outcome.PASS
    nothing = [{**row, "s": 0 * row["s"]} for row in reference]
    found = DETECTION.compare(nothing, nothing, some(len(nothing)))
    assert [each.value for each in found.scores if each.key == "confidence"] == [1, 1]


@pytest.mark.parametrize("engine", ["openvino-fp32", "tensorrt-fp16", "openvino-bf16", "openvino-int8"])
def test_one_loud_sample_hides_no_others(engine: str) -> None:
    """Doubled they have the direction of the reference's, and all together 60 dB."""
    task, expectation = TensorsTask(), REAL.of("net.onnx", engine)
    for loud, outcome in ((10, Outcome.REGRESSED), (3000, Outcome.INCONCLUSIVE)):
        reference = rows(32, 32, count=24)
        reference[3]["y"] *= loud
        old, new = (rounded(reference, 1e-5) for _ in range(2))
        wrong = [{"y": row["y"] * (1 if index == 3 else 2)} for index, row in enumerate(new)]
        assert judged(task, reference, old, expectation).outcome is Outcome.PASS
        assert against(task, reference, old, new, expectation).outcome is Outcome.PASS
        # Beside 3000 a narrow type may have no step for what is 1.
        exact = expectation.number("sqnr_db") >= 60
        assert judged(task, reference, wrong, expectation).outcome is (Outcome.REGRESSED if exact else outcome)
        assert against(task, reference, old, wrong, expectation).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("engine", ["openvino-fp32", "tensorrt-fp16", "openvino-bf16", "openvino-int8"])
def test_noise_of_empty_samples_has_no_direction(engine: str) -> None:
    """Maps on which nothing is found, that are zero or next to it, beside those on which something is."""
    task, expectation = TensorsTask(), REAL.of("net.onnx", engine)
    reference = rows(16, 16, count=24)
    for index, share in enumerate([1e-3] * 6 + [0.0] * 4):
        reference[index]["y"] *= np.float32(share)
    exact = engine == "openvino-fp32"
    noise = np.float32(1e-6 if exact else 10 ** (-(expectation.number("sqnr_db") + 25) / 20))
    got = [{"y": row["y"] + noise * RANDOM.standard_normal((16, 16)).astype(np.float32)} for row in reference]
    assert judged(task, reference, got, expectation).outcome is Outcome.PASS
    for wrong in (lambda y: -y, lambda y: y[::-1]):
        spoilt = [*got[:12], {"y": wrong(got[12]["y"])}, *got[13:]]
        assert judged(task, reference, spoilt, expectation).outcome is Outcome.REGRESSED
    # What is quiet has one in FP32.
    spoilt = [{"y": -got[0]["y"]}, *got[1:]]
    assert (judged(task, reference, spoilt, expectation).outcome is Outcome.REGRESSED) is exact
    # Noise 34 dB below the loudest is more than the steps of all types but INT8.
    for side in (reference, got):
        side[11] = {"y": np.float32(0.01) * side[11]["y"]}
    got[11]["y"] *= -1
    found = judged(task, reference, got, expectation).outcome
    assert found is (Outcome.PASS if engine == "openvino-int8" else Outcome.REGRESSED)
    got[11]["y"] *= -1
    spoilt = [*got[:6], *reference[10:20], *got[16:]]
    assert judged(task, reference, spoilt, expectation).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("engine", ["tensorrt-fp16", "openvino-bf16", "openvino-int8"])
@pytest.mark.parametrize("numbers", [1, 3])
@pytest.mark.parametrize("task", [TensorsTask(), Classification("y")], ids=["tensors", "classification"])
def test_answers_of_a_few_numbers_have_a_direction_together(engine: str, numbers: int, task: Any) -> None:
    """One of 240 is next to zero, and noise as large as any type's turns it."""
    expectation = REAL.of("net.onnx", engine)
    reference = rows(numbers, count=240)
    reference[7]["y"] *= np.float32(1e-5)
    noise = 10 ** (-(expectation.number("sqnr_db") + 3) / 20)
    got = [
        {"y": row["y"] + np.float32(noise) * RANDOM.standard_normal(numbers).astype(np.float32)} for row in reference
    ]
    got[7] = {"y": np.float32(-noise) * np.sign(reference[7]["y"])}

    def fidelity(got: Outputs) -> Outcome:
        found = task.decide(task.compare(reference, got, some(240)), expectation)
        return next(each.outcome for each in found if each.metric == "fidelity")

    assert fidelity(got) is Outcome.PASS
    for wrong in (lambda y: -y, lambda y: 0 * y, lambda y: y[::-1] + 1):
        assert fidelity([{"y": wrong(row["y"])} for row in got]) is Outcome.REGRESSED


def test_a_few_zeros_beside_loud_samples_need_no_direction() -> None:
    reference = rows(16, count=24)
    reference[3]["y"] = np.full(16, -np.inf, np.float32)
    reference[3]["y"][:4] = 0
    got = [{"y": row["y"] + np.float32(0.02) * RANDOM.standard_normal(16).astype(np.float32)} for row in reference]
    got[3]["y"] = np.where(np.isinf(reference[3]["y"]), -np.inf, np.float32(1e-6))
    assert judged(TensorsTask(), reference, got, NARROW).outcome is Outcome.PASS
    got[3]["y"][0] = 2
    assert judged(TensorsTask(), reference, got, NARROW).outcome is Outcome.REGRESSED


@pytest.mark.parametrize(("count", "outcome"), [(1, Outcome.INCONCLUSIVE), (6, Outcome.REGRESSED)])
def test_a_segmenters_class_of_a_few_samples_is_not_lost_in_silence(count: int, outcome: Outcome) -> None:
    task, without = Segmentation("m"), [{"m": np.where(row["m"] == 59, 0, row["m"])} for row in rare(24)]
    reference = [*changed(without[:count], np.s_[:4], 59, "m"), *without[count:]]
    for expectation in (EXACT, HALF):
        assert judged(task, reference, reference, expectation).outcome is Outcome.PASS
        verdict = judged(task, reference, without, expectation)
        assert (verdict.outcome, "IoU of class 59" in verdict.message) == (outcome, True), verdict


def test_a_detectors_class_of_a_few_boxes_is_not_lost_in_silence() -> None:
    """Fewer than fourteen boxes bound no share of nothing below 20 %."""
    task, reference = Detection(from_outputs("b", "s", "l", "xyxy"), 0.5), many_boxes()
    for index, row in enumerate(reference):
        row["l"] = np.where(row["l"] == 7, 6, row["l"])
        row["l"][0] = 7 if index < 4 else row["l"][0]
    gone = [{**row, "l": np.where(row["l"] == 7, 6, row["l"])} for row in reference]
    verdict = judged(task, reference, gone, HALF)
    assert (verdict.outcome, "boxes of class 7 found again are 0 of 4" in verdict.message) == (Outcome.REGRESSED, True)
    assert judged(task, reference, [*reference[:2], *gone[2:]], HALF).outcome is Outcome.PASS


@pytest.mark.parametrize("engine", ["openvino-fp32", "tensorrt-fp16", "openvino-int8"])
def test_flags_that_are_never_raised_any_more(engine: str) -> None:
    task, expectation = TensorsTask(), REAL.of("net.onnx", engine)
    reference = [{"y": RANDOM.random(2000) < 0.01} for _ in range(24)]
    assert judged(task, reference, reference, expectation).outcome is Outcome.PASS
    verdict = judged(task, reference, changed(reference, np.s_[:], False), expectation)
    exact = engine == "openvino-fp32"
    assert verdict.outcome is (Outcome.REGRESSED if exact else Outcome.INCONCLUSIVE)
    assert "equal unusual elements of y are 0.0%" in verdict.message


@pytest.mark.parametrize("task", [TensorsTask(), Classification("y")], ids=["tensors", "classification"])
def test_what_saturates_where_the_reference_has_more_is_no_answer(task: Any) -> None:
    """Of a few of a thousand numbers it is less than INT8's noise."""
    reference = [{"y": np.float32(2e4) * row["y"]} for row in rows(64, count=24)]
    reference[5]["y"][7] = 8e4
    noisy = [{"y": (row["y"] + 800 * RANDOM.standard_normal(64)).astype(np.float32)} for row in reference]
    found = task.compare(reference, noisy, Some(24))
    assert all(each.outcome is not Outcome.REGRESSED for each in task.decide(found, NARROW))
    clipped = [{"y": np.clip(row["y"], -65504, 65504)} for row in noisy]
    found = task.compare(reference, clipped, Some(24))
    assert {each.reason for each in task.decide(found, NARROW)} == {Reason.NOT_FINITE}
    # As large as that it may be, and masks are.
    same = changed(reference, 7, 65504)
    assert all(each.outcome is not Outcome.REGRESSED for each in task.decide(task.compare(same, same, Some(24)), EXACT))


def test_boxes_that_end_before_they_begin_are_told() -> None:
    """Centres and sizes taken for corners: what nothing overlaps would be lost by rounding alone."""
    reference = many_boxes()
    for row in reference:
        row["b"] = np.concatenate([row["b"][:, :2] + 200, row["b"][:, 2:] - row["b"][:, :2]], 1)
    task = Detection(from_outputs("b", "s", "l", "xyxy"), 0.5)
    with pytest.raises(UserError, match="end before they begin; write form = .cxcywh."):
        judged(task, reference, rounded(reference))
    assert judged(Detection(from_outputs("b", "s", "l", "cxcywh"), 0.5), reference, rounded(reference)).outcome in GOOD
    # No size is one, but for rounding, and what does not count may be anything.
    flat = many_boxes()
    for row in flat:
        row["b"][:, :2] += 200
        row["b"][:, 2:] = row["b"][:, :2] - 0.01
        row["b"][0], row["s"][0] = [9, 9, 1, 1], 0.1
    assert judged(task, flat, flat).outcome in GOOD
    # A network may give single ones.
    single = many_boxes()
    single[0]["b"][0] = [9, 9, 1, 1]
    assert judged(task, single, rounded(single)).outcome in GOOD
    own = (task.own(each, some(len(single)))["scores"] for each in (single, rounded(single)))
    assert decide_scores(*own, EXACT).outcome in GOOD
    # An engine gives them where the reference does, and no others.
    swapped = [{**row, "b": row["b"][:, [2, 3, 0, 1]]} for row in single]
    more = [
        {
            "b": np.concatenate([row["b"], row["b"][:, [2, 3, 0, 1]]]),
            "s": np.tile(row["s"], 2),
            "l": np.tile(row["l"], 2),
        }
        for row in single
    ]
    for wrong in (swapped, more):
        assert judged(task, single, wrong).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("own", [-1e4, -65504.0, -1e9])
@pytest.mark.parametrize("expectation", [EXACT, HALF, NARROW])
def test_what_is_added_to_a_mask_is_not_seen_and_hides_no_noise(own: float, expectation: Expectation) -> None:
    task, above = TensorsTask(), np.triu(np.ones((16, 16), bool), 1)

    def masked(outputs: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"y": (row["y"] + np.where(above, own, 0)).astype(np.float32)} for row in outputs]

    plain = rows(8, 16, 16)
    old, new = rounded(plain), rounded(plain)
    assert judged(task, masked(plain), masked(old), expectation).outcome is Outcome.PASS
    assert against(task, masked(plain), masked(old), masked(new), expectation).outcome is Outcome.PASS
    for order in ([1, 0, 2, 3, 4, 5, 6, 7], [0] * 8):
        wrong = [{"y": row["y"][order]} for row in new]
        assert judged(task, masked(plain), masked(wrong), expectation).outcome is Outcome.REGRESSED
        assert against(task, masked(plain), masked(old), masked(wrong), expectation).outcome is Outcome.REGRESSED
    # Numbers that happen to lie about one that people write are numbers.
    for share in (1, 0.1):
        offset = [{"y": (share * row["y"] - 1000).astype(np.float32)} for row in plain]
        wrong = [{"y": np.where(above, row["y"] - 5, row["y"]).astype(np.float32)} for row in offset]
        assert judged(task, offset, wrong, EXACT).outcome is Outcome.REGRESSED
