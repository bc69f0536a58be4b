"""A stand-in TensorRT that computes, and punishes. It is no TensorRT: what it measures says nothing about TensorRT.

Made from the true API of one version (`fake.py`), with behaviour: the builder parses the ONNX graph, the plan is
that graph behind a header of the real layout, contexts run it by PyTorch on the stream and the addresses given.
Where NVIDIA documents that something must not be done, doing it has the documented effect, or the worst one allowed:

- what a context owns turns to NaN when the context dies, also under a captured graph;
- two contexts on one profile fail in 8.6 and 9 unless the plan was built with PROFILE_SHARING_0806;
- the inspector tells no types of a dynamic engine until it has a context, only kernels; 8.6 lists the layers of every
  profile;
- 8.6 reads a ReduceMean whose axes are an input as one over all axes, and Q/DQ scales as FP32 whatever they are;
- INT8 of what has neither Q/DQ nor a calibrator is built in what the other flags leave it, with warnings;
- a capture before a first enqueue fails, and so does a second one of the same context;
- a logger, runtime or engine that is gone before what was made with it is a violation, and so is the first logger that
  goes while anything lives that was made meanwhile, with whichever; another logger is warned of;
- TensorRT-RTX runs slow generic kernels unless it is asked for eager specialisation, and a graph keeps them; without
  REQUIRE_USER_ALLOCATION it is not capturable.

Violations are kept in `VIOLATIONS`, and appended to the file that TRTGATE_STANDIN_VIOLATIONS names: it may be another
process that commits one.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from .fake import FakeModule
from .interpret import WEIGHTED, Layer, Network, operator_set

VIOLATIONS: list[str] = []
VIOLATIONS_FILE = "TRTGATE_STANDIN_VIOLATIONS"
# As in real plans: tag, zero, serialisation version, zero, size of it all, version.
HEADER = struct.Struct("<4sIIIQ4B")
SERIALISATION = 2
# What the bindings raise where the C++ method returns false: these words are in those of every version.
NO_PROFILE = "Error in set optimization profile async."
# Generic kernels of TensorRT-RTX take this much longer, here.
GENERIC = 1.0


@dataclass(frozen=True)
class Flaws:
    """What is wrong with this copy of TensorRT: `slower` by that share, `wrong` answers, and layers that are built in
    FP32 whatever was asked: those of the second profile only, or all."""

    slower: float = 0.0
    wrong: bool = False
    second_profile_float: bool = False


def violate(what: str) -> None:
    """Somebody did what is not allowed."""
    VIOLATIONS.append(what)
    print(f"STAND-IN VIOLATION: {what}", file=sys.stderr)
    if path := os.environ.get(VIOLATIONS_FILE):
        with Path(path).open("a") as file:
            file.write(what + "\n")


def when_gone(made: Any, function: Callable[..., object], *arguments: Any) -> None:
    """Call it when the last reference goes; at the end of the process everything goes, in no order."""
    weakref.finalize(made, function, *arguments).atexit = False


# Where it runs.


class Host:
    """The CPU, behind the stand-in CUDA of `tests/fake_cuda.py`."""

    torch_device = "cpu"

    def __init__(self, gpu: Any) -> None:
        self._gpu = gpu

    def capturing(self, handle: int) -> bool:
        return self._gpu.streams[handle].captured is not None

    def put(self, handle: int, work: Callable[[], object]) -> None:
        self._gpu.streams[handle].put(work, None)

    def tensor(self, address: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(self._gpu.floats(address, shape))

    def wait(self, seconds: float) -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            pass

    def pool(self) -> Any:
        return None

    def within(self, handle: int, pool: Any) -> AbstractContextManager[object]:
        return nullcontext()

    def synchronize(self, handle: int) -> None:
        return None

    def mark(self) -> float:
        return time.perf_counter()

    def milliseconds(self, start: Any, end: Any) -> float:
        return float(end - start) * 1e3


class RealGpu:
    """A GPU, by PyTorch, on streams and memory that somebody else made."""

    torch_device = "cuda"

    def __init__(self) -> None:
        self._cycles: float | None = None

    def capturing(self, handle: int) -> bool:
        with torch.cuda.stream(torch.cuda.ExternalStream(handle)):
            return bool(torch.cuda.is_current_stream_capturing())

    def put(self, handle: int, work: Callable[[], object]) -> None:
        work()

    def tensor(self, address: int, shape: tuple[int, ...]) -> torch.Tensor:
        @dataclass
        class Memory:
            __cuda_array_interface__: dict[str, Any]

        described = {"shape": shape, "typestr": "<f4", "data": (address, False), "version": 3}
        return torch.as_tensor(Memory(described), device="cuda")

    def wait(self, seconds: float) -> None:
        assert self._cycles is not None
        torch.cuda._sleep(int(seconds * self._cycles))

    def learn_cycles(self) -> None:
        """How many cycles of the spin kernel are a second; not while capturing."""
        if self._cycles is None:
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            torch.cuda._sleep(10_000_000)
            events[0].record()
            torch.cuda._sleep(10_000_000)
            events[1].record()
            events[1].synchronize()
            self._cycles = 10_000_000 / (events[0].elapsed_time(events[1]) / 1e3)

    def pool(self) -> Any:
        return torch.cuda.MemPool()

    def within(self, handle: int, pool: Any) -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(torch.cuda.stream(torch.cuda.ExternalStream(handle)))
        stack.enter_context(torch.cuda.use_mem_pool(pool))
        return stack

    def synchronize(self, handle: int) -> None:
        torch.cuda.ExternalStream(handle).synchronize()

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        end.synchronize()
        return float(start.elapsed_time(end))


# What a plan holds.


@dataclass
class Plan:
    """A plan's description; the graph follows it."""

    strongly_typed: bool
    flags: list[str]
    profiles: list[dict[str, list[list[int]]]]
    sharing: bool
    calibrated: bool
    detailed: bool
    graph: bytes = b""

    def to_bytes(self, tag: bytes, version: tuple[int, ...]) -> bytes:
        described = {name: value for name, value in asdict(self).items() if name != "graph"}
        text = json.dumps(described).encode()
        body = struct.pack("<I", len(text)) + text + self.graph
        return HEADER.pack(tag, 0, SERIALISATION, 0, HEADER.size + len(body), *version) + body

    @classmethod
    def from_bytes(cls, plan: bytes) -> Plan:
        (length,) = struct.unpack_from("<I", plan, HEADER.size)
        start = HEADER.size + 4
        return cls(**json.loads(plan[start : start + length]), graph=plan[start + length :])

    def half(self) -> bool:
        """Whether what is not typed runs in FP16."""
        return not self.strongly_typed and "FP16" in self.flags


@dataclass
class Engine:
    """What a deserialised engine is."""

    plan: Plan
    network: Network
    logger: Any
    runtime: Any
    contexts: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    alive: bool = True

    def taken(self) -> dict[int, int]:
        """How many living contexts are on each profile."""
        found: dict[int, int] = {}
        for context in list(self.contexts):
            profile = context._state.profile
            if profile is not None:
                found[profile] = found.get(profile, 0) + 1
        return found


class Memory:
    """What a context owns on the device. A graph that was captured from it goes on using it."""

    def __init__(self, device: Any) -> None:
        self.pool = device.pool()
        self.guard = torch.zeros(1, device=device.torch_device)
        if device.torch_device == "cuda":
            torch.cuda.synchronize()
            KEPT.append(self.guard)

    def die(self) -> None:
        self.guard.fill_(float("nan"))
        if self.guard.is_cuda:
            torch.cuda.synchronize()
        self.pool = None


# On a GPU a graph may outlive its context, and what it reads must then be NaN, not somebody else's.
KEPT: list[torch.Tensor] = []


@dataclass
class Context:
    """What an execution context is."""

    engine: Engine
    memory: Memory
    eager: bool
    profile: int | None = None
    shape: tuple[int, ...] | None = None
    addresses: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    captured: bool = False
    seconds: float | None = None


class StandIn:
    """A version's module with its behaviour, on a device."""

    def __init__(self, api: Mapping[str, Any], device: Any, flaws: Flaws = Flaws()) -> None:
        self.device, self.flaws = device, flaws
        numbers = [int(part) for part in api["version"].split(".")]
        self.version = (*numbers, *([0] * (4 - len(numbers))))[:4]
        self.rtx = api["module"] == "tensorrt_rtx"
        self.tag = b"vtrt" if self.rtx else b"ftrt"
        self.old = not self.rtx and self.version[0] < 10
        # The logger of what has none, and what keeps it the one.
        self._first: weakref.ref[Any] | None = None
        self._living: weakref.WeakSet[Any] = weakref.WeakSet()
        # What was read while NVIDIA's plugins were not registered.
        self.plugins, self.without_plugins = False, list[str]()
        state = self._state
        self.module = FakeModule(
            api,
            {
                "init_libnvinfer_plugins": self._init_plugins,
                "Builder.__init__": self._builder,
                "Builder.create_network": self._create_network,
                "Builder.create_builder_config": self._create_config,
                "Builder.create_optimization_profile": self._create_profile,
                "Builder.build_serialized_network": self._build,
                "IOptimizationProfile.set_shape": lambda profile, name, low, best, high: state(profile).update(
                    {name: [list(low), list(best), list(high)]}
                ),
                "OnnxParser.__init__": self._parser,
                "OnnxParser.parse": self._parse,
                "OnnxParser.num_errors": lambda parser: len(state(parser)["errors"]),
                "OnnxParser.get_error": lambda parser, index: state(parser)["errors"][index],
                "IBuilderConfig.set_flag": lambda config, flag: state(config)["flags"].add(flag.name),
                "IBuilderConfig.clear_flag": lambda config, flag: state(config)["flags"].discard(flag.name),
                "IBuilderConfig.set_preview_feature": self._set_preview,
                "IBuilderConfig.add_optimization_profile": self._add_profile,
                "IBuilderConfig.create_timing_cache": self._timing_cache,
                "IBuilderConfig.set_timing_cache": self._set_timing_cache,
                "IBuilderConfig.get_timing_cache": self._get_timing_cache,
                "ITimingCache.serialize": lambda cache: state(cache)["content"] + b"t",
                "Runtime.__init__": self._runtime,
                "Runtime.deserialize_cuda_engine": self._deserialize,
                "ICudaEngine.num_io_tensors": lambda engine: 2,
                "ICudaEngine.get_tensor_name": lambda engine, index: self._names(engine)[index],
                "ICudaEngine.get_tensor_mode": self._mode,
                "ICudaEngine.get_tensor_dtype": lambda engine, name: self.module.DataType.FLOAT,
                "ICudaEngine.get_tensor_shape": lambda engine, name: (
                    (-1, 3, 224, 224) if name == "input" else (-1, 1000)
                ),
                "ICudaEngine.num_layers": lambda engine: len(state(engine).network.layers),
                "ICudaEngine.num_optimization_profiles": lambda engine: len(state(engine).plan.profiles),
                "ICudaEngine.device_memory_size": self._bytes,
                "ICudaEngine.device_memory_size_v2": self._bytes,
                "ICudaEngine.create_runtime_config": lambda engine: self.module.make("IRuntimeConfig"),
                "ICudaEngine.create_execution_context": self._create_context,
                "ICudaEngine.create_engine_inspector": self._create_inspector,
                "EngineInspector.get_engine_information": self._inspect,
                "IExecutionContext.set_optimization_profile_async": self._set_profile,
                "IExecutionContext.set_input_shape": self._set_shape,
                "IExecutionContext.set_tensor_address": self._set_address,
                "IExecutionContext.infer_shapes": lambda context: [] if state(context).shape else ["input"],
                "IExecutionContext.get_tensor_shape": lambda context, name: (state(context).shape[0], 1000),
                "IExecutionContext.is_stream_capturable": lambda context, stream: self._capturable(context),
                "IExecutionContext.execute_async_v3": self._execute,
            },
        )

    def _state(self, instance: Any) -> Any:
        return instance._state

    def _with(self, name: str, state: Any) -> Any:
        made = self.module.make(name)
        object.__setattr__(made, "_state", state)
        return made

    def _log(self, logger: Any, severity: str, text: str) -> None:
        """`logger` is a weak reference: TensorRT keeps a bare pointer, and so must whoever made it keep the logger."""
        found = logger()
        if found is None:
            violate("a logger is gone before what was made with it")
            return
        found.log(getattr(self.module.ILogger.Severity, severity), text)

    # Building.

    def _init_plugins(self, logger: Any, namespace: str) -> bool:
        self.plugins = True
        when_gone(logger, violate, "a logger is gone that the plugin library keeps")
        return True

    def _register(self, made: Any, logger: Any) -> None:
        """The first logger stays TensorRT's own until nothing is left that was made meanwhile."""
        if not self._living:
            self._first = weakref.ref(logger)
        elif self._first is not None and self._first() is None:
            violate("TensorRT's logger is gone while builders or runtimes live")
        elif self._first is not None and self._first() is not logger:
            text = "The logger passed in differs from one already registered for an existing builder or runtime."
            logger.log(self.module.ILogger.Severity.WARNING, text)
        self._living.add(made)

    def _builder(self, builder: Any, logger: Any) -> None:
        self._register(builder, logger)
        object.__setattr__(builder, "_state", {"logger": weakref.ref(logger)})

    def _create_network(self, builder: Any, flags: int = 0) -> Any:
        kinds = self.module.NetworkDefinitionCreationFlag
        strong = not hasattr(self.module.BuilderFlag, "FP16")
        if hasattr(kinds, "STRONGLY_TYPED"):
            strong = strong or bool(flags & (1 << int(kinds.STRONGLY_TYPED)))
        if self.old and not flags & (1 << int(kinds.EXPLICIT_BATCH)):
            self._log(builder._state["logger"], "ERROR", "the ONNX parser wants EXPLICIT_BATCH")
        return self._with("INetworkDefinition", {"strong": strong, "graph": None})

    def _create_config(self, builder: Any) -> Any:
        return self._with("IBuilderConfig", {"flags": {"TF32"}, "profiles": [], "timing": None, "preview": set()})

    def _create_profile(self, builder: Any) -> Any:
        return self._with("IOptimizationProfile", {})

    def _set_preview(self, config: Any, feature: Any, enable: bool) -> None:
        (config._state["preview"].add if enable else config._state["preview"].discard)(feature.name)

    def _add_profile(self, config: Any, profile: Any) -> int:
        config._state["profiles"].append(profile._state)
        return len(config._state["profiles"]) - 1

    def _timing_cache(self, config: Any, content: bytes) -> Any:
        if content.startswith(b"damaged"):
            return None
        return self._with("ITimingCache", {"content": bytes(content)})

    def _set_timing_cache(self, config: Any, cache: Any, ignore_mismatch: bool) -> bool:
        if cache is None:
            raise TypeError("set_timing_cache(): incompatible function arguments")
        if cache._state["content"].startswith(b"another stack"):
            return False
        config._state["timing"] = weakref.ref(cache)
        return True

    def _get_timing_cache(self, config: Any) -> Any:
        attached = config._state["timing"]
        if attached is None:
            return self._with("ITimingCache", {"content": b""})
        if attached() is None:
            violate("a timing cache is gone before the builder's config that it was given to")
        return attached()

    def _parser(self, parser: Any, network: Any, logger: Any) -> None:
        state = {"network": weakref.ref(network), "logger": weakref.ref(logger), "errors": []}
        object.__setattr__(parser, "_state", state)

    def _parse(self, parser: Any, model: bytes, path: str | None = None) -> bool:
        state, network = parser._state, parser._state["network"]()
        assert network is not None
        if not self.plugins:
            self.without_plugins.append("a graph")
        graph = onnx.load_from_string(bytes(model))
        version = operator_set(graph)
        if self.old and version > 17:
            self._log(state["logger"], "WARNING", f"the graph has opset {version}; operators are supported up to 17")
        parsed = Network(graph, reads_axes_input=not self.old)
        for index, kind in parsed.unsupported():
            self._parser_error(state, index, f"no importer for {kind}")
        if self.old:
            constants = {each.name: each.data_type for each in graph.graph.initializer}
            for index, node in enumerate(graph.graph.node):
                scaled = node.op_type in {"QuantizeLinear", "DequantizeLinear"}
                if scaled and constants.get(node.input[1]) == onnx.TensorProto.FLOAT16:
                    self._parser_error(state, index, "scale of type Half; 8.6 reads float*")
        if state["errors"]:
            return False
        network._state["graph"] = bytes(model)
        return True

    def _parser_error(self, state: dict[str, Any], index: int, text: str) -> None:
        error = self.module.make("ParserError")
        for name, value in (("node", index), ("desc", text), ("code", "UNSUPPORTED_NODE")):
            object.__setattr__(error, name, lambda value=value: value)
        state["errors"].append(error)

    def _build(self, builder: Any, network: Any, config: Any) -> bytes | None:
        logger, state, graph = builder._state["logger"], config._state, network._state["graph"]
        flags = state["flags"]
        parsed = Network(onnx.load_from_string(graph or b""), reads_axes_input=not self.old)
        quantised = bool(parsed.quantised)
        problem = self._objection(parsed, network._state["strong"], state)
        if problem:
            self._log(logger, "ERROR", problem)
            return None
        calibrator = config._values.get("int8_calibrator")
        if "INT8" in flags and not quantised and not self._calibrate(calibrator, logger):
            return None
        monitor = config._values.get("progress_monitor")
        if monitor is not None:
            monitor.phase_start("Building", "", 2)
            for step in range(2):
                if not monitor.step_complete("Building", step):
                    return None
            monitor.phase_finish("Building")
        verbosity = config._values.get("profiling_verbosity")
        plan = Plan(
            strongly_typed=network._state["strong"],
            flags=sorted(flags),
            profiles=state["profiles"],
            sharing="PROFILE_SHARING_0806" in state["preview"] or not self.old,
            calibrated=calibrator is not None,
            detailed=verbosity is not None and verbosity.name == "DETAILED",
            graph=graph,
        )
        return plan.to_bytes(self.tag, self.version)

    def _objection(self, parsed: Network, strong: bool, config: dict[str, Any]) -> str:
        """Why this is not built, or nothing."""
        if not parsed.layers:
            return "the network is empty"
        if strong and config["flags"] & {"FP16", "INT8", "BF16", "FP8"}:
            return "a strongly typed network takes no precision flags"
        if parsed.quantised and not strong and "INT8" not in config["flags"]:
            return "the network has Q/DQ nodes, but INT8 is not set"
        return self._shapes(parsed, config["profiles"]) if self.old else ""

    def _shapes(self, network: Network, profiles: list[Any]) -> str:
        """What does not fit in the network, as the builder sees it."""
        try:
            network.run(torch.zeros(profiles[0]["input"][0]))
        except RuntimeError as error:
            return f"[SHAPE ERROR] {error}"
        return ""

    def _calibrate(self, calibrator: Any, logger: Any) -> bool:
        if calibrator is None:
            self._log(logger, "WARNING", "Missing scale and zero-point: expect fall back to non-int8 implementation")
            return True
        if calibrator.read_calibration_cache() is None:
            count = 0
            while batch := calibrator.get_batch(["input"]):
                assert all(isinstance(address, int) for address in batch)
                count += 1
            if not count:
                self._log(logger, "ERROR", "the calibrator gave no batch")
                return False
            calibrator.write_calibration_cache(memoryview(b"TRT-EntropyCalibration2: %d" % count))
        return True

    # Loading.

    def _runtime(self, runtime: Any, logger: Any) -> None:
        self._register(runtime, logger)
        object.__setattr__(runtime, "_state", {"logger": weakref.ref(logger)})

    def _deserialize(self, runtime: Any, blob: Any) -> Any:
        if not self.plugins:
            self.without_plugins.append("a plan")
        plan, logger = bytes(blob), runtime._state["logger"]
        problem = self._problem(plan)
        if problem:
            self._log(logger, "ERROR", problem)
            return None
        described = Plan.from_bytes(plan)
        network = Network(onnx.load_from_string(described.graph), reads_axes_input=not self.old)
        network.to(self.device.torch_device, described.half())
        engine = Engine(described, network, logger, weakref.ref(runtime))
        made = self._with("ICudaEngine", engine)
        when_gone(made, _engine_dies, engine)
        when_gone(runtime, _runtime_dies, weakref.ref(made))
        return made

    def _problem(self, plan: bytes) -> str:
        """What TensorRT's own runtime says of a blob that it does not take."""
        if len(plan) < HEADER.size:
            return "deserializeCudaEngine: the blob is shorter than a plan's header"
        tag, _, serialisation, _, size, *version = HEADER.unpack_from(plan)
        if tag != self.tag:
            return f"Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed: {tag!r}"
        if size != len(plan):
            return f"Serialization assertion plan->header.size == blobSize failed: {size}, {len(plan)}"
        if tuple(version) != self.version:
            numbers = ".".join(map(str, version))
            return (
                "The engine plan file is not compatible with this version of TensorRT, expecting library version "
                f"{'.'.join(map(str, self.version))} got {numbers}"
            )
        return "" if serialisation == SERIALISATION else f"serialization version {serialisation}"

    def _names(self, engine: Any) -> list[str]:
        graph = engine._state.network.model.graph
        return [graph.input[0].name, graph.output[0].name]

    def _mode(self, engine: Any, name: str) -> Any:
        modes = self.module.TensorIOMode
        return modes.INPUT if name == self._names(engine)[0] else modes.OUTPUT

    def _bytes(self, engine: Any) -> int:
        return max(4 * int(np.prod(profile["input"][2])) for profile in engine._state.plan.profiles)

    # Contexts.

    def _create_context(self, engine: Any, *arguments: Any, **keywords: Any) -> Any:
        state = engine._state
        given = [*arguments, *keywords.values()]
        config = next((each for each in given if getattr(each, "_name", "") == "IRuntimeConfig"), None)
        strategy = config._values.get("dynamic_shapes_kernel_specialization_strategy") if config is not None else None
        eager = not self.rtx or (strategy is not None and strategy.name == "EAGER")
        context = Context(state, Memory(self.device), eager)
        if not state.taken().get(0):
            context.profile = 0  # the first one gets the first profile without asking
        made = self._with("IExecutionContext", context)
        state.contexts.add(made)
        when_gone(made, context.memory.die)
        return made

    def _alive(self, context: Context) -> None:
        if not context.engine.alive:
            violate("an engine is gone before its context")

    def _set_profile(self, made: Any, index: int, handle: int) -> bool:
        context = made._state
        self._alive(context)
        engine = context.engine
        others = engine.taken().get(index, 0) - (context.profile == index)
        if others and not engine.plan.sharing:
            text = f"Profile {index} has been chosen by another IExecutionContext. Use another profileIndex or destroy"
            self._log(engine.logger, "ERROR", text)
            raise RuntimeError(NO_PROFILE)
        if index >= len(engine.plan.profiles):
            self._log(engine.logger, "ERROR", f"there is no profile {index}")
            raise RuntimeError(NO_PROFILE)
        context.profile, context.shape, context.runs, context.captured = index, None, 0, False
        return True

    def _set_shape(self, made: Any, name: str, shape: Any) -> bool:
        context = made._state
        if context.profile is None:
            self._log(context.engine.logger, "ERROR", "no optimization profile has been chosen")
            return False
        low, _, high = context.engine.plan.profiles[context.profile][name]
        if not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            self._log(context.engine.logger, "ERROR", f"{tuple(shape)} is outside of profile {context.profile}")
            return False
        context.shape, context.runs, context.captured = tuple(shape), 0, False
        return True

    def _set_address(self, made: Any, name: str, address: int) -> bool:
        made._state.addresses[name] = address
        made._state.runs = 0
        return address != 0

    def _capturable(self, made: Any) -> bool:
        return "REQUIRE_USER_ALLOCATION" in made._state.engine.plan.flags

    def _execute(self, made: Any, handle: int) -> bool:
        context = made._state
        self._alive(context)
        engine, profiler = context.engine, made._values.get("profiler")
        if context.shape is None or set(context.addresses) != {"input", "logits"}:
            self._log(engine.logger, "ERROR", "shapes or addresses are missing")
            return False
        if self.device.capturing(handle):
            problem = ""
            if context.runs == 0:
                problem = "captured before a first enqueue: resources are not allocated yet"
            elif self.rtx and not self._capturable(made):
                problem = "this engine allocates while it runs and cannot be captured"
            if problem:
                self._log(engine.logger, "ERROR", problem)
                return False
            if context.captured:
                violate("a context was captured twice")
            context.captured = True
            self.device.put(handle, self._work(context, handle, extra=self._extra(context)))
            return True
        if profiler is not None:
            self._profile(context, handle, profiler)
        elif context.runs == 0 or context.seconds is None:
            self._measure(context, handle)
        else:
            self.device.put(handle, self._work(context, handle, extra=self._extra(context)))
        context.runs += 1
        return True

    def _extra(self, context: Context) -> float:
        """Seconds to wait besides the work."""
        assert context.seconds is not None
        return context.seconds * (self.flaws.slower + (0.0 if context.eager else GENERIC))

    def _measure(self, context: Context, handle: int) -> None:
        """Run, learn how long that takes, and run again for the rest."""
        if isinstance(self.device, RealGpu):
            with self.device.within(handle, context.memory.pool):
                self.device.learn_cycles()
        times: list[float] = []

        def timed() -> None:
            with self.device.within(handle, context.memory.pool):
                start = self.device.mark()
                self._compute(context)
                times.append(self.device.milliseconds(start, self.device.mark()) / 1e3)

        for _ in range(1 if not (self.flaws.slower or not context.eager) else 5):
            self.device.put(handle, timed)
        context.seconds = min(times)

    def _profile(self, context: Context, handle: int, profiler: Any) -> None:
        marks: list[Any] = []
        layers: list[Layer] = []

        def work() -> None:
            with self.device.within(handle, context.memory.pool):
                marks.append(self.device.mark())

                def after(layer: Layer) -> None:
                    layers.append(layer)
                    marks.append(self.device.mark())

                self._compute(context, after)

        self.device.put(handle, work)
        assert context.profile is not None
        for index, layer in enumerate(layers):
            name = self._layer_name(layer, context.profile)
            profiler.report_layer_time(name, self.device.milliseconds(marks[index], marks[index + 1]))

    def _work(self, context: Context, handle: int, extra: float) -> Callable[[], None]:
        def work() -> None:
            with self.device.within(handle, context.memory.pool):
                self._compute(context)
                if extra:
                    self.device.wait(extra)

        # The state goes on living in a captured graph; what the context owned does not.
        return work

    @torch.inference_mode()
    def _compute(self, context: Context, after: Callable[[Layer], object] = lambda layer: None) -> None:
        assert context.shape is not None
        network, plan = context.engine.network, context.engine.plan
        images = self.device.tensor(context.addresses["input"], context.shape)
        logits = self.device.tensor(context.addresses["logits"], (context.shape[0], 1000))
        if self.device.torch_device == "cuda":
            images = images.contiguous(memory_format=torch.channels_last)
        tf32 = "TF32" in plan.flags and torch.cuda.is_available()
        with _tf32(tf32):
            found = network.run(images, after).float()
        if self.flaws.wrong:
            found = found.roll(1, 1)
        torch.add(found.expand(logits.shape), context.memory.guard, out=logits)

    # Inspecting.

    def _create_inspector(self, engine: Any) -> Any:
        return self._with("EngineInspector", engine._state)

    def _inspect(self, inspector: Any, wanted: Any) -> str:
        engine = inspector._state
        if not engine.alive:
            violate("an engine is gone before its inspector")
        context = inspector._values.get("execution_context")
        chosen = None if context is None else context._state.profile
        if context is not None and context._state.shape is None:
            chosen = None
        profiles = range(len(engine.plan.profiles)) if self.old else [chosen or 0]
        layers: list[Any] = [
            self._describe(engine, layer, profile, profile == chosen)
            for profile in profiles
            for layer in engine.network.layers
        ]
        if not engine.plan.detailed:
            layers = [layer["Name"] for layer in layers]
        return json.dumps(
            {"Layers": layers, "Bindings" if self.version[0] <= 10 and not self.rtx else "I/O Tensors": []}
        )

    def _layer_name(self, layer: Layer, profile: int) -> str:
        return f"{layer.name} [profile {profile}]" if self.old and profile else layer.name

    def _describe(self, engine: Engine, layer: Layer, profile: int, told: bool) -> dict[str, Any]:
        kind = self._kind(engine, layer, profile)
        structured = self.version[0] >= 11 or self.rtx

        def tensor(name: str) -> dict[str, Any]:
            words = {"float32": "FP32", "float16": "FP16", "int8": "Int8"}[kind]
            if not told:
                return {"Name": name, "Format/Datatype": "N/A due to dynamic shapes"}
            if structured:
                short = {"float32": "Float", "float16": "Half", "int8": "Int8"}[kind]
                return {"Name": name, "Format": "Row major linear", "Datatype": short}
            return {"Name": name, "Format/Datatype": f"Row major linear {words} format"}

        described: dict[str, Any] = {
            "Name": self._layer_name(layer, profile),
            "LayerType": "CaskConvolution" if layer.kind == "Conv" else layer.kind,
            "ParameterType": "Convolution" if layer.kind == "Conv" else layer.kind,
            "Inputs": [tensor(layer.nodes[0].input[0])],
            "Outputs": [tensor(layer.nodes[-1].output[0])],
        }
        if layer.kind == "Conv":
            pair = {"float16": "f16f16_f16f16_f16", "int8": "i8i8_i8i32_f32", "float32": "f32f32_f32f32_f32"}[kind]
            if kind == "float32" and "TF32" in engine.plan.flags:
                pair = "f32f32_tf32f32_f32"
            described["TacticName"] = f"sm80_xmma_fprop_implicit_gemm_{pair}_nhwckrsc_nhwc_tilesize128x128x16_stage4"
        if self.version[0] >= 10 or self.rtx:
            described["Metadata"] = "\x1e".join(f"[ONNX Layer: {node.name}]" for node in layer.nodes)
        return described

    def _kind(self, engine: Engine, layer: Layer, profile: int) -> str:
        plan = engine.plan
        if self.flaws.second_profile_float and profile == 1:
            return "float32"
        if not layer.weighted or layer.kind not in WEIGHTED:
            return "float32"
        if layer.nodes[0].name in engine.network.quantised or plan.calibrated:
            return "int8"
        weight = engine.network.constants[layer.nodes[0].input[1]]
        return str(weight.dtype).removeprefix("torch.")


def _engine_dies(engine: Engine) -> None:
    engine.alive = False
    if len(engine.contexts):
        violate("an engine is gone before its context")


def _runtime_dies(engine: weakref.ref[Any]) -> None:
    if engine() is not None:
        violate("a runtime is gone before its engine")


def _tf32(on: bool) -> AbstractContextManager[object]:
    if not torch.cuda.is_available():
        return nullcontext()
    from trtgate.engines.pytorch import arithmetic

    return arithmetic(tf32=on)


# As an installed package.

PACKAGE = '''"""A stand-in, no TensorRT: what it measures says nothing about TensorRT."""
from pathlib import Path
from tests.tensorrt_api.standin import load_installed

_stand_in = load_installed(Path(__file__).parent)


def __getattr__(name):
    return getattr(_stand_in.module, name)


__version__ = _stand_in.module.__version__
'''


def write_package(site: Path, api: Mapping[str, Any], flaws: Flaws = Flaws()) -> None:
    """Put a version's stand-in among the packages of a folder, where it imports as that TensorRT would.

    Whoever imports it needs this repository on the path. Its installed version says that it is a stand-in.
    """
    name = "tensorrt_rtx" if api["module"] == "tensorrt_rtx" else "tensorrt"
    folder = site / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "api.json").write_text(json.dumps(api))
    (folder / "flaws.json").write_text(json.dumps(asdict(flaws)))
    version = f"{api['version']}+standin"
    for old in site.glob(f"{name}-*.dist-info"):
        shutil.rmtree(old)
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata)


def load_installed(folder: Path) -> StandIn:
    """What `write_package` wrote, on a GPU where there is one."""
    api = json.loads((folder / "api.json").read_text())
    flaws = Flaws(**json.loads((folder / "flaws.json").read_text()))
    if torch.cuda.is_available():
        return StandIn(api, RealGpu(), flaws)
    from tests.fake_cuda import host_gpu

    return StandIn(api, Host(host_gpu()), flaws)
