"""Agreement, accuracy and fidelity of logits."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trtgate.expectations import Expectation, read_expectations
from trtgate.images import sample_crops
from trtgate.judge import describe_flips, fidelity_verdict
from trtgate.models.base import Preprocessing, image_classes
from trtgate.tasks.classification import Classification
from trtgate.verdict import Outcome, Reason
from trtgate.verdict.agreement import (
    Accuracy,
    compare_logits,
    decide_accuracy,
    decide_agreement,
    measure_accuracy,
)
from trtgate.verdict.answers import Answers, answers_of, decide_answers
from trtgate.verdict.outcome import Verdict


def logits(*tops: int, margin: float = 5.0) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 0.1, (len(tops), 1000)).astype(np.float32)
    values[np.arange(len(tops)), tops] += margin
    return values


def test_flips_are_described_by_photo_class_and_margin() -> None:
    reference, engine = logits(1, 2, 281), logits(1, 2, 282)
    agreement = compare_logits(reference, engine)
    assert (agreement.n, agreement.top1) == (3, 2)
    assert agreement.flips[0].margin == pytest.approx(reference[2, 281] - reference[2, 282])
    text = describe_flips(agreement, ["a.jpg", "b.jpg", "cat.jpg"], [each.name for each in image_classes()])
    assert "cat.jpg: tabby -> tiger cat, margin 5" in text


def test_equal_logits_agree_exactly() -> None:
    agreement = compare_logits(logits(1, 2), logits(1, 2))
    assert (agreement.top1, agreement.top5) == (2, 2)
    assert agreement.cosine == pytest.approx(1.0)
    assert agreement.sqnr_db == math.inf


def test_either_of_two_classes_that_are_the_references_best_is_its_answer() -> None:
    reference = logits(*range(0, 400, 2))
    reference[:, 500:502] = 9
    engine = reference + np.random.default_rng(1).normal(0, 1e-3, reference.shape).astype(np.float32)
    assert len(set(engine.argmax(1))) == 2
    agreement = compare_logits(reference, engine)
    assert decide_agreement(agreement, floor=0.98).outcome is Outcome.PASS
    engine[:20, 7] = 10
    assert (compare_logits(reference, engine).top1, len(compare_logits(reference, engine).flips)) == (180, 20)


def test_sqnr_is_in_decibels_of_power() -> None:
    reference = logits(1, 2)
    noise = np.full_like(reference, np.sqrt(np.sum(reference**2) / reference.size / 100))
    assert compare_logits(reference, reference + noise).sqnr_db == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_never_pass(bad: float) -> None:
    engine = logits(1, 2)
    engine[0, 0] = bad
    agreement = compare_logits(logits(1, 2), engine)
    assert decide_agreement(agreement, floor=0.0).reason is Reason.NOT_FINITE
    assert fidelity_verdict(agreement, Expectation()).outcome is Outcome.REGRESSED
    assert not compare_logits(engine, logits(1, 2)).finite


@pytest.mark.parametrize("own", [np.nan, np.inf, -np.inf])
def test_the_references_own_infinities_must_stand_where_they_stood(own: float) -> None:
    reference = logits(1, 2)
    reference[:, 7] = own
    agreement = compare_logits(reference, reference.copy())
    assert (agreement.finite, agreement.top1, agreement.sqnr_db) == (True, 2, math.inf)
    assert fidelity_verdict(agreement, Expectation()).outcome is Outcome.PASS
    flipped = reference.copy()
    flipped[0, 281] = 90.0
    worse = compare_logits(reference, flipped)
    assert worse.top1 == (2 if own == np.inf else 1)
    labels = np.array([1, 281])
    assert measure_accuracy(reference, reference.copy(), labels).engine_top1 == (0 if own == np.inf else 1)
    for other in (0.0, -own, np.nan if own == np.inf else np.inf):
        moved = reference.copy()
        moved[1, 7] = other
        if np.array_equal(moved, reference, equal_nan=True):
            continue
        assert decide_agreement(compare_logits(reference, moved), floor=0.0).reason is Reason.NOT_FINITE
        assert not answers_of(["a", "b"], reference, moved).finite.all()
    kept = answers_of(["a", "b"], reference, reference.copy())
    assert decide_answers(kept, answers_of(["a", "b"], reference, flipped)).outcome is not Outcome.PASS or own == np.inf
    assert kept.finite.all()
    assert Answers.from_json(kept.to_json()).digest == kept.digest


def test_a_photo_of_which_the_reference_says_nothing_counts_for_nothing() -> None:
    reference = logits(1, 2, 3)
    reference[1] = np.nan
    engine = reference.copy()
    engine[2, 281] = 90.0
    agreement = compare_logits(reference, engine)
    assert (agreement.n, agreement.top1, agreement.flips[0].index) == (2, 1, 2)
    nothing = compare_logits(reference[1:2], reference[1:2])
    for verdict in (decide_agreement(nothing, floor=0.0), fidelity_verdict(nothing, Expectation())):
        assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED)


@pytest.mark.parametrize(
    ("right", "n", "floor", "outcome"),
    [
        (300, 300, 0.98, Outcome.PASS),
        (297, 300, 0.985, Outcome.INCONCLUSIVE),
        (280, 300, 0.98, Outcome.REGRESSED),
        (10, 10, 0.98, Outcome.INCONCLUSIVE),
        # Below the floor, and not proven to be: one of 20 photos, and what a true 0.99 gives in one case of five.
        (19, 20, 0.98, Outcome.INCONCLUSIVE),
        (236, 240, 0.985, Outcome.INCONCLUSIVE),
        (230, 240, 0.985, Outcome.REGRESSED),
        (0, 20, 0.98, Outcome.REGRESSED),
    ],
)
def test_agreement_is_judged_by_its_bounds(right: int, n: int, floor: float, outcome: Outcome) -> None:
    engine = logits(*[1] * right, *[2] * (n - right))
    verdict = decide_agreement(compare_logits(logits(*[1] * n), engine), floor=floor)
    assert verdict.outcome is outcome
    assert f"top-1 agreement {right} of {n} photos" in verdict.message


def test_crops_of_one_photo_prove_less_than_photos() -> None:
    # 14 crops of two photos flipped: of 240 photos that were proof.
    flipped = [2] * 14 + [1] * 226
    reference, engine = logits(*[1] * 240), logits(*flipped)
    photos = np.r_[np.zeros(7), np.ones(7), 2 + np.arange(226) % 38].astype(np.int64)
    assert decide_agreement(compare_logits(reference, engine), floor=0.98).outcome is Outcome.REGRESSED
    verdict = decide_agreement(compare_logits(reference, engine, photos), floor=0.98)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "of 240 crops of 40 photos (worth " in verdict.message


def test_the_floors_can_be_reached_with_the_photos_that_are_shipped() -> None:
    photos = sample_crops("evaluation", Preprocessing()).clusters
    assert photos is not None
    expectations = read_expectations()
    for engine, flips in {"onnxruntime-fp32": 0, "tensorrt-tf32": 1, "tensorrt-fp16": 3, "pytorch-bf16": 8}.items():
        answers = logits(*[2] * flips, *[1] * (240 - flips))
        found = compare_logits(logits(*[1] * 240), answers, photos)
        assert decide_agreement(found, floor=expectations.of("any", engine).number("agreement")).outcome is Outcome.PASS


def test_a_sample_that_is_too_small_says_how_many_photos_it_takes() -> None:
    verdict = decide_agreement(compare_logits(logits(*[1] * 20), logits(*[1] * 20)), floor=0.98)
    assert "which takes 149 single ones even without a flip" in verdict.message


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(logits(1, 2), logits(1))


def test_accuracy_counts_lost_and_gained_photos() -> None:
    labels = np.array([1, 2, 3, 4])
    accuracy = measure_accuracy(logits(1, 2, 3, 9), logits(1, 9, 3, 4), labels)
    assert (accuracy.reference_top1, accuracy.engine_top1) == (3, 3)
    assert (accuracy.lost, accuracy.gained, accuracy.drop) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("n", "lost", "gained", "outcome"),
    [
        (1000, 5, 8, Outcome.PASS),
        (1000, 40, 5, Outcome.REGRESSED),
        (1000, 25, 15, Outcome.INCONCLUSIVE),
        # More than is allowed, and not proven to be; nothing lost, and not proven either.
        (20, 1, 0, Outcome.INCONCLUSIVE),
        (240, 5, 1, Outcome.INCONCLUSIVE),
        (100, 0, 0, Outcome.INCONCLUSIVE),
        (200, 0, 0, Outcome.PASS),
    ],
)
def test_accuracy_may_drop_by_what_is_allowed(n: int, lost: int, gained: int, outcome: Outcome) -> None:
    accuracy = Accuracy(n, n // 2, n // 2 + gained - lost, n, n, lost, gained, n, n)
    assert decide_accuracy(accuracy, max_drop=0.015).outcome is outcome


def test_labelled_crops_of_one_photo_prove_less_than_photos() -> None:
    labels, photos = np.ones(240, np.int64), np.arange(240) // 4
    reference, engine = logits(*[1] * 240), logits(*[2] * 12, *[1] * 228)
    assert decide_accuracy(measure_accuracy(reference, engine, labels), max_drop=0.02).outcome is Outcome.REGRESSED
    clustered = measure_accuracy(reference, engine, labels, photos)
    assert decide_accuracy(clustered, max_drop=0.02).outcome is Outcome.INCONCLUSIVE


def test_an_engine_without_finite_logits_is_right_nowhere() -> None:
    engine = logits(1, 2)
    engine[1, 0] = np.nan
    accuracy = measure_accuracy(logits(1, 2), engine, np.array([1, 2]))
    assert (accuracy.engine_top1, accuracy.engine_top5, accuracy.lost) == (1, 1, 1)


def test_low_fidelity_fails() -> None:
    agreement = compare_logits(logits(1, 2), logits(1, 2) + np.float32(0.5))
    assert fidelity_verdict(agreement, Expectation({"sqnr_db": 60})).reason is Reason.BELOW_FLOOR
    assert fidelity_verdict(agreement, Expectation({"sqnr_db": -20, "cosine": 0.0})).outcome is Outcome.PASS


def test_zeros_beside_zeros_are_alike() -> None:
    """As what ends in a ReLU answers to a photo of nothing that it knows."""
    logits = np.maximum(np.random.default_rng(0).normal(0, 1, (8, 10)), 0).astype(np.float32)
    logits[3] = 0
    assert compare_logits(logits, logits).cosine == pytest.approx(1)
    other = logits.copy()
    other[3, 4] = 1
    assert compare_logits(logits, other).cosine == compare_logits(other, logits).cosine == 0


@pytest.mark.parametrize(
    ("fault", "n"),
    [
        *((fault, n) for fault in ("dead", "negated") for n in (8, 240)),
        *((fault, 240) for fault in ("stuck", "its neighbour's", "another photo's")),
    ],
)
def test_a_class_that_no_photo_has_and_whose_logit_is_wrong_on_all_of_them(fault: str, n: int) -> None:
    """Of an INT8 engine, whose noise is ten times what one of a thousand classes is worth."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 1, (n, 1000))
    logits[np.arange(n), np.arange(n) % 40] += 12
    engine = logits + random.normal(0, 0.25, logits.shape)
    task, floors = Classification(output="y"), read_expectations().of("net.onnx", "onnxruntime-int8")
    samples: Any = SimpleNamespace(clusters=None, doubt="")

    def judged(logits: Any, engine: Any) -> Verdict:
        rows = ([{"y": row} for row in side.astype(np.float32)] for side in (logits, engine))
        return fidelity_verdict(task.compare(*rows, samples), floors)

    assert judged(logits, engine).outcome is Outcome.PASS
    wrong = {
        "dead": 0 * engine[:, 950],
        "negated": -engine[:, 950],
        "stuck": 0 * engine[:, 950] + 2,
        "its neighbour's": engine[:, 949],
        "another photo's": np.roll(engine[:, 950], 1),
    }
    engine[:, 950] = wrong[fault]
    verdict = judged(logits, engine)
    assert verdict.outcome is Outcome.REGRESSED
    assert verdict.message.startswith("y, 950 along axis 0 of a sample: not what the reference has there")
