"""What every engine on an NVIDIA GPU shares: two series of latencies, and a wait that runs on the GPU itself.

`seconds` lies between two CUDA events on the engine's stream, with nothing between them but the inference, and the
next inference is handed over before the last one is done, so a GPU that has work never waits for Python. `end_to_end`
is host time: page-locked inputs to device, inference, outputs to host, synchronise. CUDA resolves event times to about
half a microsecond (CUDA runtime API, cudaEventElapsedTime).
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from trtgate.engines.base import Engine, time_calls
from trtgate.kinds import Block, EngineSpec, Seconds
from trtgate.processes import no_garbage_collection
from trtgate.signature import Signature, Tensors

# How an inference that is a CUDA graph is launched, in a record's facts.
CAPTURED = "CUDA graph"
# The second series shows copies and launches, not kernels; a third of the iterations show them and their tail as well.
# With a tenth a process had 9 to 42 of them, whose slowest twentieth was one or two: 2 to 24 % apart.
END_TO_END_SHARE = 0.3
# Enough for a median of the hand-over.
ENQUEUE_SAMPLES = 15
# Long enough that the first and the last inference of a throughput run, which overlap with nothing, do not matter.
THROUGHPUT_SECONDS = 0.5


class Event(Protocol):
    """A mark on a stream; both PyTorch's and PyCUDA's are one."""

    def record(self, stream: Any) -> object: ...


class Lane(ABC):
    """A stream with its buffers and one inference of one batch size made ready on it.

    `host_in` and `host_out`, the network's inputs and outputs, are page-locked; `stream` is the CUDA library's.
    `copy_in`, `run` and `copy_out` only enqueue. No lane shares a buffer with another.
    """

    stream: Any
    host_in: Tensors
    host_out: Tensors
    copy_in: Callable[[], object]
    run: Callable[[], object]
    copy_out: Callable[[], object]

    def __init__(self) -> None:
        self._starts: list[Event] = []
        self._ends: list[Event] = []
        self._holds: Tensors | None = None

    def fill(self, inputs: Tensors) -> None:
        """Write inputs into the page-locked memory."""
        for name, host in self.host_in.items():
            np.copyto(host, inputs[name])

    def give(self, inputs: Tensors, *, again: bool) -> None:
        """Put inputs into the device's buffers; with `again` the very inputs that are there already stay there.

        A block of a race is given the same ones hundreds of times, and copying them can cost more than the block.
        """
        if again and self._holds is inputs:
            return
        self.fill(inputs)
        self.copy_in()
        self.synchronize()
        self._holds = inputs

    @abstractmethod
    def new_event(self) -> Event:
        """An event that can be timed."""

    @abstractmethod
    def milliseconds(self, start: Any, end: Any) -> float:
        """Time between two events that have been reached."""

    @abstractmethod
    def synchronize(self) -> object:
        """Wait until everything on the stream is done. Raises what the CUDA library raises for a failed kernel."""

    @abstractmethod
    def waiting(self, seconds: float) -> Callable[[], object]:
        """A function that enqueues a kernel which spins for about `seconds` and touches nothing."""

    def active(self) -> contextlib.AbstractContextManager[object]:
        """The state in which the lane's functions may be called."""
        return contextlib.nullcontext()

    def current(self) -> contextlib.AbstractContextManager[object]:
        """Within another lane of the same engine being active: makes this lane's stream the one that is meant."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Free the stream and the buffers; calling it twice does nothing."""
        self._starts.clear()
        self._ends.clear()
        self._holds = None

    def events(self, n: int) -> tuple[Sequence[Event], Sequence[Event]]:
        """n pairs of events, made once and used again."""
        for events in (self._starts, self._ends):
            events.extend(self.new_event() for _ in range(n - len(events)))
        return self._starts[:n], self._ends[:n]

    def once(self) -> None:
        """One inference with both copies, done when this returns."""
        self.copy_in()
        self.run()
        self.copy_out()
        self.synchronize()


def time_between_events(lane: Lane, run: Callable[[], object], n: int) -> Seconds:
    """GPU seconds, float64[n], of n back-to-back calls of `run`, each between two events."""
    starts, ends = lane.events(n)
    stream = lane.stream
    with no_garbage_collection():
        for start, end in zip(starts, ends, strict=True):
            start.record(stream)
            run()
            end.record(stream)
    lane.synchronize()
    return np.array([lane.milliseconds(start, end) for start, end in zip(starts, ends, strict=True)]) / 1e3


class GpuEngine(Engine):
    """An engine whose inferences are lanes, one for each batch size, made when it is first asked for."""

    def __init__(self, spec: EngineSpec, signature: Signature) -> None:
        super().__init__(spec)
        self._signature = signature
        self._lanes: dict[int, Lane] = {}

    @abstractmethod
    def new_lane(self, size: int) -> Lane:
        """A lane for batches of that size. Raises what the runtime raises when it cannot make one."""

    def lane(self, size: int) -> Lane:
        """The engine's own lane for batches of that size."""
        if size not in self._lanes:
            self._lanes[size] = self.new_lane(size)
        return self._lanes[size]

    def drop_lane(self, size: int) -> None:
        """Close that lane; the next who asks gets a new one."""
        self._lanes.pop(size).close()

    def concurrent(self) -> bool:
        """Whether several lanes may run at the same time."""
        return True

    @contextlib.contextmanager
    def ready(self, inputs: Tensors, *, again: bool = True) -> Iterator[Lane]:
        """The lane of the batch's size with the inputs in its device buffers.

        Without `again` they are copied there even if they are what was there last, whose content may have changed.
        """
        lane = self.lane(self._signature.size_of(inputs))
        with lane.active():
            lane.give(inputs, again=again)
            yield lane

    def infer(self, inputs: Tensors) -> Tensors:
        with self.ready(inputs, again=False) as lane:
            lane.run()
            lane.copy_out()
            lane.synchronize()
            return {name: host.copy() for name, host in lane.host_out.items()}

    def bind(self, inputs: Tensors) -> Callable[[], object]:
        with self.ready(inputs) as lane:
            pass

        def once() -> None:
            with lane.active():
                lane.once()

        return once

    def block(self, n: int, inputs: Tensors) -> Block:
        with self.ready(inputs) as lane:
            seconds = time_between_events(lane, lane.run, n)
            return Block(seconds, time_calls(lane.once, max(1, round(n * END_TO_END_SHARE))))

    def slowed_block(self, inputs: Tensors, waits: Sequence[float]) -> Block:
        with self.ready(inputs) as lane:
            run, kinds = lane.run, {seconds: lane.waiting(seconds) for seconds in set(waits)}
            some = iter([kinds[seconds] for seconds in waits])

            def slow_run() -> None:
                run()
                next(some)()

            return Block(time_between_events(lane, slow_run, len(waits)))

    def enqueue_seconds(self, inputs: Tensors) -> float | None:
        samples = []
        with self.ready(inputs) as lane:
            for _ in range(ENQUEUE_SAMPLES):
                start = time.perf_counter()
                lane.run()
                samples.append(time.perf_counter() - start)
                lane.synchronize()
        return float(np.median(samples))

    def throughput(self, inputs: Tensors, streams: int) -> float | None:
        if streams > 1 and not self.concurrent():
            return None
        size = self._signature.size_of(inputs)
        with contextlib.ExitStack() as stack:
            lanes = []
            for _ in range(streams):
                lane = self.new_lane(size)
                stack.callback(lane.close)
                lane.fill(inputs)
                lanes.append(lane)
            turns = 1
            while True:
                elapsed = _run_together(lanes, turns)
                if elapsed >= THROUGHPUT_SECONDS:
                    return turns * len(lanes) * size / elapsed
                turns = max(2 * turns, round(1.2 * turns * THROUGHPUT_SECONDS / elapsed))

    def close(self) -> None:
        with contextlib.ExitStack() as closing:  # all of them, even if one fails
            for lane in self._lanes.values():
                closing.callback(lane.close)
            self._lanes.clear()


def _run_together(lanes: Sequence[Lane], turns: int) -> float:
    """Host seconds for `turns` inferences with copies on every lane, all lanes at once."""
    with lanes[0].active():
        start = time.perf_counter()
        for _ in range(turns):
            for lane in lanes:
                with lane.current():
                    lane.copy_in()
                    lane.run()
                    lane.copy_out()
        for lane in lanes:
            lane.synchronize()
        return time.perf_counter() - start
