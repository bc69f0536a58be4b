"""PyTorch compiled ahead of time by AOTInductor. The plan is its package, loaded without compiling anything."""

from __future__ import annotations

import shutil
import warnings
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
from trtgate.stack import cpu_features, version_of

# Dynamic up to here: a graph without an upper bound would guard on every size.
LARGEST_BATCH = 1024


class InductorEngine(Engine):
    def __init__(self, spec: EngineSpec, plan: Path, layers: Mapping[str, str]) -> None:
        super().__init__(spec)
        self._run = torch._inductor.aoti_load_package(str(plan))
        self._layers = layers

    def infer(self, batch: Batch) -> Batch:
        with torch.inference_mode():
            logits: Batch = self._run(torch.from_numpy(batch)).numpy().copy()
        return logits

    def bind(self, batch: Batch) -> Callable[[], object]:
        run, images = self._run, torch.from_numpy(batch)
        return torch.inference_mode()(lambda: run(images))

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, self._layers)


class InductorBackend(Backend):
    name = "inductor"
    precisions = ("fp32",)
    plan_file = "plan.pt2"

    def available(self, precision: str) -> Availability:
        if not any(shutil.which(compiler) for compiler in ("g++", "clang++")):
            return Availability(False, "AOTInductor needs a C++ compiler", "apt-get install g++")
        return AVAILABLE

    def graph_kind(self, precision: str) -> GraphKind | None:
        return None

    def build_options(self, precision: str, request: BuildRequest) -> Mapping[str, Any]:
        return {
            "version": version_of("torch"),
            "cpu_features": sorted(cpu_features()),
            "largest_batch": LARGEST_BATCH,
            "preprocessing": {"crop": request.model.preprocessing.crop},
        }

    def build(self, precision: str, request: BuildRequest, path: Path) -> None:
        torch.set_num_threads(request.threads)
        crop = request.model.preprocessing.crop
        batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.export.export(
                request.model.module, (torch.zeros(2, 3, crop, crop),), dynamic_shapes=({0: batch},)
            )
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs={"freezing": True}
            )

    def load(self, precision: str, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        torch.set_num_threads(request.threads)
        layers = {
            name: str(module.weight.dtype).removeprefix("torch.")
            for name, module in request.model.module.named_modules()
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        }
        return InductorEngine(EngineSpec(self.name, precision), plan, layers)


BACKEND = InductorBackend()
