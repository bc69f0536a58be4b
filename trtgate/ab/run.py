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
from dataclasses import dataclass, field, replace
from pathlib import Path

from trtgate.ab.engines import Chosen, LostEngine, OldSideFails, choose_engines
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
from trtgate.records import Key, name_of
from trtgate.samples import Samples
from trtgate.settings import Settings
from trtgate.verdict.outcome import Outcome, Reason, Verdict, broken, not_raced
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
    keep: Callable[[AbReport], object] = lambda report: None,
) -> AbReport:
    """Race every chosen engine of every model at every batch size; `sides` are pythons of environments, or images.

    Each engine gets fresh workers, so that none inherits memory or threads from the one before. `rounds`, `rebuilds`
    and `processes` replace the defaults: the schedule's rounds, REBUILDS builds a side where the builder tunes and 1
    otherwise, and PROCESSES. Raises what engines failed of where nothing else is there to tell. Whenever something was
    decided `keep` is given all that was until then, as a run that was cut off there.
    """
    places = {side: as_place(place) for side, place in sides.items()}
    with workers(places) as both:
        chosen = choose_engines(both, settings, asked)
    missing = {
        (name, text, size): missing_verdict(name, text, why, settings.expectations)
        for name in settings.models
        for text, why in chosen.lost.items()
        for size in settings.sizes_of(name)
    }
    found = _Found(places, settings, asked, chosen, keep, missing, dict(chosen.left_out))
    found.tell()
    with scratch_folder() as folder:
        given = [*settings.weights.values(), *(model.weights for model in settings.files.values() if model.weights)]
        shared = [folder, settings.plan_cache, *(path.parent for path in given)]
        for name in settings.models:
            found.left_out |= settings.dropped(name)
            with Workbench(name, settings, progress) as bench:
                for spec in chosen.both:
                    builds = rebuilds or (REBUILDS if backend(spec.backend).tunes(spec) else 1)
                    count = max(processes or PROCESSES[settings.device], builds)
                    schedule = schedule_for(settings.device, count, rounds)
                    start = functools.partial(workers, places, count, shared)
                    found.race(bench, spec, functools.partial(_race, bench, spec, builds, start, folder, schedule))
    if found.failed and not found.results and not found.missing:
        raise next(iter(found.failed.values()))
    return found.report()


@dataclass
class _Found:
    """What became of every engine so far. `refused` can be built for neither side; `failed` is the old side's, or that
    of what is asked beside the race."""

    places: Mapping[str, Place]
    settings: Settings
    asked: Sequence[str]
    chosen: Chosen
    keep: Callable[[AbReport], object]
    missing: dict[Key, Verdict]
    left_out: dict[str, str]
    results: list[AbResult] = field(default_factory=list)
    samples: dict[str, Samples] = field(default_factory=dict)
    refused: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[tuple[str, str], Exception] = field(default_factory=dict)

    def race(self, bench: Workbench, spec: EngineSpec, run: Callable[[Callable[[AbResult], None]], None]) -> None:
        """Race one engine by `run`, which tells what is decided of each batch size, and keep what becomes of it."""
        name = bench.name
        if not (availability := bench.buildable(spec)).ok:
            self.refused[name, spec.id] = str(availability)
            return
        try:
            self.samples[name] = bench.samples("evaluation")
            run(self._add)
        # Of the old side, of what is asked beside the race, or of a disk that is full.
        except (WorkerError, EngineBroken, OSError) as error:
            bench.progress.say(str(error))
            self.failed[name, spec.id] = error
        except EngineUnavailable as error:  # its graph cannot be made here, for neither side
            self.refused[name, spec.id] = str(error)
        except LostEngine as error:
            bench.progress.say(str(error))
            why = missing_verdict(name, spec.id, str(error), self.settings.expectations)
            keys = [(name, spec.id, size) for size in bench.batch_sizes]
            self.missing |= {key: why for key in keys if key not in self._decided()}
        self.tell()

    def _add(self, result: AbResult) -> None:
        self.results.append(result)
        self.tell()

    def tell(self) -> None:
        """Have what was decided so far kept, if anything was."""
        if self.results or self.missing:
            self.keep(self.report(self._not_reached()))

    def _decided(self) -> set[Key]:
        return {each.comparison.key for each in self.results}

    def _not_reached(self) -> list[Key]:
        """What was to be raced and was not."""
        known = {*self._decided(), *self.missing}
        keys = [
            (name, spec.id, size)
            for name in self.settings.models
            for spec in self.chosen.both
            if (name, spec.id) not in {*self.refused, *self.failed}
            for size in self.settings.sizes_of(name)
        ]
        return [key for key in keys if key not in known]

    def report(self, unraced: Sequence[Key] = ()) -> AbReport:
        """All of it, without what is `unraced` where the run was cut off."""
        settings, refused = self.settings, self.refused
        left_out = {**self.left_out, **{f"{name} {text}": why for (name, text), why in refused.items()}}
        problems = {name: verdict for name in settings.models if (verdict := settings.not_batched(name))} | {
            f"{name} {text}": not_raced(f"{name} {text}", "--engine", why)
            for (name, text), why in refused.items()
            if text in self.asked and not settings.expectations.acknowledges(name, text)
        }
        # Nothing passes that leaves a broken runtime out unasked.
        problems |= {
            f"{name} {text}": broken(why)
            for name in settings.models
            for text, why in self.chosen.broken.items()
            if not settings.expectations.acknowledges(name, text)
        }
        for name in settings.models:
            expected = [each.id for each in self.chosen.both if not settings.expectations.acknowledges(name, each.id)]
            whys = [refused.get((name, text)) for text in expected]
            if whys and all(whys):  # another model's engines say nothing of this one
                message = f"not one of its engines was raced: {whys[0]}"
                problems[name] = Verdict(Outcome.INVALID, Reason.NO_RECORDS, message)
        for (name, text), failure in self.failed.items():
            why = str(failure).partition("\n")[0]  # what else a worker said was told when it happened
            if settings.expectations.acknowledges(name, text):
                left_out[f"{name} {text}"] = why
            else:
                problems[f"{name} {text}"] = broken(why)
        if unraced:
            problems["the run"] = _cut_off(unraced)
        added = [
            (name, text, size)
            for name in settings.models
            for text in self.chosen.gained
            for size in settings.sizes_of(name)
        ]
        comparisons = [each.comparison for each in self.results]
        of_each = max((len(each.changes) for each in comparisons), default=0)
        corrected = corrected_comparisons(comparisons, of_each * len(unraced))
        return AbReport(
            {side: {**self.chosen.stacks[side], **self.places[side].facts} for side in SIDES},
            left_out,
            tuple(replace(each, comparison=found) for each, found in zip(self.results, corrected, strict=True)),
            dict(self.missing),
            tuple(added),
            tuple(self.samples.values()),
            problems,
        )


# Names of what a run that was cut off did not reach.
UNRACED_SHOWN = 4


def _cut_off(unraced: Sequence[Key]) -> Verdict:
    """On a run that ended before all was raced."""
    shown = ", ".join(map(name_of, unraced[:UNRACED_SHOWN]))
    more = f" and {len(unraced) - UNRACED_SHOWN} more" if len(unraced) > UNRACED_SHOWN else ""
    return Verdict(Outcome.INVALID, Reason.NO_RECORDS, f"it was cut off, without {shown}{more}")


def _race(
    bench: Workbench,
    spec: EngineSpec,
    builds: int,
    start: Callable[[], AbstractContextManager[Sides]],
    folder: Path,
    schedule: Schedule,
    keep: Callable[[AbResult], None],
) -> None:
    """One engine's race, of which `keep` is given what is decided of each batch size, and another one of the sizes that
    are left, with fresh workers, where a side's worker is gone: one may have been killed for the machine's lack of
    memory, or by somebody. Raises LostEngine or OldSideFails where the same side's is gone again.
    """
    gone: set[str] = set()
    left = list(bench.batch_sizes)
    while left:
        try:
            with contextlib.ExitStack() as running:
                with bench.progress.step(f"{bench.name}: starting workers of both sides for {spec.id}"):
                    both = running.enter_context(start())
                for result in _Sides(bench, both, folder, schedule, bench.progress).race(spec, builds, tuple(left)):
                    keep(result)
                    left.remove(result.comparison.key[2])
                return
        except WorkerGone as error:
            if error.side in gone:
                again = f"a second time: {error}"
                raise (LostEngine(again) if error.side == "new" else OldSideFails(again)) from error
            gone.add(error.side)
            bench.progress.say(f"{error}\n{bench.name}: racing {spec.id} once more")
