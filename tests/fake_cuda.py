"""A stand-in for PyCUDA and cuda-python's runtime: memory that counts, streams with a clock, capture and replay.

It is a fake: nothing runs on a GPU. Work on a stream is a Python function that runs at once, or is kept while the
stream is being captured; each piece of work moves the stream's clock on by what it says it takes.
"""

from __future__ import annotations

import enum
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np


class Error(enum.Enum):
    """The codes that the fake runtime returns."""

    cudaSuccess = 0
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorLaunchFailure = 719


class CaptureMode(enum.Enum):
    """cudaStreamCaptureMode."""

    cudaStreamCaptureModeThreadLocal = 1


class Allocation:
    """Device memory."""

    def __init__(self, gpu: FakeGpu, size: int) -> None:
        self.address, self.memory, self._gpu = next(gpu.addresses), bytearray(size), gpu
        gpu.memory[self.address] = self

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        assert self.address in self._gpu.memory, "freed twice"
        del self._gpu.memory[self.address]


class Pinned:
    """What PyCUDA's page-locked arrays have for a base."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        gpu.pinned.add(self)

    def free(self) -> None:
        self._gpu.pinned.remove(self)


class PinnedArray(np.ndarray):  # type: ignore[type-arg]
    """An array that knows its base as PyCUDA's do."""

    pinned: Pinned

    @property
    def base(self) -> Any:
        return self.pinned


class Stream:
    """A queue whose work is done at once."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.handle = next(gpu.addresses)
        self.clock = 0.0
        self.captured: list[tuple[Callable[[], object], float | None]] | None = None
        self._gpu = gpu
        gpu.streams[self.handle] = self

    def put(self, work: Callable[[], object], milliseconds: float | None = 0.0) -> None:
        """Work that takes so long by the stream's clock, or as long as it does."""
        if self.captured is not None:
            self.captured.append((work, milliseconds))
            return
        start = time.perf_counter()
        work()
        self.clock += (time.perf_counter() - start) * 1e3 if milliseconds is None else milliseconds

    def synchronize(self) -> None:
        assert self.captured is None, "synchronised while capturing"
        self._gpu.synchronised += 1


class Event:
    """A mark on a stream."""

    def __init__(self) -> None:
        self.at = float("nan")

    def record(self, stream: Stream) -> None:
        self.at = stream.clock

    def time_till(self, end: Event) -> float:
        return end.at - self.at


class FakeGpu:
    """One GPU: `driver` passes for pycuda.driver, `cudart` for cuda.bindings.runtime.

    `refuse` makes the named runtime call return an error; `fail_allocation` is how many allocations succeed.
    """

    def __init__(self) -> None:
        self.addresses = itertools.count(0x1000, 0x1000)
        self.memory: dict[int, Allocation] = {}
        self.pinned: set[Pinned] = set()
        self.streams: dict[int, Stream] = {}
        self.graphs: set[int] = set()
        self.synchronised = 0
        self.launches = 0
        self.refuse: dict[str, Error] = {}
        self.fail_allocation = 10**9
        self.driver, self.cudart = Driver(self), Runtime(self)

    @property
    def clean(self) -> bool:
        """Whether everything that was taken has been given back."""
        return not (self.memory or self.pinned or self.graphs)

    def floats(self, address: int, shape: tuple[int, ...]) -> Any:
        """Device memory as float32 of that shape."""
        memory = self.memory[address].memory
        assert len(memory) == 4 * int(np.prod(shape)), f"{len(memory)} bytes for {shape}"
        return np.frombuffer(memory, np.float32).reshape(shape)


class Device:
    """A GPU as PyCUDA describes it."""

    def __init__(self, index: int) -> None:
        assert index == 0

    def pci_bus_id(self) -> str:
        return "0000:00:00.0"

    def name(self) -> str:
        return "stand-in GPU"


class Driver:
    """pycuda.driver."""

    Device = Device

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def init(self) -> None:
        """There is nothing to start."""

    def Stream(self) -> Stream:
        return Stream(self._gpu)

    def Event(self) -> Event:
        return Event()

    def mem_alloc(self, size: int) -> Allocation:
        if self._gpu.fail_allocation <= 0:
            raise MemoryError("cuMemAlloc failed: out of memory")
        self._gpu.fail_allocation -= 1
        return Allocation(self._gpu, size)

    def pagelocked_zeros(self, shape: tuple[int, ...], dtype: Any) -> PinnedArray:
        array = np.zeros(shape, dtype).view(PinnedArray)
        array.pinned = Pinned(self._gpu)
        return array

    def memcpy_htod(self, target: Allocation, source: Any) -> None:
        target.memory[:] = np.ascontiguousarray(source).tobytes()

    def memcpy_htod_async(self, target: Allocation, source: Any, stream: Stream) -> None:
        stream.put(lambda: self.memcpy_htod(target, source), 0.1)

    def memcpy_dtoh_async(self, target: Any, source: Allocation, stream: Stream) -> None:
        def copy() -> None:
            np.asarray(target)[...] = np.frombuffer(source.memory, target.dtype).reshape(target.shape)

        stream.put(copy, 0.1)


class Runtime:
    """cuda.bindings.runtime: every call returns its error first."""

    cudaError_t = Error
    cudaStreamCaptureMode = CaptureMode

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu
        self._graphs: dict[int, list[tuple[Callable[[], object], float | None]]] = {}

    def cudaStream_t(self, handle: int) -> int:
        return handle

    def _error(self, call: str) -> Error:
        return self._gpu.refuse.get(call, Error.cudaSuccess)

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return self._error("cudaGetDeviceCount"), 1

    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> tuple[Error]:
        assert isinstance(mode, CaptureMode)
        error = self._error("cudaStreamBeginCapture")
        if error is Error.cudaSuccess:
            self._gpu.streams[stream].captured = []
        return (error,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, int | None]:
        work = self._gpu.streams[stream].captured
        self._gpu.streams[stream].captured = None
        error = self._error("cudaStreamEndCapture")
        if error is not Error.cudaSuccess or work is None:
            return error, None
        return error, self._keep(work)

    def _keep(self, work: list[tuple[Callable[[], object], float | None]]) -> int:
        graph = next(self._gpu.addresses)
        self._graphs[graph] = work
        self._gpu.graphs.add(graph)
        return graph

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Error, int | None]:
        error = self._error("cudaGraphInstantiate")
        return error, self._keep(self._graphs[graph]) if error is Error.cudaSuccess else None

    def cudaGraphDestroy(self, graph: int) -> tuple[Error]:
        self._gpu.graphs.remove(graph)
        return (Error.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Error]:
        error = self._error("cudaGraphLaunch")
        if error is Error.cudaSuccess:
            assert graph in self._gpu.graphs
            self._gpu.launches += 1
            for work, milliseconds in self._graphs[graph]:
                self._gpu.streams[stream].put(work, milliseconds)
        return (error,)


@functools.cache
def host_gpu() -> FakeGpu:
    """The one that a process has when its packages are stand-ins too."""
    return FakeGpu()
