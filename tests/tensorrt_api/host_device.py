"""A whole `--device cuda` on a machine without a GPU: a stand-in CUDA in the place of PyCUDA, cuda-python and NVML,
and PyTorch's reference on the CPU. What is timed there says nothing about anything.

`pytest bench/ -p tests.tensorrt_api.host_device --device cuda`, or `python -m tests.tensorrt_api.host_device ab ...`,
with `write_packages`'s folder on PYTHONPATH. The model `small` is a few convolutions at 32 x 32, and untrained.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trtgate import options
from trtgate.engines import backend
from trtgate.engines.base import BuildRequest, Engine
from trtgate.kinds import Device, EngineSpec
from trtgate.measure import controls, race
from trtgate.models.base import Architecture, Preprocessing
from trtgate.models.own import OWN

PACKAGES = {
    "pycuda/__init__.py": "",
    "pycuda/autoprimaryctx.py": "",
    "pycuda/driver.py": """
from tests.fake_cuda import host_gpu


def __getattr__(name):
    return getattr(host_gpu().driver, name)
""",
    "cuda/__init__.py": "",
    "cuda/bindings/__init__.py": "",
    "cuda/bindings/runtime.py": """
from tests.fake_cuda import host_gpu


def __getattr__(name):
    return getattr(host_gpu().cudart, name)
""",
    "pynvml.py": '''
"""NVML of a stand-in GPU."""
from types import SimpleNamespace

NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1, 2, 0, 1
ANSWERS = {
    "nvmlDeviceGetHandleByPciBusId": "handle",
    "nvmlDeviceGetName": "stand-in GPU",
    "nvmlDeviceGetUUID": "GPU-stand-in",
    "nvmlDeviceGetCudaComputeCapability": (9, 0),
    "nvmlSystemGetDriverVersion": "580.0",
    "nvmlSystemGetCudaDriverVersion_v2": 13000,
}


class NVMLError(Exception):
    pass


def nvmlInit():
    pass


def __getattr__(name):
    if not name.startswith("nvml"):
        raise AttributeError(name)

    def ask(*arguments):
        if name in ANSWERS:
            return ANSWERS[name]
        raise NVMLError("not supported")

    return ask
''',
}


def write_packages(site: Path) -> None:
    """Put the stand-ins for PyCUDA, cuda-python and NVML into a folder."""
    for name, text in PACKAGES.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


class Small(torch.nn.Sequential):
    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            super().__init__(
                torch.nn.Conv2d(3, 16, 3, 2, 1),
                torch.nn.ReLU(),
                torch.nn.MaxPool2d(2),
                torch.nn.Conv2d(16, 32, 3, 1, 1),
                torch.nn.ReLU(),
                torch.nn.AdaptiveAvgPool2d(1),
                torch.nn.Flatten(),
                torch.nn.Linear(32, 1000),
            )


def arrange() -> None:
    """Make this process take the stand-in GPU for one."""
    OWN["small"] = lambda: Architecture(Small(), Preprocessing(resize=36, crop=32))
    options.torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True))  # type: ignore[attr-defined]
    maker = backend("pytorch")
    load = type(maker).load

    def load_on_cpu(self: Any, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        return load(self, spec, replace(request, device="cpu", threads=1), plan)

    type(maker).load = load_on_cpu  # type: ignore[method-assign]
    controls.control_arms = no_arms
    short = replace(race.SCHEDULES["cuda"], block_seconds=0.01, block_iterations=2, warm_up_seconds=0.02)
    race.SCHEDULES["cuda"] = short  # type: ignore[index]


@contextlib.contextmanager
def no_arms(device: Device) -> Iterator[tuple[()]]:
    """The controls are PyTorch's kernels on a GPU."""
    yield ()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The first hook of all, before anybody reads the options."""
    arrange()


if __name__ == "__main__":
    arrange()
    from trtgate.__main__ import main

    sys.exit(main(sys.argv[1:]))
