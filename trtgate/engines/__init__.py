"""The backends by name. A backend's module, and so its runtime, is imported when it is first asked for."""

from __future__ import annotations

import functools
import importlib

from trtgate.engines.base import AVAILABLE, Availability, Backend, EngineSpec
from trtgate.errors import UserError

BACKENDS = ("pytorch", "inductor", "onnxruntime", "openvino")

# What a run measures unless --engine says otherwise, in the order of the table.
DEFAULT_ENGINES = ("pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8", "openvino-bf16", "openvino-int8")


@functools.cache
def backend(name: str) -> Backend:
    """The backend's one instance. Raises KeyError for a name that is not in BACKENDS."""
    if name not in BACKENDS:
        raise KeyError(name)
    made: Backend = importlib.import_module(f"trtgate.engines.{name}").BACKEND
    return made


def all_specs() -> tuple[EngineSpec, ...]:
    """Every engine that some backend can build somewhere."""
    return tuple(EngineSpec(name, precision) for name in BACKENDS for precision in backend(name).precisions)


def parse_spec(text: str) -> EngineSpec:
    """An engine id. Raises UserError naming the ids there are."""
    known = {spec.id: spec for spec in all_specs()}
    if text not in known:
        raise UserError(f"--engine {text} is not an engine; there are {', '.join(known)}")
    return known[text]


def available(spec: EngineSpec) -> Availability:
    """Whether the engine can run on this machine."""
    return backend(spec.backend).available(spec.precision)


__all__ = ["AVAILABLE", "BACKENDS", "DEFAULT_ENGINES", "all_specs", "available", "backend", "parse_spec"]
