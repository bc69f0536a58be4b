"""From an ONNX graph to a plan."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trtgate.cuda import driver
from trtgate.engines.base import try_out
from trtgate.engines.tensorrt.api import (
    Features,
    TensorRTError,
    data_type,
    fresh_logger,
    installed,
    refusal,
    start,
    trt,
)
from trtgate.kinds import EngineSpec, GraphKind
from trtgate.signature import Signature, Tensors, contiguous

log = logging.getLogger(__name__)

# A limit, not an allocation: the builder skips kernels that want more. Enough for every classifier in torchvision.
WORKSPACE_BYTES = 4 << 30


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
    # What INT8 does not help is left to FP16, as anyone would deploy it.
    EngineSpec("tensorrt", "int8"): Recipe("int8-symmetric-fp16", ("INT8", "FP16")),
    EngineSpec("tensorrt", "int8", "calibrated"): Recipe("fp32", ("INT8", "FP16"), calibrated=True),
}


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
    signature: Signature,
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
    _refuse_open_outputs(signature)
    _refuse_types(signature)
    features, recipe, logger = Features.of(trt), RECIPES[spec], fresh_logger()
    builder = start(trt.Builder, logger)
    if not features.strongly_typed:
        graph = for_old_parser(graph, widen=recipe.graph == "int8-symmetric-fp16")
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
    if features.user_allocation:
        config.set_flag(getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"))  # noqa: B009  # RTX only; not in the stubs
    if features.profile_sharing:  # streams of one batch size have a context each, on one profile
        config.set_preview_feature(trt.PreviewFeature.PROFILE_SHARING_0806, True)
    _refuse_shape_inputs(network)
    _add_profiles(builder, config, sizes, signature, calibrated=recipe.calibrated)
    if features.progress_monitor:
        config.progress_monitor = _progress_monitor_class()(progress)
    if compute_capability is not None and features.compute_capability:
        _target(config, compute_capability)
    if recipe.calibrated:
        config.int8_calibrator = calibrator
    # Held until the build is over: nothing says that the config does.
    timings = read_timings(config, timing_cache) if timing_cache is not None else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise refusal(f"TensorRT could not build {spec.id}", logger)
    if timing_cache is not None:
        write_timings(config, timing_cache)
        del timings
    return bytes(memoryview(plan))


# Reductions whose axes became an input in opset 18. (ReduceSum's did in 13, and is read as it is.)
REDUCTIONS = frozenset(
    f"Reduce{kind}" for kind in ("Mean", "Max", "Min", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")
)


def for_old_parser(graph: bytes, *, widen: bool) -> bytes:
    """The graph as the parser of TensorRT 8.6 reads it right.

    It ignores the axes of a reduction unless they are an attribute, and reduces over all of them. With `widen`, what is
    FP16 becomes FP32: it reads the scales of Q/DQ nodes as FP32 whatever they are, and the builder types by flags.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(graph)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for held in node.attribute if node.op_type == "Constant" else ():
            if held.name == "value":
                constants[node.output[0]] = held.t
            elif held.name == "value_ints":
                constants[node.output[0]] = numpy_helper.from_array(np.array(held.ints, np.int64))
    for node in model.graph.node:
        if node.op_type in REDUCTIONS and len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]])
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", [int(axis) for axis in axes]))
    if widen:
        constant = (attribute.t for node in model.graph.node for attribute in node.attribute if attribute.HasField("t"))
        for tensor in (*model.graph.initializer, *constant):
            if tensor.data_type == TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor).astype(np.float32)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for node in model.graph.node:
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                    attribute.i = TensorProto.FLOAT
        del model.graph.value_info[:]  # inferred anew by whoever needs them
    content: bytes = model.SerializeToString()
    return content


def parse(network: Any, graph: bytes, logger: Any) -> None:
    """Read an ONNX graph into a network. Raises TensorRTError with every error of the parser."""
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        described = [f"node {error.node()}: {error.desc()} ({error.code()})" for error in errors]
        raise refusal("TensorRT cannot parse the ONNX graph", logger, *described)


def _add_profiles(builder: Any, config: Any, sizes: Sequence[int], signature: Signature, *, calibrated: bool) -> None:
    """One for each batch size and one for a calibration; none where every shape is fixed."""
    if not signature.batched:
        return
    for size in sizes:
        config.add_optimization_profile(_profile(builder, size, signature))
    if calibrated:
        config.set_calibration_profile(_profile(builder, 1, signature))


def _profile(builder: Any, size: int, signature: Signature) -> Any:
    profile = builder.create_optimization_profile()
    for each in signature.inputs:
        if each.at(1) != each.at(2):
            profile.set_shape(each.name, each.at(1), each.at(size), each.at(size))
    return profile


def _refuse_open_outputs(signature: Signature) -> None:
    """Raises TensorRTError for an output whose shape depends on what goes in: no buffer is as long as it."""
    names = [each.name for each in signature.outputs if -1 in each.shape]
    if names:
        raise TensorRTError(f"the shapes of {', '.join(names)} depend on what goes in, and no buffer is made for that")


def _refuse_types(signature: Signature) -> None:
    """Raises TensorRTError for inputs and outputs of a type that the version has none of: before 10 it takes 64-bit
    integers for others, and has no such inputs."""
    found = [
        f"{each.name} ({each.dtype})"
        for each in (*signature.inputs, *signature.outputs)
        if data_type(each.dtype) is None
    ]
    if found:
        raise TensorRTError(f"TensorRT {installed().__version__} has no inputs and outputs such as {', '.join(found)}")


def _refuse_shape_inputs(network: Any) -> None:
    """Raises TensorRTError for an input whose values decide a shape: its profile would be one of values."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    names = [each.name for each in inputs if each.is_shape_tensor]
    if names:
        raise TensorRTError(f"shapes depend on the values of {', '.join(names)}, for which no profile is made")


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
        """Feeds samples one by one, unless what they come to is already known."""

        def __init__(self, samples: Sequence[Tensors], known: bytes | None) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._samples = samples
            self._next = 0
            self._device: dict[str, Any] = {}
            self.known = known

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> list[int]:
            if self._next == len(self._samples):
                return []  # no more
            sample = self._samples[self._next]
            self._next += 1
            for name in names:
                if name not in self._device:
                    self._device[name] = driver().mem_alloc(sample[name].nbytes)
                driver().memcpy_htod(self._device[name], contiguous(sample[name]))
            return [int(self._device[name]) for name in names]

        def read_calibration_cache(self) -> bytes | None:
            return self.known

        def write_calibration_cache(self, cache: Any) -> None:
            self.known = bytes(cache)

        def close(self) -> None:
            for allocation in self._device.values():
                allocation.free()
            self._device.clear()

    return EntropyCalibrator


def make_calibrator(samples: Sequence[Tensors], known: bytes | None) -> Any:
    """An IInt8EntropyCalibrator2 over batches of one; `known` is the cache of an earlier calibration, or None.

    After the build its `known` holds the cache; `close` frees its device memory.
    """
    return _calibrator_class()(samples, known)


def read_timings(config: Any, path: Path) -> Any:
    """Give a builder the kernel timings in a file, if it is there and of this stack; the cache that it was given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(known)
    # Damaged ones are None in some versions, which set_timing_cache does not take, and empty in others.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        log.warning("%s is damaged or from another stack; building without it, and making it anew", path)
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def write_timings(config: Any, path: Path) -> None:
    """Keep a builder's kernel timings in a file; a reader never sees half of one."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    with FileLock(f"{path}.lock"):
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(bytes(memoryview(cache.serialize())))
        temporary.replace(path)


def build_in_child(
    spec: EngineSpec,
    graph: Path,
    sizes: tuple[int, ...],
    signature: Signature,
    samples: Sequence[Tensors] | None,
    known: bytes | None,
    timing_cache: Path | None,
    trials: Sequence[Tensors],
    path: Path,
    *,
    progress: Callable[[int, int], None],
) -> bytes | None:
    """Build a plan into `path`, load it and run it on `trials`; what a calibration came to, if any."""
    driver()
    with ExitStack() as kept:
        calibrator = None
        if samples is not None:
            calibrator = make_calibrator(samples, known)
            kept.callback(calibrator.close)
        plan = build_plan(
            spec,
            graph.read_bytes(),
            sizes,
            signature,
            calibrator=calibrator,
            timing_cache=timing_cache,
            progress=progress,
        )
        path.write_bytes(plan)
        # Here, not above: running needs no builder, and a build without a GPU no runtime.
        from trtgate.engines.tensorrt.run import TensorRTEngine

        try_out(TensorRTEngine(spec, plan, sizes, signature, ()), trials)
        learned: bytes | None = calibrator.known if calibrator is not None else None
        return learned
