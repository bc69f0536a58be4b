"""Files that anybody may have written, changed at random: each is read, or refused in one sentence.

FUZZ_EXAMPLES is how many of each are tried; `make fuzz` tries on for ten minutes.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from trtgate.compare import compare_sessions, samples_of
from trtgate.compared import report_from_json, report_to_json
from trtgate.expectations import DEFAULT_PATH, read_expectations
from trtgate.fields import DAMAGED
from trtgate.kinds import UserError
from trtgate.models.checkpoints import read_weights
from trtgate.records import SCHEMA, EngineRecord, pack, read_session, to_json
from trtgate.report import html
from trtgate.report.pages import comparison_page
from trtgate.samples import Unlabelled
from trtgate.tasks.detection import Detection, from_outputs
from trtgate.tasks.segmentation import Segmentation
from trtgate.verdict.answers import answers_of
from trtgate.verdict.metrics import METRICS
from trtgate.verdict.outcome import Outcome, Reason, Verdict

pytestmark = pytest.mark.fuzz
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
fuzzed = settings(max_examples=EXAMPLES)

ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([10**400, -1, 0, 1e-300, 1e300, "\x1b[2J", "[/x]", "=1+1", "\ud800", "", "a" * 300])
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every table or list in a JSON value, with each of its names or positions."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for name, inner in items:
        found += [(value, name), *places(inner)]
    return found


@st.composite
def changed(draw: Callable[..., Any], sound: Any) -> Any:
    """A JSON value with one to four of its parts replaced, removed or doubled."""
    value = copy.deepcopy(sound)
    for _ in range(draw(st.integers(1, 4))):
        where = places(value)
        if not where:
            break
        holder, name = where[draw(st.integers(0, len(where) - 1))]
        what = draw(st.sampled_from(["replace", "remove", "double", "swap"]))
        if what == "remove":
            del holder[name]
        elif what == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[name]))
        elif what == "swap":
            other, key = where[draw(st.integers(0, len(where) - 1))]
            holder[name] = copy.deepcopy(other.get(key) if isinstance(other, dict) else None)
        else:
            holder[name] = draw(ODD)
    return value


class _Four(Unlabelled):
    digest = "four"
    names = ("a", "b", "c", "d")


def scored() -> list[EngineRecord]:
    """A detector and a segmenter, each the reference and an engine, with all that is kept of their answers."""
    random, samples = np.random.default_rng(0), cast(Any, _Four())
    found = [
        {"b": np.array([[0, 0, 9, 9], [20, 0, 29, 9]]), "s": random.uniform(0.6, 1, 2), "l": np.arange(2), **mask}
        for mask in ({"m": random.random((1, 8, 8))} for _ in samples.names)
    ]
    other = [{**row, "s": 0.9 * row["s"], "m": 0.9 * row["m"]} for row in found]
    records = []
    for task in (Detection(from_outputs("b", "s", "l", "xyxy")), Segmentation("m")):
        summaries = task.own(found, samples)["scores"], task.summary(task.compare(found, other, samples))
        for engine, scores in zip(("onnxruntime-fp32", "onnxruntime-int8"), summaries, strict=True):
            times = {"latency": (1e-3,) * 6, "reference_latency": (4e-3,) * 6}
            records.append(EngineRecord(task.name, engine, 1, "file", times, scores=scores))
    return records


def session(own: float = 1.0) -> dict[str, Any]:
    """A saved session of two classifiers' engines, and of others, with everything that a record can hold; its `own`
    times make it another one."""
    rounds = np.linspace(1.0e-3, 1.1e-3, 6)
    logits = np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)
    records = [
        EngineRecord(
            "resnet50",
            engine,
            1,
            "file",
            {
                "latency": tuple(rounds),
                "typical": tuple(rounds),
                "reference_latency": tuple(4 * own * rounds),
                "host_memory": (1e8, 1.1e8),
                "plan_bytes": (3e6,),
            },
            iterations={"latency": pack([np.full(3, each) for each in rounds])},
            digests={"weights": "0" * 64},
            limits={"delta": 0.05},
            enqueue_seconds=1e-5,
            throughput={"streams": 2.0, "images_per_second": 10.0},
            readings={"clock_mhz": 1980.0},
            controls={"control-matmul": 1e-3, "control-matmul (mean)": 1.1e-3},
            controls_by_process={"control-matmul": (1e-3, 1.1e-3)},
            uncounted={"latency": (1.5e-3, float("nan")), "host_memory": (2e8, 2e8)},
            agreement={"n": 4, "top1": 3, "top5": 4, "cosine": 0.99, "sqnr_db": None, "finite": True, "low": 0.1},
            answers=answers_of(["a", "b", "c", "d"], logits, logits, np.array([0, 0, 1, 1])).to_json(),
            plan={"bytes": 3, "options": {"version": "1"}},
            layers={"int8": 3},
            layer_times={"conv1": {"ms": 0.1, "type": "int8", "nodes": ["conv1"]}},
            warnings=("loud",),
            verdicts=(Verdict(Outcome.PASS, Reason.WITHIN_DELTA, "fine", 1.0, 0.9, 1.1, metric="latency"),),
            processes=(3, 3),
        )
        for engine in ("pytorch-fp32", "onnxruntime-int8")
    ]
    return {
        "machine_info": {"trtgate": {"cpu": "x", "threads": 2, "device": "cpu"}},
        "benchmarks": [{"extra_info": {"trtgate": to_json(record)}} for record in (*records, *scored())],
        "datetime": "2026-01-01",
        "trtgate": {
            "schema": SCHEMA,
            "skipped": {},
            "unfit": [],
            "partial": [],
            "limits": {"resnet50": {"delta": 0.1, "engines": {"onnxruntime-int8": {"tail": 0.3}}}},
            "own": ["resnet50"],
        },
    }


SESSION, ANOTHER = session(), session(1.01)


@contextlib.contextmanager
def a_file(content: bytes) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        yield path


def in_one_sentence(error: Exception) -> None:
    text = str(error)
    assert text
    assert len(text) < 1000
    assert text.isprintable() or "\n" in text


@fuzzed
@given(changed(SESSION).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=100))
def test_a_session(content: bytes) -> None:
    """What is read can be computed with, and compared with a sound one."""
    with a_file(content) as path, a_file(json.dumps(ANOTHER).encode()) as other:
        try:
            found = read_session(path)
        except UserError as error:
            in_one_sentence(error)
            return
        for record in found.engines.values():
            assert [record.value(metric.name) for metric in METRICS]
            assert record.latency != 0
            record.speedup_interval()
            assert isinstance(record.flaws, tuple)
        expectations = read_expectations(DEFAULT_PATH)
        for old, new in ((path, other), (other, path)):
            with contextlib.suppress(UserError):
                sides = [read_session(old)], [read_session(new)]
                report = compare_sessions(*sides, expectations)
                assert report_to_json(report)
                assert html.render(comparison_page(report, samples_of(*sides)))


def report() -> Any:
    with a_file(json.dumps(SESSION).encode()) as old, a_file(json.dumps(ANOTHER).encode()) as new:
        sides = [read_session(old)], [read_session(new)]
        return report_to_json(compare_sessions(*sides, read_expectations(DEFAULT_PATH)))


REPORT = json.loads(json.dumps(report()))


@fuzzed
@given(changed(REPORT))
def test_a_comparison(value: Any) -> None:
    with contextlib.suppress(*DAMAGED):
        assert report_from_json(json.loads(json.dumps(value))).verdicts()


LINES = [line for line in DEFAULT_PATH.read_text().splitlines() if line and not line.startswith("#")]
LINES += ["[models.resnet50]", "[models.nobody]", "[quantize.resnet50]", 'keep_float = ["fc"]', "calibration = 3"]
LINES += ["[default.engines.onnxruntime-int8]", "delta = nan", "delta = 1e999", "delta = 9" + "9" * 5000, "[[default]]"]
LINES += ["acknowledged_missing = [1]", "speedup = '1'", "default = 3", "models.resnet50 = 1", "\x00", "[default"]


@fuzzed
@given(
    st.lists(st.sampled_from(LINES) | st.text(max_size=20), max_size=12).map(
        lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
    )
    | st.binary(max_size=100)
)
def test_expectations(content: bytes) -> None:
    with a_file(content) as path:
        try:
            found = read_expectations(path)
        except UserError as error:
            in_one_sentence(error)
            return
        assert found.of("resnet50", "onnxruntime-int8").as_json()
        assert found.quantize("resnet50")
        assert isinstance(found.acknowledges("resnet50", "onnxruntime-int8"), bool)


def checkpoint(kind: str) -> bytes:
    state = {"conv.weight": torch.ones(2, 3), "fc.bias": torch.zeros(4)}
    if kind == "safetensors":
        return bytes(save(state))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        torch.save({"state_dict": state, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
        return path.read_bytes()


WEIGHTS = [checkpoint(kind) for kind in ("safetensors", "zip", "pickle")]


@st.composite
def spoiled(draw: Callable[..., Any], sound: list[bytes]) -> bytes:
    """One of these files with some bytes replaced, cut off or added."""
    content = bytearray(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content) - 1))
        content[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(content[: draw(st.integers(1, len(content)))] if draw(st.booleans()) else content)


@fuzzed
@given(spoiled(WEIGHTS) | st.binary(max_size=100))
def test_weights(content: bytes) -> None:
    with a_file(content) as path:
        try:
            state = read_weights(path)
        except UserError as error:
            in_one_sentence(error)
            return
        assert all(isinstance(each, torch.Tensor) for each in state.values())
