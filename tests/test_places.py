"""One place of a batch that is wrong, which of many samples spoils few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper

from fixtures.engines import decide_in_batches
from trtgate.ab.sides import _Sides
from trtgate.engines import parse_spec
from trtgate.measure import worker as serving
from trtgate.progress import SILENT
from trtgate.settings import Settings
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detection, from_outputs
from trtgate.tasks.places import Visits, arranged, decide_places
from trtgate.tasks.segmentation import Segmentation
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.outcome import Outcome, Reason
from trtgate.workbench import Workbench

from . import networks
from .test_onnx_file import settings_of

Row = dict[str, Any]
# Of a batch's right answers those that a runtime gives.
Fault = Callable[[list[Row]], list[Row]]

DETECTOR = Detection(from_outputs("boxes", "scores", "labels", "xyxy"), 0.3)


def sound(rows: list[Row]) -> list[Row]:
    return rows


def dead(at: int) -> Fault:
    return lambda rows: [
        {name: 0 * each for name, each in row.items()} if place == at else row for place, row in enumerate(rows)
    ]


def from_place(source: Callable[[int, int], int]) -> Fault:
    return lambda rows: [rows[source(place, len(rows))] for place in range(len(rows))]


def changed(at: int, **changes: Callable[[Any], Any]) -> Fault:
    """At one place something else of some outputs."""
    return lambda rows: [
        {name: changes[name](each) if place == at and name in changes else each for name, each in row.items()}
        for place, row in enumerate(rows)
    ]


def without_channel(array: Any) -> Any:
    found = array.copy()
    found[7] = 0
    return found


FAULTS: dict[str, Fault] = {
    "sound": sound,
    "the fifth is dead": dead(5),
    "the last is dead": lambda rows: dead(len(rows) - 1)(rows),
    "the fifth has its neighbour's": from_place(lambda place, size: 4 if place == 5 else place),
    "all have their neighbour's": from_place(lambda place, size: (place + 1) % size),
    "all are turned round": from_place(lambda place, size: size - 1 - place),
}


def boxes(random: np.random.Generator, n: int) -> list[Row]:
    """What an exact detector finds on photos: from 1 to 7 boxes."""
    found = []
    for _ in range(n):
        count = int(random.integers(1, 8))
        corners = random.uniform(0, 500, (count, 2))
        sure = random.uniform(0.25, 1, count)
        found.append(
            {
                "boxes": np.concatenate([corners, corners + random.uniform(30, 120, (count, 2))], 1),
                "scores": sure,
                "labels": random.integers(0, 4, count),
            }
        )
    return found


def rounded_boxes(random: np.random.Generator, rows: Sequence[Row]) -> list[Row]:
    """The same in INT8: scores are off by some percent, so that some near the threshold appear or are lost, and one of
    a hundred boxes is missing."""
    return [
        {
            **row,
            "boxes": row["boxes"] + random.normal(0, 2, row["boxes"].shape),
            "scores": (row["scores"] + random.normal(0, 0.04, row["scores"].shape))
            * (random.random(row["scores"].shape) > 0.01),
        }
        for row in rows
    ]


def offset_logits(random: np.random.Generator, n: int, classes: int = 10) -> list[Row]:
    """Of untrained weights: what all samples have in common is a hundred times as large as what tells them apart."""
    common = random.normal(0, 100, classes)
    return [{"y": (common + random.normal(0, 1, classes)).astype(np.float32)} for _ in range(n)]


def rounded_logits(random: np.random.Generator, rows: Sequence[Row], noise: float = 0.3) -> list[Row]:
    return [{"y": (row["y"] + random.normal(0, noise, row["y"].shape)).astype(np.float32)} for row in rows]


def dense(random: np.random.Generator, n: int) -> list[Row]:
    """A head of 32 channels, each with a size of its own, beside another that has far more noise."""
    sizes = random.uniform(1, 3, 32)[:, None, None]
    return [
        {
            "y": (sizes * random.normal(0, 1, (32, 8, 8))).astype(np.float32),
            "loud": random.normal(0, 1, 8).astype(np.float32),
        }
        for _ in range(n)
    ]


def rounded_dense(random: np.random.Generator, rows: Sequence[Row]) -> list[Row]:
    off = {"y": 0.3, "loud": 0.5}
    return [
        {name: each + random.normal(0, off[name], each.shape).astype(np.float32) for name, each in row.items()}
        for row in rows
    ]


def maps(random: np.random.Generator, n: int) -> list[Row]:
    found = []
    for _ in range(n):
        classes = np.zeros((48, 48), np.int64)
        y, x = random.integers(0, 36, 2)
        classes[y : y + 12, x : x + 12] = random.integers(1, 4)
        found.append({"m": classes})
    return found


def rounded_maps(random: np.random.Generator, rows: Sequence[Row]) -> list[Row]:
    return [{"m": np.where(random.random(row["m"].shape) < 0.01, 0, row["m"])} for row in rows]


Make = Callable[[np.random.Generator, int], list[Row]]
Round = Callable[[np.random.Generator, Sequence[Row]], list[Row]]
KINDS: dict[str, tuple[Any, Make, Round]] = {
    "detection": (DETECTOR, boxes, rounded_boxes),
    "untrained": (Classification(output="y"), offset_logits, rounded_logits),
    "tensors": (TensorsTask(), offset_logits, lambda random, rows: rounded_logits(random, rows, 0.2)),
    "segmentation": (Segmentation("m"), maps, rounded_maps),
    "dense": (TensorsTask(), dense, rounded_dense),
}


def answered(
    kind: str, n: int, size: int, fault: Fault, seed: int, *, anew: bool = False, tail: int = 0
) -> tuple[Any, list[Row], list[Row], list[Visits]]:
    """A reference's answers, an INT8 engine's to each sample alone, and in batches, whose kernel rounds otherwise:
    `anew` in each of them; and in the `tail` of a batch again otherwise, as that of a tile does."""
    task, make, rounded = KINDS[kind]
    random = np.random.default_rng(seed)
    reference = make(random, n)
    alone, batched, last = (rounded(random, reference) for _ in range(3))
    visits = []
    for chosen in arranged(n, size):
        rows = rounded(random, reference) if anew else batched
        right = [(last if place >= size - tail else rows)[index] for place, index in enumerate(chosen)]
        visits.append((chosen, fault(right)))
    return task, reference, alone, visits


# What all boxes or pixels have lost, every share of them tells.
CASES = [(kind, fault) for kind in KINDS for fault in FAULTS if fault[:3] != "all" or kind in {"untrained", "tensors"}]


@pytest.mark.parametrize(("kind", "fault"), CASES)
@pytest.mark.parametrize(("n", "size"), [(64, 32), (32, 32), (100, 8), (16, 8)])
def test_one_place_of_a_batch_that_is_wrong(kind: str, fault: str, n: int, size: int) -> None:
    """Of 64 photos one place of 32 loses 3 %, which no share of all photos proves."""
    verdict = decide_places(*answered(kind, n, size, FAULTS[fault], seed=1))
    assert (verdict.outcome is Outcome.REGRESSED) is (fault != "sound"), verdict
    if fault == "the fifth is dead":
        assert verdict.message.startswith("place 5: 4 of 4 answers there are not"), verdict


@pytest.mark.parametrize("n", [32, 64])
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("detection", changed(5, scores=lambda scores: np.maximum(0.6 * scores, 0.3))),
        ("detection", changed(5, boxes=lambda boxes: boxes + 0.15 * (boxes[:, [2, 3, 2, 3]] - boxes[:, [0, 1, 0, 1]]))),
        ("dense", changed(5, y=without_channel)),
        ("dense", changed(5, y=lambda y: 0.4 * y)),
    ],
    ids=["scores", "boxes that still overlap", "a channel", "an output beside a noisier one"],
)
def test_a_part_of_the_answers_at_one_place_that_is_wrong(kind: str, fault: Fault, n: int) -> None:
    """Of 32 places, which no share of all samples proves: most of the answer there is right."""
    for seed in range(3):
        assert decide_places(*answered(kind, n, 32, sound, seed)).outcome is Outcome.PASS
        verdict = decide_places(*answered(kind, n, 32, fault, seed))
        assert verdict.outcome is Outcome.REGRESSED
        assert verdict.message.startswith("place 5: ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [8, 100])
def test_a_place_of_the_smallest_batch_is_held_against_the_reference(kind: str, n: int) -> None:
    for fault in ("sound", "the fifth is dead"):
        task, reference, _, visits = answered(kind, n, 8, FAULTS[fault], seed=2)
        verdict = decide_places(task, reference, reference, iter(visits))
        assert (verdict.outcome is Outcome.REGRESSED) is (fault != "sound"), verdict


def test_pairs_that_have_each_others_answers() -> None:
    """In batches of two no other place is right."""
    turned = FAULTS["all are turned round"]
    assert decide_places(*answered("untrained", 64, 2, turned, seed=1)).outcome is Outcome.REGRESSED


@pytest.mark.parametrize("kind", KINDS)
def test_other_kernels_fail_no_place(kind: str) -> None:
    """Whether they round anew in each batch, or otherwise at the end of one."""
    for seed in range(4):
        for n, size, anew, tail in ((64, 32, True, 0), (8, 32, True, 0), (64, 32, False, 1), (33, 16, False, 4)):
            verdict = decide_places(*answered(kind, n, size, sound, seed, anew=anew, tail=tail))
            assert verdict.outcome is Outcome.PASS, (seed, n, size, verdict)


@pytest.fixture
def detector(tmp_path: Path, plan_cache: Path) -> Settings:
    """A small one in batches of 1 and 32, with 64 samples and ONNX Runtime."""
    weights = {"w": networks.random(8, 40), "v": networks.random(8, 10, seed=1), "s": np.array([0, 10, 4])}
    weights |= {"m": np.array([[60, 60, 0, 0]], np.float32), "a": np.array([[0, 0, 20, 20]], np.float32)}
    nodes = [
        helper.make_node(kind, given, [made])
        for kind, given, made in (
            ("MatMul", ["x", "w"], "c"),
            ("Reshape", ["c", "s"], "d"),
            ("Mul", ["d", "m"], "e"),
            ("Add", ["e", "a"], "boxes"),
            ("MatMul", ["x", "v"], "g"),
            ("Sigmoid", ["g"], "scores"),
        )
    ]
    outputs = {"boxes": (networks.FLOAT, ["N", 10, 4]), "scores": (networks.FLOAT, ["N", 10])}
    made = networks.network(nodes, {"x": (networks.FLOAT, ["N", 8])}, outputs, weights)
    toml = networks.save(made, tmp_path / "d.onnx").with_suffix(".toml")
    toml.write_text(
        'model = "d.onnx"\ntask = "detection"\n[detection]\nboxes = "boxes"\nscores = "scores"\n'
        'form = "cxcywh"\nthreshold = 0.5\n'
    )
    (tmp_path / "samples").mkdir()
    for index in range(64):
        np.savez(tmp_path / "samples" / f"{index}.npz", x=networks.random(1, 8, seed=index))
    arguments = [f"--model={toml}", "--engine=onnxruntime-fp32", f"--plan-cache={plan_cache}", "--batch-size=1"]
    return settings_of(tmp_path, *arguments, "--batch-size=32", f"--images={tmp_path / 'samples'}")


def test_the_bench_finds_a_place_at_which_a_detector_is_dead(
    detector: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 32, on 64 samples: of an INT8 engine no share of all boxes proves that."""
    spec, settings = parse_spec("onnxruntime-fp32"), detector
    narrow = settings.expectations.of("d.onnx", "onnxruntime-int8")
    with Workbench(settings.models[0], settings) as bench:
        assert bench.apart
        assert {each.outcome for each in decide_in_batches(bench, spec, 32, narrow)} == {Outcome.PASS}
        infer = type(bench.engine(spec)).infer

        def one_dead(self: Any, inputs: Any) -> Any:
            found = infer(self, inputs)
            if len(inputs["x"]) > 1:
                found["scores"][5] = 0
            return found

        monkeypatch.setattr(type(bench.engine(spec)), "infer", one_dead)
        [verdict] = decide_in_batches(bench, spec, 32, narrow)
    assert verdict.outcome is Outcome.REGRESSED
    assert "place 5: 4 of 4 answers there" in verdict.message
    # The same where no smaller batch is asked for.
    with Workbench(settings.models[0], replace(settings, batch_sizes=(32,))) as bench:
        [verdict] = decide_in_batches(bench, spec, 32, narrow)
    assert verdict.outcome is Outcome.REGRESSED
    assert "place 5: 4 of 4 answers there" in verdict.message


class Here:
    """A worker without a process of its own, at one place of whose batches a detector is dead."""

    def __init__(self, dead: int | None) -> None:
        self._serving: Any = serving.Worker(SimpleNamespace(send=lambda message: None))
        self._dead = dead

    def ask(self, do: str, *, timeout: float = 0, progress: Any = None, **arguments: Any) -> Any:
        found = getattr(self._serving, do)(**arguments)
        for engine in self._serving._engines.values() if do == "open" else ():
            engine.infer = lambda inputs, infer=engine.infer: self._spoilt(infer(inputs))
        return found

    def _spoilt(self, outputs: Any) -> Any:
        if self._dead is not None and len(outputs["scores"]) > 1:
            outputs["scores"][self._dead] = 0
        return outputs


@pytest.mark.parametrize("sizes", [(1, 32), (32,)])
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (None, None, Reason.ANSWERS_KEPT),
        (None, 5, Reason.ANSWERS_LOST),
        (5, 5, Reason.SAME_ANSWERS),
        (5, None, Reason.ANSWERS_KEPT),
        (5, 6, Reason.ANSWERS_LOST),
    ],
)
def test_ab_finds_a_place_at_which_the_new_side_is_dead(
    sizes: tuple[int, ...], old: int | None, new: int | None, reason: Reason, detector: Settings, tmp_path: Path
) -> None:
    """What the old side has wrong in the same way is not the upgrade's."""
    spec, both = parse_spec("onnxruntime-fp32"), {"old": [Here(old)], "new": [Here(new)]}
    with Workbench(detector.models[0], replace(detector, batch_sizes=sizes)) as bench:
        sides = _Sides(bench, both, tmp_path, None, SILENT)  # type: ignore[arg-type]
        for workers in both.values():
            workers[0].ask("open", **sides._job(spec, 0))
        alone = sides._outputs(spec, min(sizes), 1)
        assert min(sizes) > 1 or not sides._places(spec, 1, alone)
        [verdict] = sides._places(spec, 32, alone)
    assert verdict.reason is reason, verdict
    assert verdict.outcome is (Outcome.REGRESSED if reason is Reason.ANSWERS_LOST else Outcome.PASS)
