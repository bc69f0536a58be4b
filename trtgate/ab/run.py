"""Two stacks raced against each other on one machine, round by round.

Worker processes of either Python build or load their own plans from the same graphs and photos and take turns: old,
new, new, old. What drifts in the machine weighs on both, which no two runs one after the other can say. Each side has
several processes, since two processes of the very same stack differ, and by more than their rounds show.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

from trtgate.ab.engines import LostEngine, OldSideFails, choose_engines
from trtgate.ab.results import AbReport, AbResult
from trtgate.ab.rounds import schedule_for
from trtgate.ab.sides import _Sides
from trtgate.compare import (
    corrected_comparisons,
    missing_verdict,
)
from trtgate.engines import backend
from trtgate.files import scratch_folder
from trtgate.kinds import Device, EngineBroken, EngineSpec, EngineUnavailable
from trtgate.measure.race import Schedule
from trtgate.measure.remote import SIDES, Place, Sides, WorkerError, WorkerGone, as_place, workers
from trtgate.progress import Progress
from trtgate.samples import Samples
from trtgate.settings import Settings
from trtgate.verdict.outcome import Verdict, broken, not_raced
from trtgate.workbench import Workbench

# Processes a side. Those of ONNX Runtime on a CPU differ by 1.3 % (standard deviation, 12 processes, EfficientNet-Lite0
# INT8), with single ones 3 % off; 6 a side bear one that is. For a GPU: the fewest that give a bound.
PROCESSES: dict[Device, int] = {"cpu": 6, "cuda": 3}


# Builds a side of an engine whose builder chooses kernels by timing them, and may choose others the next time.
REBUILDS = 3


def run_ab(
    sides: Mapping[str, Path | Place],
    settings: Settings,
    asked: Sequence[str],
    *,
    rounds: int | None,
    rebuilds: int | None,
    progress: Progress,
    processes: int | None = None,
) -> AbReport:
    """Race every chosen engine of every model at every batch size; `sides` are pythons of environments, or images.

    Each engine gets fresh workers, so that none inherits memory or threads from the one before. `rounds`, `rebuilds`
    and `processes` replace the defaults: the schedule's rounds, REBUILDS builds a side where the builder tunes and 1
    otherwise, and PROCESSES. Raises what engines failed of where nothing else is there to tell.
    """
    places = {side: as_place(place) for side, place in sides.items()}
    with workers(places) as both:
        chosen = choose_engines(both, settings, asked)
    results: list[AbResult] = []
    samples: dict[str, Samples] = {}
    missing = {
        (name, text, size): missing_verdict(name, text, why, settings.expectations)
        for name in settings.models
        for text, why in chosen.lost.items()
        for size in settings.sizes_of(name)
    }
    left_out = dict(chosen.left_out)
    refused: dict[tuple[str, str], str] = {}
    problems: dict[str, Verdict] = {}
    failed: dict[tuple[str, str], Exception] = {}
    with scratch_folder() as folder:
        given = [*settings.weights.values(), *(model.weights for model in settings.files.values() if model.weights)]
        shared = [folder, settings.plan_cache, *(path.parent for path in given)]
        for name in settings.models:
            left_out |= settings.dropped(name)
            with Workbench(name, settings, progress) as bench:
                for spec in chosen.both:
                    if not (availability := bench.buildable(spec)).ok:
                        refused[name, spec.id] = str(availability)
                        continue
                    builds = rebuilds or (REBUILDS if backend(spec.backend).tunes(spec) else 1)
                    count = max(processes or PROCESSES[settings.device], builds)
                    schedule = schedule_for(settings.device, count, rounds)
                    start = functools.partial(workers, places, count, shared)
                    try:
                        samples[name] = bench.samples("evaluation")
                        results += _raced(bench, spec, builds, start, folder, schedule)
                    # Of the old side, of what is asked beside the race, or of a disk that is full.
                    except (WorkerError, EngineBroken, OSError) as error:
                        progress.say(str(error))
                        failed[name, spec.id] = error
                    except EngineUnavailable as error:  # its graph cannot be made here, for neither side
                        refused[name, spec.id] = str(error)
                    except LostEngine as error:
                        progress.say(str(error))
                        missing |= {
                            (name, spec.id, size): missing_verdict(name, spec.id, str(error), settings.expectations)
                            for size in bench.batch_sizes
                        }
    if failed and not results and not missing:
        raise next(iter(failed.values()))
    left_out |= {f"{name} {text}": why for (name, text), why in refused.items()}
    for (name, text), failure in failed.items():
        why = str(failure).partition("\n")[0]  # what else a worker said was told when it happened
        if settings.expectations.acknowledges(name, text):
            left_out[f"{name} {text}"] = why
        else:
            problems[f"{name} {text}"] = broken(why)
    added = [
        (name, text, size) for name in settings.models for text in chosen.gained for size in settings.sizes_of(name)
    ]
    corrected = corrected_comparisons([each.comparison for each in results])
    return AbReport(
        {side: {**chosen.stacks[side], **places[side].facts} for side in SIDES},
        left_out,
        tuple(replace(each, comparison=found) for each, found in zip(results, corrected, strict=True)),
        missing,
        tuple(added),
        tuple(samples.values()),
        {
            **{name: verdict for name in settings.models if (verdict := settings.not_batched(name))},
            **{
                f"{name} {text}": not_raced(f"{name} {text}", "--engine", why)
                for (name, text), why in refused.items()
                if text in asked and not settings.expectations.acknowledges(name, text)
            },
            **problems,
        },
    )


def _raced(
    bench: Workbench,
    spec: EngineSpec,
    builds: int,
    start: Callable[[], AbstractContextManager[Sides]],
    folder: Path,
    schedule: Schedule,
) -> list[AbResult]:
    """One engine's race, and another one with fresh workers where a side's worker is gone: one may have been killed for
    the machine's lack of memory, or by somebody. Raises LostEngine or OldSideFails where the same side's is gone again.
    """
    gone: set[str] = set()
    while True:
        try:
            with contextlib.ExitStack() as running:
                with bench.progress.step(f"{bench.name}: starting workers of both sides for {spec.id}"):
                    both = running.enter_context(start())
                return _Sides(bench, both, folder, schedule, bench.progress).race(spec, builds)
        except WorkerGone as error:
            if error.side in gone:
                again = f"a second time: {error}"
                raise (LostEngine(again) if error.side == "new" else OldSideFails(again)) from error
            gone.add(error.side)
            bench.progress.say(f"{error}\n{bench.name}: racing {spec.id} once more")
