"""A process that builds, loads and times engines for a driver: of another Python on a side of an A/B run, or one of the
fresh processes that a race is spread over.

Started by `measure.remote` as `python -m trtgate.measure.worker READ WRITE [MODULE...]`, with two pipe descriptors and
what to import first, or by `measure.containers` with the path of a Unix socket in their place. It needs what
requirements-worker.txt lists and the runtime under test; PyTorch only for engines that are PyTorch's, and for controls.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import itertools
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtgate.build.cache import PlanCache
from trtgate.build.plan import cached_calibration, cached_plan
from trtgate.engines import available, backend, runtimes_of
from trtgate.engines.base import BuildRequest, Calibration, Engine
from trtgate.engines.probe import give_home
from trtgate.kinds import Availability, Device, EngineRefused, EngineSpec
from trtgate.limits import BUILD_SECONDS
from trtgate.nvml import current_gpu
from trtgate.processes import come_to_rest, die_with_parent
from trtgate.progress import Progress
from trtgate.protocol import VERSION, Frames, ProtocolError, require
from trtgate.signature import Signature, Tensors, answers, load_tensors, save_tensors
from trtgate.stack import stack

if TYPE_CHECKING:
    from trtgate.measure.race import Arm
    from trtgate.models.base import Model


def place_of(module: str) -> str | None:
    """The file or folder that a module's package would be imported from, links followed; None if there is none."""
    # By the folders alone: what is imported may say that it is another one.
    spec = PathFinder.find_spec(module.partition(".")[0])
    if spec is None:
        return None
    places = [spec.origin] if spec.origin else list(spec.submodule_search_locations or ())
    return os.path.realpath(places[0]) if places else None


def is_broken(found: Availability) -> bool:
    """Whether an engine's runtime is here and no use. PyTorch, with which some are imported, need not be here."""
    return found.broken and (place_of("torch") is not None or "'torch'" not in found.reason)


class Worker:
    """The engines that are open, and the arms that blocks can be asked of: engines by their id, and controls."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._engines: dict[str, Engine] = {}
        self._controls: dict[str, Arm] = {}
        self._signatures: dict[str, Signature] = {}
        self._batch: Tensors | None = None
        self._exit = contextlib.ExitStack()

    @property
    def batch(self) -> Tensors:
        assert self._batch is not None, "no batch is bound"
        return self._batch

    def describe(self, device: Device, engines: list[str]) -> dict[str, Any]:
        """The stack, of each engine whether it is available here or its runtime is broken, and where that one's modules
        are, and this Python's environment."""
        found = {}
        for spec in map(EngineSpec.parse, engines):
            availability = available(spec, device)
            places = {module: place_of(module) for module in runtimes_of([spec], device)}
            told = {"ok": availability.ok, "broken": is_broken(availability), "reason": str(availability)}
            found[spec.id] = {**told, "places": places}
        # Pythons of two versions may share a prefix, as a system's do.
        environment = f"{sys.prefix} {sys.version_info.major}.{sys.version_info.minor}"
        return {"stack": stack(device=device), "engines": found, "environment": environment}

    def open(self, **job: Any) -> dict[str, Any]:
        """Build or load a plan and load the engine; what the plan cost and what it is, and what loading and the first
        run took and left in memory."""
        spec = EngineSpec.parse(job["engine"])
        cache = PlanCache(Path(job["plan_cache"]), waiting=self._building)
        request = request_of(job, spec, cache)
        plan, built = self._plan(job, spec, request, cache)
        gpu = current_gpu() if request.device == "cuda" else None
        on_device = gpu.memory_used() or 0 if gpu else 0
        before = anonymous_bytes()  # after a build, which may have been in this very process
        start = time.perf_counter()
        engine = self._exit.enter_context(backend(spec.backend).load(spec, request, plan))
        engine.infer(request.trial(request.batch_sizes[0]))
        fresh = {"cold_start": time.perf_counter() - start, "host_memory": max(1, anonymous_bytes() - before)}
        if gpu is not None and (used := gpu.memory_used()):
            fresh["device_memory"] = max(1, used - on_device)
        self._engines[spec.id], self._signatures[spec.id] = engine, request.signature
        return {"plan": built, "fresh": fresh}

    def _plan(
        self, job: Mapping[str, Any], spec: EngineSpec, request: BuildRequest, cache: PlanCache
    ) -> tuple[Path | None, dict[str, Any]]:
        """The engine's plan, if it has one, and what it cost; that of a driver which has loaded it is sound."""
        if "plan" in job:
            # A runtime is imported when it is asked what its plans are made with, which is no part of a cold start.
            backend(spec.backend).build_options(spec, request)
            return (Path(job["plan"]) if job["plan"] else None), {}
        plan = cached_plan(cache, job["model"], spec, request, job["source"], self._progress(), job["rebuild"])
        if plan is None:
            return None, {}
        return plan.path, {"bytes": plan.size, "build_seconds": plan.build_seconds, "reused": plan.reused}

    def controls(self, device: Device) -> dict[str, Any]:
        """Have the fixed work ready that is raced along; the names of its arms."""
        from trtgate.measure.controls import control_arms

        self._controls = {arm.name: arm for arm in self._exit.enter_context(control_arms(device))}
        return {"arms": {arm.name: arm.share for arm in self._controls.values()}}

    def _progress(self) -> Progress:
        return Progress(lambda text: self._frames.send({"progress": text}), self._building)

    def _building(self, text: str) -> None:
        """Say that the next message may take as long as a build."""
        self._frames.send({"progress": text, "within": BUILD_SECONDS})

    def infer(
        self, engine: str, samples: str, size: int, outputs: str, chosen: list[int] | None = None
    ) -> dict[str, Any]:
        """The answers to all samples of a file, or to the `chosen` ones by their indices, in batches of `size`, into
        another file."""
        infer, given = self._engines[engine].infer, load_tensors(Path(samples))
        if chosen is not None:
            first = list(itertools.islice(given, max(chosen) + 1))
            given = (first[index] for index in chosen)
        save_tensors(Path(outputs), answers(infer, self._signatures[engine], given, size))
        return {}

    def bind(self, samples: str, size: int) -> dict[str, Any]:
        """Choose the batch that blocks run: the first samples of a file, repeated if there are fewer."""
        given = list(itertools.islice(load_tensors(Path(samples)), size))
        signature = next(iter(self._signatures.values()))
        self._batch = signature.join(list(itertools.islice(itertools.cycle(given), size)), size)
        return {}

    def block(self, arm: str, n: int, lead_in: int) -> dict[str, Any]:
        """Time n inferences of an engine on the batch that is bound, or n times a control's work, after `lead_in` that
        do not count."""
        control = self._controls.get(arm)
        run = control.block if control else functools.partial(self._engines[arm].block, inputs=self.batch)
        if lead_in:
            run(lead_in)
        block = run(n)
        second = block.end_to_end
        return {"seconds": block.seconds.tolist(), "end_to_end": None if second is None else second.tolist()}

    def rest(self) -> dict[str, Any]:
        """Answer once this process has come to rest."""
        come_to_rest()
        return {}

    def throughput(self, engine: str, streams: int) -> dict[str, Any]:
        """Samples per second of several inferences at once; null where the engine cannot."""
        return {"throughput": self._engines[engine].throughput(self.batch, streams)}

    def facts(self, engine: str) -> dict[str, Any]:
        """What was built: types, layer times, memory."""
        opened, batch = self._engines[engine], self.batch
        audit = opened.audit()
        return {
            "audit": {"asked": audit.asked, "layers": dict(audit.layers), "also": sorted(audit.also)},
            "layer_times": {
                layer.name: {"ms": layer.seconds * 1e3, "type": layer.kind, "nodes": list(layer.nodes)}
                for layer in opened.layer_times(batch)
            },
            "engine": dict(opened.facts()),
            "notes": list(opened.notes(self._signatures[engine].size_of(batch))),
        }

    def serve(self) -> None:
        """Answer requests until the driver says goodbye or is gone."""
        requests: Mapping[str, Callable[..., dict[str, Any]]] = {
            name: getattr(self, name)
            for name in ("describe", "open", "controls", "infer", "bind", "block", "rest", "throughput", "facts")
        }
        while True:
            message = self._frames.receive()
            _, wanted = require(message, "do")
            if wanted == "goodbye":
                self._exit.close()
                return
            try:
                answer: dict[str, Any] = {"answer": requests[wanted](**message["with"])}
            except EngineRefused as error:
                answer = {"error": str(error)}
            except Exception as error:  # the driver decides what an error of an engine means
                traceback.print_exc()
                answer = {"error": f"{type(error).__name__}: {error}"}
            self._frames.send(answer)


def request_of(job: Mapping[str, Any], spec: EngineSpec, cache: PlanCache) -> BuildRequest:
    """What a job's engine is built of: its plan has the key that it has for whoever made the job."""
    return BuildRequest(
        model=_model(job) if job["graph"] is None else None,
        graph=Path(job["graph"]) if job["graph"] else None,
        batch_sizes=tuple(job["batch_sizes"]),
        threads=job["threads"],
        device=job["device"],
        signature=Signature.from_json(job["signature"]),
        calibration=_calibration(job, spec, cache),
        anew=job["anew"],
        sample=next(load_tensors(Path(job["sample"]))) if job["sample"] else None,
    )


def _model(job: Mapping[str, Any]) -> Model:
    if "module" in job:
        return _kept_model(job["module"])
    from trtgate.models.loading import load_model

    weights = job["weights"]
    return load_model(job["architecture"], Path(weights) if weights else None)


@functools.cache
def _kept_model(path: str) -> Model:
    """The driver's own file of a moment ago, in a folder that is its own: making the model anew takes seconds."""
    import torch

    made: Model = torch.load(path, weights_only=False)
    return made


def _calibration(job: Mapping[str, Any], spec: EngineSpec, cache: PlanCache) -> Calibration | None:
    given = job["calibration"]
    if given is None:
        return None
    path = Path(given["samples"])
    return cached_calibration(
        cache, job["model"], spec, job["source"]["graph"], given["digest"], lambda: list(load_tensors(path))
    )


def anonymous_bytes() -> int:
    """Memory of this process that is no file's (proc(5), RssAnon), without what the allocator keeps for later."""
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):  # glibc; musl keeps next to nothing
        libc.malloc_trim(0)
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def _connected(path: str) -> Frames:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return Frames.over(connection)


def main() -> int:
    """Serve until told to stop."""
    die_with_parent()
    give_home()
    first, *rest = sys.argv[1:]
    by_pipes = first.isdigit()
    for name in rest[1:] if by_pipes else rest:
        importlib.import_module(name)
    frames = Frames(int(first), int(rest[0])) if by_pipes else _connected(first)
    frames.send({"protocol": VERSION, "python": sys.version.split()[0], "pid": os.getpid()})
    try:
        Worker(frames).serve()
    except ProtocolError:
        return 1  # the driver is gone
    finally:
        frames.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
