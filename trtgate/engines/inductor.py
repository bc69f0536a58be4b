"""PyTorch compiled by Inductor.

Two kinds of plan, and neither compiles anything when it is loaded. `inductor-fp32` (CPU) and `inductor-fp16-aot` (GPU)
are AOTInductor packages. `inductor-fp16` (GPU) is what `torch.compile(...).aot_compile` makes, one function for each
batch size, and `inductor-fp16-autotune` the same with Inductor's "max-autotune". All of a GPU's are captured in CUDA
graphs here, as `torch.compile`'s mode "reduce-overhead" would do for itself: loaded functions no longer do.

Not `torch.compiler.save_cache_artifacts`: loading those traces every module again, seconds for each batch size, and
times the kernels' configurations again, so that two sessions of one plan could run different kernels (torch 2.11).

Compilers and what they compile can bring a process down, so everything for a GPU is compiled and first run in a process
of its own.
"""

from __future__ import annotations

import functools
import io
import os
import platform
import shutil
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from trtgate.child import run_in_child
from trtgate.engines.base import Backend, BuildRequest, Engine, only_on, try_out
from trtgate.engines.gpu import GpuEngine, Lane
from trtgate.engines.pytorch import (
    TorchGpuEngine,
    TorchLane,
    arithmetic,
    as_torch,
    give_back_memory,
    layer_types,
    listed,
    on_gpu,
)
from trtgate.files import lasting_scratch, scratch_folder
from trtgate.kinds import Availability, Device, EngineSpec, GraphKind, PrecisionAudit
from trtgate.signature import Signature, Tensors
from trtgate.stack import cpu_features, version_of

# Dynamic up to here: a graph without an upper bound would guard on every size.
LARGEST_BATCH = 1024
# By variant; the CUDA graphs are ours, and Inductor's default has none.
MODES = {"": "default", "autotune": "max-autotune-no-cudagraphs"}
# One function of a plan, followed by its batch size.
ENTRY = "batch"
CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


class InductorEngine(Engine):
    """An AOTInductor package on the CPU."""

    def __init__(self, spec: EngineSpec, plan: Path, layers: Mapping[str, str], signature: Signature) -> None:
        super().__init__(spec)
        self._signature = signature
        self._run = torch._inductor.aoti_load_package(str(plan))
        self._layers = layers

    def infer(self, inputs: Tensors) -> Tensors:
        with torch.inference_mode():
            found = listed(self._run(*as_torch(self._signature, inputs)))
            return self._signature.named(each.numpy().copy() for each in found)

    def bind(self, inputs: Tensors) -> Callable[[], object]:
        run, images = self._run, as_torch(self._signature, inputs)
        return torch.inference_mode()(lambda: run(*images))

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, self._layers)


class PackagedGpuEngine(GpuEngine):
    """An AOTInductor package on the GPU, captured in a CUDA graph."""

    def __init__(self, spec: EngineSpec, plan: Path, layers: Mapping[str, str], signature: Signature) -> None:
        super().__init__(spec, signature)
        self._run: Any = torch._inductor.aoti_load_package(str(plan))
        self._layers = layers

    def new_lane(self, size: int) -> Lane:
        run = self._run
        return TorchLane(lambda images: lambda: run(*images), size, self._signature, graph=True)

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, self._layers)

    def close(self) -> None:
        super().close()
        self._run = None
        give_back_memory()


class CompiledEngine(TorchGpuEngine):
    """Functions compiled ahead of time, one for each batch size, each captured in a CUDA graph."""

    def __init__(self, spec: EngineSpec, module: torch.nn.Module, signature: Signature, plan: Path) -> None:
        super().__init__(spec, module, signature, graph=True)
        self._functions = load_functions(plan)
        self._tuned_anew: set[int] = set()

    def prepare(self, images: Sequence[torch.Tensor]) -> Callable[[], Any]:
        function, module = self._functions[len(images[0])], self._module
        return lambda: function(module, *images)

    def new_lane(self, size: int) -> Lane:
        if size not in self._functions:
            raise ValueError(f"{self.spec.id} is compiled for batches of {sorted(self._functions)}, not of {size}")
        before = configurations_timed()
        lane = super().new_lane(size)
        if configurations_timed() > before:
            self._tuned_anew.add(size)
        return lane

    def notes(self, batch_size: int) -> tuple[str, ...]:
        return ("PyTorch tuned its kernels anew: they may not be the plan's",) if batch_size in self._tuned_anew else ()

    def close(self) -> None:
        super().close()
        self._functions.clear()
        give_back_memory()


def configurations_timed() -> int:
    """How many configurations of kernels Inductor has timed in this process to choose among them."""
    from torch._dynamo.utils import counters

    return sum(count for name, count in counters["inductor"].items() if name.startswith("benchmarking."))


@functools.cache
def own_kernel_cache() -> Path:
    """A folder of this process for Inductor's kernels.

    Its usual one outlives the process and would serve kernels that are no part of any plan.
    """
    folder = lasting_scratch()
    os.environ[CACHE_VARIABLE] = str(folder)
    return folder


def save_functions(
    module: torch.nn.Module, sizes: Sequence[int], signature: Signature, mode: str, device: Device, path: Path
) -> None:
    """Compile `module.forward` for batches of every size, and save the functions in one zip file."""
    from torch._functorch._aot_autograd.autograd_cache import AOTAutogradCache

    if hasattr(torch._dynamo.config, "enable_aot_compile"):
        torch._dynamo.config.enable_aot_compile = True  # off by default in torch 2.11
    compiled: Any = torch.compile(module, mode=mode, fullgraph=True, dynamic=False)
    with zipfile.ZipFile(path, "w") as plan, scratch_folder() as folder, torch.inference_mode():
        for size in sizes:
            images = tuple(each.to(device) for each in as_torch(signature, signature.blank(size)))
            # A first run times every kernel's configurations. What is saved is compiled after it, with the best alone,
            # and not found in PyTorch's cache, where all of them still are.
            compiled.forward.aot_compile((images, {}))(module, *images)
            AOTAutogradCache.clear()
            compiled.forward.aot_compile((images, {})).save_compiled_function(f"{folder}/{size}")
            plan.write(f"{folder}/{size}", f"{ENTRY}{size}")


def load_functions(plan: Path) -> dict[int, Callable[..., torch.Tensor]]:
    """What `save_functions` saved, by batch size: functions of the module and its images.

    Raises RuntimeError when another Python, PyTorch, CUDA, Triton or kind of GPU compiled them.
    """
    functions = {}
    # With more threads Inductor starts a process for each of them, for kernels that are all compiled already.
    with zipfile.ZipFile(plan) as file, torch._inductor.config.patch(compile_threads=1):
        for name in file.namelist():
            function: Any = torch.compiler.load_compiled_function(io.BytesIO(file.read(name)))
            # The plan's key stands for the module, and a lane for the images. What else is guarded, such as the number
            # of the CPU's threads, is nothing to these kernels.
            function.disable_guard_check()
            functions[int(name.removeprefix(ENTRY))] = function
    return functions


def compile_in_child(
    spec: EngineSpec, module: torch.nn.Module, signature: Signature, sizes: tuple[int, ...], path: Path
) -> None:
    """Compile for the GPU at every batch size, and run what was saved."""
    own_kernel_cache()
    with arithmetic(tf32=False):
        save_functions(on_gpu(module, spec.precision), sizes, signature, MODES[spec.variant], "cuda", path)
    try_out(CompiledEngine(spec, module, signature, path), map(signature.blank, sizes))


def package(module: torch.nn.Module, signature: Signature, path: Path, device: Device) -> None:
    """Compile ahead of time for any batch size up to LARGEST_BATCH."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        example = tuple(each.to(device) for each in as_torch(signature, signature.blank(2)))
        dynamic = tuple({each.batch_axis: batch} for each in signature.inputs)
        program = torch.export.export(module, example, dynamic_shapes=dynamic)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs={"freezing": device == "cpu"}
        )


def package_in_child(spec: EngineSpec, module: torch.nn.Module, signature: Signature, path: Path) -> None:
    """Compile ahead of time for the GPU."""
    own_kernel_cache()
    package(on_gpu(module, spec.precision), signature, path, "cuda")


def run_package_in_child(spec: EngineSpec, path: Path, signature: Signature, sizes: tuple[int, ...]) -> None:
    """Load a package and run it at every batch size."""
    try_out(PackagedGpuEngine(spec, path, {}, signature), map(signature.blank, sizes))


def packaged(spec: EngineSpec) -> bool:
    """Whether the engine is an AOTInductor package."""
    return spec.precision == "fp32" or spec.variant == "aot"


class InductorBackend(Backend):
    name = "inductor"

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.pt2" if packaged(spec) else "plan.zip"

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        where = only_on("cpu" if spec.precision == "fp32" else "cuda", device)
        if where.ok and not any(shutil.which(compiler) for compiler in ("g++", "clang++")):
            return Availability(False, "Inductor needs a C++ compiler", "apt-get install g++")
        if where.ok and not packaged(spec) and torch.__version__ < "2.10":  # not as text, it is a TorchVersion
            return Availability(False, "saving compiled functions needs PyTorch 2.10", 'pip install "torch>=2.10"')
        return where

    def tunes(self, spec: EngineSpec) -> bool:
        return spec.precision != "fp32"  # on a GPU; on a CPU it times nothing

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        return None

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        options: dict[str, Any] = {"version": version_of("torch"), "inputs": list(map(str, request.signature.inputs))}
        if request.device == "cpu":
            return {**options, "cpu_features": sorted(cpu_features()), "largest_batch": LARGEST_BATCH}
        if packaged(spec):
            return {**options, "triton": version_of("triton"), "largest_batch": LARGEST_BATCH}
        # Saved functions hold bytecode, and another Python than theirs refuses to load them.
        python = platform.python_version()
        return {**options, "triton": version_of("triton"), "mode": MODES[spec.variant], "python": python}

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        assert request.model is not None
        module, signature, sizes = request.model.module, request.signature, request.batch_sizes
        if request.device == "cpu":
            torch.set_num_threads(request.threads)
            package(module, signature, path, "cpu")
        elif packaged(spec):
            run_in_child(f"AOTInductor's compilation of {spec.id}", package_in_child, spec, module, signature, path)
            run_in_child(f"loading the package of {spec.id}", run_package_in_child, spec, path, signature, sizes)
        else:
            run_in_child(f"the compilation of {spec.id}", compile_in_child, spec, module, signature, sizes, path)

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        assert request.model is not None
        torch.set_num_threads(request.threads)
        module = request.model.module
        if not packaged(spec):
            own_kernel_cache()
            return CompiledEngine(spec, module, request.signature, plan)
        layers = dict.fromkeys(
            layer_types(module, spec.precision), {"fp32": "float32", "fp16": "float16"}[spec.precision]
        )
        if request.device == "cpu":
            return InductorEngine(spec, plan, layers, request.signature)
        return PackagedGpuEngine(spec, plan, layers, request.signature)


BACKEND = InductorBackend()
