"""Every CPU engine: answers, audit, plans, timing's shape."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from fixtures.engines import leave_out
from trtgate import judge
from trtgate.child import run_in_child
from trtgate.commands import doctor
from trtgate.engines import all_specs, available, backend, parse_spec
from trtgate.engines.base import time_calls
from trtgate.engines.gpu import GpuEngine, Lane
from trtgate.engines.tensorrt.build import RECIPES
from trtgate.expectations import read_expectations
from trtgate.kinds import AVAILABLE, REFERENCE, Availability, EngineRefused, EngineSpec, PrecisionAudit, UserError
from trtgate.measure.monitor import CpuMonitor
from trtgate.plugin.gate import Gate
from trtgate.settings import Settings
from trtgate.stack import cpu_features, cpu_quota, memory_left, threads_for, usable_threads
from trtgate.verdict import Outcome
from trtgate.verdict.agreement import compare_logits
from trtgate.workbench import Workbench

from .conftest import ENGINES

FLOORS = {"fp32": 60.0, "int8": 10.0}


@pytest.mark.parametrize("text", ENGINES)
def test_an_engine_answers_like_the_reference(text: str, lite0: Workbench) -> None:
    spec = parse_spec(text)
    photos = lite0.samples("evaluation").first(24)
    engine = lite0.engine(spec)
    reference, answers = (
        np.concatenate([each.infer(batch)["logits"] for batch in photos.batches(size)])
        for each, size in ((lite0.engine(REFERENCE), 8), (engine, 1))
    )
    agreement = compare_logits(reference, answers)
    assert agreement.sqnr_db >= FLOORS[spec.precision]
    assert agreement.top1 >= 20


@pytest.mark.parametrize("text", ENGINES)
def test_the_answer_is_the_callers_own(text: str, lite0: Workbench) -> None:
    engine = lite0.engine(parse_spec(text))
    first, second = lite0.samples("evaluation").first(2).batches(1)
    answer = engine.infer(first)["logits"]
    kept = answer.copy()
    engine.infer(second)
    assert np.array_equal(answer, kept)
    assert answer.dtype == np.float32


@pytest.mark.parametrize("text", ENGINES)
def test_a_block_times_each_inference(text: str, lite0: Workbench) -> None:
    seconds = lite0.engine(parse_spec(text)).block(4, lite0.batch(1)).seconds
    assert seconds.shape == (4,)
    assert (seconds > 0).all()


@pytest.mark.parametrize("text", ENGINES)
def test_an_engine_is_built_in_what_was_asked_for(text: str, lite0: Workbench) -> None:
    spec = parse_spec(text)
    audit = lite0.engine(spec).audit()
    assert len(audit.layers) == 50
    verdict = judge.audit_verdict(audit, lite0.graphs.kept_in_float(spec))
    assert verdict.outcome is Outcome.PASS, verdict.message


def test_an_engine_built_in_another_precision_is_found(lite0: Workbench) -> None:
    float_layers = lite0.engine(parse_spec("onnxruntime-fp32")).audit().layers
    verdict = judge.audit_verdict(PrecisionAudit("int8", float_layers), kept_in_float=())
    assert verdict.outcome is Outcome.REGRESSED
    assert "_conv_stem" in verdict.message
    assert judge.audit_verdict(PrecisionAudit("int8", {}), kept_in_float=()).outcome is Outcome.REGRESSED


def test_a_second_workbench_rebuilds_nothing(lite0: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    lite0.engine(parse_spec("openvino-int8"))

    def refuse(*_: object) -> None:
        raise AssertionError("must not be built again")

    monkeypatch.setattr("trtgate.build.plan.run_in_child", refuse)
    with Workbench("efficientnet_lite0", lite0.settings) as again:
        plan = again.plan(parse_spec("openvino-int8"))
        assert plan is not None
        assert plan.reused
        assert again.engine(parse_spec("openvino-int8")).infer(again.batch(1))["logits"].shape == (1, 1000)


def test_several_batch_sizes_share_one_plan(lite0: Workbench) -> None:
    settings = Settings(engines=lite0.settings.engines, batch_sizes=(1, 4), plan_cache=lite0.settings.plan_cache)
    with Workbench("efficientnet_lite0", settings) as bench:
        engine = bench.engine(parse_spec("openvino-int8"))
        together = engine.infer(bench.batch(4))["logits"]
        alone = engine.infer(bench.batch(1))["logits"]
        np.testing.assert_allclose(together[:1], alone, atol=0.5)


def test_an_engine_that_cannot_be_built_fails_alone(lite0: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def fail(what: str, *arguments: Any, **options: Any) -> Any:
        if not what.startswith("building openvino"):
            return run_in_child(what, *arguments, **options)
        tries.append(1)
        raise RuntimeError("no kernel for this layer")

    monkeypatch.setattr("trtgate.build.plan.run_in_child", fail)
    broken, sound = parse_spec("openvino-fp32"), parse_spec("onnxruntime-fp32")
    settings = Settings(engines=(sound, broken), batch_sizes=(2,), plan_cache=lite0.settings.plan_cache)
    with Workbench("efficientnet_lite0", settings) as bench:
        assert bench.loadable() == (sound,)
        with pytest.raises(RuntimeError, match="no kernel"):
            bench.engine(broken)
    assert len(tries) == 1


def test_an_engine_that_has_no_room_at_a_batch_size_fails_alone(
    lite0: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lanes are made before the race, in which all engines would fail with it."""
    broken, sound = parse_spec("openvino-fp32"), parse_spec("onnxruntime-fp32")
    closed = []

    class Small(GpuEngine):
        def new_lane(self, size: int) -> Lane:
            raise EngineRefused(f"no room for batches of {size}")

        def audit(self) -> PrecisionAudit:
            return PrecisionAudit("fp32")

        def close(self) -> None:
            super().close()
            closed.append(1)

    maker = type(backend("openvino"))
    monkeypatch.setattr(maker, "load", lambda self, spec, request, plan: Small(spec, request.signature))
    settings = Settings(engines=(sound, broken), batch_sizes=(2,), plan_cache=lite0.settings.plan_cache)
    with Workbench("efficientnet_lite0", settings) as bench:
        assert bench.loadable() == (sound,)
        assert closed
        with pytest.raises(EngineRefused, match="no room for batches of 2"):
            bench.engine(broken)


def test_ids_are_parsed_and_unknown_ones_refused() -> None:
    assert {spec.id for spec in all_specs()} >= {*ENGINES, "pytorch-bf16", "openvino-bf16", "inductor-fp32"}
    assert {spec for spec in all_specs() if spec.backend == "tensorrt"} == set(RECIPES)
    assert EngineSpec.parse("tensorrt-int8") == EngineSpec("tensorrt", "int8")
    for wrong in ("onnxruntime", "onnxruntime-int4", "-int8"):
        with pytest.raises(ValueError, match="precision"):
            EngineSpec.parse(wrong)
    with pytest.raises(UserError, match="onnxruntime-int8"):
        parse_spec("onnxruntime-int4")


def test_a_missing_runtime_is_a_reason_and_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    found = available(parse_spec("openvino-int8"), "cpu")
    assert not found.ok
    assert "pip install openvino" in str(found)
    assert available(parse_spec("pytorch-fp32"), "cpu") == AVAILABLE


def test_bf16_wants_bf16_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("openvino", "pytorch"):
        monkeypatch.setattr(f"trtgate.engines.{module}.cpu_features", lambda: frozenset({"avx2"}))
        assert not available(parse_spec(f"{module}-bf16"), "cpu").ok
        monkeypatch.setattr(f"trtgate.engines.{module}.cpu_features", lambda: frozenset({"avx512_bf16"}))
        assert available(parse_spec(f"{module}-bf16"), "cpu").ok


def test_threads_are_the_physical_cores_that_may_be_used() -> None:
    assert 1 <= usable_threads() <= len(os.sched_getaffinity(0))
    assert isinstance(cpu_features(), frozenset)


def test_time_calls_reads_the_clock_once_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 10_000_000, 1_000_000))
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(ticks))
    calls: list[int] = []
    seconds = time_calls(lambda: calls.append(1), 5)
    assert seconds.tolist() == [1e-3] * 5
    assert len(calls) == 5
    assert next(ticks) == 6_000_000


def test_what_stays_in_float_comes_from_the_expectations(lite0: Workbench, tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text('[quantize.efficientnet_lite0]\nkeep_float = ["_fc", "_blocks.15.*"]')
    settings = Settings(plan_cache=lite0.settings.plan_cache, expectations=read_expectations(path))
    with Workbench("efficientnet_lite0", settings) as bench:
        for text in ("onnxruntime-int8", "openvino-int8"):
            audit, kept = bench.engine(parse_spec(text)).audit(), bench.graphs.kept_in_float(parse_spec(text))
            assert audit.histogram["float32"] == 4
            assert judge.audit_verdict(audit, kept).outcome is Outcome.PASS
            # As many others in float are as wrong as if none had been meant to be.
            assert (
                judge.audit_verdict(audit, kept - {"_blocks.15._depthwise_conv"} | {"_conv_stem"}).outcome
                is Outcome.REGRESSED
            )


@pytest.mark.parametrize(
    ("lines", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "100000 100000"}, 1.0),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000"}, 1.5),
        ("0::/not/seen/inside\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/a\n", {"unified/a/cpu.max": "200000 100000"}, 2.0),
        ("4:cpu,cpuacct:/a\n", {f"cpu,cpuacct/a/cpu.cfs_{n}_us": v for n, v in (("quota", "3"), ("period", "2"))}, 1.5),
        (
            "1:cpu:/x\n0::/\n",
            {f"cpu/cpu.cfs_{name}_us": value for name, value in (("quota", "-1"), ("period", "2"))},
            None,
        ),
        ("4:memory:/a\n", {"memory/a/cpu.max": "100000 100000"}, None),
        ("", {}, None),
    ],
)
def test_a_cpu_quota_is_found(lines: str, files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    assert cpu_quota(*control_groups(tmp_path, lines, files)) == quota


def control_groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Where control groups are read from, with these files in them."""
    (folder / "cgroup").write_text(lines)
    for name, content in files.items():
        path = folder / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return folder / "cgroup", folder / "root"


@pytest.mark.parametrize(
    ("lines", "files", "left"),
    [
        ("0::/a\n", {"memory.max": "max", "a/memory.max": "4000"}, 4000),
        ("4:memory:/a\n", {"memory/memory.limit_in_bytes": "3000", "memory/a/memory.limit_in_bytes": "5000"}, 3000),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, 7000),
        ("4:cpu:/a\n", {"cpu/a/memory.max": "3000"}, 7000),
        ("", {}, 7000),
    ],
)
def test_what_memory_is_left(
    lines: str, files: dict[str, str], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7000))
    assert memory_left(*control_groups(tmp_path, lines, files)) == left


@pytest.mark.parametrize(
    ("allowed", "physical", "quota", "threads"),
    [(8, 4, None, 4), (8, 4, 2.0, 2), (8, 4, 1.9, 1), (2, 2, 0.5, 1), (2, None, None, 2), (2, 4, 16.0, 2)],
)
def test_threads_follow_the_quota(allowed: int, physical: int | None, quota: float | None, threads: int) -> None:
    assert threads_for(allowed, physical, quota) == threads


def test_a_quota_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtgate.measure.monitor.cpu_quota", lambda: 1.0)
    assert any("CPU quota of 1 cores" in note for note in CpuMonitor().notes())
    assert doctor.quota(1.0, 1).state is doctor.State.NOTE
    assert doctor.quota(0.5, 1).state is doctor.State.UNFIT
    assert doctor.quota(None, 2).state is doctor.State.OK


# What --require asks for.


def left_out(own: str, loads: list[str], required: str, why: Availability, text: str = "tensorrt-fp16") -> type:
    """What a test of an engine that is not there ends with."""
    engines = [parse_spec(f"tensorrt-{each}") for each in ("tf32", "fp16", "int8")]
    bench = SimpleNamespace(
        name="file", file=SimpleNamespace(own=own), reference=REFERENCE, loadable=lambda: map(parse_spec, loads)
    )
    gate = SimpleNamespace(
        config=SimpleNamespace(getoption=lambda name: [required]),
        settings=SimpleNamespace(device="cuda", engines=[*engines, parse_spec("onnxruntime-int8")]),
        skip=lambda *told: None,
        note_asked=lambda *told: None,
    )
    gate.required = functools.partial(Gate.required, gate)
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception), match=why.reason) as raised:
        leave_out(bench, parse_spec(text), gate, why)  # type: ignore[arg-type]
    return raised.type


@pytest.mark.parametrize(
    ("own", "loads", "required", "ends"),
    [
        ("int8", ["tensorrt-int8"], "tensorrt", pytest.skip.Exception),
        ("int8", [], "tensorrt", pytest.fail.Exception),
        ("int8", ["tensorrt-int8"], "tensorrt-fp16", pytest.fail.Exception),
        ("int8", ["onnxruntime-int8"], "tensorrt", pytest.fail.Exception),
        ("fp32", ["tensorrt-int8"], "tensorrt", pytest.fail.Exception),
    ],
)
def test_of_a_file_that_is_in_one_precision_a_backend_must_have_one_engine(
    own: str, loads: list[str], required: str, ends: type
) -> None:
    """Nothing else can be made of it; where nothing at all was, nothing passes."""
    assert left_out(own, loads, required, Availability(False, "file is INT8 already")) is ends


def test_a_backend_is_required_of_the_hardware_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Turing card has no TF32, and all the other engines of TensorRT; a CPU has none of them."""
    elsewhere = Availability(False, "this GPU has no TF32", elsewhere=True)
    for runs, ends in ((("fp16", "int8"), pytest.skip.Exception), ((), pytest.fail.Exception)):
        found = {f"tensorrt-{each}": AVAILABLE for each in runs}
        monkeypatch.setattr(
            "fixtures.engines.available", lambda spec, device, found=found: found.get(spec.id, elsewhere)
        )
        assert left_out("fp32", [], "tensorrt", elsewhere, "tensorrt-tf32") is ends
        assert left_out("fp32", [], "tensorrt-tf32", elsewhere, "tensorrt-tf32") is pytest.fail.Exception
