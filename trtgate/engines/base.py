"""The contract that every backend fulfils, and nothing else."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from typing_extensions import Self

from trtgate.kinds import (
    AVAILABLE,
    ONE_MACHINE,
    Availability,
    Block,
    Device,
    EngineSpec,
    GraphKind,
    LayerTime,
    PrecisionAudit,
    Seconds,
)
from trtgate.processes import no_garbage_collection
from trtgate.signature import Signature, Tensors

if TYPE_CHECKING:  # a worker process runs a backend's engines without PyTorch
    from trtgate.models.base import Model


def only_on(wanted: Device, device: Device) -> Availability:
    """Availability of what exists on one kind of processor only."""
    if wanted == device:
        return AVAILABLE
    name = {"cpu": "CPU", "cuda": "GPU"}[wanted]
    return Availability(False, f"it runs on a {name} only", f"--device {wanted}", elsewhere=True)


def not_imported(what: str, error: ImportError, fix: str, *modules: str) -> Availability:
    """Availability of what needs `modules`, importing which raised that: broken unless one of them is not installed."""
    found = error.name if isinstance(error, ModuleNotFoundError) else None
    absent = any(found is not None and f"{module}.".startswith(f"{found}.") for module in modules)
    return Availability(False, f"{what} cannot be imported: {error}", fix, broken=not absent)


def no_progress(done: int, total: int) -> None:
    """Nobody watches."""


@dataclass(frozen=True)
class BuildRequest:
    """What a build may depend on: the model, its graph of the kind the backend asked for, the batches, the processor,
    what goes in and comes out.

    `model` is None in a worker process and for an ONNX file, which have graphs only. `timing_cache` is a file that
    TensorRT may take kernel timings from and add them to; None builds cold. `anew` builds a plan even if one is in the
    cache. `sample` is a batch of one that the model can be run on; without one zeros will do.
    """

    model: Model | None
    graph: Path | None
    batch_sizes: tuple[int, ...]
    threads: int
    device: Device = "cpu"
    signature: Signature = field(default_factory=Signature)
    calibration: Calibration | None = None
    timing_cache: Path | None = None
    anew: bool = False
    sample: Tensors | None = None
    progress: Callable[[int, int], None] = no_progress

    def trial(self, size: int) -> Tensors:
        """Inputs to try an engine with."""
        return self.signature.blank(size) if self.sample is None else self.signature.join([self.sample], size)


@dataclass(frozen=True)
class Calibration:
    """Samples for a builder that measures INT8 ranges by itself, and a memory for what it measured.

    `samples()` are batches of one, `digest` stands for them; `read()` is what `write` was once given for the same
    samples, graph and builder, or None.
    """

    digest: str
    samples: Callable[[], Sequence[Tensors]]
    read: Callable[[], bytes | None]
    write: Callable[[bytes], None]


class Engine(ABC):
    """A loaded engine; a context manager that gives everything back on exit."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @abstractmethod
    def infer(self, inputs: Tensors) -> Tensors:
        """All outputs for all inputs, in memory of their own, copying as a caller would."""

    @abstractmethod
    def bind(self, inputs: Tensors) -> Callable[[], object]:
        """One inference of `inputs`, made ready so that calling it does nothing else and returns when it is done."""

    def block(self, n: int, inputs: Tensors) -> Block:
        """n back-to-back inferences of `inputs`, each timed; between blocks nobody writes to them."""
        return Block(time_calls(self.bind(inputs), n))

    def slowed_block(self, inputs: Tensors, waits: Sequence[float]) -> Block:
        """As `block`, without a second series, each inference followed by a wait of its own, in seconds, inside the
        timed region.

        An arm that waits for nothing goes the same way, so that two such arms differ in the waits alone.
        """
        call, clock = self.bind(inputs), time.perf_counter_ns
        ticks = iter([int(seconds * 1e9) for seconds in waits])

        def slow_call() -> None:
            call()
            until = clock() + next(ticks)
            while clock() < until:
                pass

        return Block(time_calls(slow_call, len(waits)))

    @abstractmethod
    def audit(self) -> PrecisionAudit:
        """What the built layers really run in."""

    def enqueue_seconds(self, inputs: Tensors) -> float | None:
        """Host seconds to hand one inference of `inputs` to a GPU; None on a CPU, where that is the work itself."""
        return None

    def layer_times(self, inputs: Tensors) -> tuple[LayerTime, ...]:
        """Time of each layer from a separate pass that nobody times; empty where the runtime does not tell."""
        return ()

    def throughput(self, inputs: Tensors, streams: int) -> float | None:
        """Samples per second, end to end, of `streams` inferences at once; None where the engine cannot do that."""
        return None

    def facts(self) -> Mapping[str, Any]:
        """What else is worth a line in the record, such as device memory and the number of layers. JSON values."""
        return {}

    def notes(self, batch_size: int) -> tuple[str, ...]:
        """What makes this engine's measurement at that batch size something else than one would think."""
        return ()

    def close(self) -> None:
        """Free what the engine holds; calling it twice does nothing."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def try_out(engine: Engine, batches: Iterable[Tensors]) -> None:
    """Run an engine once on each batch and close it: what crashes is better known in a process of its own."""
    with engine:
        for batch in batches:
            engine.infer(batch)


class Backend(ABC):
    """One runtime: what it can build, from which graph, and how its plans are loaded."""

    name: ClassVar[str]
    # Whether `build` may be called in a process of its own, which has the graph but no model.
    builds_apart: ClassVar[bool] = False

    def runtimes(self, device: Device) -> tuple[str, ...]:
        """The modules that `available` imports; they are tried in another process first, which they may bring down."""
        return ()

    @abstractmethod
    def available(self, spec: EngineSpec, device: Device) -> Availability:
        """Whether that engine can run on this machine's processor of that kind."""

    def plan_file(self, spec: EngineSpec) -> str | None:
        """The plan's file name; None where there is nothing to build and the model itself is loaded."""
        return None

    def tunes(self, spec: EngineSpec) -> bool:
        """Whether the builder chooses kernels by timing them: then two builds of one version may differ."""
        return False

    @abstractmethod
    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        """Which graph the engine is built from; None where it is built from the PyTorch model."""

    def plan_runs_on(self, machine: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of the processor's facts those that a plan depends on, by the runtime's own rules of portability."""
        return {name: value for name, value in machine.items() if name not in ONE_MACHINE}

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        """Everything besides the graph and the machine that a plan depends on, by name, as JSON values."""
        return {}

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        """Write the plan to `path`. Raises EngineBroken when building or a first run crashed its own process."""
        raise AssertionError(f"{spec.id} has no plan")

    @abstractmethod
    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        """The engine of a plan, ready to run at any of `request.batch_sizes`."""


def time_calls(call: Callable[[], object], n: int) -> Seconds:
    """Host seconds, float64[n], of n back-to-back calls: one clock read per call, no garbage collection inside."""
    stamps = [0] * (n + 1)
    clock = time.perf_counter_ns
    with no_garbage_collection():
        stamps[0] = clock()
        for index in range(1, n + 1):
            call()
            stamps[index] = clock()
    ticks = np.asarray(stamps, np.int64)
    return (ticks[1:] - ticks[:-1]) / 1e9
