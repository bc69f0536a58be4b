"""The nouns that everybody shares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:  # what tells of packages that cannot be imported needs none of them
    import numpy as np
    import numpy.typing as npt

Seconds: TypeAlias = "npt.NDArray[np.float64]"
GraphKind = Literal["fp32", "fp16", "int8-symmetric", "int8-symmetric-fp16", "int8-asymmetric"]
Device = Literal["cpu", "cuda"]

# Facts of a GPU that say which one it is and with which driver, not of what kind it is. Plans outlive a driver.
ONE_MACHINE = frozenset({"gpu_uuid", "gpu_memory_mib", "vbios", "driver", "driver_cuda"})

# A clock that moves by less than this share explains nothing; by more between blocks it is worth a note: lock it.
CLOCK_MOVED = 0.01
# Of one core, by processes that are not ours or by other machines of the host, in the median round: more than this, and
# single iterations wait for somebody else's. The doctor's threshold, a race's and a comparison's are this one.
OTHERS_ON_CPU = 0.5

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8")


# Escape sequences of a terminal as a whole (ECMA-48: CSI, OSC, and what begins with ESC otherwise), then what is left
# of control characters: a message quotes file names and other libraries, and must not be able to repaint a terminal,
# nor to turn round how a line reads.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without terminal escape sequences; other control characters but tab and newline become "?"."""
    return _CONTROLS.sub("?", _SEQUENCES.sub("", text))


class UserError(Exception):
    """A mistake in what the user gave: one sentence that names the file or option, and the fix.

    The command line and the pytest plugin print the sentence without a traceback.
    """

    def __init__(self, message: str) -> None:
        # In one line: names that others gave may hold line ends.
        super().__init__(" ".join(printable(message).splitlines()))


class EngineUnavailable(Exception):
    """What looked available turned out not to be: this runtime cannot do it with this model."""


class EngineBroken(EngineUnavailable):
    """Its build, its load or its first run crashed the process that tried, or did not end."""


class EngineRefused(Exception):
    """A runtime would not build, load or run an engine; the message is a sentence and the runtime's own words.

    For the user, who is shown no traceback: it would only say where in our code the runtime was asked.
    """


@dataclass(frozen=True, order=True)
class EngineSpec:
    """What was asked for: a backend at a precision, in one of several ways where there are several.

    `id` is `<backend>-<precision>` or `<backend>-<precision>-<variant>`.
    """

    backend: str
    precision: str
    variant: str = ""

    @property
    def id(self) -> str:
        return "-".join(filter(None, (self.backend, self.precision, self.variant)))

    @classmethod
    def parse(cls, text: str) -> EngineSpec:
        """The inverse of `id`. Raises ValueError for a text without a precision of PRECISIONS."""
        backend, _, rest = text.partition("-")
        precision, _, variant = rest.partition("-")
        if not backend or precision not in PRECISIONS:
            raise ValueError(f"{text!r} is not <backend>-<precision>")
        return cls(backend, precision, variant)


REFERENCE = EngineSpec("pytorch", "fp32")
# What others are held against and no upgrade is about: eager PyTorch, and beside a GPU the processor's ONNX Runtime.
YARDSTICKS = frozenset({REFERENCE.id, EngineSpec("onnxruntime", "fp32", "cpu").id})


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run here; if not, why, and the command that would change that.

    `obsolete` says that the installed version of its runtime is sound but has no such engine any more, `elsewhere` that
    it runs on another kind of processor, `broken` that its runtime is installed and cannot be imported.
    """

    ok: bool
    reason: str = ""
    fix: str = ""
    obsolete: bool = False
    elsewhere: bool = False
    broken: bool = False

    def __str__(self) -> str:
        return "available" if self.ok else f"{self.reason}" + (f" (fix: {self.fix})" if self.fix else "")


AVAILABLE = Availability(True)


@dataclass(frozen=True)
class Block:
    """Latencies in seconds of n back-to-back inferences.

    `seconds`, float64[n], is the series that is gated: on a CPU the whole call, on a GPU the time between two events
    around the work. `end_to_end`, float64[m], is host time with both copies; None where it would be the same thing.
    """

    seconds: Seconds
    end_to_end: Seconds | None = None


@dataclass(frozen=True)
class LayerTime:
    """One layer of a built engine as its runtime names it, with the seconds it took and what it ran in.

    `nodes` are the ONNX nodes that went into it, where the runtime tells: names of layers change with its version.
    """

    name: str
    seconds: float
    kind: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PrecisionAudit:
    """What the layers that carry the arithmetic (convolutions and matrix products) were really built with.

    `layers` maps a layer's name to its type, "" where the runtime does not tell; `histogram` counts those types. `also`
    are types that the builder was free to choose instead of what was asked for.
    """

    asked: str
    layers: Mapping[str, str] = field(default_factory=dict)
    also: frozenset[str] = frozenset()

    @property
    def histogram(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for kind in self.layers.values():
            counts[kind or "unknown"] = counts.get(kind or "unknown", 0) + 1
        return dict(sorted(counts.items()))

    def outside(self, allowed: frozenset[str]) -> list[str]:
        """The names of the layers whose type is known and not among `allowed`."""
        return [name for name, kind in self.layers.items() if kind and kind not in allowed]

    def unknown(self) -> list[str]:
        """The names of the layers of which the runtime does not tell what they run in."""
        return [name for name, kind in self.layers.items() if not kind]


# How the name of a layer ends that runs in another type at another batch size.
AT_BATCH = re.compile(r" at batch \d+$")
