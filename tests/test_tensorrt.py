"""TensorRT's code paths against the true API of each supported version, over a fake GPU.

No TensorRT runs here. `tensorrt_api` reads every class, argument and enumeration member of the real bindings, and the
stand-in made from that raises for anything the version does not have; so these tests say that each version's path uses
its API as it is. Control flow (errors, clean-up, refused captures) rests on the stand-in's behaviour, as written here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtgate import judge
from trtgate.cuda import CapturedGraph, CudaError, PyCudaLane
from trtgate.engines import available, backend, parse_spec
from trtgate.engines.gpu import time_between_events
from trtgate.engines.tensorrt import api as tensorrt
from trtgate.engines.tensorrt.api import Features, TensorRTError, plan_version
from trtgate.engines.tensorrt.build import RECIPES, build_plan, make_calibrator
from trtgate.engines.tensorrt.inspect import read_layers, weighted_layers
from trtgate.engines.tensorrt.run import TensorRTEngine
from trtgate.kinds import EngineSpec, PrecisionAudit
from trtgate.signature import BATCH, Signature, TensorSpec
from trtgate.verdict import Outcome

from . import small_classifier
from .fake_cuda import Error, FakeGpu
from .tensorrt_api.fake import FakeModule
from .tensorrt_api.fetch import BINDINGS, api
from .tensorrt_api.installing import forget, use_gpu, use_module

SIZES, CROP = (1, 4), 8
SIGNATURE = small_classifier.signature(CROP)
# What is parsed is not run here: the fake answers for itself.
GRAPH = small_classifier.graph().SerializeToString()
INSPECTED_10 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1 + relu",
            "LayerType": "Reformat",
            "Inputs": [{"Name": "input", "Format/Datatype": "Row major linear FP32 format"}],
            "Outputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "ParameterType": "Reformat",
            "Metadata": "",
        },
        {
            "Name": "conv1 + relu",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Half", "Count": 9408},
            "Metadata": "[ONNX Layer: conv1]\u001f[ONNX Layer: node_relu]",
        },
        {
            "Name": "fc",
            "LayerType": "gemm",
            "Inputs": [{"Name": "y", "Format/Datatype": "Half"}, {"Name": "fc.weight", "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "logits", "Format/Datatype": "Float"}],
            "Metadata": "[ONNX Layer: fc]",
        },
    ],
    "Bindings": ["input", "logits"],
}


def inspected_11() -> dict[str, Any]:
    """The same in the format of TensorRT 11: the type in a field of its own, structured I/O."""
    layers = json.loads(json.dumps(INSPECTED_10["Layers"]))
    types = {"FP16": "Half", "FP32": "Float", "Half": "Half", "Float": "Float"}
    for layer in layers:
        for tensor in (*layer["Inputs"], *layer["Outputs"]):
            text = tensor.pop("Format/Datatype")
            tensor["Datatype"] = next(types[word] for word in text.split() if word in types)
            tensor["Format"] = "Row major linear"
    return {"Layers": layers, "I/O Tensors": [{"Name": "input", "DataType": "Float"}]}


def plan_of(*version: int, tag: bytes = b"ftrt") -> bytes:
    """A plan with a header and nothing else."""
    return tag + bytes(12) + (28).to_bytes(8, "little") + bytes(version)


class FakeTensorRT:
    """Gives the stand-in module its behaviour, and remembers what was built."""

    def __init__(self, description: dict[str, Any], gpu: FakeGpu) -> None:
        self.gpu = gpu
        self.enqueue_fails = False
        self.parse_errors: list[str] = []
        self.deserializes = True
        self.logits_shape: tuple[int, ...] | None = None
        self.configs: list[Any] = []
        self.profiles: list[tuple[int, ...]] = []
        self.network_flags = -1
        old = description["version"].startswith(("8.", "10."))
        self.inspected = INSPECTED_10 if old else inspected_11()
        self.module = FakeModule(
            description,
            {
                "Builder.create_network": self._create_network,
                "Builder.build_serialized_network": self._build,
                "IOptimizationProfile.set_shape": lambda _, name, low, best, high: self.profiles.append(best),
                "OnnxParser.parse": lambda _, model: not self.parse_errors,
                "OnnxParser.num_errors": lambda _: len(self.parse_errors),
                "OnnxParser.get_error": lambda _, index: self._parser_error(index),
                "IBuilderConfig.create_timing_cache": self._timing_cache,
                "IBuilderConfig.get_timing_cache": lambda config: config._cache,
                "IBuilderConfig.set_timing_cache": self._set_timing_cache,
                "ITimingCache.serialize": lambda cache: cache._known + b"+",
                "Runtime.deserialize_cuda_engine": self._deserialize,
                "ICudaEngine.num_io_tensors": lambda _: 2,
                "ICudaEngine.get_tensor_name": lambda _, index: ["input", "logits"][index],
                "ICudaEngine.get_tensor_mode": self._mode,
                "ICudaEngine.get_tensor_dtype": lambda _, name: self.module.DataType.FLOAT,
                "ICudaEngine.get_tensor_shape": lambda _, name: (-1, 1000),
                "ICudaEngine.num_layers": lambda _: 3,
                "ICudaEngine.device_memory_size": lambda _: 4096,
                "ICudaEngine.device_memory_size_v2": lambda _: 4096,
                "ICudaEngine.create_execution_context": self._context,
                "ICudaEngine.create_engine_inspector": lambda _: self.module.make("EngineInspector"),
                "EngineInspector.get_engine_information": lambda _, wanted: json.dumps(self.inspected),
                "IExecutionContext.set_optimization_profile_async": self._set_profile,
                "IExecutionContext.set_input_shape": self._set_shape,
                "IExecutionContext.set_tensor_address": self._set_address,
                "IExecutionContext.get_tensor_shape": lambda context, name: (
                    self.logits_shape or (context._state["shape"][0], 1000)
                ),
                "IExecutionContext.execute_async_v3": self._execute,
            },
        )

    def _create_network(self, builder: Any, flags: int = 0) -> Any:
        self.network_flags = flags
        return self.module.make("INetworkDefinition")

    def _parser_error(self, index: int) -> Any:
        error = self.module.make("ParserError")
        object.__setattr__(error, "node", lambda: index)
        object.__setattr__(error, "desc", lambda: self.parse_errors[index])
        object.__setattr__(error, "code", lambda: "UNSUPPORTED_NODE")
        return error

    def _timing_cache(self, config: Any, known: bytes) -> Any:
        cache = self.module.make("ITimingCache")
        object.__setattr__(cache, "_known", known)
        return cache

    def _set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        object.__setattr__(config, "_cache", cache)
        return not ignore_mismatch

    def _build(self, builder: Any, network: Any, config: Any) -> bytes | None:
        self.configs.append(config)
        monitor = config._values.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", "", 2)
            assert monitor.step_complete("Building", 0)
            assert monitor.step_complete("Building", 1)
            monitor.phase_finish("Building")
        calibrator = config._values.get("int8_calibrator")
        if calibrator is not None and calibrator.read_calibration_cache() is None:
            while calibrator.get_batch(["input"]):
                pass
            calibrator.write_calibration_cache(memoryview(b"ranges"))
        major, minor, patch = (int(part) for part in self.module.__version__.split(".")[:3])
        return plan_of(major, minor, patch, 0, tag=b"vtrt" if "rtx" in self.module.__name__ else b"ftrt")

    def _deserialize(self, runtime: Any, plan: bytes) -> Any:
        return self.module.make("ICudaEngine") if self.deserializes else None

    def _mode(self, engine: Any, name: str) -> Any:
        return {"input": self.module.TensorIOMode.INPUT, "logits": self.module.TensorIOMode.OUTPUT}[name]

    def _context(self, engine: Any, *settings: Any) -> Any:
        context = self.module.make("IExecutionContext")
        object.__setattr__(context, "_state", {})
        return context

    def _set_profile(self, context: Any, index: int, handle: int) -> bool:
        context._state["profile"] = index
        return True

    def _set_shape(self, context: Any, name: str, shape: Any) -> bool:
        # The profile that was chosen must be the one for this shape.
        context._state["shape"] = tuple(shape)
        return SIZES[context._state["profile"]] == shape[0]

    def _set_address(self, context: Any, name: str, address: int) -> bool:
        context._state[name] = address
        return address in self.gpu.memory

    def _execute(self, context: Any, handle: int) -> bool:
        if self.enqueue_fails:
            return False
        state, shape = context._state, context._state["shape"]

        def work() -> None:
            means = self.gpu.floats(state["input"], shape).reshape(shape[0], -1).mean(1)
            logits = self.gpu.memory[state["logits"]].memory
            logits[:] = np.outer(means, np.arange(1000)).astype(np.float32).tobytes()
            profiler = context._values.get("profiler")
            if profiler is not None:
                profiler.report_layer_time("conv1 + relu", 0.5)
                profiler.report_layer_time("fc", 0.25)

        self.gpu.streams[handle].put(work, 2.0)
        return True


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return use_gpu(monkeypatch)


@pytest.fixture
def install(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], FakeTensorRT]]:
    """Makes a version's stand-in the installed TensorRT."""

    def install(package: str) -> FakeTensorRT:
        fake = FakeTensorRT(api(package), gpu)
        use_module(monkeypatch, fake.module)
        return fake

    yield install
    forget()


NEWEST_10 = "tensorrt-cu12-bindings==10.13.0.35"


def batch(size: int) -> dict[str, np.ndarray]:
    return {"input": np.stack([np.full((3, CROP, CROP), value + 1, np.float32) for value in range(size)])}


def make_engine(text: str, sizes: tuple[int, ...] = SIZES) -> TensorRTEngine:
    return TensorRTEngine(parse_spec(text), plan_of(10, 13, 0, 35), sizes, SIGNATURE, ("conv1", "fc"))


# Conformance: every version, every engine, the whole way.


@pytest.mark.parametrize("package", BINDINGS)
@pytest.mark.parametrize("spec", RECIPES, ids=lambda spec: spec.id)
def test_every_version_is_used_as_it_is(
    package: str,
    spec: EngineSpec,
    install: Callable[[str], FakeTensorRT],
    gpu: FakeGpu,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trtgate.engines.gpu.THROUGHPUT_SECONDS", 1e-3)
    fake = install(package)
    recipe, features = RECIPES[spec], Features.of(fake.module)
    if recipe.calibrated and not features.calibrator:
        found = available(spec, "cuda")
        assert not found.ok
        assert found.obsolete
        return
    calibrator = make_calibrator([batch(1)] * 3, None) if recipe.calibrated else None
    steps: list[tuple[int, int]] = []
    plan = build_plan(
        spec,
        GRAPH,
        SIZES,
        SIGNATURE,
        calibrator=calibrator,
        timing_cache=tmp_path / "timing" / "stack.cache",
        compute_capability="SM89" if features.compute_capability else None,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == ([(1, 2), (2, 2)] if features.progress_monitor else [])
    assert (tmp_path / "timing" / "stack.cache").read_bytes() == b"+"
    if calibrator is not None:
        assert calibrator.known == b"ranges"
        calibrator.close()
    with TensorRTEngine(spec, plan, SIZES, SIGNATURE, ("conv1", "fc")) as engine:
        for size in SIZES:
            logits = engine.infer(batch(size))["logits"]
            np.testing.assert_allclose(logits[:, 2], 2.0 * np.arange(1, size + 1))
        block = engine.block(6, batch(4))
        np.testing.assert_allclose(block.seconds, 2e-3)
        assert block.end_to_end is not None
        assert engine.audit().layers == {"conv1": "float16", "fc": "float16"}
        times = engine.layer_times(batch(1))
        assert [(layer.name, layer.seconds, layer.kind) for layer in times] == [
            ("conv1 + relu", 0.5e-3, "float16"),
            ("fc", 0.25e-3, "float16"),
        ]
        facts = engine.facts()
        assert (facts["device_memory_bytes"], facts["num_layers"]) == (4096, 3)
        assert facts["launched_as"] == {"1": "CUDA graph", "4": "CUDA graph"}
        assert fake.module.__version__.startswith(facts["tensorrt"].rsplit(".", 1)[0])
        assert engine.throughput(batch(1), 2) is not None
    assert gpu.clean
    # What it was all about: these were really used, with this version's signatures.
    assert {"IExecutionContext.execute_async_v3", "OnnxParser.parse", "IBuilderConfig.set_memory_pool_limit"} <= (
        fake.module.used
    )


def test_the_stand_in_is_as_strict_as_the_bindings(install: Callable[[str], FakeTensorRT]) -> None:
    eight, eleven = (api(BINDINGS[index]) for index in (0, 3))
    old, new = FakeModule(eight), FakeModule(eleven)
    with pytest.raises(AttributeError, match="STRONGLY_TYPED"):
        _ = old.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    with pytest.raises(AttributeError, match="IInt8EntropyCalibrator2"):
        _ = new.IInt8EntropyCalibrator2
    with pytest.raises(AttributeError, match="FP16"):
        _ = new.BuilderFlag.FP16
    context = new.make("IExecutionContext")
    with pytest.raises(AttributeError, match="execute_async_v2"):
        context.execute_async_v2([], 0)
    with pytest.raises(TypeError, match="set_tensor_address"):
        context.set_tensor_address("input", "0x1000")
    with pytest.raises(AttributeError, match="max_workspace_size"):
        new.make("IBuilderConfig").max_workspace_size = 1


# What each version is asked for.


@pytest.mark.parametrize(
    ("package", "text", "typed", "flags"),
    [
        (BINDINGS[0], "tensorrt-fp16", False, {"FP16", "TF32"}),
        (BINDINGS[0], "tensorrt-int8", False, {"INT8", "FP16", "TF32"}),
        (BINDINGS[0], "tensorrt-int8-calibrated", False, {"INT8", "FP16", "TF32"}),
        (NEWEST_10, "tensorrt-fp16", True, {"TF32"}),
        (NEWEST_10, "tensorrt-int8", True, {"TF32"}),
        (NEWEST_10, "tensorrt-int8-calibrated", False, {"INT8", "FP16", "TF32"}),
        (NEWEST_10, "tensorrt-fp32", True, set()),
        (BINDINGS[3], "tensorrt-int8", True, {"TF32"}),
        (BINDINGS[4], "tensorrt-fp32", True, {"REQUIRE_USER_ALLOCATION"}),
    ],
)
def test_types_and_flags(
    package: str, text: str, typed: bool, flags: set[str], install: Callable[[str], FakeTensorRT]
) -> None:
    fake = install(package)
    asked: set[str] = set()
    fake.module._behaviour = {  # type: ignore[assignment]
        **fake.module._behaviour,
        "IBuilderConfig.set_flag": lambda _, flag: asked.add(flag.name),
        "IBuilderConfig.clear_flag": lambda _, flag: asked.discard(flag.name),
    }
    spec = parse_spec(text)
    calibrator = make_calibrator([batch(1)], b"known") if RECIPES[spec].calibrated else None
    build_plan(spec, GRAPH, SIZES, SIGNATURE, calibrator=calibrator)
    kinds = fake.module.NetworkDefinitionCreationFlag
    strong = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    assert bool(fake.network_flags & strong) is typed
    if hasattr(kinds, "EXPLICIT_BATCH"):
        assert fake.network_flags & (1 << int(kinds.EXPLICIT_BATCH))
    assert asked == flags
    sizes = [shape[0] for shape in fake.profiles]
    assert sizes == [*SIZES, *([1] if calibrator else [])], "one profile for each batch size, one for the calibration"


def test_a_known_calibration_measures_nothing(install: Callable[[str], FakeTensorRT], gpu: FakeGpu) -> None:
    install(NEWEST_10)
    calibrator = make_calibrator([batch(1)] * 2, b"known")
    build_plan(parse_spec("tensorrt-int8-calibrated"), GRAPH, SIZES, SIGNATURE, calibrator=calibrator)
    assert calibrator.known == b"known"
    assert gpu.clean, "no photo was copied to the device"


def test_a_timing_cache_of_another_stack_is_not_used(
    install: Callable[[str], FakeTensorRT], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(NEWEST_10)
    fake.module._behaviour = {  # type: ignore[assignment]
        **fake.module._behaviour,
        "IBuilderConfig.set_timing_cache": lambda config, cache, ignore_mismatch: False,
        "IBuilderConfig.get_timing_cache": lambda config: None,
    }
    path = tmp_path / "stack.cache"
    path.write_bytes(b"others")
    build_plan(parse_spec("tensorrt-fp16"), GRAPH, SIZES, SIGNATURE, timing_cache=path)
    assert "another stack" in caplog.text
    assert path.read_bytes() == b"others"


# What goes wrong.


def test_an_output_that_is_as_long_as_what_is_found_is_refused_before_it_is_built(
    install: Callable[[str], FakeTensorRT],
) -> None:
    fake = install(NEWEST_10)
    boxes = TensorSpec("boxes", "float32", (-1, 4))
    signature = dataclasses.replace(SIGNATURE, outputs=(*SIGNATURE.outputs, boxes))
    with pytest.raises(TensorRTError, match="the shapes of boxes depend on what goes in"):
        build_plan(parse_spec("tensorrt-fp16"), GRAPH, SIZES, signature)
    assert not fake.configs


def test_a_type_that_a_version_has_no_inputs_of_is_refused_before_it_is_built(
    install: Callable[[str], FakeTensorRT],
) -> None:
    ids = TensorSpec("ids", "int64", (BATCH, 3))
    signature = dataclasses.replace(SIGNATURE, inputs=(ids,))
    for package, refused in ((BINDINGS[0], True), (BINDINGS[1], False)):
        fake = install(package)
        if refused:
            with pytest.raises(TensorRTError, match=r"8\.6\.1 has no inputs and outputs such as ids \(int64\)"):
                build_plan(parse_spec("tensorrt-fp16"), GRAPH, SIZES, signature)
        else:
            build_plan(parse_spec("tensorrt-fp16"), GRAPH, SIZES, signature)
        assert bool(fake.configs) is not refused


def test_all_parser_errors_are_told(install: Callable[[str], FakeTensorRT]) -> None:
    fake = install(NEWEST_10)
    fake.parse_errors = ["no importer for Foo", "Bar wants opset 21"]
    with pytest.raises(TensorRTError, match=r"node 0: no importer for Foo.*\n.*node 1: Bar wants opset 21"):
        build_plan(parse_spec("tensorrt-fp16"), GRAPH, SIZES, SIGNATURE)


def test_a_failed_build_says_what_the_builder_logged(install: Callable[[str], FakeTensorRT]) -> None:
    fake = install(NEWEST_10)

    def fail(builder: Any, network: Any, config: Any) -> None:
        severity = fake.module.ILogger.Severity
        made[0].log(severity.ERROR, "Could not find any implementation for node conv1")
        made[0].log(severity.INFO, "nothing to see")

    made: list[Any] = []
    fake.module._behaviour = {  # type: ignore[assignment]
        **fake.module._behaviour,
        "Builder.__init__": lambda builder, logger: made.append(logger),
        "Builder.build_serialized_network": fail,
    }
    with pytest.raises(TensorRTError, match="any implementation for node conv1") as raised:
        build_plan(parse_spec("tensorrt-fp16"), GRAPH, SIZES, SIGNATURE)
    assert "nothing to see" not in str(raised.value)


def test_a_plan_that_cannot_be_loaded(install: Callable[[str], FakeTensorRT], gpu: FakeGpu) -> None:
    install(NEWEST_10).deserializes = False
    with pytest.raises(TensorRTError, match="cannot load the plan of tensorrt-fp16"):
        make_engine("tensorrt-fp16")
    assert gpu.clean


def test_wrong_shapes_are_refused_and_nothing_leaks(install: Callable[[str], FakeTensorRT], gpu: FakeGpu) -> None:
    fake = install(NEWEST_10)
    with make_engine("tensorrt-fp16") as engine:
        with pytest.raises(TensorRTError, match="not of 3"):
            engine.infer(batch(3))
        fake.logits_shape = (1, 10)
        with pytest.raises(TensorRTError, match=r"logits of shape \(1, 10\)"):
            engine.infer(batch(1))
        assert gpu.clean


def test_a_failed_enqueue_raises_and_nothing_leaks(install: Callable[[str], FakeTensorRT], gpu: FakeGpu) -> None:
    fake = install(NEWEST_10)
    with make_engine("tensorrt-fp16") as engine:
        fake.enqueue_fails = True
        with pytest.raises(TensorRTError, match="execute_async_v3 failed"):
            engine.infer(batch(1))
        assert gpu.clean


def test_a_lane_has_a_buffer_for_each_tensor(gpu: FakeGpu) -> None:
    ids, mask = TensorSpec("ids", "int64", (BATCH, 3)), TensorSpec("mask", "bool", (BATCH, 3))
    outputs = (TensorSpec("scores", "float32", (BATCH, 2)), TensorSpec("state", "float16", (1, BATCH, 4)))
    signature = Signature((ids, mask), outputs)
    lane = PyCudaLane(2, signature)
    given = {"ids": np.arange(6).reshape(2, 3), "mask": np.array([[True, False, True]] * 2)}
    lane.give(given, again=False)
    for name, array in given.items():
        assert bytes(lane.device[name].memory) == array.tobytes()
    lane.device["state"].memory[:] = np.arange(8, dtype=np.float16).tobytes()
    lane.copy_out()
    assert lane.host_out["state"].shape == (1, 2, 4)
    assert lane.host_out["state"].ravel().tolist() == list(range(8))
    lane.close()
    assert gpu.clean


@pytest.mark.parametrize("call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_a_refused_capture_runs_without_a_graph_and_says_so(
    call: str, install: Callable[[str], FakeTensorRT], gpu: FakeGpu
) -> None:
    install(NEWEST_10)
    gpu.refuse[call] = Error.cudaErrorStreamCaptureUnsupported
    with make_engine("tensorrt-fp16") as engine:
        assert engine.infer(batch(1))["logits"][0, 2] == 2.0
        assert gpu.launches == 0
        assert f"{call} failed: cudaErrorStreamCaptureUnsupported" in engine.notes(1)[0]
    assert gpu.clean


def test_a_failed_graph_launch_raises(install: Callable[[str], FakeTensorRT], gpu: FakeGpu) -> None:
    install(NEWEST_10)
    with make_engine("tensorrt-fp16") as engine:
        engine.infer(batch(1))
        gpu.refuse["cudaGraphLaunch"] = Error.cudaErrorLaunchFailure
        with pytest.raises(CudaError, match="cudaErrorLaunchFailure"):
            engine.block(3, batch(1))
    assert gpu.clean


def test_an_engine_whose_work_failed_is_put_away_in_order_too(
    install: Callable[[str], FakeTensorRT], gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(lane: PyCudaLane) -> None:
        raise CudaError("an illegal memory access was encountered")

    install(NEWEST_10)
    engine = make_engine("tensorrt-fp16")
    engine.infer(batch(1))
    monkeypatch.setattr(PyCudaLane, "synchronize", fail)
    with pytest.raises(CudaError, match="illegal memory access"):
        engine.close()
    assert engine._engine is engine._runtime is None
    assert gpu.clean


@pytest.mark.parametrize("succeed", [0, 1])
def test_memory_that_runs_out_is_given_back(succeed: int, install: Callable[[str], FakeTensorRT], gpu: FakeGpu) -> None:
    install(NEWEST_10)
    with make_engine("tensorrt-fp16") as engine:
        gpu.fail_allocation = succeed
        with pytest.raises(MemoryError):
            engine.infer(batch(1))
        assert gpu.clean


def test_work_that_fails_while_it_is_captured_leaves_the_stream_usable(gpu: FakeGpu) -> None:
    stream = gpu.driver.Stream()

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        CapturedGraph(stream.handle, fail)
    stream.synchronize()
    assert gpu.clean


def test_the_hot_loop_replays_the_graph_and_synchronises_once(
    install: Callable[[str], FakeTensorRT], gpu: FakeGpu
) -> None:
    install(NEWEST_10)
    with make_engine("tensorrt-fp16") as engine, engine.ready(batch(1)) as lane:
        launches, synchronised = gpu.launches, gpu.synchronised
        seconds = time_between_events(lane, lane.run, 50)
        assert (gpu.launches - launches, gpu.synchronised - synchronised) == (50, 1)
        np.testing.assert_allclose(seconds, 2e-3)


# What was built.


@pytest.mark.parametrize("inspected", [INSPECTED_10, inspected_11()], ids=["10", "11"])
def test_layers_are_read_from_both_formats(inspected: dict[str, Any]) -> None:
    layers = read_layers(json.dumps(inspected))
    assert [layer.arithmetic for layer in layers] == ["float32", "float16", "float16"]
    assert weighted_layers(layers, ("conv1", "fc")) == {"conv1": "float16", "fc": "float16"}


def test_an_engine_whose_convolutions_run_in_fp32_is_found() -> None:
    text = json.dumps(INSPECTED_10).replace("Channel major FP16 format where channel % 8 == 0", "Row major linear FP32")
    layers = weighted_layers(read_layers(text.replace('"Type": "Half"', '"Type": "Float"')), ("conv1", "fc"))
    for asked in ("fp16", "int8"):
        verdict = judge.audit_verdict(PrecisionAudit(asked, layers), kept_in_float=())
        assert verdict.outcome is Outcome.REGRESSED
        assert "conv1" in verdict.message


def test_a_calibrated_engine_may_leave_layers_in_fp16_but_not_in_fp32() -> None:
    also = frozenset({"float16"})
    half, single = {"conv1": "int8", "fc": "float16"}, {"conv1": "int8", "fc": "float32"}
    assert judge.audit_verdict(PrecisionAudit("int8", half, also), ()).outcome is Outcome.PASS
    assert judge.audit_verdict(PrecisionAudit("int8", half), ()).outcome is Outcome.REGRESSED
    assert judge.audit_verdict(PrecisionAudit("int8", single, also), ()).outcome is Outcome.REGRESSED


def test_a_calibrated_engine_without_any_int8_is_none() -> None:
    """The builder may choose FP16 where it is faster; where it did so everywhere, no range may have reached it."""
    audit = PrecisionAudit("int8", {"conv1": "float16", "fc": "float16"}, frozenset({"float16"}))
    verdict = judge.audit_verdict(audit, ())
    assert verdict.outcome is Outcome.REGRESSED
    assert verdict.message == "asked for int8, built 2 float16: the builder chose it for no layer"


def test_what_is_kept_in_float_may_be_of_another_type_at_each_batch_size() -> None:
    audit = PrecisionAudit("int8", {"conv1": "int8", "fc at batch 1": "float16", "fc at batch 32": "float32"})
    assert judge.audit_verdict(audit, ("fc",)).outcome is Outcome.PASS
    assert judge.audit_verdict(audit, ("fc at batch 1", "fc at batch 32")).outcome is Outcome.PASS
    assert judge.audit_verdict(audit, ("fc at batch 1",)).outcome is Outcome.REGRESSED


def test_what_the_inspector_does_not_tell_is_no_pass() -> None:
    layers = weighted_layers(read_layers(json.dumps(INSPECTED_10)), ("conv1", "fc", "layer1.0.conv1"))
    assert layers["layer1.0.conv1"] == ""
    verdict = judge.audit_verdict(PrecisionAudit("fp16", layers), ())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "layer1.0.conv1" in verdict.message


def test_a_block_that_the_compiler_made_does_not_tell_what_it_computes_in() -> None:
    """TensorRT-RTX makes a whole network one layer, 8.6 that of a transformer: what comes in is the network's input."""
    layer = {
        "Name": "{ForeignNode[fc.bias...fc_1]}",
        "LayerType": "Myelin",
        "Inputs": [{"Name": "input", "Format/Datatype": "Row major linear FP32"}],
        "Outputs": [{"Name": "logits", "Format/Datatype": "Row major linear FP32"}],
        "TacticValue": "0x0000000000000000",
        "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: fc]",
    }
    layers = weighted_layers(read_layers(json.dumps({"Layers": [layer]})), ("conv1", "fc"))
    assert layers == {"conv1": "", "fc": ""}
    for asked in ("fp32", "fp16", "int8"):  # no false alarm, and no pass
        assert judge.audit_verdict(PrecisionAudit(asked, layers), ()).outcome is Outcome.INCONCLUSIVE


def test_a_kernel_that_names_its_operands_is_believed_before_a_narrower_skip_connection() -> None:
    layer = {
        "Name": "conv1 + add",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Half"}, {"Name": "skip", "Format/Datatype": "Int8"}],
        "Outputs": [{"Name": "y", "Format/Datatype": "Half"}],
        "TacticName": "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize128x128x32_stage4",
    }
    for kernel in (layer["TacticName"], "ampere_h16816cudnn_128x64_ldg8_relu_exp_small_nhwc_tn_v1"):
        text = json.dumps({"Layers": [{**layer, "TacticName": kernel}]})
        assert weighted_layers(read_layers(text), ("conv1",)) == {"conv1": "float16"}
    first = {**layer, "Weights": {"Type": "Int8"}, "TacticName": "trt_ampere_first_layer_filter7x7_imma_fwd"}
    layers = weighted_layers(read_layers(json.dumps({"Layers": [first]})), ("conv1",))
    assert layers == {"conv1": "int8"}, "it quantises what comes in by itself"


def test_a_helper_does_not_speak_for_a_convolution_that_does_not_tell() -> None:
    untold = [{"Name": "x", "Format/Datatype": "N/A due to dynamic shapes"}]
    conv = {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": untold, "Metadata": "[ONNX Layer: conv1]"}
    helper = {"Name": "copied_squeeze_after_conv1", "LayerType": "NoOp", "Metadata": "[ONNX Layer: conv1]"}
    helper["Inputs"] = [{"Name": "y", "Format/Datatype": "Int8"}]  # type: ignore[assignment]
    for layers in ([conv, helper], [helper, conv]):
        assert weighted_layers(read_layers(json.dumps({"Layers": layers})), ("conv1",)) == {"conv1": ""}


def test_names_may_be_separated_by_a_control_character() -> None:
    text = json.dumps(INSPECTED_10).replace("\\u001f", "\x1e")
    assert "\x1e" in text
    assert weighted_layers(read_layers(text), ("conv1", "fc")) == {"conv1": "float16", "fc": "float16"}


@pytest.mark.parametrize("text", ["", '{"Layers": [', "[]", "{}", '{"Layers": null}', '{"Layers": [{}]}'])
def test_what_the_inspector_answers_may_be_nothing_to_read(text: str) -> None:
    with pytest.raises(TensorRTError, match="inspector's answer cannot be read"):
        read_layers(text)


def test_an_engine_whose_layers_cannot_be_read_is_no_pass_and_can_be_timed(
    install: Callable[[str], FakeTensorRT], caplog: pytest.LogCaptureFixture
) -> None:
    fake = install(NEWEST_10)
    fake.module._behaviour = {  # type: ignore[assignment]
        **fake.module._behaviour,
        "EngineInspector.get_engine_information": lambda _, wanted: '{"Layers": [{"Name": "conv1", "Alpha": -inf}]}',
    }
    with make_engine("tensorrt-fp16") as engine:
        audit = engine.audit()
        assert audit.layers == {"conv1": "", "fc": ""}
        assert judge.audit_verdict(audit, ()).outcome is Outcome.INCONCLUSIVE
        assert [(each.name, each.kind) for each in engine.layer_times(batch(1))] == [("conv1 + relu", ""), ("fc", "")]
    assert "inspector's answer cannot be read" in caplog.text


def test_names_alone_are_no_audit() -> None:
    with pytest.raises(TensorRTError, match="DETAILED"):
        read_layers('{"Layers": ["conv1 + relu"]}')


def test_without_metadata_the_name_says_which_nodes() -> None:
    text = json.dumps(INSPECTED_10).replace('"Metadata"', '"Other"')
    assert weighted_layers(read_layers(text), ("conv1", "fc")) == {"conv1": "float16", "fc": "float16"}


def test_a_plan_tells_its_version_without_being_loaded() -> None:
    assert plan_version(b"ftrt" + bytes(20) + bytes([10, 13, 0, 35]) + b"rest") == "10.13.0.35"


@pytest.mark.parametrize("numbers", ["10.0.0b6", "10.0.0.6", "10.0.0.post11.dev4", "10.0.0"])
def test_a_plan_of_a_version_before_its_release_is_its_own(
    numbers: str, install: Callable[[str], FakeTensorRT], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install(NEWEST_10).module, "__version__", numbers)
    assert tensorrt.require_own_plan(plan_of(10, 0, 0, 6)) == "10.0.0.6"
    with pytest.raises(TensorRTError, match="was written by TensorRT 10.0.1.6"):
        tensorrt.require_own_plan(plan_of(10, 0, 1, 6))


# Whether it is there.


def test_what_is_missing_is_named_with_the_command_that_brings_it(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name}", name=name)

    forget()
    monkeypatch.setattr(tensorrt.importlib, "import_module", missing)
    found = available(parse_spec("tensorrt-fp16"), "cuda")
    assert "No module named tensorrt_rtx" in found.reason
    assert found.fix == "pip install -r requirements-gpu.txt"
    assert not found.obsolete
    assert not available(parse_spec("tensorrt-fp16"), "cpu").ok
    forget()


def test_a_cuda_python_that_does_not_fit_the_driver_is_broken(
    install: Callable[[str], FakeTensorRT], gpu: FakeGpu
) -> None:
    """Without it nothing is captured: engines would be as slow as their host, and the upgrade to blame."""
    install(NEWEST_10)
    spec = parse_spec("tensorrt-fp16")
    assert backend("tensorrt").available(spec, "cuda").ok
    gpu.refuse["cudaGetDeviceCount"] = Error.cudaErrorInsufficientDriver
    found = backend("tensorrt").available(spec, "cuda")
    assert found.broken
    assert "cuda-python does not fit the driver: cudaGetDeviceCount failed: cudaErrorInsufficientDriver" in found.reason


def test_an_empty_package_called_tensorrt_is_not_tensorrt(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    forget()
    monkeypatch.setattr(tensorrt.importlib, "import_module", lambda name: dataclasses)
    assert "empty package" in available(parse_spec("tensorrt-fp16"), "cuda").reason
    forget()
