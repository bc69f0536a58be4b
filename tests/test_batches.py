"""Answers in larger batches, which a wrong kernel may spoil alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from fixtures.engines import decide_in_batches
from trtgate.engines import parse_spec
from trtgate.expectations import Expectation, read_expectations
from trtgate.models.onnx_file import describe
from trtgate.samples import Seeded
from trtgate.signature import BATCH, Signature, TensorSpec
from trtgate.tasks.batches import decide_batch, decide_finite, decide_whole
from trtgate.tasks.classification import Classification
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


def samples(count: int) -> Any:
    return Some(count)


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
