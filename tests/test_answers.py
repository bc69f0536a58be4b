"""A session's answers: what is kept of them, and how they are held against the baseline's, photo by photo."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from trtgate.verdict import Outcome, Reason
from trtgate.verdict.answers import Answers, answers_of, compare_answers, decide_answers

N = 240
NAMES = tuple(f"{index % 40}#{index // 40}" for index in range(N))
PHOTOS = np.arange(N) % 40


def logits(*tops: int, margin: float = 5.0) -> np.ndarray:
    values = np.random.default_rng(0).normal(0, 0.1, (len(tops), 1000)).astype(np.float32)
    values[np.arange(len(tops)), tops] += margin
    return values


REFERENCE = logits(*[1] * N)


def answers(wrong: Any = (), clusters: Any = PHOTOS, shift: float = 0.0, to: int = 2) -> Answers:
    """Of an engine that answers `to` on the photos `wrong`, all of whose logits are moved by `shift`."""
    tops = np.ones(N, np.int64)
    tops[list(wrong)] = to
    return answers_of(NAMES, REFERENCE, logits(*tops) + np.float32(shift), clusters)


@pytest.mark.parametrize("clusters", [PHOTOS, None])
def test_236_of_240_and_then_214_is_a_regression(clusters: Any) -> None:
    old = answers(range(4), clusters)
    new = answers(range(26), clusters)
    verdict = decide_answers(old, new)
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
    assert "22 lost and 0 gained of 240" in verdict.message
    assert verdict.estimate == pytest.approx(1 - 22 / 240)
    assert verdict.low is not None
    assert verdict.high is not None
    assert verdict.low < verdict.estimate < verdict.high < 1 - 0.03


def test_lost_crops_of_few_photos_are_proof_as_far_as_photos_go() -> None:
    by_photo = np.argsort(PHOTOS, kind="stable").reshape(40, 6)
    five, four = by_photo[:5, :4].ravel(), by_photo[:4].ravel()
    assert decide_answers(answers(), answers(five)).outcome is Outcome.REGRESSED
    # Every crop of four photos: no more than four of forty photos, which a limit of 3 % does not quite exclude.
    assert decide_answers(answers(), answers(four)).reason is Reason.TOO_FEW_IMAGES


def test_the_same_logits_pass_at_once_whatever_the_limit() -> None:
    verdict = decide_answers(answers(range(4)), answers(range(4)), max_drop=0.0)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, Reason.SAME_ANSWERS)


@pytest.mark.parametrize(
    ("now", "outcome"),
    [
        ((0, 1, 2, 3), Outcome.PASS),
        ((0, 1, 2, 4), Outcome.PASS),
        ((0, 1, 2), Outcome.PASS),
        ((0, 1, 2, 3, 4), Outcome.INCONCLUSIVE),
        (range(40), Outcome.REGRESSED),
    ],
)
def test_a_limit_of_zero_passes_where_no_loss_is_seen_and_fails_what_is_proven(now: Any, outcome: Outcome) -> None:
    verdict = decide_answers(answers(range(4)), answers(now, shift=0.25), max_drop=0.0)
    assert verdict.outcome is outcome, verdict


@pytest.mark.parametrize(
    ("before", "now", "outcome"),
    [
        (range(4), range(4), Outcome.PASS),
        (range(4), range(5), Outcome.PASS),
        (range(4), range(4, 8), Outcome.PASS),
        (range(4), range(8), Outcome.INCONCLUSIVE),
        (range(30), (), Outcome.PASS),
    ],
)
def test_answers_may_move_within_the_limit(before: Any, now: Any, outcome: Outcome) -> None:
    verdict = decide_answers(answers(before), answers(now, shift=0.25))
    assert verdict.outcome is outcome
    assert verdict.reason in {Reason.ANSWERS_KEPT, Reason.TOO_FEW_IMAGES}
    assert "logits moved by 0.25 in the median" in verdict.message


def test_crops_of_six_photos_prove_less() -> None:
    six = np.arange(N) % 6
    assert decide_answers(answers(range(4), six), answers(range(26), six)).reason is Reason.TOO_FEW_IMAGES
    assert decide_answers(answers(range(4), six), answers(range(64), six)).outcome is Outcome.REGRESSED


def test_few_photos_prove_nothing() -> None:
    old = answers_of(NAMES[:20], REFERENCE[:20], logits(*[1] * 20))
    new = answers_of(NAMES[:20], REFERENCE[:20], logits(2, *[1] * 19))
    assert decide_answers(old, new).reason is Reason.TOO_FEW_IMAGES


def test_wrong_answers_that_change_are_counted_and_not_lost() -> None:
    change = compare_answers(answers(range(4), to=2), answers(range(4), to=3))
    assert (change.lost, change.gained, change.changed) == (0, 0, 4)


def test_a_reference_that_changed_its_mind_is_no_excuse() -> None:
    # Both engine and reference answer 2 now, where both said 1.
    moved = logits(*[2] * 26, *[1] * (N - 26))
    new = answers_of(NAMES, moved, moved, PHOTOS)
    assert decide_answers(answers(), new).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_a_regression(bad: float) -> None:
    engine = logits(*[1] * N)
    engine[7, 999] = bad
    broken = answers_of(NAMES, REFERENCE, engine, PHOTOS)
    for old in (answers(), broken):
        verdict = decide_answers(old, broken)
        assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.NOT_FINITE)
        assert "1 of 240" in verdict.message
    # The other way round it is a photo gained, even where the class kept for it is the reference's.
    assert (compare_answers(broken, answers()).lost, compare_answers(broken, answers()).gained) == (0, 1)
    assert decide_answers(broken, answers()).outcome is Outcome.PASS
    assert Answers.from_json(json.loads(json.dumps(broken.to_json()))).finite.sum() == N - 1


def test_other_photos_cannot_be_compared() -> None:
    renamed = answers_of([*NAMES[1:], NAMES[0]], REFERENCE, REFERENCE, PHOTOS)
    fewer = answers_of(NAMES[:20], REFERENCE[:20], REFERENCE[:20], PHOTOS[:20])
    fewer_classes = answers_of(NAMES, REFERENCE[:, :3], REFERENCE[:, :3], PHOTOS)
    for other in (renamed, fewer, fewer_classes, answers(clusters=np.arange(N) % 6)):
        verdict = decide_answers(answers(), other)
        assert (verdict.outcome, verdict.reason) == (Outcome.INVALID, Reason.DIFFERENT_PHOTOS)
        with pytest.raises(ValueError, match=r"photos|classes"):
            compare_answers(answers(), other)


def test_kept_as_json_to_the_last_bit() -> None:
    kept = answers(range(4), shift=0.1)
    text = json.dumps(kept.to_json(), allow_nan=False)
    assert len(text) < 11_000
    read = Answers.from_json(json.loads(text))
    assert (read.photos, read.digest) == (kept.photos, kept.digest)
    for name in ("clusters", "reference", "classes", "logits", "shares"):
        assert np.array_equal(getattr(read, name), getattr(kept, name))
        assert getattr(read, name).dtype == getattr(kept, name).dtype
    assert decide_answers(kept, read).reason is Reason.SAME_ANSWERS
    # A session of before, which kept no shares, is read too.
    older = Answers.from_json({name: value for name, value in json.loads(text).items() if name != "shares"})
    assert older.shares is None
    assert "shares" not in older.to_json()
    assert decide_answers(older, kept).reason is Reason.SAME_ANSWERS


def test_one_bit_makes_another_digest() -> None:
    engine = logits(*[1] * N)
    engine[100, 500] = np.nextafter(engine[100, 500], np.float32(9))
    new = answers_of(NAMES, REFERENCE, engine, PHOTOS)
    assert new.digest != answers().digest
    assert decide_answers(answers(), new).reason is Reason.ANSWERS_KEPT


def packed(array: Any, kind: str) -> str:
    return base64.b64encode(zlib.compress(np.asarray(array, kind).tobytes())).decode()


def falling(values: dict[str, Any], change: Callable[[np.ndarray], None]) -> None:
    table = answers().logits.copy()
    change(table)
    values["logits"] = packed(table, "<f4")


def put(row: int, column: int, value: float) -> Callable[[dict[str, Any]], None]:
    return lambda values: falling(values, lambda table: table.__setitem__((row, column), value))


@pytest.mark.parametrize(
    "spoil",
    [
        *[lambda values, name=name: values.pop(name) for name in answers().to_json() if name != "shares"],
        *[lambda values, name=name: values.update({name: None}) for name in answers().to_json()],
        *[lambda values, name=name: values.update({name: "!"}) for name in answers().to_json()],
        lambda values: values.update(photos="A" * 64),
        lambda values: values.update(digest="0" * 63),
        lambda values: values.update(shape=[N]),
        lambda values: values.update(shape=[N, 6]),
        lambda values: values.update(shape=[N, 4]),
        lambda values: values.update(shape=[0, 5]),
        lambda values: values.update(shape=[-N, -5]),
        lambda values: values.update(shape=[float(N), 5]),
        lambda values: values.update(shape=[True, 5]),
        lambda values: values.update(shape=[10**12, 5]),
        lambda values: values.update(shape=[10**30, 5]),
        lambda values: values.update(clusters=packed(np.zeros(N - 1), "<u4")),
        lambda values: values.update(reference=packed(np.zeros(N + 1), "<u4")),
        lambda values: values.update(reference=values["reference"] + "AAAA"),
        lambda values: values.update(reference=values["reference"][:8]),
        lambda values: values.update(reference="é"),
        lambda values: values.update(reference=packed(np.zeros(10**7), "u1")),
        lambda values: values.update(classes=packed(np.zeros((N, 5)), "<u4")),
        put(3, 0, np.nan),
        put(3, 4, np.inf),
        put(3, 4, 99.0),
    ],
)
def test_what_is_damaged_is_refused(spoil: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(json.dumps(answers().to_json()))
    spoil(values)
    with pytest.raises(ValueError, match="answers"):
        Answers.from_json(values)


@pytest.mark.parametrize("values", [None, [], "text", 3, {}])
def test_what_is_no_table_is_refused(values: object) -> None:
    with pytest.raises(ValueError, match="answers"):
        Answers.from_json(values)


def test_arrays_that_do_not_fit_together_are_refused() -> None:
    for names, reference, engine, clusters in (
        (NAMES[:3], REFERENCE[:2], REFERENCE[:2], None),
        (NAMES[:2], REFERENCE[:2], REFERENCE[:2, :9], None),
        (NAMES[:2], REFERENCE[:2], REFERENCE[:2], PHOTOS[:3]),
        (NAMES[:2], REFERENCE[0], REFERENCE[0], None),
        ((), REFERENCE[:0], REFERENCE[:0], None),
    ):
        with pytest.raises(ValueError, match="photos with"):
            answers_of(names, reference, engine, clusters)
