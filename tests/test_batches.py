"""Answers in larger batches, which a wrong kernel may spoil alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from fixtures.engines import decide_in_batches
from trtgate.ab.engines import LostEngine
from trtgate.ab.sides import _Sides
from trtgate.engines import parse_spec
from trtgate.expectations import Expectation, read_expectations
from trtgate.kinds import EngineRefused
from trtgate.models.onnx_file import describe
from trtgate.samples import Seeded
from trtgate.signature import BATCH, Signature, TensorSpec
from trtgate.tasks.batches import decide_batch, decide_finite, decide_whole
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detection, Detections, from_outputs
from trtgate.tasks.segmentation import Segmentation
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.outcome import Outcome, Reason
from trtgate.verdict.policy import worst
from trtgate.workbench import Workbench

from . import networks
from .test_bench import ROOT
from .test_onnx_file import settings_of
from .test_tasks import EXACT, NARROW, Some, areas, changed, own_random, rounded, rows  # noqa: F401

Wrong = Callable[[np.ndarray], np.ndarray]


class Samples(Some):
    def first(self, n: int) -> Samples:
        return Samples(min(n, len(self)))


def samples(count: int) -> Any:
    return Samples(count)


def last_negated(array: np.ndarray) -> np.ndarray:
    found = array.copy()
    found[-1] = -found[-1]
    return found


def spoil(monkeypatch: pytest.MonkeyPatch, wrong: Wrong, more_than: int = 1) -> None:
    """A runtime that is wrong in batches of more than so many."""
    import onnxruntime

    run = onnxruntime.InferenceSession.run

    def spoilt(self: Any, *arguments: Any) -> list[Any]:
        return [wrong(each) if each.ndim and len(each) > more_than else each for each in run(self, *arguments)]

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", spoilt)


def with_noise(logits: np.ndarray, decibels: float, seed: int) -> list[dict[str, Any]]:
    noise = np.random.default_rng(seed).normal(0, np.sqrt(np.mean(logits**2)) * 10 ** (-decibels / 20), logits.shape)
    return [{"y": row} for row in (logits + noise).astype(np.float32)]


@pytest.mark.parametrize(("alone", "batched", "outcome"), [(50, 46, Outcome.PASS), (50, 38, Outcome.REGRESSED)])
def test_other_kernels_may_round_otherwise_in_a_batch_but_not_by_ten_decibels(
    alone: float, batched: float, outcome: Outcome
) -> None:
    logits = np.random.default_rng(0).normal(0, 2, (64, 1000))
    sides = (
        [{"y": row} for row in logits.astype(np.float32)],
        with_noise(logits, alone, 1),
        with_noise(logits, batched, 2),
    )
    assert worst(decide_batch(Classification(output="y"), *sides, samples(64), EXACT)).outcome is outcome


def test_photos_that_get_each_others_answers_in_a_batch_are_found_beside_a_common_offset() -> None:
    """Of a log-softmax in INT8, whose rows are alike by all but their best."""
    rng = np.random.default_rng(1)
    raw = rng.normal(0, 1, (16, 1000))
    raw[np.arange(16), 7 * np.arange(16)] += 12
    exact = raw - np.log(np.exp(raw).sum(1, keepdims=True))
    reference, alone = (
        [{"y": row} for row in each.astype(np.float32)] for each in (exact, exact + rng.normal(0, 2, exact.shape))
    )
    batched = [alone[index] for index in np.arange(16).reshape(2, 8)[:, ::-1].reshape(-1)]
    floors = read_expectations().of("net.onnx", "onnxruntime-int8")
    assert (
        worst(decide_batch(Classification(output="y"), reference, alone, alone, samples(16), floors)).outcome
        is Outcome.PASS
    )
    verdict = worst(decide_batch(Classification(output="y"), reference, alone, batched, samples(16), floors))
    assert verdict.outcome is Outcome.REGRESSED
    assert "against the engine's own answers in the smallest batch: top-1 agreement 0 of 16" in verdict.message


@pytest.mark.parametrize(("wrong", "outcome"), [(0, Outcome.PASS), (1, Outcome.PASS), (9, Outcome.REGRESSED)])
def test_where_nothing_may_be_lost_a_flip_in_a_larger_batch_is_no_proof(wrong: int, outcome: Outcome) -> None:
    """Of two classes that are nearly alike one is as good as the other in other kernels."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (64, 10)) + 5 * np.eye(10)[0]
    logits[:, 1] = logits[:, 0] - 1e-4
    batched = logits.copy()
    batched[:wrong, 1] += 2e-4
    reference, got = ([{"y": row} for row in each.astype(np.float32)] for each in (logits, batched))
    floors = Expectation({**EXACT.values, "max_answers_lost": 0.0, "agreement": 0.5})
    task = Classification(output="y")
    assert worst(decide_batch(task, reference, reference, got, samples(64), floors)).outcome is outcome
    whole: Any = SimpleNamespace(first=samples)
    decided = decide_whole(task, reference, reference, reference, got, whole, floors)
    assert worst(each for each in decided if each.metric == "agreement").outcome is outcome


@pytest.mark.parametrize("task", [Classification(output="y"), TensorsTask()], ids=["classification", "tensors"])
def test_one_place_of_a_batch_that_has_its_neighbours_answer(task: Any) -> None:
    """Of an INT8 engine whose answers have most in common: one of eight, or of 64."""
    rng = np.random.default_rng(0)
    exact = 5 + rng.normal(0, 1, (64, 10)) + 3 * np.eye(10)[rng.integers(0, 10, 64)]
    noisy = exact + rng.normal(0, 0.25, exact.shape)
    reference, alone, got = (
        [{"y": row} for row in each.astype(np.float32)]
        for each in (exact, noisy, noisy + rng.normal(0, 0.05, exact.shape))
    )
    for count in (8, 64):
        sides = reference[:count], alone[:count]
        for other, outcome in ((got, Outcome.PASS), ([*alone[: count - 1], alone[count - 2]], Outcome.REGRESSED)):
            verdicts = decide_batch(task, *sides, other[:count], samples(count), NARROW)
            assert worst(verdicts).outcome is outcome, verdicts
    assert f"y on {count - 1} has 1" in worst(verdicts).message


@pytest.mark.parametrize("network", [networks.heads, networks.classifier])
@pytest.mark.parametrize("batch", [4, 32])
@pytest.mark.parametrize(
    ("wrong", "outcome"),
    [
        (lambda array: array, Outcome.PASS),
        (lambda array: -array, Outcome.REGRESSED),
        (lambda array: array[::-1], Outcome.REGRESSED),
        (last_negated, Outcome.REGRESSED),
        (lambda array: np.full_like(array, np.nan), Outcome.REGRESSED),
    ],
    ids=["sound", "negated", "in another order", "the last place", "nan"],
)
def test_a_runtime_that_is_wrong_in_batches_alone(
    network: Any,
    batch: int,
    wrong: Wrong,
    outcome: Outcome,
    tmp_path: Path,
    plan_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = networks.save(network(), tmp_path / "net.onnx")
    text = 'model = "net.onnx"\ntask = "classification"\n' if network is networks.classifier else 'model = "net.onnx"\n'
    (tmp_path / "net.toml").write_text(text)
    shape = [] if network is networks.classifier else ["--shape", "x=1x3x32x32"]
    spec = parse_spec("onnxruntime-fp32")
    arguments = ["--model", str(path.with_suffix(".toml")), *shape, f"--engine={spec.id}", f"--plan-cache={plan_cache}"]
    settings = settings_of(tmp_path, *arguments, "--batch-size", "1", "--batch-size", str(batch))
    spoil(monkeypatch, wrong)
    with Workbench(settings.models[0], settings) as bench:
        assert len(bench.outputs(spec)) == 8
        passes = bench.outputs_at(spec, batch)
        # 8 samples: every place of a batch is told of.
        assert sum(map(len, passes)) == {4: 8, 32: 32}[batch]
        verdicts = decide_in_batches(bench, spec, batch, settings.expectations.of(bench.name, spec.id))
    outcomes = {each.outcome for each in verdicts}
    assert (Outcome.REGRESSED in outcomes) == (outcome is Outcome.REGRESSED), verdicts
    assert outcome is Outcome.REGRESSED or outcomes == {Outcome.PASS}


KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "more classes": (
        lambda row: {"scores": np.concatenate([row["scores"]] * 2, 1)},
        "answers scores of shape [10] where the reference (onnxruntime-fp32) has [5]",
    ),
    "nothing": (lambda row: {"scores": row["scores"][:, :0]}, "scores of shape [0] where the reference"),
    "an axis": (lambda row: {"scores": row["scores"][:, None]}, "scores of shape [1, 5] where the reference"),
    "integers": (
        lambda row: {"scores": row["scores"].astype(np.int64)},
        "answers scores in int64 where the reference (onnxruntime-fp32) has float32",
    ),
    "fewer samples": (lambda row: {"scores": row["scores"][:1]}, "it answers scores of shape [1, 5], not [2, 5]"),
    "another name": (lambda row: {"logits": row["scores"]}, "it answers outputs ['logits'], not ['scores']"),
    "one more": (lambda row: {**row, "z": row["scores"]}, "it answers outputs ['scores', 'z'], not ['scores']"),
    "none": (lambda row: {}, "it answers outputs [], not ['scores']"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", ["classification", "tensors"])
def test_answers_of_another_kind_than_the_references_are_told_in_a_sentence(
    kind: str, task: str, tmp_path: Path, plan_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, said = KINDS[kind]
    path = networks.save(networks.classifier(), tmp_path / "net.onnx").with_suffix(".toml")
    path.write_text(f'model = "net.onnx"\ntask = "{task}"\n')
    spec = parse_spec("openvino-fp32")
    arguments = [f"--model={path}", f"--engine={spec.id}", f"--plan-cache={plan_cache}", "--batch-size=2"]
    settings = settings_of(tmp_path, *arguments)
    with Workbench(settings.models[0], settings) as bench:
        engine = type(bench.engine(spec))
        infer = engine.infer
        monkeypatch.setattr(engine, "infer", lambda self, inputs: wrong(infer(self, inputs)))
        with pytest.raises(EngineRefused) as refused:
            bench.outputs(spec)
    assert str(refused.value).startswith(f"{bench.name}: openvino-fp32")
    assert said in str(refused.value)


def test_the_bench_races_an_engine_whose_answers_are_of_another_kind(
    tmp_path: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trtgate.engines.openvino import OpenVINOEngine

    path = networks.save(networks.classifier(), tmp_path / "net.onnx")
    monkeypatch.chdir(ROOT)
    infer = OpenVINOEngine.infer
    monkeypatch.setattr(OpenVINOEngine, "infer", lambda self, inputs: KINDS["more classes"][0](infer(self, inputs)))
    given = ["--model", str(path), "--device", "cpu", "--engine", "openvino-fp32", "--batch-size", "2"]
    result = pytester.runpytest_inprocess(
        "bench/", *given, "--plan-cache", str(tmp_path / "plans"), "-k", "test_agreement.py or test_engines.py"
    )
    said = "\n".join(result.outlines + result.errlines)
    assert result.ret == 1, said
    assert "openvino-fp32 answers scores of shape [10] where the reference (onnxruntime-fp32) has [5]" in said
    assert "openvino-fp32 answers scores of shape [2, 10], not [2, 5]" in said
    assert "Traceback" not in said
    assert "Error" not in said
    assert result.parseoutcomes()["passed"] > 0


def test_a_metric_of_the_users_own_is_asked_about_all_samples_alone(tmp_path: Path) -> None:
    """It may know their labels."""
    path = networks.save(networks.heads(), tmp_path / "net.onnx")
    (tmp_path / "mine.py").write_text("def score(a, b):\n    assert len(a) == len(b) == 8, len(a)\n    return 1.0\n")
    toml = path.with_suffix(".toml")
    toml.write_text('model = "net.onnx"\ntask = "tensors"\n[tensors]\nmetric = "mine:score"\n')
    spec = parse_spec("onnxruntime-fp32")
    arguments = ["--model", str(toml), "--shape", "x=1x3x32x32", f"--engine={spec.id}"]
    settings = settings_of(tmp_path, *arguments, "--batch-size", "1", "--batch-size", "2")
    with Workbench(settings.models[0], settings) as bench:
        verdicts = decide_in_batches(bench, spec, 2, settings.expectations.of(bench.name, spec.id))
    assert {each.outcome for each in verdicts} == {Outcome.PASS}


def test_what_few_samples_leave_open_is_held_against_the_smallest_batch() -> None:
    task, reference = Segmentation("m"), areas(1, 64, 64, count=8)
    narrow = changed(reference, np.s_[..., :8, :8], 0.9, "m")
    strict = Expectation({**NARROW.values, "agreement": 0.9999, "mean_iou": 0.0})
    [verdict] = decide_batch(task, reference, narrow, narrow, samples(8), strict)
    assert (verdict.outcome, verdict.reason) == (Outcome.PASS, Reason.SAME_ANSWERS)
    [verdict] = decide_batch(task, reference, narrow, changed(narrow, np.s_[:], 0.9, "m"), samples(8), strict)
    assert verdict.outcome is Outcome.REGRESSED


def test_a_classifiers_few_photos_leave_agreement_open_and_fail_no_gate() -> None:
    task, reference = Classification(output="y"), rows(10, count=16)
    verdicts = decide_batch(task, reference, reference, rounded(reference), samples(16), EXACT)
    assert [each.outcome for each in verdicts] == [Outcome.PASS, Outcome.PASS]
    wrong = [{"y": -row["y"]} if index == 15 else row for index, row in enumerate(reference)]
    verdicts = decide_batch(task, reference, reference, wrong, samples(16), EXACT)
    assert Outcome.REGRESSED in [each.outcome for each in verdicts]


def test_untrained_answers_are_held_against_those_of_the_smallest_batch() -> None:
    task, alone = Classification(output="y"), rows(10, count=16)
    for got, outcome in (
        (rounded(alone), Outcome.PASS),
        (alone[::-1], Outcome.REGRESSED),
        (changed(alone, 3, np.nan), Outcome.REGRESSED),
    ):
        [verdict] = decide_batch(task, None, alone, got, samples(16), EXACT)
        assert (verdict.outcome, verdict.metric) == (outcome, "fidelity")


def test_of_a_network_that_does_not_repeat_itself_only_what_is_no_number_counts() -> None:
    reference = rows(4)
    assert decide_finite(reference, rows(4)).outcome is Outcome.PASS
    assert decide_finite(reference, changed(reference, 2, np.inf)).reason is Reason.NOT_FINITE
    task = TensorsTask()
    [verdict] = decide_batch(task, reference, reference, changed(reference, 2, np.inf), samples(8), EXACT)
    assert verdict.reason is Reason.NOT_FINITE


@pytest.mark.parametrize(("sizes", "status"), [((1, 4), 1), ((1,), 0)])
def test_the_bench_asks_at_every_batch_size_but_the_smallest(
    sizes: tuple[int, ...],
    status: int,
    tmp_path: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = networks.save(networks.heads(), tmp_path / "heads.onnx")
    monkeypatch.chdir(ROOT)
    spoil(monkeypatch, lambda array: -array)
    given = ["--model", str(path), "--shape", "x=1x3x32x32", "--device", "cpu", "--engine", "onnxruntime-fp32"]
    asked = [word for size in sizes for word in ("--batch-size", str(size))]
    result = pytester.runpytest_inprocess(
        "bench/", *given, *asked, "--plan-cache", str(tmp_path / "plans"), "-k", "test_agreement.py"
    )
    said = "\n".join(result.outlines + result.errlines)
    assert result.ret == status, said
    assert ("in batches of 4: " in said) == (status == 1)
    assert "in batches of 1" not in said


@pytest.mark.parametrize("noise", [0.0, 0.25])
def test_a_larger_batch_keeps_what_the_smallest_has_even_above_the_floor(noise: float) -> None:
    """38 dB in the smallest batch and 12 in a larger one, where 10 are the floor."""
    random = np.random.default_rng(0)
    reference = [{"y": random.standard_normal(400).astype(np.float32)} for _ in range(8)]

    def with_noise(share: float) -> list[dict[str, Any]]:
        return [
            {"y": row["y"] + np.float32(share) * random.standard_normal(400).astype(np.float32)} for row in reference
        ]

    alone = with_noise(0.0125)
    got = with_noise(noise) if noise else alone
    floors = Expectation({**NARROW.values, "sqnr_db": 10.0, "cosine": 0.9})
    decided = decide_batch(TensorsTask(), reference, alone, got, samples(8), floors)
    assert worst(decided).outcome is (Outcome.REGRESSED if noise else Outcome.PASS)


def mixing(kind: str) -> onnx.ModelProto:
    """A network whose answer to a batch is not those to its samples."""
    weights = {"w": networks.random(8, 4), "k": networks.random(7, 4)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"])]
    if kind == "a constant beside":
        nodes += [helper.make_node("Identity", ["h"], ["y"]), helper.make_node("Identity", ["k"], ["anchors"])]
    elif kind == "over the batch":
        nodes.append(helper.make_node("Softmax", ["h"], ["y"], axis=0))
    else:
        nodes.append(helper.make_node("ReduceMean", ["h"], ["y"], axes=[0], keepdims=0))
    outputs = ["y", "anchors"] if kind == "a constant beside" else ["y"]
    sides = {"x": (networks.FLOAT, ["N", 8])}, dict.fromkeys(outputs, (networks.FLOAT, None))
    return networks.network(nodes, *sides, weights)


@pytest.mark.parametrize("batch", [4, 32])
@pytest.mark.parametrize("kind", ["a constant beside", "over the batch", "a mean of the batch"])
def test_answers_to_batches_that_are_no_list_of_answers_to_samples(
    kind: str, batch: int, tmp_path: Path, plan_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = networks.save(mixing(kind), tmp_path / "net.onnx")
    specs = [parse_spec("onnxruntime-fp32"), parse_spec("openvino-fp32")]
    arguments = [f"--model={path}", *(f"--engine={spec.id}" for spec in specs), f"--plan-cache={plan_cache}"]
    settings = settings_of(tmp_path, *arguments, "--batch-size", "1", "--batch-size", str(batch))
    with Workbench("net.onnx", settings) as bench:
        assert not bench.apart

        def outcomes() -> set[Outcome]:
            told = (
                decide_in_batches(bench, spec, batch, settings.expectations.of(bench.name, spec.id)) for spec in specs
            )
            return {verdict.outcome for some in told for verdict in some}

        assert outcomes() == {Outcome.PASS}
        assert len(bench.reference_at(batch)) == len(bench.outputs_at(specs[1], batch)[0])
        infer = type(bench.engine(specs[1])).infer

        def wrong(self: Any, inputs: Any) -> Any:
            return {name: array if len(inputs["x"]) == 1 else -array for name, array in infer(self, inputs).items()}

        monkeypatch.setattr(type(bench.engine(specs[1])), "infer", wrong)
        assert Outcome.REGRESSED in outcomes()


def test_what_no_classes_are_read_from_is_judged_in_whole_batches_too() -> None:
    given = Seeded(Signature((TensorSpec("x", "float32", (BATCH, 2)),)), {}, {}, 8, seed=0)
    answers = [{"y": networks.random(5, seed=seed), "more": networks.random(4, seed=seed + 9)} for seed in range(8)]
    for wrong, outcome in (({}, Outcome.PASS), ({"more": networks.random(4, seed=99)}, Outcome.REGRESSED)):
        got = [{**row, **wrong} for row in answers]
        decided = decide_whole(Classification(output="y"), answers, answers, answers, got, given, EXACT)
        assert worst(each for each in decided if each.metric == "fidelity").outcome is outcome


def test_most_networks_answer_samples_apart(tmp_path: Path) -> None:
    for index, model in enumerate((networks.classifier(), networks.text())):
        path = networks.save(model, tmp_path / f"{index}.onnx")
        assert describe(path, {"input_ids": (1, 7)} if index else {}, {}).apart


DETECTOR = Detection(from_outputs("boxes", "scores", "labels", "xyxy"), 0.3)


def boxes(labels: Any, lost: Any = (), times: float = 1.0) -> dict[str, Any]:
    """One answer: a box side by side for each label, but for those that are `lost`."""
    left, labels = 100.0 * np.arange(len(labels)), np.array(labels, np.int64)
    corners = np.stack([left, 0 * left, left + 80, 0 * left + 80], 1).astype(np.float32)
    kept = ~np.isin(np.arange(len(labels)), lost)
    scores = np.full(len(labels), 0.9 * times, np.float32)
    return {"boxes": corners[kept], "scores": scores[kept], "labels": labels[kept]}


@pytest.mark.parametrize(
    ("lost", "times", "outcome"),
    [
        (0.0, 1.0, Outcome.PASS),
        (0.02, 1.0, Outcome.PASS),
        (0.05, 1.0, Outcome.INCONCLUSIVE),
        (0.2, 1.0, Outcome.REGRESSED),
        (0.45, 1.0, Outcome.REGRESSED),
        (1.0, 1.0, Outcome.REGRESSED),
        (0.0, 0.7, Outcome.REGRESSED),
        (0.0, np.nan, Outcome.REGRESSED),
    ],
)
@pytest.mark.parametrize("batches", [1, 2])
def test_a_batch_keeps_the_share_of_boxes_that_the_smallest_one_has(
    lost: float, times: float, outcome: Outcome, batches: int
) -> None:
    """NMS over the batch gives one list of boxes for it; in the smallest batch 80 or 160 boxes leave the floor open."""
    alone = [boxes([0, 1] * 5) for _ in range(8 * batches)]
    wanted = [boxes([0, 1] * 40)] * batches
    got = [boxes([0, 1] * 40, np.arange(round(80 * lost)), times)] * batches
    [verdict] = decide_whole(DETECTOR, alone, alone, wanted, got, samples(60), EXACT)
    assert verdict.outcome is outcome, verdict
    assert (verdict.reason is Reason.NOT_FINITE) == np.isnan(times)


@pytest.mark.parametrize("expectation", [EXACT, NARROW])
def test_a_box_of_few_in_a_batch_proves_nothing(expectation: Expectation) -> None:
    alone = [boxes([0]) if index % 3 == 0 else boxes([]) for index in range(16)]
    wanted, got = [boxes([0, 0, 0])] * 2, [boxes([0, 0, 0], [1])] * 2
    [verdict] = decide_whole(DETECTOR, alone, alone, wanted, got, samples(16), expectation)
    assert verdict.outcome is Outcome.INCONCLUSIVE, verdict


@pytest.mark.parametrize(
    ("wrong", "outcome"), [(0.01, Outcome.PASS), (0.05, Outcome.INCONCLUSIVE), (0.15, Outcome.REGRESSED)]
)
def test_a_batch_keeps_the_share_of_pixels_that_the_smallest_one_has(wrong: float, outcome: Outcome) -> None:
    mask = np.zeros((64, 64), np.int64)
    mask[:32] = 1
    spoilt = np.where(np.random.default_rng(0).random(mask.shape) < wrong, 1 - mask, mask)
    sides = [{"m": mask}] * 8, [{"m": mask}] * 8, [{"m": mask}], [{"m": spoilt}]
    [verdict] = decide_whole(Segmentation("m"), *sides, samples(8), EXACT)
    assert verdict.outcome is outcome, verdict


@pytest.mark.parametrize("batches", [1, 2])
def test_a_narrow_types_batch_keeps_its_last_place(batches: int) -> None:
    """One of eight is more than may be lost, and less than its floors allow."""
    mask = np.arange(256).reshape(1, 16, 16) // 64
    alone, wanted = [{"m": mask}] * 8 * batches, [{"m": np.repeat(mask, 8, 0)}] * batches
    got = [{"m": np.where(np.arange(8)[:, None, None] < 7, row["m"], 0)} for row in wanted]
    for answers, good in ((wanted, True), (got, False)):
        sides = alone, alone, wanted, answers
        [verdict] = decide_whole(Segmentation("m", stays=True), *sides, samples(8 * batches), NARROW)
        assert (verdict.outcome is Outcome.PASS) is good, verdict


def test_a_narrow_type_may_round_a_batch_otherwise_than_a_sample() -> None:
    """A softmax over a batch of one is exact."""
    alone = [{"y": np.ones(100, np.float32)}] * 8
    wanted = rows(100, count=8)
    got = [{"y": (row["y"] * (1 + 0.2 * np.cos(np.arange(100)))).astype(np.float32)} for row in wanted]
    for floors, outcome in ((NARROW, Outcome.PASS), (EXACT, Outcome.REGRESSED)):
        [verdict] = decide_whole(TensorsTask(), alone, alone, wanted, got, samples(8), floors)
        assert verdict.outcome is outcome, verdict


def test_what_a_classifier_answers_beside_its_classes_is_held_against_the_batchs_too() -> None:
    alone = [{**row, "z": np.arange(9)} for row in rows(10, count=8)]
    sides = alone, alone, alone
    verdicts = decide_whole(Classification("y"), *sides, rounded(alone), samples(8), EXACT)
    assert {each.outcome for each in verdicts} == {Outcome.PASS}
    wrong = [{**row, "z": np.zeros(9, np.int64)} for row in alone]
    assert worst(decide_whole(Classification("y"), *sides, wrong, samples(8), EXACT)).outcome is Outcome.REGRESSED
    # 8 photos leave the floor of agreement open.
    others = [{**row, "y": -row["y"]} for row in alone]
    verdicts = decide_whole(Classification("y"), *sides, others, samples(8), EXACT)
    assert {each.metric for each in verdicts if each.outcome is Outcome.REGRESSED} >= {"agreement", "fidelity"}


@pytest.mark.parametrize(("lost", "outcome"), [(3, Outcome.PASS), (5, Outcome.REGRESSED)])
def test_a_few_boxes_of_a_rare_class_fail_no_larger_batch(lost: int, outcome: Outcome) -> None:
    """Three of five and 160 in all: the same flip in every run. None of five is a class that is gone."""
    labels = [[*(np.arange(9) + 9 * (index % 5)), 77 if index < 5 else 0] for index in range(16)]
    reference = [boxes(each) for each in labels]
    got = [boxes(each, [9] if index < lost else ()) for index, each in enumerate(labels)]
    for expectation in (EXACT, NARROW):
        [verdict] = decide_batch(DETECTOR, reference, reference, got, samples(16), expectation)
        assert verdict.outcome is outcome, verdict


def test_the_bench_holds_a_detectors_batch_against_the_same_samples(
    tmp_path: Path, plan_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One list of boxes for the whole batch, of 8 samples that leave the floor open in the smallest one."""
    weights = {"w": networks.random(8, 40), "v": networks.random(8, 10, seed=1), "s": np.array([-1, 4])}
    weights |= {"f": np.array([-1]), "m": np.array([[60, 60, 0, 0]], np.float32)}
    weights |= {"a": np.array([[0, 0, 20, 20]], np.float32)}
    nodes = [
        helper.make_node(kind, given, [made])
        for kind, given, made in (
            ("MatMul", ["x", "w"], "c"),
            ("Reshape", ["c", "s"], "d"),
            ("Mul", ["d", "m"], "e"),
            ("Add", ["e", "a"], "boxes"),
            ("MatMul", ["x", "v"], "g"),
            ("Reshape", ["g", "f"], "h"),
            ("Sigmoid", ["h"], "scores"),
        )
    ]
    outputs = dict.fromkeys(("boxes", "scores"), (networks.FLOAT, None))
    path = networks.save(
        networks.network(nodes, {"x": (networks.FLOAT, ["N", 8])}, outputs, weights), tmp_path / "d.onnx"
    )
    toml = path.with_suffix(".toml")
    toml.write_text(
        'model = "d.onnx"\ntask = "detection"\n[detection]\nboxes = "boxes"\nscores = "scores"\n'
        'form = "cxcywh"\nthreshold = 0.1\n'
    )
    spec = parse_spec("onnxruntime-fp32")
    arguments = [f"--model={toml}", f"--engine={spec.id}", f"--plan-cache={plan_cache}", "--batch-size=1"]
    settings = settings_of(tmp_path, *arguments, "--batch-size=4")
    with Workbench(settings.models[0], settings) as bench:
        assert not bench.apart

        def outcomes() -> set[Outcome]:
            expectation = settings.expectations.of(bench.name, spec.id)
            return {each.outcome for each in decide_in_batches(bench, spec, 4, expectation)}

        assert len(bench.outputs_at(spec, 4)[0]) == 2
        assert outcomes() == {Outcome.PASS}
        run = type(bench.engine(spec)).infer

        def losing(self: Any, inputs: Any) -> Any:
            found = run(self, inputs)
            if len(inputs["x"]) > 1 and self is bench.engine(spec):
                found = {**found, "scores": np.where(np.arange(len(found["scores"])) % 5, found["scores"], 0)}
            return found

        theirs = bench.outputs_at(bench.reference, 4)
        monkeypatch.setattr(
            bench,
            "outputs_at",
            lambda chosen, size, ask=bench.outputs_at: theirs if chosen is bench.reference else ask(chosen, size),
        )
        monkeypatch.setattr(type(bench.engine(spec)), "infer", losing)
        assert outcomes() == {Outcome.REGRESSED}


def test_ab_loses_an_engine_whose_answers_are_of_another_kind() -> None:
    spec = TensorSpec("y", "float32", (BATCH, -1))
    bench: Any = SimpleNamespace(
        name="net",
        signature=Signature((), (spec,)),
        task=Classification(output="y"),
        weights=SimpleNamespace(trained=False),
    )
    bench.unlike = lambda *arguments: Workbench.unlike(bench, *arguments)
    sides: Any = _Sides.__new__(_Sides)
    sides._bench = bench
    old, new = ([[{"y": np.zeros(classes, np.float32)}] * 4] for classes in (5, 6))
    said = r"net: the new side's onnxruntime-int8 answers y of shape \[6\] where the old side has \[5\]"
    with pytest.raises(LostEngine, match=said), sides._losing("new"):
        sides._require_alike("new", parse_spec("onnxruntime-int8"), {"old": old, "new": new})
    sides._require_alike("new", parse_spec("onnxruntime-int8"), {"old": old, "new": old})


def test_ab_holds_answers_to_batches_against_no_samples_truth() -> None:
    """Nor asks it the user's own metric, which is promised an answer to each sample."""

    def metric(reference: Any, got: Any) -> float:
        assert len(reference) == 16, len(reference)
        return 1.0

    marked = {name: Detections(np.array([[0.0, 0, 80, 80]]), np.ones(1), np.zeros(1, np.int64)) for name in "01"}
    bench: Any = SimpleNamespace(
        apart=False,
        task=replace(DETECTOR, truth=marked, metric=metric),
        weights=SimpleNamespace(trained=True),
        unsteady="",
        reference_words="ONNX Runtime FP32",
        reference_at=lambda size: [boxes([0] * size)] * (16 // size),
    )
    sides: Any = _Sides.__new__(_Sides)
    sides._bench, sides._given = bench, samples(16)
    for size, names in (
        (1, {"boxes found again", "confidence kept", "confidence kept by box", "mAP", "metric"}),
        (8, {"boxes found again", "confidence kept", "confidence kept by box", "mAP"}),
    ):
        answers = bench.reference_at(size)
        found, _ = sides._compared({"old": [answers], "new": [answers]}, size)
        kept = sides._kept(answers, size)["scores"]["scores"]
        for scores in found.values():
            assert {each.name for each in scores.scores} == names
            assert {each.value for each in scores.scores if size > 1} <= {1.0}
        assert {each["name"] for each in kept} == names
