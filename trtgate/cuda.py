"""CUDA through PyCUDA, in the primary context that PyTorch uses too, and graph capture through cuda-python.

PyCUDA has buffers, streams and events but no stream capture; cuda-python's runtime bindings capture and replay on the
same stream by its handle. (`pycuda.autoinit` would make a context of its own, whose memory PyTorch cannot see.)
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from trtgate.engines.gpu import Event, Lane
from trtgate.signature import Signature, TensorSpec


class CudaError(Exception):
    """A CUDA call did not succeed; the message names the call and CUDA's own error."""


@functools.cache
def driver() -> Any:
    """`pycuda.driver` with the primary context of CUDA's device 0 current. Raises ImportError without PyCUDA.

    Left alone, PyCUDA takes what CUDA_DEVICE or a file in the home names, or goes on to the next device where the first
    refuses a context: plans would be built on another GPU than PyTorch runs on and NVML tells of.
    """
    os.environ["CUDA_DEVICE"] = "0"
    import pycuda.autoprimaryctx
    import pycuda.driver

    return pycuda.driver


def runtime() -> Any:
    """cuda-python's runtime API. Raises ImportError without it."""
    from cuda.bindings import runtime as cudart

    return cudart


def check(call: str, result: tuple[Any, ...]) -> Any:
    """What a runtime call returned besides its error code. Raises CudaError for any code but success."""
    error, *values = result
    if error != type(error).cudaSuccess:
        raise CudaError(f"{call} failed: {error.name}")
    return values[0] if values else None


class CapturedGraph:
    """Work captured from a stream once, to be launched on it many times."""

    def __init__(self, stream: int, enqueue: Callable[[], object]) -> None:
        """Capture what `enqueue` puts on the stream with that handle.

        Raises what `enqueue` raises, and CudaError when the work cannot be captured; the stream is usable again then.
        """
        self._cudart = cudart = runtime()
        self._stream = cudart.cudaStream_t(stream)
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check("cudaStreamBeginCapture", cudart.cudaStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        except BaseException:
            # An error of this call is a consequence of the one on its way.
            _, *unfinished = cudart.cudaStreamEndCapture(self._stream)
            for graph in filter(None, unfinished):
                cudart.cudaGraphDestroy(graph)
            raise
        graph = check("cudaStreamEndCapture", cudart.cudaStreamEndCapture(self._stream))
        try:
            self._executable = check("cudaGraphInstantiate", cudart.cudaGraphInstantiate(graph, 0))
        finally:
            check("cudaGraphDestroy", cudart.cudaGraphDestroy(graph))

    def launcher(self) -> Callable[[], None]:
        """A function that enqueues the captured work. It raises CudaError when the launch fails."""
        launch, executable, stream = self._cudart.cudaGraphLaunch, self._executable, self._stream
        success = self._cudart.cudaError_t.cudaSuccess

        def launch_checked() -> None:
            (error,) = launch(executable, stream)
            if error != success:
                raise CudaError(f"cudaGraphLaunch failed: {error.name}")

        return launch_checked

    def close(self) -> None:
        """Free the executable graph."""
        check("cudaGraphExecDestroy", self._cudart.cudaGraphExecDestroy(self._executable))


class PyCudaLane(Lane):
    """A stream with page-locked and device buffers for one batch size; whoever makes it sets `run`.

    Raises pycuda.driver.Error when memory runs out; what had been allocated is freed then.
    """

    def __init__(self, size: int, signature: Signature) -> None:
        super().__init__()
        self._cuda = cuda = driver()
        self._cycles_per_second: float | None = None
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as made:
            self.stream = cuda.Stream()
            self.host_in = {each.name: self._pinned(made, each, size) for each in signature.inputs}
            self.host_out = {each.name: self._pinned(made, each, size) for each in signature.outputs}
            # By the names of inputs and outputs alike.
            self.device = {
                name: self._allocated(made, host.nbytes) for name, host in {**self.host_in, **self.host_out}.items()
            }
            self._cleanup = made.pop_all()
        stream = self.stream
        inward = [(self.device[name], host) for name, host in self.host_in.items()]
        outward = [(host, self.device[name]) for name, host in self.host_out.items()]

        def copy_in() -> None:
            for device, host in inward:
                cuda.memcpy_htod_async(device, host, stream)

        def copy_out() -> None:
            for host, device in outward:
                cuda.memcpy_dtoh_async(host, device, stream)

        self.copy_in, self.copy_out = copy_in, copy_out

    def _pinned(self, made: contextlib.ExitStack, tensor: TensorSpec, size: int) -> Any:
        array = self._cuda.pagelocked_zeros(tensor.at(size), np.dtype(tensor.dtype))
        made.callback(array.base.free)
        return array

    def _allocated(self, made: contextlib.ExitStack, size: int) -> Any:
        allocation = self._cuda.mem_alloc(max(1, size))
        made.callback(allocation.free)
        return allocation

    def on_close(self, free: Callable[[], object]) -> None:
        """Call `free` when the lane is closed: the latest first, and all before its buffers go."""
        self._cleanup.callback(free)

    def new_event(self) -> Event:
        event: Event = self._cuda.Event()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        return float(start.time_till(end))

    def synchronize(self) -> object:
        return self.stream.synchronize()

    def waiting(self, seconds: float) -> Callable[[], object]:
        # PyTorch's spin kernel on this stream; PyCUDA would need nvcc to compile one.
        import torch

        from trtgate.engines.pytorch import cycles_per_second

        stream = torch.cuda.ExternalStream(self.stream.handle)
        if self._cycles_per_second is None:
            with torch.cuda.stream(stream):
                self._cycles_per_second = cycles_per_second(self)
        cycles = int(seconds * self._cycles_per_second)

        def wait() -> None:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(cycles)

        return wait

    def close(self) -> None:
        super().close()
        self.copy_in = self.copy_out = self.run = closed
        with self._cleanup:  # also after work that failed
            self.synchronize()


def closed() -> None:
    """What the functions of a closed lane are. Raises CudaError."""
    raise CudaError("this lane is closed; its buffers are gone")
