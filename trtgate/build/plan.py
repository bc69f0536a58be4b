"""From what an engine is built of to its plan in the cache: the same for the bench and for a worker of an A/B run."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from trtgate.build.cache import CachedFile, PlanCache, key_of
from trtgate.child import WorkFailed, run_in_child
from trtgate.engines import backend
from trtgate.engines.base import BuildRequest, Calibration, no_progress, try_out
from trtgate.files import write_synced
from trtgate.kinds import Device, EngineBroken, EngineRefused, EngineSpec, UserError
from trtgate.limits import LOAD_SECONDS
from trtgate.models.trial import SMALL, save_small
from trtgate.progress import Progress
from trtgate.signature import Tensors
from trtgate.stack import changed_fields, cpu_model, cuda_facts, stack, steady, version_of

log = logging.getLogger(__name__)


def processor(device: Device, threads: int) -> dict[str, Any]:
    """The processor that runs things, with its driver.

    Raises UserError for a GPU of which NVML tells nothing: what was made for it could be taken for another's.
    """
    if device == "cpu":
        return {"cpu": cpu_model(), "threads": threads}
    facts = cuda_facts()
    if not facts:
        raise UserError("--device cuda: NVML does not answer; run pip install nvidia-ml-py, or check nvidia-smi")
    return facts


def cached_calibration(
    cache: PlanCache, model: str, spec: EngineSpec, graph: str, digest: str, samples: Callable[[], Sequence[Tensors]]
) -> Calibration:
    """Samples for a builder that calibrates by itself, with the cache as the memory of what they came to.

    `graph` is the digest of the graph that is calibrated, `digest` that of the samples.
    """
    depends = {"model": model, "graph": graph, "images": digest, spec.backend: version_of(spec.backend)}

    def read() -> bytes | None:
        found = cache.find("calibrations", "ranges.cache", depends)
        return found.path.read_bytes() if found else None

    def write(content: bytes) -> None:
        cache.get_or_build("calibrations", "ranges.cache", depends, lambda path: write_synced(path, content))

    return Calibration(digest, samples, read, write)


def cached_plan(
    cache: PlanCache,
    model: str,
    spec: EngineSpec,
    request: BuildRequest,
    source: Mapping[str, str],
    progress: Progress,
    rebuild: int = 0,
    alone: Callable[[], object] = lambda: None,
) -> CachedFile | None:
    """The engine's plan, from the cache or built now; None for an engine that has none.

    `source` holds the digest of the graph or of the weights. A `rebuild` other than 0 is one more plan of the same
    description: builders choose kernels by timing them, and may choose others the next time. What the plan is good for
    is its backend's to say; with which driver it was built stands beside it, and is no reason to build another:
    production keeps its plans when the driver changes. `alone` is called before a build, which is timed.
    """
    maker = backend(spec.backend)
    filename = maker.plan_file(spec)
    if filename is None:
        return None
    machine = processor(request.device, request.threads)
    depends = {
        "model": model,
        "engine": spec.id,
        **source,
        "batch_sizes": list(request.batch_sizes),
        **maker.plan_runs_on(machine),
        "options": dict(maker.build_options(spec, request)),
        **({"rebuild": rebuild} if rebuild else {}),
    }

    def build(path: Path) -> float:
        alone()
        with progress.step(f"{model}: building {spec.id}") as count:
            if maker.builds_apart:
                elsewhere = replace(request, model=None, calibration=None, progress=no_progress)
                seconds: float = run_in_child(f"building {spec.id}", build_and_try, spec, elsewhere, path)
                return seconds
            start = time.monotonic()
            maker.build(spec, replace(request, progress=count), path)
            return time.monotonic() - start

    plan = cache.get_or_build("plans", filename, depends, build, built_on=machine, anew=request.anew)
    changed = changed_fields(plan.built_on, machine)
    if plan.built_on and changed:
        log.info("%s: the plan of %s was built on another machine: %s", model, spec.id, "; ".join(changed))
    if maker.graph_kind(spec) is not None:
        require_loadable(plan, spec, request)
    return plan


def require_loadable(plan: CachedFile, spec: EngineSpec, request: BuildRequest) -> None:
    """Load and run a plan of the cache in a process of its own, once on each stack that it meets.

    Its key holds what it was built for, not every library and driver under it: one that was upgraded may crash on it.
    Raises EngineBroken when it does.
    """
    met = plan.path.with_name(f"ran-on-{stack_key(request.device)[:16]}")
    if met.exists():
        return
    if plan.reused:
        alone = replace(request, model=None, calibration=None, progress=no_progress)
        run_in_child(f"loading {spec.id}", try_plan, spec, alone, plan.path, timeout=LOAD_SECONDS)
    with contextlib.suppress(OSError):
        met.touch(0o644)


@functools.cache
def stack_key(device: Device) -> str:
    """Stands for everything that is known of what runs under a plan: versions, driver, kernel, processor."""
    return key_of(steady(stack(device=device)))


def try_plan(spec: EngineSpec, request: BuildRequest, path: Path) -> None:
    """Load a plan and run it once at every batch size."""
    try_out(backend(spec.backend).load(spec, request, path), map(request.trial, request.batch_sizes))


@functools.cache
def runs_nothing(spec: EngineSpec, device: Device) -> str:
    """Why an engine's runtime cannot build, load and run one small convolution either; "" if it can, or has no graph.

    INT8 needs ranges that such a graph has none of, so its runtime is asked in FP32.
    """
    if spec.precision == "int8":
        return runs_nothing(EngineSpec(spec.backend, "fp32"), device)
    if backend(spec.backend).graph_kind(spec) is None:
        return ""
    with TemporaryDirectory() as folder:
        graph = Path(folder) / "small.onnx"
        save_small(graph)
        request = BuildRequest(None, graph, (1,), 1, device, SMALL)
        what = f"trying {spec.id} on one small convolution"
        try:
            run_in_child(what, build_and_try, spec, request, Path(folder) / "plan", timeout=LOAD_SECONDS)
        except WorkFailed as error:
            return error.said
        except (EngineBroken, EngineRefused) as error:
            return str(error)
    return ""


def build_and_try(spec: EngineSpec, request: BuildRequest, path: Path) -> float:
    """Build a plan, then load it and run it once at every batch size; the seconds that the build took.

    A builder or a plan that crashes is better known before it does so in the process that holds all measurements.
    """
    start = time.monotonic()
    backend(spec.backend).build(spec, request, path)
    seconds = time.monotonic() - start
    try_plan(spec, request, path)
    return seconds
