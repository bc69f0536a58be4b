"""PyTorch compiled by Inductor.

Two kinds of plan. `inductor-fp32` (CPU) and `inductor-fp16-aot` (GPU) are AOTInductor packages, loaded without
compiling anything. `inductor-fp16` (GPU) is `torch.compile(mode="reduce-overhead")`, its kernels in CUDA graphs, and
`inductor-fp16-autotune` the same with `max-autotune`; their plan is what `torch.compiler.save_cache_artifacts` saves
(kernels, autotuning results, the captured program), and loading it leaves tracing and graph capture to do.

Compilers and what they compile can bring a process down, so everything for a GPU is compiled and first run in a process
of its own.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trtgate.child import run_in_child
from trtgate.engines.base import (
    Availability,
    Backend,
    Batch,
    BuildRequest,
    Device,
    Engine,
    EngineSpec,
    GraphKind,
    PrecisionAudit,
    only_on,
)
from trtgate.engines.gpu import GpuEngine, Lane
from trtgate.engines.pytorch import TorchGpuEngine, TorchLane, give_back_memory, layer_types, on_gpu
from trtgate.stack import cpu_features, version_of

log = logging.getLogger(__name__)

# Dynamic up to here: a graph without an upper bound would guard on every size.
LARGEST_BATCH = 1024
MODES = {"": "reduce-overhead", "autotune": "max-autotune"}
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class InductorEngine(Engine):
    """An AOTInductor package on the CPU."""

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


class PackagedGpuEngine(GpuEngine):
    """An AOTInductor package on the GPU, captured in a CUDA graph."""

    def __init__(self, spec: EngineSpec, plan: Path, layers: Mapping[str, str], crop: int) -> None:
        super().__init__(spec)
        self._run: Any = torch._inductor.aoti_load_package(str(plan))
        self._layers = layers
        self._crop = crop

    def new_lane(self, size: int) -> Lane:
        run = self._run
        return TorchLane(lambda images: lambda: run(images), size, self._crop, graph=True)

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, self._layers)

    def close(self) -> None:
        super().close()
        self._run = None
        give_back_memory()


class CompiledEngine(TorchGpuEngine):
    """A module compiled with its kernels in CUDA graphs that Inductor captures itself."""

    def __init__(self, spec: EngineSpec, module: torch.nn.Module, crop: int) -> None:
        super().__init__(spec, module, crop, graph=False)
        self._compiled: Any = torch.compile(self._module, mode=MODES[spec.variant], fullgraph=True, dynamic=False)
        self._recompiled: set[int] = set()

    def prepare(self, images: torch.Tensor) -> Callable[[], torch.Tensor]:
        compiled = self._compiled
        return lambda: compiled(images)

    def new_lane(self, size: int) -> Lane:
        before = kernels_compiled()
        lane = super().new_lane(size)
        if kernels_compiled() > before:
            self._recompiled.add(size)
        return lane

    def notes(self, batch_size: int) -> tuple[str, ...]:
        return ("compiled anew: PyTorch did not take the plan's artifacts",) if batch_size in self._recompiled else ()

    def concurrent(self) -> bool:
        # All of Inductor's graphs share one memory pool and one set of buffers.
        return False

    def close(self) -> None:
        super().close()
        self._compiled = None
        torch.compiler.reset()
        give_back_memory()


def kernels_compiled() -> int:
    """How often Inductor has compiled in this process what it did not find among its artifacts."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["fxgraph_cache_miss"])


@functools.cache
def own_kernel_cache() -> Path:
    """A folder of this process for Inductor's kernels.

    Its usual one outlives the process and would serve kernels that are no part of any plan.
    """
    folder = tempfile.TemporaryDirectory(prefix="trtgate-inductor-", ignore_cleanup_errors=True)
    _KEPT.append(folder)
    os.environ[CACHE_VARIABLE] = folder.name
    return Path(folder.name)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def compile_in_child(
    spec: EngineSpec, module: torch.nn.Module, crop: int, sizes: tuple[int, ...], threads: int, path: Path
) -> None:
    """Compile for every batch size, run each once, and save what was compiled."""
    torch.set_num_threads(threads)  # part of the key that Inductor finds its own work again by
    own_kernel_cache()
    with CompiledEngine(spec, module, crop) as engine:
        for size in sizes:
            engine.infer(np.zeros((size, 3, crop, crop), np.float32))
        saved = torch.compiler.save_cache_artifacts()
    assert saved is not None, "Inductor compiled nothing"
    path.write_bytes(saved[0])


def package(module: torch.nn.Module, crop: int, path: Path, device: Device) -> None:
    """Compile ahead of time for any batch size up to LARGEST_BATCH."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        example = torch.zeros(2, 3, crop, crop, device=device)
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"freezing": device == "cpu"}
        )


def package_in_child(spec: EngineSpec, module: torch.nn.Module, crop: int, path: Path) -> None:
    """Compile ahead of time for the GPU."""
    own_kernel_cache()
    package(on_gpu(module, spec.precision), crop, path, "cuda")


def run_package_in_child(spec: EngineSpec, path: Path, crop: int, sizes: tuple[int, ...]) -> None:
    """Load a package and run it at every batch size, to see whether that survives."""
    with PackagedGpuEngine(spec, path, {}, crop) as engine:
        for size in sizes:
            engine.infer(np.zeros((size, 3, crop, crop), np.float32))


class InductorBackend(Backend):
    name = "inductor"
    specs = (
        EngineSpec("inductor", "fp32"),
        EngineSpec("inductor", "fp16"),
        EngineSpec("inductor", "fp16", "autotune"),
        EngineSpec("inductor", "fp16", "aot"),
    )

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.artifacts" if spec.variant in MODES and spec.precision == "fp16" else "plan.pt2"

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        where = only_on("cpu" if spec.precision == "fp32" else "cuda", device)
        if where.ok and not any(shutil.which(compiler) for compiler in ("g++", "clang++")):
            return Availability(False, "Inductor needs a C++ compiler", "apt-get install g++")
        return where

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        return None

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        options: dict[str, Any] = {"version": version_of("torch"), "crop": request.crop}
        if request.device == "cpu":
            return {**options, "cpu_features": sorted(cpu_features()), "largest_batch": LARGEST_BATCH}
        return {**options, "triton": version_of("triton"), "mode": MODES.get(spec.variant, "aot")}

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        assert request.model is not None
        module, crop, sizes = request.model.module, request.crop, request.batch_sizes
        if request.device == "cpu":
            torch.set_num_threads(request.threads)
            package(module, crop, path, "cpu")
        elif spec.variant == "aot":
            run_in_child(f"AOTInductor's compilation of {spec.id}", package_in_child, spec, module, crop, path)
            run_in_child(f"loading the package of {spec.id}", run_package_in_child, spec, path, crop, sizes)
        else:
            threads = request.threads
            run_in_child(f"the compilation of {spec.id}", compile_in_child, spec, module, crop, sizes, threads, path)

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        assert request.model is not None
        torch.set_num_threads(request.threads)
        module = request.model.module
        if self.plan_file(spec) == "plan.artifacts":
            own_kernel_cache()
            if torch.compiler.load_cache_artifacts(plan.read_bytes()) is None:
                log.warning("%s: PyTorch could not read the plan's artifacts; it will compile again", spec.id)
            return CompiledEngine(spec, module, request.crop)
        layers = dict.fromkeys(
            layer_types(module, spec.precision), {"fp32": "float32", "fp16": "float16"}[spec.precision]
        )
        if request.device == "cpu":
            return InductorEngine(spec, plan, layers)
        return PackagedGpuEngine(spec, plan, layers, request.crop)


BACKEND = InductorBackend()
