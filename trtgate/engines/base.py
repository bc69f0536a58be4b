"""The contract that every backend fulfils, and nothing else."""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from trtgate.models import Model

Batch = npt.NDArray[np.float32]
Seconds = npt.NDArray[np.float64]
GraphKind = Literal["fp32", "int8-symmetric", "int8-asymmetric"]

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


@dataclass(frozen=True, order=True)
class EngineSpec:
    """What was asked for: a backend at a precision. `id` is `<backend>-<precision>`."""

    backend: str
    precision: str

    @property
    def id(self) -> str:
        return f"{self.backend}-{self.precision}"

    @classmethod
    def parse(cls, text: str) -> EngineSpec:
        """The inverse of `id`. Raises ValueError for a text without a precision of PRECISIONS."""
        backend, _, precision = text.rpartition("-")
        if not backend or precision not in PRECISIONS:
            raise ValueError(f"{text!r} is not <backend>-<precision>")
        return cls(backend, precision)


REFERENCE = EngineSpec("pytorch", "fp32")


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run here; if not, why, and the command that would change that."""

    ok: bool
    reason: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return "available" if self.ok else f"{self.reason}" + (f" (fix: {self.fix})" if self.fix else "")


AVAILABLE = Availability(True)


@dataclass(frozen=True)
class BuildRequest:
    """What a build may depend on: the model, its graph of the kind the backend asked for, the batches, the threads."""

    model: Model
    graph: Path | None
    batch_sizes: tuple[int, ...]
    threads: int


@dataclass(frozen=True)
class Block:
    """Latencies in seconds, float64[n], of n back-to-back inferences."""

    seconds: Seconds


@dataclass(frozen=True)
class PrecisionAudit:
    """What the layers that carry the arithmetic (convolutions and matrix products) were really built with.

    `layers` maps a layer's name to its type as the runtime calls it; `histogram` counts those types.
    """

    asked: str
    layers: Mapping[str, str] = field(default_factory=dict)

    @property
    def histogram(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for kind in self.layers.values():
            counts[kind] = counts.get(kind, 0) + 1
        return dict(sorted(counts.items()))

    def outside(self, allowed: frozenset[str]) -> list[str]:
        """The names of the layers whose type is not among `allowed`."""
        return [name for name, kind in self.layers.items() if kind not in allowed]


class Engine(ABC):
    """A loaded engine; a context manager that gives everything back on exit."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec

    @abstractmethod
    def infer(self, batch: Batch) -> Batch:
        """float32[N,3,H,W] -> float32[N,1000] logits in memory of their own, copying as a caller would."""

    @abstractmethod
    def bind(self, batch: Batch) -> Callable[[], object]:
        """One inference of `batch`, made ready so that calling it does nothing else: what `block` times."""

    def block(self, n: int, batch: Batch) -> Block:
        """n back-to-back inferences of `batch`, each timed."""
        return Block(time_calls(self.bind(batch), n))

    @abstractmethod
    def audit(self) -> PrecisionAudit:
        """What the built layers really run in."""

    def close(self) -> None:
        """Free what the engine holds; calling it twice does nothing."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """One runtime: what it can build, from which graph, and how its plans are loaded."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    # The plan's file name; None where there is nothing to build and the model itself is loaded.
    plan_file: ClassVar[str | None]

    @abstractmethod
    def available(self, precision: str) -> Availability:
        """Whether an engine of that precision can run on this machine."""

    @abstractmethod
    def graph_kind(self, precision: str) -> GraphKind | None:
        """Which graph the engine is built from; None where it is built from the PyTorch model."""

    @abstractmethod
    def build_options(self, precision: str, request: BuildRequest) -> Mapping[str, Any]:
        """Everything besides the graph that a plan depends on, by name, as JSON values."""

    @abstractmethod
    def build(self, precision: str, request: BuildRequest, path: Path) -> None:
        """Write the plan to `path`."""

    @abstractmethod
    def load(self, precision: str, request: BuildRequest, plan: Path | None) -> Engine:
        """The engine of a plan, ready to run at any of `request.batch_sizes`."""


def time_calls(call: Callable[[], object], n: int) -> Seconds:
    """Host seconds, float64[n], of n back-to-back calls: one clock read per call, no garbage collection inside."""
    stamps = [0] * (n + 1)
    clock = time.perf_counter_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        stamps[0] = clock()
        for index in range(1, n + 1):
            call()
            stamps[index] = clock()
    finally:
        if collecting:
            gc.enable()
    ticks = np.asarray(stamps, np.int64)
    return (ticks[1:] - ticks[:-1]) / 1e9
