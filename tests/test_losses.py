"""What is lost of detectors' boxes, segmenters' classes and integers, and what so few samples cannot tell.

One box, one pixel or one answer of many proves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.table import Fault
from tests.saved import sessions
from trtgate.__main__ import main
from trtgate.expectations import Expectation
from trtgate.fields import DAMAGED
from trtgate.tasks.against import decide_all_scores, decide_scores, require_scores
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.detection import Detection, average_precision_of, from_outputs
from trtgate.tasks.segmentation import Segmentation
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.shares import groups_of, jackknife_margin, mean_bounds, ratio_bounds

from .test_tasks import EXACT, NARROW, against, judged, some

DETECTOR = Detection(from_outputs("boxes", "scores", "labels", "xyxy"))
REFERENCE = EXACT


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def boxes(labels: Sequence[int], scores: Sequence[float] = ()) -> dict[str, Any]:
    """A sample with a box of each of these classes, side by side."""
    left = 100.0 * np.arange(len(labels))
    corners = np.stack([left, np.zeros_like(left), left + 80, np.full_like(left, 80)], 1)
    sure = np.array(scores, np.float32) if len(scores) else np.full(len(labels), 0.9, np.float32)
    return {"boxes": corners.astype(np.float32), "scores": sure, "labels": np.array(labels, np.int64)}


def less_sure(outputs: Outputs) -> list[dict[str, Any]]:
    """The same boxes as an engine of a narrow type has them."""
    random = np.random.default_rng(1)
    return [
        {**row, "scores": row["scores"] - np.float32(0.01) * random.random(len(row["scores"])).astype(np.float32)}
        for row in outputs
    ]


def without(row: Any, lost: Any) -> dict[str, Any]:
    """A sample's boxes but those of a mask."""
    return {name: array[~lost] for name, array in row.items()}


def own(task: Task, outputs: Outputs) -> dict[str, Any]:
    """What the reference's record keeps, as a session has it."""
    found: dict[str, Any] = json.loads(json.dumps(task.own(outputs, some(len(outputs)))["scores"], allow_nan=False))
    require_scores(found)
    return found


def own_against(task: Task, old: Outputs, new: Outputs) -> Verdict:
    return decide_all_scores([own(task, old)] * 5, [own(task, new)] * 5, REFERENCE)


def summary(task: Task, reference: Outputs, got: Outputs) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        json.dumps(task.summary(task.compare(reference, got, some(len(reference)))), allow_nan=False)
    )
    require_scores(found)
    return found


def compared(old: Any, new: Any, capsys: pytest.CaptureFixture[str], **more: Any) -> tuple[int, str]:
    """Status and all that is printed of five sessions a side that kept these scores."""
    sessions("before", 1, scores=old, **more)
    sessions("after", 6, scores=new, **more)
    status = main(["compare", "before", "after"])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


# One of many.


def rare_boxes() -> list[dict[str, Any]]:
    """120 boxes in 40 samples; eight classes have one each."""
    found = [boxes([0, 0, 0]) for _ in range(40)]
    for index in range(8):
        found[5 * index]["labels"][0] = 1 + index
    return found


@pytest.mark.fault(
    done="a detector loses 1 of 120 boxes, the only one of its class",
    said="mAP went from 100.0% to 88.9%, 3.0% may be lost: too few samples to tell",
    status="6",
    kept="both sides' sessions",
)
def test_one_box_of_many_proves_nothing(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    reference = rare_boxes()
    old = less_sure(reference)
    new = [without(row, row["labels"] == 2) for row in old]
    fault.check(*compared(summary(DETECTOR, reference, old), summary(DETECTOR, reference, new), capsys))


def test_boxes_that_many_samples_lost_are_lost() -> None:
    random = np.random.default_rng(0)
    reference = [boxes(random.integers(0, 4, 6)) for _ in range(60)]
    old = less_sure(reference)
    fewer = [without(row, random.random(6) < 0.1) for row in old]
    verdict = against(DETECTOR, reference, old, fewer, NARROW)
    assert (verdict.outcome, "mAP went from" in verdict.message) == (Outcome.REGRESSED, True), verdict
    # Half a box away a box is found again, and strict overlaps are not there.
    moved = [{**row, "boxes": row["boxes"] + np.float32([8, 0, 8, 0])} for row in old]
    verdict = against(DETECTOR, reference, old, moved, NARROW)
    assert (verdict.outcome, "mAP went from 100.0% to" in verdict.message) == (Outcome.REGRESSED, True), verdict
    # What was as bad before is no loss, and of that a further one is.
    assert against(DETECTOR, reference, moved, less_sure(moved), NARROW).outcome is Outcome.PASS
    further = [{**row, "boxes": row["boxes"] + np.float32([8, 0, 8, 0])} for row in moved]
    assert against(DETECTOR, reference, moved, further, NARROW).outcome is Outcome.REGRESSED


def mask(kind: Any, lost: int = 0, count: int = 8) -> list[dict[str, Any]]:
    """A class of 16 pixels, on two samples, of which the first lost some."""
    found = [{"m": np.zeros((1, 64, 64))} for _ in range(count)]
    for row in found[:2]:
        row["m"][0, 5:7, 5:9] = 1
    found[0]["m"][0, 5, 5 : 5 + lost] = 0
    return [{"m": row["m"].astype(kind)} for row in found]


@pytest.mark.fault(
    done="a segmenter loses 1 of 32,768 pixels, of a class of 16",
    said="1 PASS",
    status="0",
    kept="both sides' sessions",
)
def test_one_pixel_of_many_proves_nothing(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    task = Segmentation("m")
    old, new = (summary(task, mask(np.uint8), mask(np.uint8, lost)) for lost in (0, 1))
    noise = 0.02 * np.random.default_rng(0).standard_normal((1, 64, 64))
    fault.check(*compared(old, new, capsys))
    values = [[{"m": (row["m"] + noise).astype(np.float32)} for row in mask(float, lost)] for lost in (0, 1)]
    assert against(task, mask(np.float32), *values, NARROW).outcome is Outcome.PASS
    # Where there are no others, they do count.
    tiny, empty = ([{"m": np.array([[value, 0], [0, 0]])}] * 3 for value in (1, 0))
    assert "mean IoU of classes 37.5%" in task.compare(tiny, empty, some(3)).text


def small_classes(found: float, count: int = 8, classes: int = 1, samples: int = 8) -> list[dict[str, Any]]:
    """Classes of 96 pixels on `samples` of the samples, of which a share is found."""
    rows = [{"m": np.zeros((64, 64), np.int64)} for _ in range(count)]
    for row in rows[:samples]:
        pixels = 96 // samples
        for label in range(1, classes + 1):
            row["m"][3 * label].reshape(-1)[: round(found * pixels)] = label
    return rows


@pytest.mark.fault(
    done="a segmenter finds none of the 96 pixels, of 32,768, of its only class any more",
    said="mean IoU of classes of m went from 100.0% to 49.9%, 3.0% may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_a_small_class_that_is_gone(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    task, reference = Segmentation("m"), small_classes(1.0)
    fault.check(*compared(*(summary(task, reference, small_classes(each)) for each in (1.0, 0.0)), capsys))
    # By itself, and beside 19 others.
    assert judged(task, reference, small_classes(0.0), NARROW).outcome is Outcome.REGRESSED
    assert own_against(task, reference, small_classes(0.0)).outcome is Outcome.REGRESSED
    many, gone = small_classes(1.0, classes=20), small_classes(0.0)
    assert against(task, many, many, gone, NARROW).outcome is Outcome.REGRESSED
    one = small_classes(1.0, classes=19)
    assert against(task, many, many, one, Expectation({**NARROW.values, "max_answers_lost": 1.0})).message.startswith(
        "IoU of class 20 of m, of fewer than 100 pixels, went from 100.0% to 0.0%"
    )
    assert own_against(task, many, one).outcome is Outcome.REGRESSED
    # As long as half of it is found, it does not count; where one sample has it, nobody knows.
    for share, outcome in ((0.5, Outcome.PASS), (0.42, Outcome.REGRESSED)):
        assert against(task, reference, reference, small_classes(share), NARROW).outcome is outcome, share
    one, none = (small_classes(share, samples=1) for share in (1.0, 0.0))
    assert against(task, one, one, none, NARROW).outcome is Outcome.INCONCLUSIVE
    sound = summary(task, reference, reference)
    for damaged in ([1], {"m": [1]}, {"m": {"1": [2.0, 3]}}, {"m": {"1": [0.5]}}, {"m": {"1": [0.5, 1.5]}}):
        with pytest.raises(DAMAGED):
            require_scores({**sound, "kept": {**sound["kept"], "few": damaged}})


@pytest.mark.parametrize(
    ("samples", "have", "gone", "outcome"),
    [
        (3, 3, 1, Outcome.INCONCLUSIVE),
        (3, 3, 3, Outcome.REGRESSED),
        (3, 1, 1, Outcome.INCONCLUSIVE),
        (2, 2, 2, Outcome.REGRESSED),
        (12, 1, 1, Outcome.INCONCLUSIVE),
        (12, 12, 3, Outcome.INCONCLUSIVE),
        (12, 12, 8, Outcome.REGRESSED),
        (12, 12, 1, Outcome.PASS),
    ],
)
def test_a_class_is_lost_on_as_many_samples_as_prove_it(samples: int, have: int, gone: int, outcome: Outcome) -> None:
    """It has 144 pixels or more on each of those that have it; a second one of as many is on all of them."""
    labels = np.repeat([[0, 0, 1, 2]], 24, 0).repeat(12, 1)
    whole = [{"m": labels if index < have else labels % 2} for index in range(samples)]
    some = [{"m": row["m"] % 2} if index < gone else row for index, row in enumerate(whole)]
    task, others = Segmentation("m"), {"max_answers_lost": 1.0, "mean_iou": 0.0, "agreement": 0.0}
    expectation = Expectation({**NARROW.values, **others})
    for verdict in (
        against(task, whole, whole, some, expectation),
        decide_scores(*(own(task, each) for each in (whole, some)), expectation),
    ):
        assert verdict.outcome is outcome, verdict
        assert outcome is Outcome.PASS or "IoU of class 2" in verdict.message


def wide(lost: Sequence[int], count: int = 12) -> list[dict[str, Any]]:
    """A background and three classes, of which the last has 144 pixels on 12 samples, and lost some on each."""
    found = []
    for index in range(count):
        classes = np.zeros((40, 40), np.int64)
        classes[:10, :10], classes[20:30, 20:30] = 1, 2
        classes[35, :12] = 3
        classes[35, : lost[index % len(lost)]] = 0
        found.append({"m": classes})
    return found


@pytest.mark.parametrize(
    ("lost", "outcome"),
    [([0, 5, 0, 0], Outcome.PASS), ([5, 0, 0], Outcome.INCONCLUSIVE), ([2], Outcome.REGRESSED)],
)
def test_pixels_of_a_class_that_some_samples_lost_prove_less_than_those_of_all(
    lost: Sequence[int], outcome: Outcome
) -> None:
    task, reference = Segmentation("m"), wide([0])
    verdict = against(task, reference, reference, wide(lost), NARROW)
    assert verdict.outcome is outcome, verdict


def answered(wrong: int, count: int = 20) -> list[dict[str, Any]]:
    """A class for each sample, of which the first ones are others."""
    return [{"label": np.array([(index + (index < wrong)) % 3], np.int64)} for index in range(count)]


@pytest.mark.fault(
    done="a network whose answers are whole numbers gives 1 of 20 otherwise",
    said="equal elements of label went from 100.0% to 95.0%, 3.0% may be lost: too few samples to tell",
    status="6",
    kept="both sides' sessions",
)
def test_one_answer_of_many_proves_nothing(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    task = TensorsTask()
    old, new, many = (summary(task, answered(0), answered(wrong)) for wrong in (0, 1, 6))
    fault.check(*compared(old, new, capsys))
    assert decide_scores(old, many, NARROW).outcome is Outcome.REGRESSED
    # As many as were others before are no loss, nor are those that were others before.
    assert decide_scores(many, many, NARROW).outcome is Outcome.PASS
    assert decide_scores(new, old, NARROW).outcome is Outcome.PASS
    # Of a reference it is the same.
    assert own_against(task, answered(0), answered(1)).outcome is Outcome.INCONCLUSIVE
    assert own_against(task, answered(0), answered(6)).outcome is Outcome.REGRESSED
    # A floor is reached, or is not, by all answers.
    assert judged(task, answered(0, 8), answered(0, 8), NARROW).outcome is Outcome.PASS
    assert judged(task, answered(0), answered(4), NARROW).outcome is Outcome.REGRESSED


def kept(count: int = 20, found: Sequence[int] = range(40)) -> list[dict[str, Any]]:
    """Which of 4096 boxes are left, as flags: these of 40 of each sample."""
    return [{"keep": np.isin(np.arange(4096), [97 * each + index for each in found])} for index in range(count)]


@pytest.mark.fault(
    done="a network's flags, of which 1 % are set, are all unset",
    said="equal unusual elements of keep went from 100.0% to 0.0%, 3.0% may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_flags_that_are_rarely_set(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    task, reference, none = TensorsTask(), kept(), kept(found=())
    old, new = (summary(task, reference, each) for each in (reference, none))
    fault.check(*compared(old, new, capsys))
    fewer = [*kept(3, range(20)), *reference[3:]]
    for other, outcome in (
        (none, Outcome.REGRESSED),
        ([{"keep": np.roll(row["keep"], 1)} for row in reference], Outcome.REGRESSED),
        (fewer, Outcome.INCONCLUSIVE),
        ([*kept(3, range(38)), *reference[3:]], Outcome.PASS),
    ):
        assert against(task, reference, reference, other, EXACT).outcome is outcome
        assert own_against(task, reference, other).outcome is outcome
    # Where there was none, there is none to lose, but one more is another answer.
    assert against(task, none, none, none, EXACT).outcome is Outcome.PASS
    assert against(task, none, none, reference, EXACT).outcome is Outcome.REGRESSED
    # A session from before has not kept it.
    before = {**old, "scores": [each for each in old["scores"] if "unusual" not in each["name"]]}
    assert (
        "of before there is no equal unusual elements"
        in decide_scores(before, summary(task, reference, fewer), EXACT).message
    )
    assert decide_scores(summary(task, reference, fewer), before, EXACT).outcome is Outcome.INVALID
    kept_before, now = own(task, reference), own(task, none)
    del kept_before["kept"]["sketch"]["keep"]["unusual"]
    assert decide_scores(kept_before, now, EXACT).outcome is Outcome.PASS
    assert decide_scores(now, kept_before, EXACT).reason is Reason.NOT_COMPARABLE


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_samples_that_are_alike_prove_little_but_a_fall_of_more_than_half(count: int) -> None:
    task, reference = TensorsTask(), [{"y": np.arange(20)} for _ in range(count)]
    for wrong, outcome in ((1, Outcome.INCONCLUSIVE), (12, Outcome.REGRESSED)):
        new = [{"y": np.where((np.arange(20) - at) % 20 < wrong, 99, np.arange(20))} for at in range(count)]
        for verdict in (against(task, reference, reference, new, NARROW), own_against(task, reference, new)):
            assert verdict.outcome is outcome, verdict


def test_a_session_that_knows_no_bound_is_read() -> None:
    task = TensorsTask()
    old, new = (summary(task, answered(0), answered(wrong)) for wrong in (0, 1))
    before, after = json.loads(json.dumps([old, new]))
    for side in (before, after):
        del side["scores"][0]["without"]
        require_scores(side)
    assert decide_scores(before, new, NARROW).outcome is Outcome.INCONCLUSIVE
    assert decide_scores(before, after, NARROW).outcome is Outcome.REGRESSED
    for damaged in (0.5, ["x"], [-1], [2]):
        new["scores"][0]["without"] = damaged
        with pytest.raises(DAMAGED):
            require_scores(new)


def test_a_bound_by_leaving_groups_out_is_students_of_a_mean() -> None:
    values = np.random.default_rng(0).uniform(0.3, 0.6, 20)
    assert groups_of(20).tolist() == list(range(20))
    high = values.mean() + jackknife_margin([float(np.delete(values, index).mean()) for index in range(20)])
    assert high == pytest.approx(mean_bounds(values.tolist())[1])
    assert sorted(np.bincount(groups_of(100)).tolist()) == [3] * 28 + [4] * 4
    assert jackknife_margin([0.5]) == jackknife_margin([]) == np.inf


def test_what_map_is_without_some_samples_is_what_it_would_have_been() -> None:
    random = np.random.default_rng(0)
    reference = [boxes(random.integers(0, 4, 3), random.uniform(0.5, 1, 3)) for _ in range(70)]
    found = [{**row, "boxes": row["boxes"] + random.uniform(0, 40, (3, 1)).astype(np.float32)} for row in reference]
    truth, mine = ([DETECTOR.decode(row) for row in side] for side in (reference, found))
    score, groups = average_precision_of(truth, mine), groups_of(70)
    for group, value in enumerate(score.without):
        left = np.flatnonzero(groups != group)
        alone = average_precision_of([truth[index] for index in left], [mine[index] for index in left])
        assert value == pytest.approx(alone.value)


# Values under masks that stay.

SEGMENTER = Segmentation("p")


def probabilities(scale: float = 1.0, noise: float = 0.0, bottom: float = 0.05, top: float = 0.9) -> list[Any]:
    """Squares of one channel; the masks are the same down to a scale of 0.56."""
    random, found = np.random.default_rng(5), []
    for index in range(12):
        values = bottom + 0.02 * random.random((1, 40, 40))
        values[0, 10:25, index : index + 15] = top + 0.05 * random.random((15, 15))
        found.append({"p": (scale * (values + noise * random.standard_normal(values.shape))).astype(np.float32)})
    return found


@pytest.mark.fault(
    done="a segmenter's probabilities 0.6 times what they were, the masks the same",
    said="SQNR of p went from ... dB to 8.0 dB, 3 dB may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_values_under_masks_that_stayed(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    reference, old, new = probabilities(), probabilities(noise=1e-6), probabilities(0.6, 1e-6)
    sides = [summary(SEGMENTER, reference, each) for each in (old, new)]
    fault.check(*compared(*sides, capsys, engines=("openvino-fp32",)))
    # By itself an engine is judged by its masks: INT8's values are others.
    assert judged(SEGMENTER, reference, new, NARROW).outcome is Outcome.PASS
    assert against(SEGMENTER, reference, probabilities(0.8), probabilities(0.79), NARROW).outcome is Outcome.PASS
    assert against(SEGMENTER, reference, probabilities(0.8), probabilities(0.6), NARROW).outcome is Outcome.REGRESSED
    # A session from before has not kept it.
    before = {**sides[0], "scores": [each for each in sides[0]["scores"] if each["name"] != "SQNR"]}
    before["kept"] = {name: each for name, each in before["kept"].items() if name != "powers"}
    verdict = decide_scores(before, sides[1], EXACT)
    assert (verdict.outcome, "of before there is no SQNR of p" in verdict.message) == (Outcome.PASS, True)


@pytest.mark.fault(
    done="the reference's probabilities of a class 0.3 where they were 0.1, too little to be found either way",
    said="the reference's own answers are others: SQNR of p by value is",
    status="1",
    kept="both sides' sessions",
)
def test_values_of_a_reference_under_masks_that_stayed(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = [own(SEGMENTER, probabilities(scale, top=0.1)) for scale in (1.0, 3.0)]
    fault.check(*compared(*quiet, capsys))
    verdict = own_against(SEGMENTER, probabilities(), probabilities(0.6))
    assert (verdict.outcome, "SQNR of p by value is" in verdict.message) == (Outcome.REGRESSED, True)
    assert own_against(SEGMENTER, probabilities(), probabilities(noise=1e-6)).outcome is Outcome.PASS
    logits = [{"p": 9 * np.eye(4)[np.arange(64).reshape(8, 8) // 16].transpose(2, 0, 1)} for _ in range(8)]
    flat = [{"p": row["p"] / 20} for row in logits]
    assert own_against(SEGMENTER, logits, flat).outcome is Outcome.REGRESSED
    # A session from before has kept the classes only.
    before = {**quiet[0], "kept": {name: each for name, each in quiet[0]["kept"].items() if name != "values"}}
    verdict = decide_scores(before, quiet[1], EXACT)
    assert (verdict.outcome, "of before there is no p by value" in verdict.message) == (Outcome.PASS, True)
    # And measured by that one now, it is not comparable.
    verdict = decide_scores(quiet[1], before, EXACT)
    assert (verdict.outcome, verdict.reason) == (Outcome.INVALID, Reason.NOT_COMPARABLE)
    assert "measure both sides with one version" in verdict.message
    # An output may be called anything.
    named = [[{**row, "p by value": sign * row["p"][0]} for row in probabilities()] for sign in (1, -1)]
    verdict = own_against(SEGMENTER, *named)
    assert (verdict.outcome, "SQNR of p by value is -" in verdict.message) == (Outcome.REGRESSED, True)


def test_whole_numbers_are_masks_and_have_no_values() -> None:
    task = Segmentation("m")
    for kind in (np.uint8, np.float32):
        masks, other = mask(kind), mask(kind, 1)
        assert (list(own(task, masks)["kept"]["sketch"]), own(task, masks)["kept"].get("values")) == (["m"], {})
        assert "SQNR" not in task.compare(masks, masks, some(8)).text
        # One pixel of a mask proves nothing, whatever type it has.
        assert against(task, masks, masks, other).outcome is Outcome.PASS
        assert own_against(task, masks, other).outcome is Outcome.PASS
    # Labels of floats are told apart as integers are.
    labels = [{"m": np.full((1, 8, 8), index % 3, np.float32)} for index in range(12)]
    one, all_of_it = ([{"m": row["m"].copy()} for row in labels] for _ in range(2))
    one[2]["m"][0, 0, 0] = 1
    for row in all_of_it:
        row["m"][row["m"] == 2] = 3
    assert against(task, labels, labels, one).outcome is Outcome.PASS
    assert own_against(task, labels, one).outcome is Outcome.PASS
    for verdict in (against(task, labels, labels, all_of_it), own_against(task, labels, all_of_it)):
        assert (verdict.outcome, "equal elements of m" in verdict.message) == (Outcome.REGRESSED, True), verdict
    # Where values were and are none, they are missing.
    kept = [own(SEGMENTER, probabilities()), own(SEGMENTER, [{"p": np.rint(row["p"])} for row in probabilities()])]
    assert decide_scores(*kept, EXACT).outcome is Outcome.REGRESSED
    resized = [{"p": row["p"][:, ::2, ::2]} for row in probabilities()]
    verdict = against(SEGMENTER, probabilities(), probabilities(), resized)
    assert (verdict.outcome, "SQNR of p was measured before" in verdict.message) == (Outcome.REGRESSED, True)


# How sure a detector is.


def crowds() -> list[dict[str, Any]]:
    """60 samples, of which two have two thirds of all boxes."""
    return [boxes([0] * (60 if index > 57 else 1)) for index in range(60)]


@pytest.mark.fault(
    done="a detector's scores 0.6 times what they were on 2 crowded photos of 60, which have two thirds of all boxes",
    said="confidence kept by box went from 99.4% to 7...%, 3.0% may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_scores_of_crowded_photos(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    reference = crowds()
    old = less_sure(reference)
    new = [{**row, "scores": np.float32(0.6 if len(row["scores"]) > 1 else 1) * row["scores"]} for row in old]
    fault.check(*compared(*(summary(DETECTOR, reference, each) for each in (old, new)), capsys))
    assert own_against(DETECTOR, reference, new).outcome is Outcome.REGRESSED
    # One of two crowds is two thirds of half of it, and nobody knows what the next one is.
    one = [*old[:59], new[59]]
    assert against(DETECTOR, reference, old, one, NARROW).outcome is Outcome.INCONCLUSIVE
    # Where there is a box for each photo, one that is unsure of one of 60 is within what may be lost.
    alike = [boxes([0]) for _ in range(60)]
    unsure = [boxes([0], [0.6]), *less_sure(alike)[1:]]
    assert against(DETECTOR, alike, less_sure(alike), unsure, NARROW).outcome is Outcome.PASS


@pytest.mark.fault(
    done="a detector's scores 0.6 times what they were on all photos, of which one has most boxes",
    said="confidence kept went from 99.4% to 60.0%, 3.0% may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_scores_of_one_crowded_photo_and_all_others(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    reference = [boxes([0] * (60 if index == 7 else 1)) for index in range(60)]
    old = less_sure(reference)
    new = [{**row, "scores": np.float32(0.6) * row["scores"]} for row in reference]
    fault.check(*compared(*(summary(DETECTOR, reference, each) for each in (old, new)), capsys))
    assert own_against(DETECTOR, reference, new).outcome is Outcome.REGRESSED


def test_what_a_former_score_meant_is_not_held_against_another() -> None:
    task = Segmentation("m")
    reference = wide([0])
    new = summary(task, reference, reference)
    new["kept"]["digest"] = "another"
    old = json.loads(json.dumps(new))
    old["scores"][1] = {"name": "mean IoU", "of": "m", "value": 0.5, "key": "mean_iou", "unit": "%", "low": None}
    old["scores"][1]["high"] = None
    for value in (0.5, 1.0):
        old["scores"][1]["value"] = value
        verdict = decide_scores(old, {**new, "kept": {**new["kept"], "digest": "x"}}, NARROW)
        assert verdict.outcome is Outcome.PASS, verdict
        assert "of before there is no mean IoU of classes of m" in verdict.message
    former = {**old, "kept": {**old["kept"], "digest": "x"}}
    assert decide_scores(new, former, NARROW).outcome is Outcome.INVALID
    # What is not there in either way is missing.
    del new["scores"][1]
    assert (
        "mean IoU of m was measured before"
        in decide_scores(old, {**new, "kept": {**new["kept"], "digest": "x"}}, NARROW).message
    )


@pytest.mark.fault(
    done="a detector's reference that finds nothing that reaches the threshold, neither before nor now",
    said="answers: INCONCLUSIVE (nothing_measured), the reference's own answers, ...: it finds nothing that reaches",
    status="6",
    kept="both sides' sessions",
)
def test_a_reference_that_finds_nothing(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = ([boxes([label] * 3, [0.4, 0.3, score])] * 10 for label, score in ((0, 0.2), (3, 0.1)))
    fault.check(*compared(own(DETECTOR, old), own(DETECTOR, new), capsys))
    # Its other outputs do not stand for what it finds, but what is wrong with them is told.
    masks = [[{**row, "mask": np.float32([1, 2])} for row in side] for side in (old, new)]
    verdict = own_against(DETECTOR, *masks)
    assert (verdict.outcome, "SQNR of mask exact" in verdict.message) == (Outcome.INCONCLUSIVE, True)
    wrong = [{**row, "mask": -row["mask"]} for row in masks[1]]
    assert own_against(DETECTOR, masks[0], wrong).outcome is Outcome.REGRESSED
    # To the last bit nothing changed.
    assert own_against(DETECTOR, old, old).outcome is Outcome.PASS


def test_bounds_of_a_ratio_are_students_of_a_mean_where_wholes_are_alike() -> None:
    parts = np.random.default_rng(0).uniform(0.3, 0.6, 20).tolist()
    assert ratio_bounds(parts, [1.0] * 20) == pytest.approx(mean_bounds(parts))
    assert ratio_bounds([each * 9 for each in parts], [9.0] * 20) == pytest.approx(mean_bounds(parts))
    assert ratio_bounds([0.1], [1.0]) == (0.0, 1.0)
    with pytest.raises(ValueError, match="nothing"):
        ratio_bounds([0.0, 0.0], [0.0, 0.0])


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("size", [1e-300, 1e-200, 1e200, 1e308])
def test_scores_of_any_size_have_a_bound(size: float) -> None:
    parts, wholes = np.random.default_rng(0).uniform(0, 0.1, 20), np.ones(20)
    assert ratio_bounds(size * parts, size * wholes) == pytest.approx(ratio_bounds(parts, wholes))
    assert ratio_bounds([1e308] * 5, [1e-200] * 5) == (1.0, 1.0)
    task = Detection(DETECTOR.decode, 0.0)
    reference = [{**boxes([0, 1]), "scores": np.full(2, 0.9 * size)} for _ in range(30)]
    for factor, outcome in ((0.99, Outcome.PASS), (0.6, Outcome.REGRESSED)):
        new = [{**row, "scores": factor * row["scores"]} for row in reference]
        assert against(task, reference, reference, new, NARROW).outcome is outcome


@pytest.mark.parametrize(("crowd", "share"), [(1, 0.2), (20, 0.2), (60, 0.034)])
def test_the_bound_of_a_ratio_holds(crowd: int, share: float) -> None:
    """Of 1000 samples of 60 photos whose boxes are alike within a photo, few have their bound below the truth."""
    random = np.random.default_rng(0)
    wholes = 1.0 + (random.random((1000, 60)) < share) * (crowd - 1)
    parts = wholes * random.uniform(0, 0.2, wholes.shape)
    missed = [ratio_bounds(*each)[1] < 0.1 for each in zip(parts.tolist(), wholes.tolist(), strict=True)]
    assert np.mean(missed) < 0.1


# A detector's classes.


def classes() -> list[dict[str, Any]]:
    """200 boxes of 40 classes in 40 samples, of which class 7 has three, class 9 two, class 11 one."""
    few = {7: (3, 17, 30), 9: (5, 20), 11: (8,)}
    found = [boxes([(5 * index + place) % 40 for place in range(5)]) for index in range(40)]
    for row in found:
        row["labels"][np.isin(row["labels"], list(few))] = 8
    for label, samples in few.items():
        for index in samples:
            found[index]["labels"][0] = label
    return found


def none_of(outputs: Outputs, label: int) -> list[dict[str, Any]]:
    """The same but for the boxes of a class."""
    return [without(row, row["labels"] == label) for row in outputs]


@pytest.mark.fault(
    done="a detector of 40 classes finds none of the 3 boxes, of 200, of one of them any more",
    said="boxes of class 7 found again went from 3 of 3 to 0 of 3, 20.0% may be lost",
    status="1",
    kept="both sides' sessions",
)
def test_a_class_that_is_not_found_any_more(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    reference = classes()
    old = less_sure(reference)
    fault.check(*compared(*(summary(DETECTOR, reference, each) for each in (old, none_of(old, 7))), capsys))
    named = [{**row, "labels": np.where(row["labels"] == 7, 8, row["labels"])} for row in old]
    for new in (none_of(old, 7), named):
        verdict = against(DETECTOR, reference, old, new, NARROW)
        assert (verdict.outcome, "of class 7" in verdict.message) == (Outcome.REGRESSED, True)
        # What was not there before, the upgrade did not lose; and the limit may leave it out.
        assert against(DETECTOR, reference, new, new, NARROW).outcome is Outcome.PASS
        assert against(DETECTOR, reference, new, old, NARROW).outcome is Outcome.PASS
    allowed = Expectation({**NARROW.values, "max_class_lost": 1.0})
    assert against(DETECTOR, reference, old, none_of(old, 7), allowed).outcome is Outcome.PASS
    # Of two boxes nobody knows, and one box fewer is no loss of its class, nor are two of one that is still found.
    for label, outcome in ((9, Outcome.INCONCLUSIVE), (11, Outcome.PASS)):
        assert against(DETECTOR, reference, old, none_of(old, label), NARROW).outcome is outcome
    some_left = [*none_of(old[:20], 7), *old[20:]]
    assert against(DETECTOR, reference, old, some_left, NARROW).outcome is Outcome.PASS


def test_a_part_of_a_class_is_lost_by_what_its_photos_prove() -> None:
    for photos, each, outcome in (
        (20, 1, Outcome.REGRESSED),
        (6, 1, Outcome.INCONCLUSIVE),
        (2, 20, Outcome.INCONCLUSIVE),
    ):
        reference = [boxes([1] * each + [0] * 40) for _ in range(photos)] + [boxes([0] * 20) for _ in range(30)]
        new = [without(row, (row["labels"] == 1) & (index < photos // 2)) for index, row in enumerate(reference)]
        open_map = Expectation({**NARROW.values, "max_answers_lost": 1.0})
        verdict = against(DETECTOR, reference, reference, new, open_map)
        assert (verdict.outcome, "boxes of class 1 found" in verdict.message) == (outcome, True), verdict


def test_boxes_of_one_photo_are_one_answer() -> None:
    reference = [boxes([0] * 10) for _ in range(60)]
    reference[3] = boxes([0] * 7 + [5] * 3, [0.9] * 7 + [0.5003, 0.5002, 0.5001])
    less = [{**row, "scores": row["scores"] - np.float32(0.0005)} for row in reference]
    for verdict in (against(DETECTOR, reference, reference, less, NARROW), own_against(DETECTOR, reference, less)):
        assert (verdict.outcome, "boxes of class 5" in verdict.message) == (Outcome.INCONCLUSIVE, True), verdict


@pytest.mark.parametrize("expectation", [EXACT, NARROW])
def test_boxes_that_are_as_sure_may_stand_in_any_order(expectation: Expectation) -> None:
    reference = [boxes([0, 1, 2, 3, 0, 0]) for _ in range(60)]
    old = less_sure(reference)
    new = [{name: array[[1, 0, 2, 3, 4, 5]] for name, array in row.items()} for row in less_sure(reference)]
    for other in (new, [*old[:30], new[30], *old[31:]]):
        assert against(DETECTOR, reference, old, other, expectation).outcome is Outcome.PASS
    # What is not read is told by its place.
    beside = [[{**row, "more": np.arange(4.0)} for row in side] for side in (reference, old, new)]
    assert against(DETECTOR, *beside, expectation).outcome is Outcome.PASS
    beside[2][3]["more"] = np.arange(4.0)[::-1]
    assert against(DETECTOR, *beside, expectation).outcome is Outcome.REGRESSED


def test_a_class_that_the_reference_does_not_find_any_more() -> None:
    reference = classes()
    verdict = own_against(DETECTOR, reference, none_of(reference, 7))
    assert verdict.outcome is Outcome.REGRESSED
    assert "own answers are others: boxes of class 7 found again went from 3 of 3 to 0 of 3" in verdict.message
    verdict = own_against(DETECTOR, reference, none_of(reference, 9))
    assert (verdict.outcome, "of class 9" in verdict.message) == (Outcome.INCONCLUSIVE, True)


def test_a_session_that_counted_no_boxes_of_each_class_is_read() -> None:
    reference = classes()
    old, new = (summary(DETECTOR, reference, each) for each in (less_sure(reference), none_of(reference, 7)))
    sound = old["kept"].pop("labels")
    verdict = decide_scores(old, new, NARROW)
    assert verdict.outcome is Outcome.PASS
    assert verdict.message.endswith("of before there is no boxes found again of each class")
    for new_side in (old, {**new, "scores": [each for each in new["scores"] if "by box" not in each["name"]]}):
        assert (
            decide_scores(new, {**new_side, "kept": {**new_side["kept"], "digest": "x"}}, NARROW).outcome
            is Outcome.INVALID
        )
    for damaged in (
        [3],
        {"7": [3, 3]},
        {"7": [3, 4, 3.0]},
        {"7": [3, 3, 4.0]},
        {"7": [0, 0, 1.0]},
        {"\n": [3, 3, 3.0]},
        {str(label): [3, 3, 3.0] for label in range(1025)},
    ):
        with pytest.raises(DAMAGED):
            require_scores({**old, "kept": {**old["kept"], "labels": damaged}})
    require_scores({**old, "kept": {**old["kept"], "labels": sound}})
