"""What test_gpu.py has compiled in a child process."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from trtgate.engines.inductor import CACHE_VARIABLE, save_functions

from . import small_classifier

CROP, SIZE = 8, 2
SIGNATURE = small_classifier.signature(CROP)


class Small(torch.nn.Module):
    """Something with weights that compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.linspace(-1, 1, CROP))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(images * self.scale).sum((2, 3))


# Either takes longer than these kernels: compiled headers, and trying which vector instructions there are.
QUICK = {"cpp_cache_precompile_headers": False, "cpp.vec_isa_ok": False}


def save(path: Path) -> None:
    """Compile for a batch of SIZE and save the plan, with the kernels beside it: a CPU's are no part of it."""
    os.environ[CACHE_VARIABLE] = str(path.parent)
    torch.set_num_threads(1)
    with torch._inductor.config.patch(QUICK):
        save_functions(Small().eval(), (SIZE,), SIGNATURE, "default", "cpu", path)
