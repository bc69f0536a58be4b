"""PyTorch, eager: the reference at FP32, and BF16 through autocast-free conversion of the module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from trtgate.engines.base import (
    AVAILABLE,
    Availability,
    Backend,
    Batch,
    BuildRequest,
    Engine,
    EngineSpec,
    GraphKind,
    PrecisionAudit,
)
from trtgate.stack import cpu_features

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class PyTorchEngine(Engine):
    def __init__(self, spec: EngineSpec, module: torch.nn.Module) -> None:
        super().__init__(spec)
        self._dtype = DTYPES[spec.precision]
        self._module = module

    def infer(self, batch: Batch) -> Batch:
        with torch.inference_mode():
            logits: Batch = self._module(torch.from_numpy(batch).to(self._dtype)).float().numpy()
        return logits

    def bind(self, batch: Batch) -> Callable[[], object]:
        module, images, dtype = self._module, torch.from_numpy(batch), self._dtype
        infer = torch.inference_mode()
        if dtype is torch.float32:
            return infer(lambda: module(images))
        # The caller has float32 and wants float32, as from every other engine.
        return infer(lambda: module(images.to(dtype)).float())

    def audit(self) -> PrecisionAudit:
        layers = {
            name: str(module.weight.dtype).removeprefix("torch.")
            for name, module in self._module.named_modules()
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        }
        return PrecisionAudit(self.spec.precision, layers)


class PyTorchBackend(Backend):
    name = "pytorch"
    precisions = ("fp32", "bf16")
    plan_file = None

    def available(self, precision: str) -> Availability:
        if precision == "bf16" and not cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"}:
            return Availability(False, "this CPU has no BF16 instructions")
        return AVAILABLE

    def graph_kind(self, precision: str) -> GraphKind | None:
        return None

    def build_options(self, precision: str, request: BuildRequest) -> Mapping[str, Any]:
        return {}

    def build(self, precision: str, request: BuildRequest, path: Path) -> None:
        raise AssertionError("PyTorch's eager engines have no plan")

    def load(self, precision: str, request: BuildRequest, plan: Path | None) -> Engine:
        torch.set_num_threads(request.threads)
        module = request.model.module
        if precision != "fp32":
            module = copy.deepcopy(module).to(DTYPES[precision])
        return PyTorchEngine(EngineSpec(self.name, precision), module)


BACKEND = PyTorchBackend()
