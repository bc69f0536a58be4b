"""TensorRT 8.6 to 11 and TensorRT-RTX, one code for all.

What the versions do not share is found by attribute, in `Features`, and nowhere else. Wherever the version can,
networks are strongly typed, from the same FP16 and Q/DQ graphs, so that two versions can be compared: a weakly typed
builder picks its types anew with every release. Only `tensorrt-int8-calibrated` is weakly typed by nature; it exists up
to TensorRT 10.

A plan has an optimisation profile for each batch size, from 1 up to it and best at it, so every size runs kernels that
were chosen for it. (A profile of that one size alone would let TensorRT-RTX 1.7 fold quantised depthwise convolutions
into constants as large as their activations: 255 MB for EfficientNet-Lite0 at batch 32, where this way has 11.)
Polygraphy would build the same networks, but the calls are few, each differs by version, and here they are what is
under test.
"""

from __future__ import annotations

import functools
import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from trtgate.child import run_in_child
from trtgate.cuda import CapturedGraph, CudaError, PyCudaLane, driver, runtime
from trtgate.engines.base import (
    AVAILABLE,
    Availability,
    Backend,
    Batch,
    BuildRequest,
    Device,
    Engine,
    EngineSpec,
    GraphKind,
    LayerTime,
    PrecisionAudit,
    only_on,
)
from trtgate.engines.gpu import GpuEngine, Lane
from trtgate.graphs import INPUT, OUTPUT

if TYPE_CHECKING:
    import tensorrt as trt
else:

    class _Lazy:
        """The installed TensorRT, imported when the first of its names is used."""

        def __getattr__(self, name: str) -> Any:
            return getattr(installed(), name)

    trt = _Lazy()

log = logging.getLogger(__name__)

# In the order of preference: TensorRT, TensorRT-RTX, and RTX where only its bindings and libraries are installed.
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
# A limit, not an allocation: the builder skips kernels that want more. Enough for every classifier in torchvision.
WORKSPACE_BYTES = 4 << 30
# Where a plan's header says which version wrote it: major, minor, patch and build, a byte each.
VERSION_AT = slice(24, 28)
CAPTURED = "CUDA graph"
# Runs of a context before its times are kept: lazy loading of kernels is over then.
WARM_UP = 3
# Layer times come from this many profiled runs.
PROFILED_RUNS = 20


@functools.cache
def installed() -> ModuleType:
    """The installed TensorRT. Raises ImportError saying why each candidate could not be imported."""
    reasons = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
            continue
        if hasattr(module, "Builder"):
            return module
        reasons.append(f"{name}: an empty package of that name is installed")
    raise ImportError("; ".join(reasons))


@dataclass(frozen=True)
class Recipe:
    """How an engine is built: from which graph, with which types.

    `flags` are the builder flags that a weakly typed network needs; `tf32` is set either way.
    """

    graph: GraphKind
    flags: tuple[str, ...] = ()
    tf32: bool = True
    calibrated: bool = False


RECIPES: Mapping[EngineSpec, Recipe] = {
    EngineSpec("tensorrt", "fp32"): Recipe("fp32", tf32=False),
    EngineSpec("tensorrt", "tf32"): Recipe("fp32"),
    EngineSpec("tensorrt", "fp16"): Recipe("fp16", ("FP16",)),
    EngineSpec("tensorrt", "int8"): Recipe("int8-symmetric", ("INT8",)),
    # What INT8 does not help is left to FP16, as anyone would deploy it.
    EngineSpec("tensorrt", "int8", "calibrated"): Recipe("fp32", ("INT8", "FP16"), calibrated=True),
}


@dataclass(frozen=True)
class Features:
    """What the installed version can do, read off its attributes."""

    strongly_typed: bool
    explicit_batch: bool
    calibrator: bool
    progress_monitor: bool
    compute_capability: bool

    @classmethod
    def of(cls, module: Any) -> Features:
        """The features of a TensorRT module."""
        flags = module.NetworkDefinitionCreationFlag
        return cls(
            strongly_typed=hasattr(flags, "STRONGLY_TYPED"),
            explicit_batch=hasattr(flags, "EXPLICIT_BATCH"),
            calibrator=hasattr(module, "IInt8EntropyCalibrator2"),
            progress_monitor=hasattr(module, "IProgressMonitor"),
            compute_capability=hasattr(module.IBuilderConfig, "set_compute_capability"),
        )


class TensorRTError(Exception):
    """TensorRT refused; the message holds everything that it logged about it."""


@functools.cache
def _logger_class() -> type[Any]:
    class Log(trt.ILogger):
        """Keeps what TensorRT says: warnings and errors for a message, all of it for the log."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            levels = trt.ILogger.Severity
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.problems.append(msg)
            log.log(logging.WARNING if severity == levels.WARNING else logging.DEBUG, "TensorRT: %s", msg)

    return Log


def _refuse(what: str, logger: Any, *more: str) -> TensorRTError:
    """The error to raise when a call returned None or False."""
    reasons = [*more, *logger.problems] or ["TensorRT gave no reason"]
    return TensorRTError("\n  ".join([f"{what}:", *reasons]))


# Building


def network_flags(features: Features, recipe: Recipe) -> int:
    """Flags for `create_network`."""
    kind = trt.NetworkDefinitionCreationFlag
    flags = 0
    if features.strongly_typed and not recipe.calibrated:
        flags |= 1 << int(kind.STRONGLY_TYPED)
    if features.explicit_batch:  # 8.6 wants it, 10 ignores it
        flags |= 1 << int(kind.EXPLICIT_BATCH)
    return flags


def weak_flags(features: Features, recipe: Recipe) -> tuple[str, ...]:
    """The builder flags, by name, that a network without types of its own needs."""
    return recipe.flags if recipe.calibrated or not features.strongly_typed else ()


def build_plan(
    spec: EngineSpec,
    graph: bytes,
    sizes: Sequence[int],
    crop: int,
    *,
    calibrator: Any = None,
    timing_cache: Path | None = None,
    compute_capability: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """Build the plan of an ONNX graph, with an optimisation profile for each batch size.

    `calibrator` is made by `make_calibrator`. `compute_capability` ("SM89") is for TensorRT-RTX on a machine without a
    GPU. Raises TensorRTError with all parser errors, or with what the builder logged.
    """
    features, recipe, logger = Features.of(trt), RECIPES[spec], _logger_class()()
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(features, recipe))
    parse(network, graph, logger)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if recipe.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    for name in weak_flags(features, recipe):
        config.set_flag(getattr(trt.BuilderFlag, name))
    for size in sizes:
        config.add_optimization_profile(_profile(builder, size, crop))
    if features.progress_monitor:
        config.progress_monitor = _progress_monitor_class()(progress)
    if compute_capability is not None and features.compute_capability:
        _target(config, compute_capability)
    if recipe.calibrated:
        config.int8_calibrator = calibrator
        config.set_calibration_profile(_profile(builder, 1, crop))
    if timing_cache is not None:
        read_timings(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refuse(f"TensorRT could not build {spec.id}", logger)
    if timing_cache is not None:
        write_timings(config, timing_cache)
    return bytes(memoryview(plan))


def parse(network: Any, graph: bytes, logger: Any) -> None:
    """Read an ONNX graph into a network. Raises TensorRTError with every error of the parser."""
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        described = [f"node {error.node()}: {error.desc()} ({error.code()})" for error in errors]
        raise _refuse("TensorRT cannot parse the ONNX graph", logger, *described)


def _profile(builder: Any, size: int, crop: int) -> Any:
    profile = builder.create_optimization_profile()
    largest = (size, 3, crop, crop)
    profile.set_shape(INPUT, (1, 3, crop, crop), largest, largest)
    return profile


def _target(config: Any, name: str) -> None:
    config.num_compute_capabilities = 1
    capability = getattr(trt, "ComputeCapability")  # noqa: B009  # RTX only; not in the stubs
    if not config.set_compute_capability(getattr(capability, name), 0):
        raise TensorRTError(f"TensorRT-RTX cannot build for {name}")


@functools.cache
def _progress_monitor_class() -> type[Any]:
    class Monitor(trt.IProgressMonitor):
        """Shows the phase that the builder is in, which may stand within others."""

        def __init__(self, show: Callable[[int, int], None]) -> None:
            trt.IProgressMonitor.__init__(self)
            self._show = show
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._show(step + 1, self._steps.get(phase_name, step + 1))
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor


@functools.cache
def _calibrator_class() -> type[Any]:
    class EntropyCalibrator(trt.IInt8EntropyCalibrator2):
        """Feeds photos one by one, unless what they come to is already known."""

        def __init__(self, images: Batch, known: bytes | None) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._images = images
            self._next = 0
            self._device: Any = None
            self.known = known

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> list[int]:
            if self._next == len(self._images):
                return []  # no more
            batch = np.ascontiguousarray(self._images[self._next : self._next + 1])
            self._next += 1
            if self._device is None:
                self._device = driver().mem_alloc(batch.nbytes)
            driver().memcpy_htod(self._device, batch)
            return [int(self._device)]

        def read_calibration_cache(self) -> bytes | None:
            return self.known

        def write_calibration_cache(self, cache: Any) -> None:
            self.known = bytes(cache)

        def close(self) -> None:
            if self._device is not None:
                self._device.free()
                self._device = None

    return EntropyCalibrator


def make_calibrator(images: Batch, known: bytes | None) -> Any:
    """An IInt8EntropyCalibrator2 over float32[N,3,H,W]; `known` is the cache of an earlier calibration, or None.

    After the build its `known` holds the cache; `close` frees its device memory.
    """
    return _calibrator_class()(images, known)


def read_timings(config: Any, path: Path) -> None:
    """Give a builder the kernel timings in a file, if it is there and of this stack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = path.read_bytes() if path.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
        log.warning("%s is from another stack; building without it", path)


def write_timings(config: Any, path: Path) -> None:
    """Keep a builder's kernel timings in a file; a reader never sees half of one."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with FileLock(f"{path}.lock"):
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(bytes(memoryview(cache.serialize())))
        temporary.replace(path)


def build_and_try(
    spec: EngineSpec,
    graph: Path,
    sizes: tuple[int, ...],
    crop: int,
    images: Batch | None,
    known: bytes | None,
    timing_cache: Path | None,
    path: Path,
    *,
    progress: Callable[[int, int], None],
) -> bytes | None:
    """Build a plan into `path`, load it and run it once at every batch size; what a calibration came to, if any."""
    driver()
    with ExitStack() as kept:
        calibrator = None
        if images is not None:
            calibrator = make_calibrator(images, known)
            kept.callback(calibrator.close)
        plan = build_plan(
            spec,
            graph.read_bytes(),
            sizes,
            crop,
            calibrator=calibrator,
            timing_cache=timing_cache,
            progress=progress,
        )
        path.write_bytes(plan)
        with TensorRTEngine(spec, plan, sizes, crop, ()) as engine:
            for size in sizes:
                engine.infer(np.zeros((size, 3, crop, crop), np.float32))
        learned: bytes | None = calibrator.known if calibrator is not None else None
        return learned


def plan_version(plan: bytes) -> str:
    """The version of TensorRT that wrote a plan, from its header: nothing is deserialised."""
    return ".".join(map(str, plan[VERSION_AT]))


# Running


class TensorRTEngine(GpuEngine):
    """A deserialised plan; each lane has an execution context of its own."""

    def __init__(self, spec: EngineSpec, plan: bytes, sizes: Sequence[int], crop: int, weighted: Sequence[str]) -> None:
        """Raises TensorRTError when the plan cannot be deserialised or does not have the tensors it should have."""
        super().__init__(spec)
        self._sizes = tuple(sizes)
        self._crop = crop
        self._weighted = tuple(weighted)
        self._version = plan_version(plan)
        self._captured: dict[int, str] = {}
        driver()  # TensorRT takes the context that is current
        self._logger = _logger_class()()
        self._runtime: Any = trt.Runtime(self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise _refuse(f"TensorRT cannot load the plan of {spec.id}", self._logger)
        self._check_tensors()

    def _check_tensors(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
        mode, floats = trt.TensorIOMode, trt.DataType.FLOAT
        wanted = {INPUT: (mode.INPUT, floats), OUTPUT: (mode.OUTPUT, floats)}
        if found != wanted:
            raise TensorRTError(f"the plan of {self.spec.id} has the tensors {found}, wanted are {wanted}")
        self._classes = int(engine.get_tensor_shape(OUTPUT)[1])

    def _context(self, lane: PyCudaLane, size: int) -> Any:
        """An execution context with the profile, the shape and the addresses of a lane."""
        if size not in self._sizes:
            raise TensorRTError(f"{self.spec.id} was built for batches of {self._sizes}, not of {size}")
        context = self._engine.create_execution_context()
        if context is None:
            raise _refuse(f"{self.spec.id}: no execution context", self._logger)
        handle = lane.stream.handle
        steps = (
            ("set_optimization_profile_async", self._sizes.index(size), handle),
            ("set_input_shape", INPUT, (size, 3, self._crop, self._crop)),
            ("set_tensor_address", INPUT, int(lane.device_in)),
            ("set_tensor_address", OUTPUT, int(lane.device_out)),
        )
        for name, *arguments in steps:
            if not getattr(context, name)(*arguments):
                raise _refuse(f"{self.spec.id}: {name}{tuple(arguments)} failed", self._logger)
        lane.synchronize()
        missing = context.infer_shapes()
        if missing:
            raise TensorRTError(f"{self.spec.id}: the shapes of {', '.join(missing)} are not known")
        produced = tuple(context.get_tensor_shape(OUTPUT))
        if produced != lane.host_out.shape:
            raise TensorRTError(f"{self.spec.id} gives {OUTPUT} of shape {produced}, wanted is {lane.host_out.shape}")
        return context

    def _enqueuer(self, context: Any, handle: int) -> Callable[[], None]:
        execute = context.execute_async_v3

        def enqueue() -> None:
            if not execute(handle):
                raise _refuse(f"{self.spec.id}: execute_async_v3 failed", self._logger)

        return enqueue

    def new_lane(self, size: int) -> Lane:
        with ExitStack() as undo:
            lane = PyCudaLane(size, self._crop, self._classes)
            undo.callback(lane.close)
            enqueue = self._enqueuer(self._context(lane, size), lane.stream.handle)
            lane.run = enqueue
            for _ in range(WARM_UP):  # at least one run must come before a capture
                enqueue()
            lane.synchronize()
            try:
                graph = CapturedGraph(lane.stream.handle, enqueue)
            except (CudaError, TensorRTError) as error:
                self._captured[size] = f"without a CUDA graph: {error}"
                log.warning("%s batch %d runs without a CUDA graph: %s", self.spec.id, size, error)
            else:
                self._captured[size] = CAPTURED
                lane.on_close(graph.close)
                lane.run = graph.launcher()
            undo.pop_all()
        return lane

    def audit(self) -> PrecisionAudit:
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        recipe = RECIPES[self.spec]
        also = frozenset({"float16"}) if recipe.calibrated else frozenset()
        return PrecisionAudit(self.spec.precision, weighted_layers(read_layers(text), self._weighted), also)

    def layer_times(self, batch: Batch) -> tuple[LayerTime, ...]:
        """Median over PROFILED_RUNS of each layer's time, by a profiled context of its own without a CUDA graph."""
        inspector = self._engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        kinds = {layer.name: layer.arithmetic for layer in read_layers(text)}
        with ExitStack() as undo:
            lane = PyCudaLane(len(batch), self._crop, self._classes)
            undo.callback(lane.close)
            lane.give(batch, again=False)
            context = self._context(lane, len(batch))
            profiler = _profiler_class()()
            context.profiler = profiler
            enqueue = self._enqueuer(context, lane.stream.handle)
            for _ in range(WARM_UP + PROFILED_RUNS):
                enqueue()
                lane.synchronize()
            return tuple(
                LayerTime(name, float(np.median(times[WARM_UP:])) / 1e3, kinds.get(name, ""))
                for name, times in profiler.times.items()
            )

    def facts(self) -> Mapping[str, Any]:
        engine = self._engine
        memory = engine.device_memory_size_v2 if hasattr(engine, "device_memory_size_v2") else engine.device_memory_size
        return {
            "device_memory_bytes": int(memory),
            "num_layers": int(engine.num_layers),
            "tensorrt": self._version,
            "launched_as": {str(size): how for size, how in self._captured.items()},
        }

    def notes(self, batch_size: int) -> tuple[str, ...]:
        how = self._captured.get(batch_size, CAPTURED)
        return () if how == CAPTURED else (how,)

    def close(self) -> None:
        super().close()
        # In this order: TensorRT destroys an object with the last reference to it.
        self._engine = None
        self._runtime = None


@functools.cache
def _profiler_class() -> type[Any]:
    class Profiler(trt.IProfiler):
        """Collects the milliseconds of each layer, run by run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler


# What was built


@dataclass(frozen=True)
class BuiltLayer:
    """A layer as the engine inspector tells it: what it computes in, and the ONNX nodes that went into it."""

    name: str
    kind: str
    arithmetic: str
    nodes: frozenset[str] = field(default_factory=frozenset)


# The inspector's words for a type, up to TensorRT 10 inside a sentence about the format ("Channel major FP16 format
# where channel % 8 == 0"), in 11 in a field of their own.
TYPE_WORDS = {
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "fp8": "float8",
}
# The narrowest first: a layer computes in the narrowest type that comes in.
NARROWEST = ("int8", "float8", "float16", "bfloat16", "float32")
CONVOLUTIONS = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)


def read_layers(text: str) -> list[BuiltLayer]:
    """The layers of the inspector's JSON, of TensorRT 8.6 to 11.

    Raises TensorRTError for an engine that was built without detailed profiling verbosity.
    """
    layers = []
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, str):
            raise TensorRTError("the engine knows only the names of its layers; build it with DETAILED verbosity")
        types = [tensor_type(tensor) for tensor in layer.get("Inputs", [])]
        weights = layer.get("Weights")
        if isinstance(weights, dict) and "Type" in weights:
            types.append(TYPE_WORDS.get(str(weights["Type"]).lower(), ""))
        layers.append(
            BuiltLayer(
                layer["Name"],
                f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".strip(),
                next((kind for kind in NARROWEST if kind in types), ""),
                onnx_nodes(layer),
            )
        )
    return layers


def tensor_type(tensor: Mapping[str, Any]) -> str:
    """The type of a tensor that the inspector describes, or "" for one that is none of TYPE_WORDS."""
    text = next((str(tensor[key]) for key in ("Datatype", "DataType", "Format/Datatype") if key in tensor), "")
    words = (TYPE_WORDS.get(word) for word in re.findall(r"[a-z0-9]+", text.lower()))
    return next(filter(None, words), "")


def onnx_nodes(layer: Mapping[str, Any]) -> frozenset[str]:
    """The ONNX nodes of a layer: from its metadata, or in versions without from its name, `conv1 + relu`."""
    metadata = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
    return frozenset(metadata or re.split(r"\s*\+\s*|\s*\|\|\s*|[{},]", layer["Name"]))


def weighted_layers(layers: Sequence[BuiltLayer], nodes: Sequence[str]) -> dict[str, str]:
    """What each of the ONNX `nodes` (convolutions and matrix products) computes in, in the engine that was built.

    For a node that no layer admits to, a layer that looks like a convolution and that no node claims stands in, under
    its own name; where there is none the type is "": silence is not a pass.
    """
    by_node = {node: layer for layer in layers for node in layer.nodes if layer.arithmetic}
    found = {node: by_node[node].arithmetic for node in nodes if node in by_node}
    missing = [node for node in nodes if node not in by_node]
    if missing:
        claimed = {by_node[node].name for node in found}
        strays = [layer for layer in layers if layer.name not in claimed and CONVOLUTIONS.search(layer.kind)]
        found |= {layer.name: layer.arithmetic for layer in strays}
        found |= dict.fromkeys(missing[len(strays) :], "")
    return found


def weighted_nodes(graph: Path) -> tuple[str, ...]:
    """The names of a graph's convolutions and matrix products that carry weights."""
    import onnx

    from trtgate.graphs.weighted import weighted_nodes as nodes_of

    return tuple(node.name for node in nodes_of(onnx.load(graph, load_external_data=False)))


class TensorRTBackend(Backend):
    name = "tensorrt"
    specs = tuple(RECIPES)

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        where = only_on("cuda", device)
        if not where.ok:
            return where
        fix = "pip install -r requirements-gpu.txt"
        for what, imported in (("TensorRT", installed), ("PyCUDA", driver), ("cuda-python", runtime)):
            try:
                imported()
            except ImportError as error:
                return Availability(False, f"{what} cannot be imported: {error}", fix)
        if RECIPES[spec].calibrated and not Features.of(trt).calibrator:
            version = installed().__version__
            return Availability(False, f"TensorRT {version} has no INT8 calibrator any more", obsolete=True)
        return AVAILABLE

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.engine"

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        return RECIPES[spec].graph

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        # By name: enumerations were renumbered between versions.
        features, recipe = Features.of(trt), RECIPES[spec]
        return {
            "module": installed().__name__,
            "version": installed().__version__,
            "strongly_typed": features.strongly_typed and not recipe.calibrated,
            "flags": [*weak_flags(features, recipe), *(["TF32"] if recipe.tf32 else [])],
            "workspace_bytes": WORKSPACE_BYTES,
            "profiling_verbosity": "DETAILED",
            "profiles": list(request.batch_sizes),
            "crop": request.crop,
            "timing_cache": "reused" if request.timing_cache else "cold",
            "calibration": request.calibration.digest if request.calibration else None,
        }

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        assert request.graph is not None
        calibration = request.calibration
        known = calibration.read() if calibration else None
        learned = run_in_child(
            f"building {spec.id}",
            build_and_try,
            spec,
            request.graph,
            request.batch_sizes,
            request.crop,
            calibration.images() if calibration else None,
            known,
            request.timing_cache,
            path,
            progress=request.progress,
        )
        if calibration and learned is not None and learned != known:
            calibration.write(learned)

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        assert request.graph is not None
        weighted = weighted_nodes(request.graph)
        return TensorRTEngine(spec, plan.read_bytes(), request.batch_sizes, request.crop, weighted)


BACKEND = TensorRTBackend()
