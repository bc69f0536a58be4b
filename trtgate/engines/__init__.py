"""The backends by name. A backend's module, and so its runtime, is imported when it is first asked for."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterable, Mapping

from trtgate.engines.base import Backend
from trtgate.engines.probe import PROBE
from trtgate.kinds import Availability, Device, EngineSpec, UserError

# Every engine that some backend can build somewhere, by what follows the backend's name in its id. Here, and not with
# the backends: a runtime takes seconds to import, and who only reads of engines need not have it.
ENGINES: Mapping[str, tuple[str, ...]] = {
    # "graph": in a CUDA graph; "fused": convolutions fused with what follows them, in a CUDA graph too.
    "pytorch": (
        *("fp32", "tf32", "fp16", "bf16"),
        *("fp32-graph", "tf32-graph", "fp16-graph", "bf16-graph"),
        "fp16-fused",
    ),
    "inductor": ("fp32", "fp16", "fp16-autotune", "fp16-aot"),
    "onnxruntime": ("fp32", "fp16", "int8"),
    "openvino": ("fp32", "bf16", "int8"),
    "tensorrt": ("fp32", "tf32", "fp16", "int8", "int8-calibrated"),
}
BACKENDS = tuple(ENGINES)
DEVICES: tuple[Device, ...] = ("cpu", "cuda")

# What a run measures unless --engine says otherwise, in the order of the table.
DEFAULT_ENGINES: Mapping[Device, tuple[str, ...]] = {
    "cpu": ("pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8", "openvino-bf16", "openvino-int8"),
    "cuda": (
        "pytorch-fp32",
        "pytorch-tf32-graph",
        "pytorch-fp16-graph",
        "pytorch-fp16-fused",
        "pytorch-bf16-graph",
        "inductor-fp16",
        "onnxruntime-fp16",
        "tensorrt-fp32",
        "tensorrt-tf32",
        "tensorrt-fp16",
        "tensorrt-int8",
        "tensorrt-int8-calibrated",
    ),
}


@functools.cache
def backend(name: str) -> Backend:
    """The backend's one instance. Raises KeyError for a name that is not in BACKENDS."""
    if name not in BACKENDS:
        raise KeyError(name)
    made: Backend = importlib.import_module(f"trtgate.engines.{name}").BACKEND
    return made


def all_specs() -> tuple[EngineSpec, ...]:
    """Every engine that some backend can build somewhere."""
    return tuple(EngineSpec.parse(f"{name}-{each}") for name, built in ENGINES.items() for each in built)


def parse_spec(text: str) -> EngineSpec:
    """An engine id. Raises UserError naming the ids there are."""
    known = {spec.id: spec for spec in all_specs()}
    if text not in known:
        raise UserError(f"--engine {text} is not an engine; there are {', '.join(known)}")
    return known[text]


def running_here(found: Iterable[tuple[EngineSpec, Availability]]) -> list[EngineSpec]:
    """What requiring a backend requires of its engines: those that run on the device, or all where none does."""
    pairs = list(found)
    return [spec for spec, availability in pairs if not availability.elsewhere] or [spec for spec, _ in pairs]


def start_probing(specs: Iterable[EngineSpec], device: Device) -> None:
    """Begin to find out, in another process, which of these engines' runtimes can be imported, and what graphs are made
    and photos are read with."""
    PROBE.start([*runtimes_of(specs, device), "onnxruntime", "cv2"])


def runtimes_of(specs: Iterable[EngineSpec], device: Device) -> list[str]:
    """The modules of these engines' runtimes."""
    return [module for spec in specs for module in _runtimes(spec.backend, device)]


def _runtimes(name: str, device: Device) -> tuple[str, ...]:
    with contextlib.suppress(Exception):  # `available` has the same error, and tells it
        return backend(name).runtimes(device)
    return ()


def available(spec: EngineSpec, device: Device) -> Availability:
    """Whether the engine can run on this machine's processor of that kind.

    A runtime whose import raises, crashes or hangs is no engine's and says why; it is not tried twice.
    """
    if spec.backend in _BROKEN:
        return _BROKEN[spec.backend]
    for module in _runtimes(spec.backend, device):
        problem = PROBE.problem(module)
        if problem:
            return _broken(spec.backend, f"{module} is broken: {problem}")
    try:
        found = backend(spec.backend).available(spec, device)
    except (Exception, SystemExit) as error:
        return _broken(spec.backend, f"{spec.backend} cannot be imported: {error_text(error)}")
    if found.broken:
        _BROKEN[spec.backend] = found
    return found


_BROKEN: dict[str, Availability] = {}
REINSTALL = "install it again in a version that fits this machine's driver"


def _broken(name: str, reason: str) -> Availability:
    _BROKEN[name] = Availability(False, reason, REINSTALL, broken=True)
    return _BROKEN[name]


def error_text(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
