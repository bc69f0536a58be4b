"""Running a plan: execution contexts, CUDA graphs, layer times.

Nothing but our own reference keeps an execution context alive, and it owns the memory that a CUDA graph captured from
it goes on using. So a lane owns its context and then its graph, and everything goes in this order: graph, context,
buffers, engine, runtime. The logger is the process's, and stays.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from trtgate.cuda import CapturedGraph, CudaError, PyCudaLane, closed, driver
from trtgate.engines.gpu import CAPTURED, GpuEngine, Lane
from trtgate.engines.tensorrt.api import (
    Features,
    TensorRTError,
    data_type,
    fresh_logger,
    refusal,
    require_own_plan,
    start,
    trt,
)
from trtgate.engines.tensorrt.build import RECIPES
from trtgate.engines.tensorrt.inspect import BuiltLayer, merged, read_layers, weighted_layers
from trtgate.kinds import EngineSpec, LayerTime, PrecisionAudit
from trtgate.layers import own_name
from trtgate.signature import Signature, Tensors

log = logging.getLogger(__name__)

# Runs of a context before its times are kept: lazy loading of kernels is over then.
WARM_UP = 3
# Layer times come from this many profiled runs.
PROFILED_RUNS = 20


class TensorRTLane(PyCudaLane):
    """Stream and buffers with the execution context that is bound to them, and the graph captured from it."""

    def __init__(self, size: int, signature: Signature) -> None:
        super().__init__(size, signature)
        self.context: Any = None
        self.enqueue: Callable[[], None] = closed

    def own(self, context: Any, enqueue: Callable[[], None]) -> None:
        """Keep a context until the lane is closed: longer than what is registered later, shorter than the buffers."""
        self.context, self.enqueue, self.run = context, enqueue, enqueue
        self.on_close(self._let_go)

    def _let_go(self) -> None:
        self.context, self.enqueue = None, closed


class TensorRTEngine(GpuEngine):
    """A deserialised plan; each lane has an execution context of its own, for inference, audit and layer times."""

    def __init__(
        self, spec: EngineSpec, plan: bytes, sizes: Sequence[int], signature: Signature, weighted: Sequence[str]
    ) -> None:
        """Raises TensorRTError when the plan cannot be deserialised or does not have the tensors it should have."""
        super().__init__(spec, signature)
        self._sizes = tuple(sizes)
        self._weighted = tuple(weighted)
        self._version = require_own_plan(plan)
        self._captured: dict[int, str] = {}
        driver()  # TensorRT takes the context that is current
        self._logger = fresh_logger()
        self._settings: Any = None
        self._runtime: Any = start(trt.Runtime, self._logger)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        try:
            if self._engine is None:
                raise refusal(f"TensorRT cannot load the plan of {spec.id}", self._logger)
            self._settings = runtime_settings(self._engine)
            self._check_tensors()
        except BaseException:
            self.close()  # in order: nobody else will
            raise

    def _check_tensors(self) -> None:
        engine = self._engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        found = {name: (engine.get_tensor_mode(name), engine.get_tensor_dtype(name)) for name in names}
        wanted = {
            each.name: (mode, data_type(each.dtype))
            for mode, some in (
                (trt.TensorIOMode.INPUT, self._signature.inputs),
                (trt.TensorIOMode.OUTPUT, self._signature.outputs),
            )
            for each in some
        }
        if found != wanted:
            raise TensorRTError(f"the plan of {self.spec.id} has the tensors {found}, wanted are {wanted}")

    def _context(self, lane: PyCudaLane, size: int) -> Any:
        """An execution context with the profile, the shape and the addresses of a lane."""
        if size not in self._sizes:
            raise TensorRTError(f"{self.spec.id} was built for batches of {self._sizes}, not of {size}")
        self._logger.forget()
        settings = () if self._settings is None else (self._settings,)
        context = self._engine.create_execution_context(*settings)
        if context is None:
            raise refusal(f"{self.spec.id}: no execution context", self._logger)
        handle = lane.stream.handle
        profile = self._sizes.index(size) if self._signature.batched else 0
        steps: list[tuple[Any, ...]] = [
            ("set_optimization_profile_async", profile, handle),
            *(("set_input_shape", each.name, each.at(size)) for each in self._signature.inputs),
            *(("set_tensor_address", name, int(address)) for name, address in lane.device.items()),
        ]
        for name, *arguments in steps:
            if not self._ask(context, name, *arguments):
                raise refusal(f"{self.spec.id}: {name}{tuple(arguments)} failed", self._logger)
        lane.synchronize()
        missing = self._ask(context, "infer_shapes")
        if missing:
            raise TensorRTError(f"{self.spec.id}: the shapes of {', '.join(missing)} are not known")
        for name, host in lane.host_out.items():
            produced = tuple(context.get_tensor_shape(name))
            if produced != host.shape:
                raise TensorRTError(f"{self.spec.id} gives {name} of shape {produced}, wanted is {host.shape}")
        return context

    def _ask(self, context: Any, name: str, *arguments: Any) -> Any:
        """What a context answers. Some of its methods raise RuntimeError instead, with less than was logged."""
        try:
            return getattr(context, name)(*arguments)
        except RuntimeError as error:
            raise refusal(f"{self.spec.id}: {name}{arguments} failed", self._logger, str(error)) from error

    def _enqueuer(self, context: Any, handle: int) -> Callable[[], None]:
        execute = context.execute_async_v3

        def enqueue() -> None:
            if not execute(handle):
                raise refusal(f"{self.spec.id}: execute_async_v3 failed", self._logger)

        return enqueue

    def new_lane(self, size: int) -> Lane:
        with ExitStack() as undo:
            lane = TensorRTLane(size, self._signature)
            undo.callback(lane.close)
            context = self._context(lane, size)
            lane.own(context, self._enqueuer(context, lane.stream.handle))
            for _ in range(WARM_UP):  # at least one run must come before a capture
                lane.enqueue()
            lane.synchronize()
            self._captured[size] = self._capture(lane)
            if self._captured[size] != CAPTURED:
                log.warning("%s batch %d runs %s", self.spec.id, size, self._captured[size])
            undo.pop_all()
        return lane

    def _capture(self, lane: TensorRTLane) -> str:
        """Make the lane run a CUDA graph of its context; how it runs from now on."""
        handle = lane.stream.handle
        if hasattr(lane.context, "is_stream_capturable") and not lane.context.is_stream_capturable(handle):
            return "without a CUDA graph: TensorRT says that this context cannot be captured"
        try:
            graph = CapturedGraph(handle, lane.enqueue)
        except (CudaError, TensorRTError) as error:
            return f"without a CUDA graph: {error}"
        lane.on_close(graph.close)
        lane.run = graph.launcher()
        return CAPTURED

    def _layers(self, size: int) -> list[BuiltLayer]:
        """The layers of one batch size's profile; only with a context does the inspector tell the types.

        Empty where what it says cannot be read, which is logged: nothing passes by that, and the engine can be timed.
        """
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._lane_of(size).context
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        try:
            return read_layers(text, self._sizes.index(size) if self._signature.batched else 0)
        except TensorRTError as error:
            log.warning("%s batch %d: %s", self.spec.id, size, error)
            return []

    def _lane_of(self, size: int) -> TensorRTLane:
        lane = self.lane(size)
        assert isinstance(lane, TensorRTLane)
        return lane

    def audit(self) -> PrecisionAudit:
        """Every profile by itself: each is built of kernels of its own."""
        found = {size: weighted_layers(self._layers(size), self._weighted) for size in self._sizes}
        also = frozenset({"float16"}) if RECIPES[self.spec].calibrated else frozenset()
        return PrecisionAudit(self.spec.precision, merged(found), also)

    def layer_times(self, inputs: Tensors) -> tuple[LayerTime, ...]:
        """Median over PROFILED_RUNS of each layer's time, by the lane's own context without its CUDA graph.

        The lane is closed then, so that no context that was profiled is ever timed.
        """
        size = self._signature.size_of(inputs)
        known = {layer.name: layer for layer in self._layers(size)}
        with self.ready(inputs, again=False) as ready:
            assert isinstance(ready, TensorRTLane)
            profiler = _profiler_class()()
            ready.context.profiler = profiler
            for _ in range(WARM_UP + PROFILED_RUNS):
                ready.enqueue()
                ready.synchronize()
        self.drop_lane(size)
        unknown = BuiltLayer("", "", "")
        times = {}
        for name, each in profiler.times.items():
            layer = known.get(own_name(name), unknown)
            seconds = float(np.median(each[WARM_UP:])) / 1e3
            times[own_name(name)] = LayerTime(own_name(name), seconds, layer.arithmetic, tuple(sorted(layer.nodes)))
        return tuple(times.values())

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
        try:
            super().close()
        finally:  # also after work that failed
            # In this order: TensorRT destroys an object with the last reference to it.
            self._settings = None
            self._engine = None
            self._runtime = None


def runtime_settings(engine: Any) -> Any:
    """What an execution context of the engine is to be made with; None where there is nothing to say.

    TensorRT-RTX runs generic kernels while better ones compile, and a graph captured meanwhile would keep them: all are
    compiled first.
    """
    if not Features.of(trt).kernel_specialization:
        return None
    settings = engine.create_runtime_config()
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy")  # noqa: B009  # RTX only; not in the stubs
    settings.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return settings


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
