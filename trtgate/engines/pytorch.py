"""PyTorch, eager and, on a GPU, in a CUDA graph: the reference at FP32, and what PyTorch itself offers below it.

The reference on a GPU is plain eager FP32: cuDNN on, its algorithms by cuDNN's own heuristics (no benchmark mode),
TF32 off. FP16 and BF16 are the module converted as a whole, in channels_last, with float32 in and out as every engine.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trtgate.engines.base import Backend, BuildRequest, Engine, only_on
from trtgate.engines.fusing import fuse
from trtgate.engines.gpu import GpuEngine, Lane
from trtgate.kinds import AVAILABLE, Availability, Device, EngineSpec, GraphKind, PrecisionAudit
from trtgate.signature import Signature, Tensors, TensorSpec
from trtgate.stack import cpu_features

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FUSED = "fused"
# A few runs first, as PyTorch advises before a capture: lazy initialisation and compilation are over then.
WARM_UP = 3
# A spin this long is timed once to learn how many of its cycles are a second.
SPIN_CYCLES = 10_000_000


def layer_types(module: torch.nn.Module, precision: str) -> dict[str, str]:
    """The type that each convolution and linear layer computes in, by module name; TF32 computes on float32 data."""
    return {
        name: "tf32" if precision == "tf32" else str(layer.weight.dtype).removeprefix("torch.")
        for name, layer in module.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)
    }


def listed(outputs: Any) -> tuple[torch.Tensor, ...]:
    """What a module returned, which for a single output is that."""
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def as_torch(signature: Signature, inputs: Tensors) -> tuple[torch.Tensor, ...]:
    """Inputs in the order in which a module takes them, sharing their memory."""
    return tuple(torch.from_numpy(inputs[each.name]) for each in signature.inputs)


class PyTorchEngine(Engine):
    """Eager on the CPU."""

    def __init__(self, spec: EngineSpec, module: torch.nn.Module, signature: Signature) -> None:
        super().__init__(spec)
        self._dtype = DTYPES[spec.precision]
        self._module = module
        self._signature = signature

    def infer(self, inputs: Tensors) -> Tensors:
        with torch.inference_mode():
            images = [each.to(self._dtype) for each in as_torch(self._signature, inputs)]
            return self._signature.named(each.float().numpy() for each in listed(self._module(*images)))

    def bind(self, inputs: Tensors) -> Callable[[], object]:
        module, images, dtype = self._module, as_torch(self._signature, inputs), self._dtype
        infer = torch.inference_mode()
        if dtype is torch.float32:
            return infer(lambda: module(*images))
        # The caller has float32 and wants float32, as from every other engine.
        return infer(lambda: [each.float() for each in listed(module(*(image.to(dtype) for image in images)))])

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, layer_types(self._module, self.spec.precision))


@contextlib.contextmanager
def arithmetic(*, tf32: bool, cudnn: bool = True) -> Iterator[None]:
    """Whether FP32 convolutions and matrix products on the GPU may use TF32, and whether cuDNN is used at all."""
    settings: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [each.fp32_precision for each in settings]
    had_cudnn = torch.backends.cudnn.enabled
    try:
        for each in settings:
            each.fp32_precision = "tf32" if tf32 else "ieee"
        torch.backends.cudnn.enabled = cudnn
        yield
    finally:
        torch.backends.cudnn.enabled = had_cudnn
        for each, value in zip(settings, before, strict=True):
            each.fp32_precision = value


class FloatInOut(torch.nn.Module):
    """A module in another type behind float32 images and float32 logits, in channels_last."""

    def __init__(self, module: torch.nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype).to(memory_format=torch.channels_last)
        self.dtype = dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module(images.to(self.dtype, memory_format=torch.channels_last)).float()
        return logits


def on_gpu(module: torch.nn.Module, precision: str, *, fused: bool = False) -> torch.nn.Module:
    """A copy of the module on the GPU, at that precision, float32[N,3,H,W] -> float32[N,classes]."""
    copied = (fuse(module) if fused else copy.deepcopy(module)).cuda()
    return copied if DTYPES[precision] is torch.float32 else FloatInOut(copied, DTYPES[precision])


# Given the device tensors that inputs will lie in, a function that enqueues their inference and returns the outputs.
Prepare = Callable[[Sequence[torch.Tensor]], Callable[[], Any]]


class TorchStream(Lane):
    """The part of a lane that is PyTorch's stream and events."""

    def __init__(self, *, tf32: bool = False, stream: torch.cuda.Stream | None = None) -> None:
        super().__init__()
        self.stream = stream or torch.cuda.Stream()
        self._tf32 = tf32
        self._cycles_per_second: float | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        with torch.inference_mode(), arithmetic(tf32=self._tf32), self.current():
            yield

    def current(self) -> contextlib.AbstractContextManager[object]:
        return torch.cuda.stream(self.stream)

    def new_event(self) -> torch.cuda.Event:
        return torch.cuda.Event(enable_timing=True)

    def milliseconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(start.elapsed_time(end))

    def synchronize(self) -> object:
        return self.stream.synchronize()

    def waiting(self, seconds: float) -> Callable[[], object]:
        if self._cycles_per_second is None:
            self._cycles_per_second = cycles_per_second(self)
        cycles = int(seconds * self._cycles_per_second)
        return lambda: torch.cuda._sleep(cycles)


def empty(each: TensorSpec, size: int, device: str | None = None) -> torch.Tensor:
    """Zeros for an input or output of a batch of that size."""
    return torch.zeros(each.at(size), dtype=getattr(torch, each.dtype), device=device)


class TorchLane(TorchStream):
    """A lane through torch.cuda, on a stream of its own unless one is given."""

    def __init__(
        self,
        prepare: Prepare,
        size: int,
        signature: Signature,
        *,
        tf32: bool = False,
        graph: bool = False,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        super().__init__(tf32=tf32, stream=stream)

        pinned_in = [empty(each, size).pin_memory() for each in signature.inputs]
        images = [empty(each, size, "cuda") for each in signature.inputs]
        call = prepare(images)

        def run() -> None:
            self._outputs = call()

        self.run = run
        with self.active():
            for _ in range(WARM_UP):
                run()
            self.synchronize()
            pinned_out = [torch.zeros(each.shape, dtype=each.dtype).pin_memory() for each in listed(self._outputs)]
            if graph:
                captured = torch.cuda.CUDAGraph()
                with own_workspaces(), torch.cuda.graph(captured, stream=self.stream):
                    run()
                self.run = captured.replay
        self.host_in = {each.name: host.numpy() for each, host in zip(signature.inputs, pinned_in, strict=True)}
        self.host_out = signature.named(each.numpy() for each in pinned_out)

        def copy_in() -> None:
            for image, host in zip(images, pinned_in, strict=True):
                image.copy_(host, non_blocking=True)

        def copy_out() -> None:
            for host, found in zip(pinned_out, listed(self._outputs), strict=True):
                host.copy_(found, non_blocking=True)

        self.copy_in, self.copy_out = copy_in, copy_out

    def close(self) -> None:
        super().close()
        self.synchronize()
        # Graph and buffers live in these closures, and the graph uses the buffers.
        self.run = lambda: None
        self.copy_in = self.copy_out = self.run
        self._outputs = None


@contextlib.contextmanager
def own_workspaces() -> Iterator[None]:
    """Have what is captured take its cuBLAS workspace from the graph's own memory, and nobody else use that.

    A graph captured with the stream's workspace of before would write to it after `give_back_memory` freed it.
    PyTorch's own graph trees do the same (torch/_inductor/cudagraph_trees.py, clear_cublas_manager).
    """
    torch.cuda.synchronize()
    torch._C._cuda_clearCublasWorkspaces()
    try:
        yield
    finally:
        torch._C._cuda_clearCublasWorkspaces()


def give_back_memory() -> None:
    """Return to the GPU what PyTorch keeps for later.

    cuBLAS's workspaces count too: 32 MiB on Hopper for every stream that multiplied, kept until the process ends.
    """
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()


def cycles_per_second(lane: Lane) -> float:
    """How many cycles of PyTorch's spin kernel are a second, timed by two events on the lane's stream."""
    start, end = lane.new_event(), lane.new_event()
    torch.cuda._sleep(SPIN_CYCLES)  # clocks up
    start.record(lane.stream)
    torch.cuda._sleep(SPIN_CYCLES)
    end.record(lane.stream)
    lane.synchronize()
    return SPIN_CYCLES / (lane.milliseconds(start, end) / 1e3)


class TorchGpuEngine(GpuEngine):
    """A module on the GPU, eager or captured in a CUDA graph, fused there or not."""

    def __init__(self, spec: EngineSpec, module: torch.nn.Module, signature: Signature, *, graph: bool) -> None:
        super().__init__(spec, signature)
        before = torch.cuda.memory_allocated()
        self._module: torch.nn.Module | None = on_gpu(module, spec.precision, fused=spec.variant == FUSED)
        self._weights_bytes = torch.cuda.memory_allocated() - before
        self._graph = graph
        self._layers = layer_types(module_inside(self._module), spec.precision)

    def prepare(self, images: Sequence[torch.Tensor]) -> Callable[[], Any]:
        """One inference of the inputs, which are on the GPU, giving the outputs there."""
        module = self._module
        assert module is not None
        return lambda: module(*images)

    def new_lane(self, size: int) -> Lane:
        return TorchLane(self.prepare, size, self._signature, tf32=self.spec.precision == "tf32", graph=self._graph)

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, self._layers)

    def facts(self) -> Mapping[str, Any]:
        return {"weights_bytes": self._weights_bytes}

    def close(self) -> None:
        super().close()
        self._module = None
        if self.spec.variant == FUSED:
            gc.collect()  # the nodes of a traced module refer to each other in circles, and hold its weights
        give_back_memory()


def module_inside(module: torch.nn.Module) -> torch.nn.Module:
    """The model's own module, whose layers have the names that everything else knows them by."""
    return module.module if isinstance(module, FloatInOut) else module


class PyTorchBackend(Backend):
    name = "pytorch"

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        if device == "cuda" or spec == EngineSpec(self.name, "fp32"):
            return AVAILABLE
        if spec != EngineSpec(self.name, "bf16"):
            return only_on("cuda", device)
        if not cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"}:
            return Availability(False, "this CPU has no BF16 instructions")
        return AVAILABLE

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        return None

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        torch.set_num_threads(request.threads)
        assert request.model is not None
        module = request.model.module
        if request.device == "cuda":
            return TorchGpuEngine(spec, module, request.signature, graph=spec.variant != "")
        if spec.precision != "fp32":
            module = copy.deepcopy(module).to(DTYPES[spec.precision])
        return PyTorchEngine(spec, module, request.signature)


BACKEND = PyTorchBackend()
