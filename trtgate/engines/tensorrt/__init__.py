"""TensorRT 8.6 to 11 and TensorRT-RTX, one code for all.

What the versions do not share is found by attribute, in `api.Features`, and nowhere else. `build` makes a plan of a
graph, `run` runs it, `inspect` reads what was built. Wherever the version can,
networks are strongly typed, from the same FP16 and Q/DQ graphs, so that two versions can be compared: a weakly typed
builder picks its types anew with every release. Only `tensorrt-int8-calibrated` is weakly typed by nature; it exists up
to TensorRT 10.

A plan has an optimisation profile for each batch size, from 1 up to it and best at it, so every size runs kernels that
were chosen for it. (A profile of that one size alone would let TensorRT-RTX 1.7 fold quantised depthwise convolutions
into constants as large as their activations: 255 MB for EfficientNet-Lite0 at batch 32, where this way has 11.)
Polygraphy would build the same networks, but the calls are few, each differs by version, and here they are what is
under test.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtgate.child import run_in_child
from trtgate.cuda import CudaError, check, driver, runtime
from trtgate.engines.base import Backend, BuildRequest, Engine, not_imported, only_on
from trtgate.engines.tensorrt.api import Features, candidates, installed, trt
from trtgate.engines.tensorrt.build import RECIPES, WORKSPACE_BYTES, build_in_child, weak_flags
from trtgate.engines.tensorrt.inspect import weighted_nodes
from trtgate.engines.tensorrt.run import TensorRTEngine
from trtgate.kinds import AVAILABLE, Availability, Device, EngineSpec, GraphKind
from trtgate.nvml import has_tf32
from trtgate.stack import cuda_of_tensorrt

# It tells the CUDA of driver and packages, and which to install.
DOCTOR = "python -m trtgate doctor"


class TensorRTBackend(Backend):
    name = "tensorrt"

    def runtimes(self, device: Device) -> tuple[str, ...]:
        return (*candidates(), "pycuda.driver", "cuda.bindings.runtime") if device == "cuda" else ()

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        where = only_on("cuda", device)
        if not where.ok:
            return where
        fix = "pip install -r requirements-gpu.txt"
        for what, imported in (("TensorRT", installed), ("PyCUDA", driver), ("cuda-python", runtime)):
            try:
                imported()
            except ImportError as error:
                return not_imported(what, error, fix, *self.runtimes(device))
        try:
            check("cudaGetDeviceCount", runtime().cudaGetDeviceCount())
        except CudaError as error:  # nothing would be captured, and what is measured be the host's
            return Availability(False, f"cuda-python does not fit the driver: {error}", DOCTOR, broken=True)
        if spec.precision == "tf32" and not has_tf32():
            return Availability(False, "this GPU has no TF32 (it came with Ampere)", elsewhere=True)
        if RECIPES[spec].calibrated and not Features.of(trt).calibrator:
            version = installed().__version__
            return Availability(False, f"TensorRT {version} has no INT8 calibrator any more", obsolete=True)
        return AVAILABLE

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.engine"

    def tunes(self, spec: EngineSpec) -> bool:
        return True

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        return RECIPES[spec].graph

    def plan_runs_on(self, machine: Mapping[str, Any]) -> Mapping[str, Any]:
        """NVIDIA's rules: the platform, the version of TensorRT (among the options) and the kind of GPU."""
        kind = {name: machine[name] for name in ("gpu", "compute_capability")}
        return {**kind, "platform": f"{platform.system()} {platform.machine()}"}

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        # By name: enumerations were renumbered between versions.
        features, recipe = Features.of(trt), RECIPES[spec]
        return {
            "module": installed().__name__,
            "version": installed().__version__,
            "cuda": cuda_of_tensorrt(),
            "strongly_typed": features.strongly_typed and not recipe.calibrated,
            "flags": [*weak_flags(features, recipe), *(["TF32"] if recipe.tf32 else [])],
            "workspace_bytes": WORKSPACE_BYTES,
            "profiling_verbosity": "DETAILED",
            "profile_sharing": features.profile_sharing,
            "user_allocation": features.user_allocation,
            "kernel_specialization": "EAGER" if features.kernel_specialization else None,
            "profiles": list(request.batch_sizes),
            "inputs": list(map(str, request.signature.inputs)),
            "timing_cache": "reused" if request.timing_cache else "cold",
            "calibration": request.calibration.digest if request.calibration else None,
        }

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        assert request.graph is not None
        calibration = request.calibration
        # Without one TensorRT builds all the same, in what the other flags leave it.
        assert (calibration is not None) is RECIPES[spec].calibrated
        known = calibration.read() if calibration else None
        learned = run_in_child(
            f"building {spec.id}",
            build_in_child,
            spec,
            request.graph,
            request.batch_sizes,
            request.signature,
            calibration.samples() if calibration else None,
            known,
            request.timing_cache,
            [request.trial(size) for size in request.batch_sizes],
            path,
            progress=request.progress,
        )
        if calibration and learned is not None and learned != known:
            calibration.write(learned)

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        assert request.graph is not None
        weighted = weighted_nodes(request.graph)
        return TensorRTEngine(spec, plan.read_bytes(), request.batch_sizes, request.signature, weighted)


BACKEND = TensorRTBackend()
