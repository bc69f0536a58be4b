"""The reference's own answers: what is kept of them, and what a later reference's are by that."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtgate.expectations import Expectation, read_expectations
from trtgate.fields import DAMAGED, packed
from trtgate.tasks.against import decide_all_scores, decide_scores, require_scores
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.batches import decide_batch
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detection, Detections, from_outputs
from trtgate.tasks.segmentation import GRIDS, Areas, Segmentation, areas_of, cells_of
from trtgate.tasks.sketch import SIZE, UNUSUAL, Sketch, compare_sketches, sketch_of
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.answers import Answers, decide_answers
from trtgate.verdict.outcome import Outcome, Reason, Verdict

from .test_tasks import Some, changed, moved_class, own_random, rare, rounded, rows  # noqa: F401

FLOORS = read_expectations().of("net.onnx", "onnxruntime-fp32")


def normal(seed: int, shape: tuple[int, ...], count: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape) for _ in range(count)]


def value(old: list[np.ndarray], new: list[np.ndarray]) -> float:
    """The first score of two references' answers, through the JSON of their sessions."""
    sides = [json.loads(json.dumps(sketch_of("y", each).to_json(), allow_nan=False)) for each in (old, new)]
    scores = compare_sketches("y", *map(Sketch.from_json, sides))
    assert scores is not None
    return scores[0].value


SEEDS = st.integers(0, 2**32 - 1)
# Few samples with many elements, and the other way round.
SHAPES = st.sampled_from([((3, 40, 40), 8), ((7,), 5000), ((2, 5), 1), ((1000,), 40), ((3, 17, 5), 200)])


@settings(max_examples=25)
@given(SEEDS, SHAPES)
def test_a_sketch_keeps_the_norm(seed: int, given: tuple[tuple[int, ...], int]) -> None:
    arrays = normal(seed, *given)
    found = sketch_of("y", arrays)
    exact = sum(float(np.sum(each**2)) for each in arrays)
    assert found.power.sum() == pytest.approx(exact)
    assert float((found.sums**2).sum()) == pytest.approx(exact, rel=0.25)
    assert found.sums.size <= max(SIZE, len(arrays))


@settings(max_examples=25)
@given(SEEDS, SHAPES, st.floats(-5, 110))
def test_noise_is_estimated_within_a_decibel(seed: int, given: tuple[tuple[int, ...], int], decibels: float) -> None:
    arrays = normal(seed, *given)
    noise = normal(seed + 1, *given)
    scale = 10 ** (-decibels / 20)
    other = [a + scale * b for a, b in zip(arrays, noise, strict=True)]
    signal, exact = (sum(float(np.sum(each**2)) for each in side) for side in (arrays, noise))
    assert value(arrays, other) == pytest.approx(decibels + 10 * np.log10(signal / exact), abs=1)


@settings(max_examples=10)
@given(SEEDS, SHAPES)
def test_the_same_answers_have_no_noise(seed: int, given: tuple[tuple[int, ...], int]) -> None:
    arrays = normal(seed, *given)
    assert value(arrays, arrays) == np.inf
    assert value([1e38 * each for each in arrays], [1e38 * each for each in arrays]) == np.inf


@settings(max_examples=25)
@given(SEEDS, st.floats(0, 1))
def test_of_integers_the_share_that_is_equal_is_estimated(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    arrays = [random.integers(-5, 5, (30, 40)) for _ in range(20)]
    other = [np.where(random.random(each.shape) < share, each, each + 1) for each in arrays]
    exact = float(np.mean([np.mean(a == b) for a, b in zip(arrays, other, strict=True)]))
    assert value(arrays, other) == pytest.approx(exact, abs=0.1)
    assert value(arrays, arrays) == 1


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1.0, 1e25])
def test_noise_of_numbers_of_any_size_is_estimated(size: float) -> None:
    reference = normal(0, (7,), 40)
    old, new = ([size * scale * each for each in reference] for scale in (1, 1 + 1e-5))
    assert value(old, new) == pytest.approx(100, abs=1)
    assert value(old, [0 * each for each in old]) == pytest.approx(0, abs=1)


@settings(max_examples=25)
@given(SEEDS, st.floats(0, 0.2), st.floats(0, 1))
def test_of_a_mask_the_share_of_what_it_finds_is_estimated(seed: int, there: float, kept: float) -> None:
    random = np.random.default_rng(seed)
    old = [random.random((30, 40)) < there for _ in range(20)]
    new = [each & (random.random(each.shape) < kept) for each in old]
    sides = [Sketch.from_json(sketch_of("y", each).to_json()) for each in (old, new)]
    _, score = compare_sketches("y", *sides) or ()
    found = sum(int(each.sum()) for each in old)
    exact = sum(int(each.sum()) for each in new) / found if found else 1.0
    assert (score.name, score.value) == (UNUSUAL, pytest.approx(exact, abs=0.1))


def test_a_sketch_of_before_has_kept_its_power() -> None:
    found = sketch_of("y", normal(0, (7,), 40))
    before = found.to_json()
    del before["roots"]
    before["power"] = packed(found.power)
    assert Sketch.from_json(before).power == pytest.approx(Sketch.from_json(found.to_json()).power)


def test_a_sketch_without_powers_is_no_summary() -> None:
    summary = own(TensorsTask(), rows(8))
    for kept in ({"sketch": {}}, {"sketch": summary["kept"]["sketch"]}):
        with pytest.raises(DAMAGED, match="a sketch stands beside powers"):
            require_scores({**summary, "kept": kept})


def test_where_a_value_stands_and_in_which_sample_counts() -> None:
    arrays = normal(0, (6, 8), 40)
    for other in (arrays[::-1], [each[::-1] for each in arrays], [-each for each in arrays]):
        assert value(arrays, list(other)) < 0
    assert value([np.zeros((3, 4))] * 8, [np.zeros((3, 4))] * 8) == np.inf
    assert value([np.zeros((3, 4))] * 8, [np.ones((3, 4))] * 8) == -200


def test_an_output_without_axes_or_elements_has_a_sketch() -> None:
    assert value([np.array(2.0)] * 3, [np.array(2.0)] * 3) == np.inf
    assert value([np.zeros((0, 4))] * 3, [np.zeros((0, 4))] * 3) == np.inf
    assert value([np.zeros((0, 4), np.int64)] * 3, [np.zeros((0, 4), np.int64)] * 3) == 1


@pytest.mark.parametrize(
    "spoil",
    [
        {"roots": "!"},
        {"width": 0},
        {"width": 10**9},
        {"shapes": []},
        {"shapes": [[-1]] * 8},
        {"marks": ["\n"] * 8},
        {"integers": 3},
        {"sums": ""},
        {"roots": 3},
        {"usual": 0.5},
        {"unusual": "!"},
        {"unusual": packed(np.full(8, 1e9))},
    ],
)
def test_a_damaged_sketch_is_told(spoil: dict[str, Any]) -> None:
    task, reference = TensorsTask(), rows(4, 3)
    summary = own(task, reference)
    require_scores(summary)
    summary["kept"]["sketch"]["y"].update(spoil)
    with pytest.raises(DAMAGED):
        require_scores(summary)


# What is decided on them.


def own(task: Task, outputs: Outputs) -> dict[str, Any]:
    """What the reference's record keeps, as a session has it."""
    samples: Any = Some(len(outputs))
    return json.loads(json.dumps(task.own(outputs, samples)["scores"], allow_nan=False))  # type: ignore[no-any-return]


def judged(task: Task, old: Outputs, new: Outputs, floors: Expectation = FLOORS) -> Verdict:
    return decide_scores(own(task, old), own(task, new), floors)


def negated(outputs: Outputs) -> list[dict[str, Any]]:
    return [{name: -array for name, array in row.items()} for row in outputs]


def test_a_reference_that_negates_its_answers_is_a_regression_that_names_them() -> None:
    task, reference = TensorsTask(), [{**a, **b} for a, b in zip(rows(8, 4), rows(5, name="z"), strict=True)]
    for new in (negated(reference), [{**row, "y": -row["y"]} for row in reference]):
        verdict = judged(task, reference, new)
        assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
        assert "the reference's own answers are others: SQNR of y is -6." in verdict.message
        assert "the floor 60.0 dB" in verdict.message
    assert "SQNR of z" not in verdict.message


def test_the_same_reference_passes_and_so_does_one_that_rounds_otherwise() -> None:
    task, reference = TensorsTask(), rows(8, 40)
    assert judged(task, reference, reference).reason is Reason.SAME_ANSWERS
    verdict = judged(task, reference, rounded(reference))
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, Reason.ANSWERS_KEPT)
    assert judged(task, reference, rounded(reference, 1e-2)).outcome is Outcome.REGRESSED
    # A file of a narrow type, which the reference runs as it is, has the floors of that type.
    before, after = own(task, reference), own(task, rounded(reference, 1e-2))
    after["floors"] = {"sqnr_db": 30.0, "agreement": 0.96}
    assert decide_scores(before, after, FLOORS).outcome is Outcome.PASS
    # Those of today's run: what an old session says of itself excuses nothing.
    before["floors"] = {"sqnr_db": -1e300, "agreement": 0.0}
    assert decide_scores(before, own(task, negated(reference)), FLOORS).outcome is Outcome.REGRESSED


SEGMENTER = Segmentation("y", 0.5)


def masks(foreground: float = 0.02) -> Outputs:
    """Scores of a mask of one channel whose foreground is small."""
    random = np.random.default_rng(0)
    return [{"y": (random.random((1, 40, 40)) < foreground).astype(np.float32)} for _ in range(20)]


def test_a_segmenting_reference_that_answers_nan_or_loses_its_foreground() -> None:
    reference = masks()
    assert judged(SEGMENTER, reference, masks()).outcome is Outcome.PASS
    silent = [{"y": np.full_like(row["y"], np.nan) if index < 16 else row["y"]} for index, row in enumerate(masks())]
    assert judged(SEGMENTER, reference, silent).reason is Reason.NOT_FINITE
    empty = [{"y": np.zeros_like(row["y"]) if index < 16 else row["y"]} for index, row in enumerate(masks())]
    verdict = judged(SEGMENTER, reference, empty)
    assert (verdict.outcome, "mean IoU, at most" in verdict.message) == (Outcome.REGRESSED, True), verdict
    # It is the mask's, whatever stands before that.
    beside, gone = ([{"a": np.ones(9, np.float32), **row} for row in some] for some in (reference, empty))
    assert "mean IoU, at most of y" in judged(SEGMENTER, beside, gone).message


def test_a_segmenting_reference_that_moves_a_rare_class() -> None:
    task, reference = Segmentation("m"), rare()
    verdict = judged(task, reference, moved_class(reference, 40))
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
    assert "IoU of class 59, at most of m is 0.0% (at least 0.0%, at most 0.0%), the floor 80.0%" in verdict.message
    bordering = [{"m": np.array(row["m"])} for row in reference]
    for row in bordering:
        row["m"][20, 70:72] = 0
    assert judged(task, reference, bordering).outcome is Outcome.PASS
    # A session from before that knows how many pixels a class has, and not where.
    old, new = own(task, reference), own(task, moved_class(reference, 40))
    del old["kept"]["areas"]
    for sides in ((old, new), (new, {**old, "kept": {**old["kept"], "digest": "another"}})):
        verdict = decide_scores(*sides, FLOORS)
        assert (verdict.outcome, "by their sizes alone" in verdict.message) == (Outcome.PASS, True), verdict


def shapes_and_labels(random: np.random.Generator, count: int) -> list[np.ndarray]:
    return [random.integers(0, 5, random.integers(1, 40, 2)) // 2 for _ in range(count)]


def at_most(old: list[np.ndarray], new: list[np.ndarray]) -> tuple[float, float]:
    """What the IoU of class 1 can be at most by the areas of either side, and what it is."""
    sides = [json.loads(json.dumps(areas_of(side, list(map(np.unique, side))).to_json())) for side in (old, new)]
    cells = [[each.get("1", np.zeros((16, 16))) for each in Areas.from_json(side).samples] for side in sides]
    both, either = (f(*map(np.stack, cells)).sum() for f in (np.minimum, np.maximum))
    pairs = [(a == 1, b == 1) for a, b in zip(old, new, strict=True)]
    exact = sum(int((a & b).sum()) for a, b in pairs) / max(1, sum(int((a | b).sum()) for a, b in pairs))
    return float(both / max(either, 1)), exact


@settings(max_examples=20)
@given(SEEDS, st.integers(1, 8))
def test_no_overlap_is_more_than_areas_say(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    old = shapes_and_labels(random, count)
    new = [np.where(random.random(each.shape) < random.random(), each[::-1], each) for each in old]
    bound, exact = at_most(old, new)
    assert bound >= exact - 1e-9
    assert at_most(old, old)[0] == at_most(old, old)[1]


@settings(max_examples=20)
@given(SEEDS)
def test_a_coarser_grid_is_what_it_would_have_been(seed: int) -> None:
    maps = shapes_and_labels(np.random.default_rng(seed), 4)
    maps.append(np.zeros((0, 3), np.int64))
    maps.append(np.arange(7))
    told = [np.unique(each) for each in maps]
    whole = areas_of(maps, told)
    assert [sum(float(each.sum()) for each in sample.values()) for sample in whole.samples] == [m.size for m in maps]
    for grid in GRIDS:
        for coarse, each, labels in zip(whole.coarser(grid).samples, maps, told, strict=True):
            direct = cells_of(each, labels, grid)
            assert direct.keys() == coarse.keys()
            assert all(np.array_equal(direct[label], coarse[label]) for label in direct)


def test_areas_are_bounded_in_size_and_those_of_other_grids_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    task, reference = Segmentation("m"), rare()
    fine = own(task, reference)
    monkeypatch.setattr("trtgate.tasks.segmentation.MOST_CELLS", 60 * 12 * 64)
    for new, outcome in ((bent(reference), Outcome.PASS), (moved_class(reference, 40), Outcome.REGRESSED)):
        coarse = own(task, new)
        assert (fine["kept"]["areas"]["m"]["grid"], coarse["kept"]["areas"]["m"]["grid"]) == (16, 8)
        monkeypatch.undo()
        assert decide_scores(fine, coarse, FLOORS).outcome is outcome
        monkeypatch.setattr("trtgate.tasks.segmentation.MOST_CELLS", 60 * 12 * 64)
    monkeypatch.setattr("trtgate.tasks.segmentation.MOST_CELLS", 150)
    few = own(task, moved_class(reference, 40))
    assert len(few["kept"]["areas"]["m"]["labels"]) == 2, "of the first samples"
    require_scores(few)
    monkeypatch.undo()
    assert decide_scores(own(task, reference), few, FLOORS).outcome is not Outcome.INVALID


def bent(outputs: Outputs) -> list[dict[str, Any]]:
    """The same but for a pixel of each."""
    found = [{"m": np.array(row["m"])} for row in outputs]
    for row in found:
        row["m"][0, 0] = 3
    return found


@pytest.mark.parametrize(
    "spoil",
    [
        {"grid": 5},
        {"grid": 0},
        {"grid": 8},
        {"labels": [["0"] * 100_000]},
        {"labels": 3},
        {"base64": "!"},
        {"base64": packed(np.full(12 * 60 * 256, -1.0))},
        {"base64": packed(np.full(12 * 60 * 256, np.nan))},
    ],
)
def test_damaged_areas_are_told(spoil: dict[str, Any]) -> None:
    summary = own(Segmentation("m"), rare())
    require_scores(summary)
    summary["kept"]["areas"]["m"].update(spoil)
    with pytest.raises(DAMAGED):
        require_scores(summary)


def test_a_detecting_reference_whose_scores_are_nan() -> None:
    reference = [{"y": np.array([[0, 0, 9, 9, 0.9, 0], [3, 3, 8, 8, 0.8, 1]], np.float32)} for _ in range(4)]
    task = Detection(
        lambda outputs: Detections(outputs["y"][:, :4], outputs["y"][:, 4], outputs["y"][:, 5].astype(int)), 0.5
    )
    spoilt = [{"y": np.where(np.arange(6) == 4, np.nan, row["y"]).astype(np.float32)} for row in reference]
    assert judged(task, reference, spoilt).reason is Reason.NOT_FINITE


def test_sketches_that_were_kept_otherwise_cannot_be_compared() -> None:
    task, reference = TensorsTask(), rows(8, 40)
    before, after = own(task, reference), own(task, rounded(reference))
    few = own(task, reference[:4])
    few["kept"]["samples"], few["n"] = after["kept"]["samples"], after["n"]
    assert decide_scores(few, after, FLOORS).reason is Reason.NOT_COMPARABLE
    nothing = json.loads(json.dumps(before))
    nothing["kept"]["sketch"] = {}
    assert decide_scores(nothing, after, FLOORS).reason is Reason.NOTHING_MEASURED
    damaged = json.loads(json.dumps(before))
    del damaged["kept"]["powers"]
    with pytest.raises(DAMAGED):
        require_scores(damaged)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -3e38])
def test_a_reference_that_has_no_number_where_it_had_one(wrong: float) -> None:
    task, reference = TensorsTask(), rows(8, 4)
    masked = changed(reference, np.s_[::2], wrong)
    assert judged(task, masked, rounded(masked)).outcome is Outcome.PASS
    for old, new in ((reference, changed(reference, np.s_[3, 2], wrong)), (masked, reference), (masked, rows(8, 4))):
        assert judged(task, old, new).reason is Reason.NOT_FINITE


def test_quiet_scores_of_a_reference_that_are_gone_beside_loud_boxes() -> None:
    task, reference = TensorsTask(), [{"y": each["y"] * 1e5} for each in rows(84, 200)]
    for row in reference:
        row["y"][4:] /= 1e4
    assert judged(task, reference, rounded(reference)).outcome is Outcome.PASS
    verdict = judged(task, reference, changed(reference, np.s_[40], 0))
    assert verdict.outcome is Outcome.REGRESSED
    assert "y, 40 along axis 0 of a sample is another one than before" in verdict.message


def test_answers_of_other_shapes_are_judged_by_their_share() -> None:
    task, found = TensorsTask(), rows(5, 4, count=40)
    for count, outcome in ((1, Outcome.INCONCLUSIVE), (20, Outcome.REGRESSED), (40, Outcome.REGRESSED)):
        verdict = judged(task, found, [*rows(6, 4, count=count), *rounded(found[count:])])
        assert verdict.outcome is outcome, verdict
        assert "share of answers of the same shape of y" in verdict.message


def test_integers_of_a_reference() -> None:
    task = TensorsTask()
    reference = [{"ids": np.arange(200) * (index + 1)} for index in range(8)]
    assert judged(task, reference, [{"ids": row["ids"].copy()} for row in reference]).outcome is Outcome.PASS
    verdict = judged(task, reference, [{"ids": row["ids"] + (np.arange(200) % 5 == 0)} for row in reference])
    assert verdict.outcome is Outcome.REGRESSED
    assert "equal elements of ids is 8" in verdict.message


def test_a_segmenters_reference_is_judged_by_its_classes() -> None:
    task, reference = Segmentation("y"), [{**a, **b} for a, b in zip(rows(3, 30, 30), rows(9, name="z"), strict=True)]
    assert "SQNR of z" in judged(task, reference, [{**row, "z": 1.01 * row["z"]} for row in reference]).message
    verdict = judged(task, reference, [{**row, "y": -row["y"]} for row in reference])
    assert verdict.outcome is Outcome.REGRESSED
    assert "equal elements of y is" in verdict.message
    assert "SQNR of y by value is -" in verdict.message


def boxes(count: int = 40) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    found = []
    for _ in range(count):
        corners = random.uniform(0, 400, (6, 2))
        found.append({"boxes": np.concatenate([corners, corners + 50], 1), "scores": random.uniform(0.6, 1, 6)})
    return found


def test_a_detectors_reference_is_judged_by_its_boxes_in_any_order() -> None:
    task, reference = Detection(from_outputs("boxes", "scores", "", "xyxy")), boxes()
    turned = [{name: array[::-1].copy() for name, array in row.items()} for row in reference]
    assert judged(task, reference, turned).outcome is Outcome.PASS
    verdict = judged(task, reference, [{**row, "boxes": row["boxes"] + 200} for row in reference])
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
    assert "boxes found again is 0" in verdict.message
    few = boxes(5)
    nudged = [{**row, "boxes": row["boxes"] * (1 + 1e-6)} for row in few]
    assert judged(task, few, nudged).outcome is Outcome.PASS, "all of them are found again, however few they are"
    # Of so many only the first samples' are kept.
    many = [{"boxes": np.tile(row["boxes"], (100, 1)), "scores": np.tile(row["scores"], 100)} for row in reference]
    require_scores(own(task, many))
    nothing = [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0)} for _ in range(40)]
    assert judged(task, nothing, nothing).outcome is Outcome.PASS
    assert judged(task, nothing, reference).outcome is Outcome.REGRESSED
    assert len(Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)).scores) == 0


def test_a_detectors_reference_whose_scores_moved_and_whose_boxes_stayed() -> None:
    task, reference = Detection(from_outputs("boxes", "scores", "", "xyxy"), 0.3), boxes()
    for moved in ([{**row, "scores": 0.6 * row["scores"]} for row in reference], negated_scores(reference)):
        verdict = judged(task, reference, moved)
        assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
        assert "confidence kept went from 100.0% to" in verdict.message
    verdict = judged(task, reference, rounded(reference, 1e-4))
    assert (verdict.outcome, "confidence kept 100.0%" in verdict.message) == (Outcome.PASS, True)
    few = reference[:1]
    assert judged(task, few, rounded(few, 1e-4)).outcome is Outcome.PASS
    assert judged(task, few, [{**row, "scores": 0.6 * row["scores"]} for row in few]).outcome is Outcome.INCONCLUSIVE


def negated_scores(outputs: Outputs) -> list[dict[str, Any]]:
    """The surest boxes are the least sure ones."""
    return [{**row, "scores": 1.6 - row["scores"]} for row in outputs]


def test_a_reference_without_a_sketch_any_more_is_missing() -> None:
    task, reference = TensorsTask(), rows(4)
    bare = own(task, negated(reference))
    del bare["kept"]["sketch"]
    assert decide_scores(own(task, reference), bare, FLOORS).reason is Reason.MISSING
    assert decide_scores(own(task, rows(4, name="z")), own(task, reference), FLOORS).reason is Reason.MISSING


def test_one_of_several_new_references_is_enough() -> None:
    task, reference = TensorsTask(), rows(8, 4)
    good, bad = own(task, reference), own(task, negated(reference))
    assert decide_all_scores([good] * 5, [good] * 5, FLOORS).outcome is Outcome.PASS
    assert decide_all_scores([good] * 5, [good, good, bad, good, good], FLOORS).outcome is Outcome.REGRESSED
    # Nor does one old one that is another excuse it.
    assert decide_all_scores([good, bad, good, good, good], [bad] * 5, FLOORS).outcome is Outcome.REGRESSED


def test_a_classifiers_reference_keeps_its_answers() -> None:
    task = Classification("y")
    reference = rows(10, count=240)
    samples: Any = Some(240)
    old, new = (Answers.from_json(task.own(each, samples)["answers"]) for each in (reference, negated(reference)))
    assert decide_answers(old, old).outcome is Outcome.PASS
    assert decide_answers(old, new).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("kept", [39, 41])
def test_boxes_of_other_samples_than_there_are_is_a_damaged_session(kept: int) -> None:
    task = Detection(from_outputs("boxes", "scores", "", "xyxy"))
    summary, found = own(task, boxes()), own(task, boxes(kept))["kept"]["boxes"]
    require_scores(summary)
    with pytest.raises(ValueError, match=f"boxes are of {kept} samples, and there are 40"):
        require_scores({**summary, "kept": {**summary["kept"], "boxes": found}})


def test_a_reference_whose_boxes_are_a_third_further_is_no_more_the_same() -> None:
    """Half of each is where it was, so that each is found again; as an engine's they would have 10 % of mAP."""
    task, reference = Detection(from_outputs("boxes", "scores", "", "xyxy")), boxes()
    moved = [{**row, "boxes": row["boxes"] + np.array([15.0, 0, 15, 0])} for row in reference]
    assert judged(task, reference, reference).outcome is Outcome.PASS
    verdict = judged(task, reference, moved)
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)
    assert "mAP is" in verdict.message


def test_a_reference_keeps_its_means_as_an_engine_does() -> None:
    """Every box is found again and no class lost 20 points; engines that are as wrong agree with it."""
    task, reference = Detection(from_outputs("boxes", "scores", "", "xyxy")), boxes()
    moved = [{**row, "boxes": row["boxes"] + np.array([4.0, 0, 4, 0])} for row in reference]
    verdict = judged(task, reference, moved)
    assert (verdict.outcome, "mAP went from 100.0% to" in verdict.message) == (Outcome.REGRESSED, True), verdict
    assert judged(task, reference, [*moved[:2], *reference[2:]]).outcome is Outcome.PASS
    assert judged(task, reference[:3], moved[:3]).outcome is Outcome.INCONCLUSIVE
    # As kernels of a narrower type may answer.
    narrow = {**own(task, moved), "floors": {"sqnr_db": 10.0, "agreement": 0.85}}
    assert decide_scores(own(task, reference), narrow, FLOORS).outcome is Outcome.PASS
    masks = [np.zeros((64, 64), np.int64) for _ in range(12)]
    for index, each in enumerate(masks):
        for label in range(1, 5):
            each[12 * label : 12 * label + 10, index : index + 10] = label
    less = [np.where(np.arange(64)[:, None] % 12 == 0, 0, each) for each in masks]
    verdict = judged(Segmentation("m"), _named(masks), _named(less))
    assert (verdict.outcome, "mean IoU, at most of m went from" in verdict.message) == (Outcome.REGRESSED, True), (
        verdict
    )
    assert judged(Segmentation("m"), _named(masks), _named([less[0], *masks[1:]])).outcome is Outcome.PASS


def _named(masks: list[np.ndarray]) -> list[dict[str, Any]]:
    return [{"m": each} for each in masks]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda logits: 0.01 * logits,
        lambda logits: np.where(np.arange(10) == logits.argmax(), logits, 0),
        lambda logits: np.exp(logits) / np.exp(logits).sum(),
    ],
    ids=["scaled", "the best alone", "softmax on top"],
)
def test_a_classifiers_reference_whose_logits_are_others_with_the_same_first_answers(wrong: Any) -> None:
    task, reference = Classification("y"), rows(10, count=240)
    assert judged(task, reference, rounded(reference)).outcome is Outcome.PASS
    verdict = judged(task, reference, [{"y": wrong(row["y"]).astype(np.float32)} for row in reference])
    assert (verdict.outcome, verdict.reason) == (Outcome.REGRESSED, Reason.ANSWERS_LOST)


def test_a_classifiers_other_outputs_are_compared_and_kept() -> None:
    task, reference = Classification("y"), [{**a, **b} for a, b in zip(rows(10), rows(64, name="z"), strict=True)]
    samples: Any = Some(8)
    broken = changed(reference, np.s_[:], np.nan, "z")
    assert judged(task, reference, broken).reason is Reason.NOT_FINITE
    good, bad = (task.others(reference, each, samples) for each in (rounded(reference), broken))
    assert good is not None
    assert bad is not None
    assert good.decide(FLOORS, "fidelity")[0].outcome is Outcome.PASS
    assert bad.decide(FLOORS, "fidelity")[0].reason is Reason.NOT_FINITE
    sides = [json.loads(json.dumps(each.to_json(task.name), allow_nan=False)) for each in (good, bad)]
    assert decide_scores(*sides, FLOORS).reason is Reason.NOT_FINITE
    assert task.others(rows(10), rows(10), samples) is None
    verdicts = decide_batch(task, reference, reference, broken, samples, FLOORS)
    assert Reason.NOT_FINITE in {each.reason for each in verdicts}
