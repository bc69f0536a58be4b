"""From what an engine is built of to its plan in the cache: the same for the bench and for a worker of an A/B run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtgate.engines import backend
from trtgate.engines.base import Batch, BuildRequest, Calibration, Device, EngineSpec
from trtgate.errors import UserError
from trtgate.files import write_synced
from trtgate.plans import CachedFile, PlanCache, changed_fields
from trtgate.progress import Progress
from trtgate.stack import cpu_model, cuda_facts, version_of

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
    cache: PlanCache, model: str, spec: EngineSpec, graph: str, digest: str, images: Callable[[], Batch]
) -> Calibration:
    """Photos for a builder that calibrates by itself, with the cache as the memory of what they came to.

    `graph` is the digest of the graph that is calibrated, `digest` that of the photos, float32[N,3,crop,crop].
    """
    depends = {"model": model, "graph": graph, "images": digest, spec.backend: version_of(spec.backend)}

    def read() -> bytes | None:
        found = cache.find("calibrations", "ranges.cache", depends)
        return found.path.read_bytes() if found else None

    def write(content: bytes) -> None:
        cache.get_or_build("calibrations", "ranges.cache", depends, lambda path: write_synced(path, content))

    return Calibration(digest, images, read, write)


def cached_plan(
    cache: PlanCache,
    model: str,
    spec: EngineSpec,
    request: BuildRequest,
    source: Mapping[str, str],
    progress: Progress,
    rebuild: int = 0,
) -> CachedFile | None:
    """The engine's plan, from the cache or built now; None for an engine that has none.

    `source` holds the digest of the graph or of the weights. A `rebuild` other than 0 is one more plan of the same
    description: builders choose kernels by timing them, and may choose others the next time. What the plan is good for
    is its backend's to say; with which driver it was built stands beside it, and is no reason to build another:
    production keeps its plans when the driver changes.
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

    def build(path: Path) -> None:
        with progress.step(f"{model}: building {spec.id}") as count:
            maker.build(spec, replace(request, progress=count), path)

    plan = cache.get_or_build("plans", filename, depends, build, built_on=machine, anew=request.anew)
    changed = changed_fields(plan.built_on, machine)
    if plan.built_on and changed:
        log.info("%s: the plan of %s was built on another machine: %s", model, spec.id, "; ".join(changed))
    return plan
