"""What test_gpu.py has compiled and loaded in child processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from trtgate.engines.inductor import CACHE_VARIABLE, load_functions, save_functions

CROP, SIZE = 8, 2


class Small(torch.nn.Module):
    """Something with weights that compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(-1, 1, CROP))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(images * self.scale).sum((2, 3))


def prepare(path: Path, threads: int) -> None:
    """Kernels beside the plan: a CPU's are no part of it, and compiling them again would only take longer."""
    os.environ[CACHE_VARIABLE] = str(path.parent)
    torch._inductor.config.cpp_cache_precompile_headers = False
    torch.set_num_threads(threads)


def save(path: Path) -> None:
    prepare(path, 1)
    save_functions(Small().eval(), (SIZE,), CROP, "default", "cpu", path)


def load(path: Path) -> tuple[list[list[float]], list[list[float]]]:
    """What the function loaded from `path` answers, and what the module does."""
    prepare(path, 2)
    [(size, function)] = load_functions(path).items()
    module, images = Small().eval(), torch.randn(size, 3, CROP, CROP)
    with torch.inference_mode():
        module.scale.mul_(3.0)
        return function(module, images).tolist(), module(images).tolist()
