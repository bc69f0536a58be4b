"""What the reports are drawn of in tests: a run, a comparison, a raced pair of stacks and a fleet, all made up."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from packaging.version import Version

from trtgate.ab.results import AbReport, AbResult, SideFacts
from trtgate.baseline import saved_sessions
from trtgate.compare import Report, compare_records, compare_sessions
from trtgate.expectations import Expectations
from trtgate.fleet import Fleet, read_fleet
from trtgate.records import EngineRecord, Key, pack
from trtgate.samples import Unlabelled
from trtgate.search.question import Bisection, Question, Raced, Tried
from trtgate.search.releases import Release
from trtgate.tasks.detection import Detection, from_outputs
from trtgate.tasks.segmentation import Segmentation
from trtgate.verdict.answers import answers_of
from trtgate.verdict.bisection import Answer, Kind, Relation, State
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.shares import Floats

from .saved import WOBBLE, own, save

EXPECTATIONS = Expectations(Path("expectations.toml"), {"default": {"speedup": 2.0}})
# Nothing of the machine that the tests run on.
STACK = {
    "cpu": "Imaginary CPU",
    "cpu_features": ["avx2"],
    "gpu": None,
    "cpu_quota": None,
    "device": "cpu",
    "logical_cpus": 8,
    "machine": "x86_64",
    "node": "here",
    "kernel": "6.0",
    "python": "3.11",
    "threads": 4,
    **dict.fromkeys(("torch", "torchvision", "onnx", "numpy", "opencv"), "1.0"),
    "onnxruntime": "1.22",
    "openvino": "2025.1",
    **dict.fromkeys(("tensorrt", "triton", "pycuda")),
}
LAYERS_BEFORE = {"conv1": {"ms": 0.4, "type": "int8"}, "conv2": {"ms": 0.3, "type": "int8"}}
LAYERS_AFTER = {"conv1": {"ms": 0.4, "type": "int8"}, "conv2": {"ms": 0.5, "type": "float16"}}


def iterations(seconds: float, seed: int, stalls: int = 0) -> dict[str, Any]:
    """Packed blocks of 15 rounds of 40 iterations, some of which stall."""
    rng = np.random.default_rng(seed)
    blocks: list[Floats] = []
    for wobble in WOBBLE:
        times = seconds * wobble * np.exp(np.abs(rng.normal(0, 0.02, 40)))
        times[:stalls] *= 3
        times[-1] = seconds * wobble  # the fastest, which a round's latency is
        blocks.append(times)
    return {"latency": pack(blocks)}


def answers(engine_seed: int, flips: int) -> dict[str, Any]:
    """Answers on 60 photos of 20 classes, of which `flips` are not the reference's."""
    reference = np.random.default_rng(0).normal(0, 1, (60, 20)).astype(np.float32)
    own = reference + np.random.default_rng(engine_seed).normal(0, 0.001, reference.shape).astype(np.float32)
    for index in range(flips):
        own[index, (reference[index].argmax() + 1) % 20] = own[index].max() + 0.5
    names = [f"photo {index}" for index in range(60)]
    return answers_of(names, reference, own, np.arange(60) // 2).to_json()


def agreement(top1: int) -> dict[str, Any]:
    return {
        **{"n": 60, "photos": 30, "top1": top1, "top5": 60},
        **{"cosine": 0.9987, "sqnr_db": 31.5, "low": top1 / 60 - 0.05, "high": 1.0},
    }


def before_and_after() -> None:
    """Five sessions a side in .benchmarks: one engine regressed, one did not, one is gone, and versions moved."""
    for first, name, factor, stack, layers, seed in (
        (1, "before", 1.0, STACK, LAYERS_BEFORE, 1),
        (11, "after", 1.2, {**STACK, "onnxruntime": "1.23"}, LAYERS_AFTER, 2),
    ):
        for number in range(first, first + 5):
            engines = ("onnxruntime-int8", "openvino-fp32") if name == "before" else ("onnxruntime-int8",)
            save(
                number,
                name,
                engine=factor * 1e-3,
                changes=stack,
                engines=engines,
                series={
                    "typical": (1.02e-3 * factor,) * 15,
                    "build_seconds": (5.0,),
                    "plan_bytes": (25e6,),
                    "host_memory": (90e6,),
                },
                iterations=iterations(factor * 1e-3 * own(number), number),
                layer_times=layers,
                agreement=agreement(58 if name == "before" else 57),
                answers=answers(seed, 2 if name == "before" else 3),
                plan={"bytes": 25_000_000, "build_seconds": 5.0},
                limits=EXPECTATIONS.of("resnet50", "onnxruntime-int8").as_json(),
            )


def compared() -> Report:
    before_and_after()
    storage = Path(".benchmarks")
    return compare_sessions(saved_sessions(storage, "before"), saved_sessions(storage, "after"), EXPECTATIONS)


MET = Verdict(Outcome.PASS, Reason.FLOOR_MET, "fine", metric="speedup")
BELOW = Verdict(
    Outcome.REGRESSED, Reason.BELOW_FLOOR, "speedup 1.98 [1.97,1.99] is below the floor of 2", metric="speedup"
)


def measured() -> list[EngineRecord]:
    """What a run measured on a GPU: the reference, an engine that is well and one below its floor."""

    def record(engine: str, seconds: float, **more: Any) -> EngineRecord:
        series = {
            "latency": tuple(seconds * wobble for wobble in WOBBLE),
            "typical": tuple(1.05 * seconds * wobble for wobble in WOBBLE),
            "reference_latency": tuple(4e-3 * wobble for wobble in reversed(WOBBLE)),
            "end_to_end": (seconds + 1e-4,) * 15,
        }
        return EngineRecord("resnet50", engine, 8, "torchvision", series, iterations(seconds, 3, stalls=2), **more)

    return [
        record("pytorch-fp32", 4e-3),
        record(
            "tensorrt-fp16",
            1e-3,
            agreement=agreement(60),
            answers=answers(1, 0),
            verdicts=(MET,),
            enqueue_seconds=9e-5,
            readings={"clock_mhz": 1980.0},
            throughput={"streams": 4, "images_per_second": 9000.0, "alone": 7000.0},
            plan={"bytes": 52_000_000, "build_seconds": 41.5},
        ),
        record(
            "tensorrt-int8", 2e-3, agreement=agreement(55), answers=answers(2, 5), verdicts=(BELOW,),
            warnings=("coefficient of variation 3.1% over 15 rounds",),
        ),
    ]  # fmt: skip


FACTS: Mapping[tuple[str, str], Mapping[str, Any]] = {
    ("resnet50", "tensorrt-fp16"): {"agreement": agreement(60)},
    ("resnet50", "tensorrt-int8"): {"agreement": agreement(55)},
}
SKIPPED = {"resnet50 openvino-fp32": "openvino is not installed"}
GPU_STACK = {**STACK, "device": "cuda", "gpu": "NVIDIA L4", "driver": "580.1", "cuda": "13.0", "cudnn": 91900}


def raced() -> AbReport:
    """Old against new, three processes a side: one engine regressed, one only the old side has."""
    key: Key = ("resnet50", "onnxruntime-int8", 1)

    def side(factor: float) -> list[EngineRecord]:
        found = []
        for process in range(6):
            own = factor * (1 + 0.001 * process)
            latency = tuple(own * 1e-3 * wobble for wobble in WOBBLE)
            packed = iterations(own * 1e-3, process)
            series = {"latency": latency, "build_seconds": (5.0,), "plan_bytes": (25e6,), "host_memory": (90e6,)}
            found.append(EngineRecord(*key, "package", series, packed))
        return found

    old, new = side(1.0), side(1.15)
    report = compare_records({key: old}, {key: new}, EXPECTATIONS, "interleaved", {})
    [comparison] = report.engines
    facts = SideFacts(tuple(record.latency for record in old), 5.0, 25_000_000, 90_000_000, {"int8": 2})
    result = AbResult(
        comparison,
        facts,
        replace(facts, processes=tuple(record.latency for record in new)),
        {"new with old": {"n": 60, "top1": 59, "cosine": 0.9991, "sqnr_db": None}},
        ("old: 1.000 ms over 1 builds",),
        {
            **{f"old {index + 1}": record.rounds for index, record in enumerate(old)},
            **{f"new {index + 1}": record.rounds for index, record in enumerate(new)},
        },
        samples={"old": old, "new": new},
    )
    gone = Verdict(Outcome.REGRESSED, Reason.MISSING, "new: openvino is not installed")
    stacks = {"old": STACK, "new": {**STACK, "onnxruntime": "1.23"}}
    left_out = {"onnxruntime-fp16": "old: not on this CPU"}
    return AbReport(stacks, left_out, (result,), {("resnet50", "openvino-fp32", 1): gone})


def fleet() -> Fleet:
    """Two runners that are well but for a floor, and one without a session."""
    for number, runner, gpu, verdict in ((1, "l4", "NVIDIA L4", MET), (2, "t4", "NVIDIA T4", BELOW)):
        save(number, runner, changes={**STACK, "gpu": gpu, "driver": "580.1"}, verdicts=(verdict,))
        folder = Path("fleet") / runner
        folder.mkdir(parents=True)
        shutil.copy(next(Path(".benchmarks").glob(f"**/*_{runner}.json")), folder)
    (Path("fleet") / "a10").mkdir()
    return read_fleet(Path("fleet"))


def searched() -> Bisection:
    """A search over five versions: one cannot be imported, one was open at first, and the last one is slower."""

    def raced(new: int, change: float, relation: Relation, old: int = 0, again: bool = False) -> Raced:
        names = [f"1.2{old}.0", f"1.2{new}.0"]
        message = f"slower by {change - 1:+.1%}" if relation is Relation.WORSE else f"{change - 1:+.1%}, within 2.0%"
        return Raced(
            *(*names, relation, again, message, 12 if again else 6, 31.5),
            *(change, change - 0.008, change + 0.008, 2.1e-3, 2.1e-3 * change),
            stack=(f"onnxruntime: {names[0]} -> {names[1]}",),
            layers=("conv1: 0.4000 -> 0.5000 ms (+0.1000)",),
            answers={"n": 60, "top1": 59, "cosine": 0.9991, "sqnr_db": None},
        )

    question = Question("onnxruntime", "efficientnet_lite0", "onnxruntime-int8", 1, "cpu", "latency", 0.02)
    releases = [Release(Version(f"1.2{minor}.0"), f"2025-0{minor + 1}-01") for minor in range(5)]
    known = (
        raced(3, 1.019, Relation.OPEN),
        raced(3, 1.001, Relation.SAME, again=True),
        raced(4, 1.053, Relation.WORSE),
        raced(4, 1.051, Relation.WORSE, old=3),
    )
    tried = {"1.22.0": Tried(State.FAILS, "libx.so: cannot open shared object file")}
    tried |= {f"1.2{minor}.0": Tried(State.WORKS) for minor in (0, 3, 4)}
    return Bisection(question, tuple(releases), tried, known, Answer(Kind.FOUND, 3, 4, Relation.WORSE))


# Answers that are drawn.


class _Three(Unlabelled):
    digest = "three"
    names = ("a.jpg", "b.jpg", "c.jpg")


def drawn() -> list[EngineRecord]:
    """An engine of a detector that finds one box of two, and one of a segmenter that has another class in places."""
    boxes = {
        "boxes": np.array([[10, 10, 40, 40], [50, 10, 90, 60]]),
        "scores": np.array([0.9, 0.8]),
        "labels": np.arange(2),
    }
    mask = {"mask": np.arange(400).reshape(20, 20) // 100}
    detector, segmenter = Detection(from_outputs("boxes", "scores", "labels", "xyxy")), Segmentation("mask")
    worse = {**boxes, "labels": np.array([0, 7])}, {"mask": np.where(mask["mask"] == 2, 1, mask["mask"])}
    first, *_ = measured()[1:]
    records = []
    for task, wanted, got in ((detector, boxes, worse[0]), (segmenter, mask, worse[1])):
        found: Any = task
        scores = found.summary(found.compare([wanted] * 3, [got, wanted, got], _Three()))
        records.append(replace(first, model=f"{found.name}.onnx", scores=scores))
    return records
