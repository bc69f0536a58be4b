"""Makes a stand-in the installed TensorRT, within this process."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tests.fake_cuda import FakeGpu
from trtgate import cuda, engines
from trtgate.engines.tensorrt import api, build, run

CACHES = (
    api.installed,
    api.logger_class,
    api.process_logger,
    build._progress_monitor_class,
    build._calibrator_class,
    run._profiler_class,
)


def use_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """A stand-in GPU in the place of PyCUDA's and cuda-python's."""
    fake = FakeGpu()
    for module in (cuda, build, run, engines.backend("tensorrt").__class__.__module__):
        holder = importlib.import_module(module) if isinstance(module, str) else module
        for name, found in (("driver", fake.driver), ("runtime", fake.cudart)):
            if hasattr(holder, name):
                monkeypatch.setattr(holder, name, lambda found=found: found)
    return fake


def use_module(monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    """A stand-in module in TensorRT's place. Call `forget` when it is gone."""

    def import_module(name: str) -> Any:
        if name != module.__name__:
            raise ModuleNotFoundError(f"No module named {name}", name=name)
        return module

    forget()
    monkeypatch.setattr(api.importlib, "import_module", import_module)


def forget() -> None:
    """Drop what was made of a module that is no longer installed."""
    for cached in CACHES:
        cached.cache_clear()
