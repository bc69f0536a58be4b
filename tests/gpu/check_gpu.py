"""What only a real GPU can prove: python tests/gpu/check_gpu.py [--weights FILE] [--json FILE]

Needs an NVIDIA GPU with requirements.txt, PyCUDA and cuda-python, not TensorRT: an ordinary CUDA kernel stands in for a
TensorRT engine, behind the same `TensorRTEngine`, so its buffers, streams, events, graph capture and clean-up are the
real ones. Prints what was seen on which card, and ends with status 1 if a check failed.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests import small_classifier
from trtgate import cuda
from trtgate.engines import backend, parse_spec
from trtgate.engines.base import BuildRequest
from trtgate.engines.gpu import CAPTURED, GpuEngine, time_between_events
from trtgate.engines.pytorch import give_back_memory
from trtgate.engines.tensorrt import run
from trtgate.engines.tensorrt.run import TensorRTEngine
from trtgate.measure.monitor import GpuMonitor
from trtgate.models.base import Model
from trtgate.models.loading import load_model
from trtgate.nvml import current_gpu
from trtgate.signature import Tensors
from trtgate.stack import cuda_facts

CROP, SIZES = 64, (1, 8)
SPIN = 20_000
# Every output element is the mean of its image times its class; the loop makes it take some tenths of a millisecond.
KERNEL = """
extern "C" __global__ void stand_in(const float *images, float *logits, int pixels, int spin) {
    float sum = 0.f;
    const float *image = images + (size_t)blockIdx.y * pixels;
    for (int i = 0; i < pixels; ++i) sum += image[i];
    float x = sum;
    for (int i = 0; i < spin; ++i) x = x * 1.0000001f + 1e-9f;
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c < 1000) logits[blockIdx.y * 1000 + c] = c * sum / pixels + (x == 12345.f);
}
"""
RESULTS: list[dict[str, Any]] = []


def check(name: str, holds: bool, seen: str) -> None:
    """Print and keep one result."""
    RESULTS.append({"check": name, "holds": bool(holds), "seen": seen})
    print(f"{'ok  ' if holds else 'FAIL'}  {name}: {seen}", flush=True)


class KernelContext:
    """An execution context whose inference is the kernel; `refuses` makes it do what no capture allows."""

    def __init__(self, launch: Callable[..., bool], refuses: bool) -> None:
        self._launch = launch
        self._refuses = refuses
        self._addresses: dict[str, int] = {}
        self._size = 0

    def set_optimization_profile_async(self, index: int, handle: int) -> bool:
        return index in range(len(SIZES))

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._size = shape[0]
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def infer_shapes(self) -> list[str]:
        return []

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self._size, 1000)

    def execute_async_v3(self, handle: int) -> bool:
        if self._refuses:
            cuda.runtime().cudaDeviceSynchronize()  # not allowed while a stream of this thread is being captured
        return self._launch(handle, self._addresses["input"], self._addresses["logits"], self._size)


@functools.cache
def kernel() -> Any:
    """The compiled kernel, as a CUDA function that stays loaded."""
    cuda.driver()
    from cuda.bindings import driver
    from pycuda.compiler import compile as nvcc

    error, module = driver.cuModuleLoadData(nvcc(KERNEL, no_extern_c=True))
    assert error == driver.CUresult.CUDA_SUCCESS, error
    error, function = driver.cuModuleGetFunction(module, b"stand_in")
    assert error == driver.CUresult.CUDA_SUCCESS, error
    return function


def stand_in_tensorrt(refuses: bool = False) -> Any:
    """A module with as much of TensorRT as TensorRTEngine uses, around the kernel."""
    from cuda.bindings import driver

    function = kernel()
    types = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int)

    def launch(handle: int, images: int, logits: int, size: int) -> bool:
        values = (images, logits, 3 * CROP * CROP, SPIN)
        (error,) = driver.cuLaunchKernel(function, 8, size, 1, 128, 1, 1, 0, handle, (values, types), 0)
        return bool(error == driver.CUresult.CUDA_SUCCESS)

    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: ["input", "logits"][index],
        get_tensor_mode=lambda name: name,
        get_tensor_dtype=lambda name: "float",
        get_tensor_shape=lambda name: (-1, 1000),
        create_execution_context=lambda: KernelContext(launch, refuses),
        device_memory_size_v2=0,
        num_layers=1,
    )

    return SimpleNamespace(
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: engine),
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="logits"),
        DataType=SimpleNamespace(FLOAT="float"),
    )


@contextmanager
def kernel_engine(refuses: bool = False) -> Iterator[TensorRTEngine]:
    """TensorRTEngine around the kernel."""
    run.trt = stand_in_tensorrt(refuses)  # type: ignore[assignment]
    run.fresh_logger = _PlainLogger
    run.require_own_plan = lambda plan: "a kernel"
    run.runtime_settings = lambda engine: None
    with TensorRTEngine(parse_spec("tensorrt-fp16"), bytes(32), SIZES, small_classifier.signature(CROP), ()) as engine:
        yield engine


class _PlainLogger:
    def __init__(self) -> None:
        self.problems: list[str] = []
        self.warnings: list[str] = []

    def forget(self) -> None:
        """Nothing is kept."""


def batch(size: int) -> dict[str, np.ndarray]:
    return {"input": np.stack([np.full((3, CROP, CROP), value + 1, np.float32) for value in range(size)])}


def free_bytes() -> int:
    torch.cuda.synchronize()
    return int(torch.cuda.mem_get_info()[0])


def check_pycuda() -> None:
    """Buffers, streams, events, capture and both series, beside PyTorch in the same context."""
    before_torch = torch.ones(1000, device="cuda").sum().item()
    # What CUDA keeps for itself after a first time is no leak; what goes on growing is.
    once_around()
    free = free_bytes()
    for _ in range(5):
        once_around()
    left = free - free_bytes()
    check("pycuda: memory returned, five times around", left <= 0, f"{left} bytes fewer free than before")
    with kernel_engine() as engine:
        worst = 0.0
        for size in SIZES:
            logits = engine.infer(batch(size))["logits"]
            wanted = np.outer(np.arange(1, size + 1), np.arange(1000))
            worst = max(worst, float(np.abs(logits - wanted).max()))
        check("pycuda: the kernel's answers come back", worst < 0.5, f"largest error {worst:.3g} of up to {999 * 8}")
        check("pycuda: captured", engine.facts()["launched_as"] == {"1": CAPTURED, "8": CAPTURED},
              str(engine.facts()["launched_as"]))  # fmt: skip
        check_replay("pycuda", engine, 8)
        block = engine.block(200, batch(8))
        assert block.end_to_end is not None
        copies = 1e3 * float(np.median(block.end_to_end) - np.median(block.seconds))
        check("pycuda: end to end takes longer than computing", copies > 0, f"by {copies:.4f} ms")
        check_slowdown("pycuda", engine, batch(8))
        check_streams("pycuda", engine, batch(8))
        check_overhead("pycuda", engine, batch(1))
    check("pycuda: PyTorch beside it", torch.ones(1000, device="cuda").sum().item() == before_torch, "same context")
    with kernel_engine(refuses=True) as engine:
        answer = engine.infer(batch(1))["logits"][0, 2]
        check("pycuda: a refused capture runs without a graph", abs(answer - 2) < 0.01 and engine.notes(1) != (),
              engine.notes(1)[0] if engine.notes(1) else "captured")  # fmt: skip
    torch.cuda.synchronize()


def once_around() -> None:
    """Everything that takes memory: lanes of both sizes, graphs, several streams."""
    with kernel_engine() as engine:
        for size in SIZES:
            engine.block(20, batch(size))
        engine.throughput(batch(8), 4)


def bare_ratio(engine: GpuEngine, size: int) -> tuple[float, float]:
    """Median over ten turns of timed replay / bare loop, and the bare loop's milliseconds."""
    ratios, bare = [], 0.0
    with engine.ready(engine._signature.blank(size)) as lane:
        for _ in range(10):
            seconds = time_between_events(lane, lane.run, 200)
            start, end = lane.new_event(), lane.new_event()
            start.record(lane.stream)
            for _ in range(200):
                lane.run()
            end.record(lane.stream)
            lane.synchronize()
            bare = lane.milliseconds(start, end) / 200
            ratios.append(1e3 * float(np.median(seconds)) / bare)
    return float(np.median(ratios)), bare


def check_replay(name: str, engine: GpuEngine, size: int) -> None:
    """What stands between two events must be the inference and nothing else."""
    ratio, bare = bare_ratio(engine, size)
    check(f"{name}: a timed replay against a bare loop", abs(ratio - 1) < 0.01, f"{ratio:.4f} of {bare:.4f} ms")


def check_streams(name: str, engine: GpuEngine, images: Tensors) -> None:
    """Several lanes must be able to run at the same time."""
    one, four = engine.throughput(images, 1), engine.throughput(images, 4)
    assert one
    assert four
    check(f"{name}: four streams at once", four > one, f"{four / one:.2f} times the images of one")


def check_slowdown(name: str, engine: GpuEngine, images: Tensors) -> None:
    """The wait that the selftest adds must be about what it says."""
    latency = float(np.median(engine.block(200, images).seconds))
    plain, slow = (float(np.median(engine.slowed_block(images, [share * latency] * 400).seconds)) for share in (0, 0.1))
    check(f"{name}: a wait of 10 % is one", 0.07 < (slow - plain) / latency < 0.13, f"{(slow - plain) / latency:.1%}")


def check_overhead(name: str, engine: GpuEngine, images: Tensors) -> None:
    """What the host spends on a timed iteration besides handing the inference over."""
    with engine.ready(images) as lane:
        time_between_events(lane, lambda: None, 2000)
        start = time.perf_counter()
        time_between_events(lane, lambda: None, 2000)
        each = (time.perf_counter() - start) / 2000 * 1e6
    check(f"{name}: host time per timed iteration", each < 50, f"{each:.2f} us")


def check_torch(model: Model, spec_text: str) -> None:
    """PyTorch's lanes: answers, capture, timing, memory."""
    spec = parse_spec(spec_text)
    request = BuildRequest(model, None, (1, 8), 4, "cuda", model.signature)
    photos = np.random.default_rng(0).standard_normal((8, 3, 224, 224), np.float32)
    images = {"input": photos}
    with torch.inference_mode():
        wanted = model.module(torch.from_numpy(photos)).numpy()
    with backend("pytorch").load(spec, request, None) as engine:
        engine.infer(images)  # what CUDA's libraries keep for themselves after a first time is no leak
    allocated, free = torch.cuda.memory_allocated(), free_bytes()
    with backend("pytorch").load(spec, request, None) as engine:
        assert isinstance(engine, GpuEngine)
        logits = engine.infer(images)["logits"]
        error = float(np.abs(logits - wanted).max() / np.abs(wanted).max())
        limit = {"fp32": 1e-4, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1}[spec.precision]
        check(f"{spec_text}: answers", error < limit, f"off by {error:.1e} of the largest logit")
        give_back_memory()  # as the end of a race does
        taken = [torch.full((1 << 20,), float("nan"), device="cuda") for _ in range(64)]  # what a graph may still use
        again = engine.infer({"input": photos + 0})["logits"]
        check(f"{spec_text}: answers after memory was given back", np.array_equal(again, logits), "the same")
        del taken
        if spec.variant == "graph":
            check_replay(spec_text, engine, 1)
            check_slowdown(spec_text, engine, images)
            check_overhead(spec_text, engine, images)
    left = torch.cuda.memory_allocated() - allocated
    check(f"{spec_text}: memory returned", left <= 0, f"{left} bytes still allocated")
    check(f"{spec_text}: memory given back to the GPU", free - free_bytes() < 64 << 20,
          f"{(free - free_bytes()) / 2**20:.1f} MiB fewer free than before")  # fmt: skip


def check_compiled(model: Model) -> None:
    """The compiled engine: its plan is what its own process saved, and its memory comes back."""
    spec = parse_spec("inductor-fp16")
    request = BuildRequest(model, None, (1, 8), 4, "cuda", model.signature)
    photos = np.random.default_rng(0).standard_normal((8, 3, 224, 224), np.float32)
    images = {"input": photos}
    with torch.inference_mode():
        wanted = model.module(torch.from_numpy(photos)).numpy()
    maker = backend("inductor")
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / str(maker.plan_file(spec))
        maker.build(spec, request, plan)
        allocated, free = torch.cuda.memory_allocated(), free_bytes()
        start = time.monotonic()
        with maker.load(spec, request, plan) as engine:
            engine.infer({"input": photos[:1]})
            error = float(np.abs(engine.infer(images)["logits"] - wanted).max() / np.abs(wanted).max())
            seconds = time.monotonic() - start
            check("inductor-fp16: answers", error < 2e-2, f"off by {error:.1e} of the largest logit")
            anew = (*engine.notes(1), *engine.notes(8))
            check("inductor-fp16: loaded, nothing compiled or tuned anew", anew == (), f"{anew} in {seconds:.1f} s")
            assert isinstance(engine, GpuEngine)
            check_replay("inductor-fp16", engine, 1)
            check_streams("inductor-fp16", engine, {"input": photos[:1]})
    left = torch.cuda.memory_allocated() - allocated
    check("inductor-fp16: memory returned", left <= 0, f"{left} bytes still allocated")
    check("inductor-fp16: memory given back to the GPU", free - free_bytes() < 64 << 20,
          f"{(free - free_bytes()) / 2**20:.1f} MiB fewer free than before")  # fmt: skip


def check_nvml() -> None:
    """Readings between blocks."""
    gpu = current_gpu()
    assert gpu is not None
    monitor = GpuMonitor(gpu)
    monitor.start()
    monitor.sample()
    objection = monitor.stop()
    check("nvml: a quiet GPU has no objection", objection is None, str(objection))
    check("nvml: readings", {"clock_mhz", "watts", "celsius"} <= set(monitor.readings()), str(monitor.readings()))
    check("nvml: this process is no other", gpu.other_processes() in ((), None), str(gpu.other_processes()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--weights", type=Path, help="of ResNet-50; torchvision's by default")
    options = parser.parse_args()
    facts = {**cuda_facts(), "torch": torch.__version__}
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    check_nvml()
    model = load_model("resnet50", options.weights)
    for text in ("pytorch-fp32", "pytorch-tf32-graph", "pytorch-fp16-graph", "pytorch-fp16-fused", "pytorch-bf16"):
        check_torch(model, text)
    check_compiled(model)
    check_pycuda()
    if options.json:
        options.json.write_text(json.dumps({"stack": facts, "checks": RESULTS}, indent=1))
    failed = sum(not each["holds"] for each in RESULTS)
    print(f"{len(RESULTS) - failed} of {len(RESULTS)} checks hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
