"""Agreement, accuracy and fidelity of logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtgate.expectations import Expectation
from trtgate.judge import describe_flips, fidelity_decision
from trtgate.models import image_classes
from trtgate.verdict import Reason, Verdict
from trtgate.verdict.agreement import (
    Accuracy,
    compare_logits,
    decide_accuracy,
    decide_agreement,
    measure_accuracy,
    wilson_lower,
)


def logits(*tops: int, margin: float = 5.0) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 0.1, (len(tops), 1000)).astype(np.float32)
    values[np.arange(len(tops)), tops] += margin
    return values


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263, two-sided 95 %: 0.2553 to 0.3662.
    assert wilson_lower(81, 263, z=1.959964) == pytest.approx(0.2553, abs=1e-4)
    assert wilson_lower(0, 10) == 0.0
    assert wilson_lower(10, 10) < 1.0


@given(st.integers(1, 500), st.data())
def test_wilson_lies_below_the_share_and_grows_with_it(n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n - 1))
    assert 0 <= wilson_lower(k, n) <= k / n + 1e-12
    assert wilson_lower(k, n) < wilson_lower(k + 1, n)


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 5), (6, 5)])
def test_no_proportion_no_bound(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson_lower(k, n)


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
    assert fidelity_decision(agreement, Expectation()).verdict is Verdict.REGRESSED
    with pytest.raises(ValueError, match="reference"):
        compare_logits(engine, logits(1, 2))


@pytest.mark.parametrize(
    ("right", "n", "floor", "verdict"),
    [
        (300, 300, 0.98, Verdict.PASS),
        (297, 300, 0.985, Verdict.INCONCLUSIVE),
        (280, 300, 0.98, Verdict.REGRESSED),
        (10, 10, 0.98, Verdict.INCONCLUSIVE),
    ],
)
def test_agreement_needs_its_lower_bound(right: int, n: int, floor: float, verdict: Verdict) -> None:
    engine = logits(*[1] * right, *[2] * (n - right))
    assert decide_agreement(compare_logits(logits(*[1] * n), engine), floor=floor).verdict is verdict


def test_shapes_must_match() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        compare_logits(logits(1, 2), logits(1))


def test_accuracy_counts_lost_and_gained_photos() -> None:
    labels = np.array([1, 2, 3, 4])
    accuracy = measure_accuracy(logits(1, 2, 3, 9), logits(1, 9, 3, 4), labels)
    assert (accuracy.reference_top1, accuracy.engine_top1) == (3, 3)
    assert (accuracy.lost, accuracy.gained, accuracy.drop) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("n", "lost", "gained", "verdict"),
    [
        (1000, 5, 8, Verdict.PASS),
        (1000, 30, 5, Verdict.REGRESSED),
        (1000, 25, 15, Verdict.INCONCLUSIVE),
        (40, 0, 0, Verdict.INCONCLUSIVE),
    ],
)
def test_accuracy_may_drop_by_what_is_allowed(n: int, lost: int, gained: int, verdict: Verdict) -> None:
    accuracy = Accuracy(n, n // 2, n // 2 + gained - lost, n, n, lost, gained)
    assert decide_accuracy(accuracy, max_drop=0.015).verdict is verdict


def test_low_fidelity_fails() -> None:
    agreement = compare_logits(logits(1, 2), logits(1, 2) + np.float32(0.5))
    assert fidelity_decision(agreement, Expectation(sqnr_db=60)).reason is Reason.BELOW_FLOOR
    assert fidelity_decision(agreement, Expectation(sqnr_db=-20, cosine=0.0)).verdict is Verdict.PASS
