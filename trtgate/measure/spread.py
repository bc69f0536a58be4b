"""One model's race spread over fresh processes, one after the other; the process is the sample.

Two processes of one stack differ by more than their rounds show, so a run that is saved or compared measures in many.
Each loads the plans of all engines, races them interleaved for a few rounds at every batch size, and is gone.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtgate import judge
from trtgate.files import scratch_folder, write_whole
from trtgate.kinds import Block, Device, EngineSpec
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import FEW_ITERATIONS, SCHEDULES, Arm, Schedule, briefly, run_race
from trtgate.measure.remote import RequestFailed, Worker, WorkerError, fresh_worker
from trtgate.records import EngineRecord, fixed_work, from_race, joined, unfinished_session
from trtgate.samples import rows_of
from trtgate.signature import save_tensors
from trtgate.stack import memory_left, stack
from trtgate.verdict.metrics import joined_numbers, median
from trtgate.verdict.paired import LOOKS as ROUNDS_LOOKED_AT
from trtgate.verdict.paired import change_text
from trtgate.verdict.sessions import LOOKS
from trtgate.verdict.states import enough_in_one, in_quiet, in_right

if TYPE_CHECKING:
    from trtgate.settings import Settings
    from trtgate.workbench import Workbench

# How many processes a race is spread over. On a CPU, where processes of one stack differ by 1.3 to 1.8 %, 8 against 8
# bear one that is far off; on a GPU (0.7 %) the fewest that give a bound at either look.
PROCESSES: Mapping[Device, int] = {"cpu": 8, "cuda": 6}
# Of each process. What more rounds of the same process would tell is little beside what another process does.
ROUNDS = 3
# Calls of a block that last no longer than so many seconds: of the 42 of three blocks the slowest twentieth are two, so
# that 2 % that take twice as long are seen in most processes, where of 18 they were in a third.
TAIL_ITERATIONS = 14
TAIL_SECONDS = 0.25
# What takes long to import, by backend, and needs no GPU: 12 s on the host of an H100. An engine's cold start is not to
# depend on whether another one of its backend was loaded before. The packages of the model's own modules come on top.
IMPORTS: Mapping[str, tuple[str, ...]] = {
    "pytorch": ("torch",),
    "inductor": ("torch._inductor.compile_fx",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
}
# As many processes import at the same time as there are cores: one after the other that took longer than the races on
# the host of an H100, and a third of the time on two cores. All that are planned have imported before the first one
# loads anything: a virtual machine gives back memory that was free for seconds, and where they imported two by two,
# every other process took 2 to 4 times as long to load (0.35 against 0.08 s of ONNX Runtime). One that waits takes
# 0.4 GB.
WAITING_BYTES = 500 << 20
# Of the memory that is left.
WAITING_SHARE = 0.5
# A floor asks for this many rounds of all processes together.
FEWEST_ROUNDS = min(ROUNDS_LOOKED_AT)
# With more processes than this share dead or disturbed the machine is not fit to measure on.
LOST_SHARE = 0.2


def schedule_for(device: Device, count: int) -> Schedule:
    """The rounds of one of `count` processes: short, since their noise is the process's, and the time goes into more of
    those; but long enough for the slowest calls."""
    return replace(
        briefly(SCHEDULES[device]),
        rounds=max(ROUNDS, -(-FEWEST_ROUNDS // count)),
        block_iterations=TAIL_ITERATIONS,
        block_limit_seconds=TAIL_SECONDS,
        fewest_iterations=FEW_ITERATIONS,
    )


# Tells this run from others with one plan cache, at once or before.
RUN = uuid.uuid4().hex[:8]
# How long what a killed run left is kept.
UNFINISHED_SECONDS = 7 * 24 * 3600.0


def unfinished_file(settings: Settings, model: str) -> Path:
    """Where the samples of this run are until it is over."""
    return settings.plan_cache / "unfinished" / f"{model}.{RUN}.json"


class Spread:
    """What the processes measured so far of one model's engines, and how more are run."""

    def __init__(self, bench: Workbench, count: int, before: Mapping[int, Mapping[str, float]] | None = None) -> None:
        """`before` has, by batch size, what the fixed work took for the baseline: its processes are compared with those
        that meet the machine so, if there are enough."""
        self._bench = bench
        self._count = count
        self._before = before or {}
        self._sound: dict[tuple[str, int], list[EngineRecord]] = {}
        self._disturbed: dict[tuple[str, int], list[EngineRecord]] = {}
        self._failed: dict[str, WorkerError] = {}
        self._died_in: list[str] = []
        self._wanted: dict[tuple[str, int], int] = {}
        self._ready: list[Worker] = []
        self._at = ""  # the engine that the present process is asked of; "" for what is no engine's
        self._loaded: Sequence[EngineSpec] = ()  # by each process: what loading costs depends on what was loaded before
        self.lost: list[str] = []

    def record(self, spec: EngineSpec, batch: int) -> EngineRecord:
        """All processes' measurements of an engine as one record.

        Raises the WorkerError of an engine that no process could load or run.
        """
        if spec.id in self._failed:
            raise self._failed[spec.id]
        key = (spec.id, batch)
        sound, disturbed = self._sound.get(key, []), self._disturbed.get(key, [])
        if self._too_many_lost():
            whole = [each for each in (*sound, *disturbed) if each.rounds]
            found = joined(whole) if whole else (*disturbed, self._unmeasured(spec, batch))[0]
            return replace(found, disturbed=f"{len(self.lost)} processes do not count: {self.lost[-1]}")
        # Others are run in place of those that met another state. Where fewer met one than were planned at first all
        # count, and widen the bounds.
        work = list(map(fixed_work, sound))
        chosen = enough_in_one(work, self._count, self._before.get(batch))
        found, told = joined([sound[index] for index in chosen] or sound), ""
        if not chosen and (loud := len(sound) - len(in_quiet(work))):
            told = f"fixed work took much longer in {loud} of {len(sound)} processes"
        if chosen and (others := [index for index in range(len(sound)) if index not in chosen]):
            change = change_text(math.log(median(sound[index].latency for index in others) / found.latency))
            told = f"{len(chosen)} of {len(sound)} processes, which met it in one state, count; others took {change}"
            # What made these others may be the stack.
            left = joined_numbers([sound[index].numbers for index in others])
            uncounted = {name: tuple(map(float, values)) for name, values in left.items()}
            found = replace(found, uncounted=uncounted)
        return replace(found, warnings=(*found.warnings, f"the machine is loud: {told}")) if told else found

    def _unmeasured(self, spec: EngineSpec, batch: int) -> EngineRecord:
        """What there is of an engine that no process lived long enough to measure."""
        bench = self._bench
        reference, weights = bench.reference.id, bench.weights.source
        return EngineRecord(bench.name, spec.id, batch, weights, {}, complete=False, reference=reference)

    def measured(self, spec: EngineSpec, batch: int) -> bool:
        """Whether there is a record of an engine that nothing speaks against."""
        return spec.id not in self._failed and bool(self._sound.get((spec.id, batch))) and not self._too_many_lost()

    def _too_many_lost(self) -> bool:
        planned = max([self._count, *self._wanted.values()])
        return len(self.lost) > max(1.0, LOST_SHARE * planned)

    def _settled(self, keys: Sequence[tuple[str, int]]) -> int:
        """How many processes there are that met the machine as they should, of the engine and size that has fewest."""
        works = {key: list(map(fixed_work, self._sound.get(key, []))) for key in keys}
        return min(len(in_right(work, self._before.get(size))) for (_, size), work in works.items())

    def prepare(self) -> None:
        """Have the first processes import what they need while this one does what is not timed: those of both looks,
        where there is a baseline and a core for each."""
        # One that cannot be started is told of when it is its turn.
        with contextlib.suppress(WorkerError, OSError):
            self._start(self._room(self._count * (LOOKS if self._before else 1)))

    def settle(self) -> None:
        """Wait until none imports any more: what comes next is timed, and none uses a GPU before it is asked."""
        for worker in self._ready:
            with contextlib.suppress(WorkerError):  # it says so again when it is its turn
                worker.greet()

    def close(self) -> None:
        """End the processes that were not needed."""
        for worker in self._ready:
            worker.close(wait=False)
        self._ready.clear()

    def first(self) -> None:
        """Run as many processes as are planned of all engines."""
        specs = self._bench.loadable()
        self.add(specs, self._bench.batch_sizes, self._count, f"{len(specs)} engines")

    def add(self, specs: Sequence[EngineSpec], batch_sizes: Sequence[int], count: int, text: str) -> None:
        """Run `count` more processes of these engines, and others in place of those that were lost."""
        name = self._bench.name
        self._loaded = self._loaded or specs
        with (
            scratch_folder() as folder,
            self._bench.progress.step(f"{name}: racing {text} in {count} processes") as progress,
        ):
            keys = [(spec.id, size) for spec in specs for size in batch_sizes]
            for key in keys:
                self._wanted[key] = self._wanted.get(key, 0) + count
            wanted = max(self._wanted[key] for key in keys)
            first = wanted <= self._count
            done, run = self._settled(keys), 0
            self._fill(min(wanted - done, count))
            # More take the place of those that met another state, at the first look, and if any met the right one.
            while (
                done < wanted and run < (most := 2 * count if first and done else count) and not self._too_many_lost()
            ):
                if not self._ready:
                    self._fill(min(wanted - done, most - run))
                    continue
                racing = [spec for spec in specs if spec.id not in self._failed]
                run += self._process(racing, batch_sizes, folder)
                done = self._settled([key for key in keys if key[0] not in self._failed])
                progress(max(0, count - wanted + done), count)

    def _fill(self, count: int) -> None:
        """Have so many processes ready, or as many as there is memory for; one that cannot be started is lost."""
        self.settle()
        room = self._room(count)
        try:
            while len(self._ready) < room:
                self._start(room - len(self._ready))
                self.settle()
        except (WorkerError, OSError) as error:
            if isinstance(error, OSError) and not any(self._sound.values()):
                raise  # nothing is lost with it, and it is the user's to mend
            self.settle()
            self.lost.append(f"none can be started ({error})")

    def _room(self, count: int) -> int:
        """How many of so many processes there is memory for, beside those that wait; one for each core in any case."""
        room = len(self._ready) + int(WAITING_SHARE * memory_left() / WAITING_BYTES)
        return min(count, max(room, self._bench.settings.threads))

    def _start(self, count: int) -> None:
        """Start so many processes, or one for each core."""
        for _ in range(min(self._bench.settings.threads, count)):
            self._ready.append(self._started())

    def _process(self, specs: Sequence[EngineSpec], batch_sizes: Sequence[int], folder: Path) -> bool:
        """Run one process, and keep what it measured; whether that is sound."""
        self._at = ""
        worker = self._ready.pop(0)
        try:
            worker.greet()
            found = self._measure(worker, specs, batch_sizes, folder)
        except RequestFailed as error:
            of_reference = self._at == self._bench.reference.id
            if of_reference and not any(self._sound.values()):
                raise
            if of_reference or not self._at:  # what other processes measured is not lost with this one
                self.lost.append(str(error))
                return False
            self._failed[self._at] = error  # the engine is at fault; the others go on without it
            return False
        except WorkerError as error:
            self.lost.append(str(error))
            if self._at in self._died_in and self._at not in {"", self._bench.reference.id}:
                self._failed[self._at] = error
            self._died_in.append(self._at)
            return False
        finally:
            worker.close(wait=False)  # it has nothing to put away
        reasons = [each.disturbed for each in found if each.disturbed or not each.complete]
        for each in found:
            (self._disturbed if reasons else self._sound).setdefault((each.engine, each.batch), []).append(each)
        if reasons:
            self.lost.append(reasons[0] or "too many rounds were disturbed")
        else:
            with contextlib.suppress(OSError):  # a full disk loses no more than this
                self._keep()
        return not reasons

    @functools.cached_property
    def _stack(self) -> dict[str, Any]:
        return stack(self._bench.settings.threads, self._bench.settings.device)

    def _keep(self) -> None:
        """Write down what was measured so far, for whoever ends this run before it is saved."""
        settings = self._bench.settings
        path = unfinished_file(settings, self._bench.name)
        records = [joined(some) for some in self._sound.values() if some]
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another run does the same
                if time.time() - left.stat().st_mtime > UNFINISHED_SECONDS:
                    left.unlink()
        write_whole(path, json.dumps(unfinished_session(self._stack, records)).encode())

    @functools.cached_property
    def _imports(self) -> list[str]:
        """What a process's engines need, which is no part of their cold start."""
        bench = self._bench
        backends = {spec.backend for spec in bench.settings.engines if bench.available(spec).ok}
        names = [name for backend in sorted(backends) for name in IMPORTS.get(backend, ())]
        if bench.file is None:
            names += sorted({type(each).__module__.partition(".")[0] for each in bench.model.module.modules()})
        return list(dict.fromkeys(names))

    def _started(self) -> Worker:
        """A process that begins to import."""
        return fresh_worker(self._imports)

    def _job(self, spec: EngineSpec, module: Path, samples: Path) -> dict[str, Any]:
        """Load the plan that this run has loaded."""
        plan = self._bench.plan(spec)
        kept = {"module": str(module), "plan": str(plan.path.resolve()) if plan else None}
        return {**self._bench.job(spec, 0, None, samples), **kept}

    def _measure(
        self, worker: Worker, specs: Sequence[EngineSpec], batch_sizes: Sequence[int], folder: Path
    ) -> list[EngineRecord]:
        bench, settings = self._bench, self._bench.settings
        module, samples = folder / "model.pt", folder / "samples"
        if not samples.exists():
            save_tensors(samples, itertools.islice(rows_of(bench.samples("evaluation")), max(batch_sizes)))
            if bench.file is None:
                torch.save(bench.model, module)
        controls: Mapping[str, float] = worker.ask("controls", device=settings.device)["arms"]
        fresh = {}
        for spec in self._loaded:
            if spec.id not in self._failed:
                self._at = spec.id
                fresh[spec.id] = worker.ask("open", **self._job(spec, module, samples))["fresh"]

        def arm(name: str, share: float = 1.0) -> Arm:
            def led(lead_in: int, n: int) -> Block:
                self._at = "" if name in controls else name
                return worker.block(name, n, lead_in)

            return Arm.elsewhere(name, led, share)

        # The driver holds the GPU too; on a CPU its own time is counted anyway.
        ours = [worker.pid, *([os.getpid()] if settings.device == "cuda" else [])]
        # At both ends of a round, so that what begins or ends within it is seen.
        before, *after = (arm(name, share) for name, share in controls.items())
        records = []
        for size in batch_sizes:
            self._at = ""
            worker.ask("bind", samples=str(samples), size=size)
            race = run_race(
                [before, *(arm(spec.id) for spec in specs), *after],
                schedule_for(settings.device, self._count),
                monitor=monitor_for(settings.device, ours)(),
                rest=lambda: worker.ask("rest") if settings.device == "cpu" else None,
            )
            for spec in specs:
                record = from_race(race, bench.name, spec.id, bench.reference.id, size, bench.weights.source)
                measured = dict(fresh[spec.id])
                if settings.streams > 1:
                    self._at = spec.id
                    measured |= worker.ask("throughput", engine=spec.id, streams=settings.streams)
                numbers = {name: (float(each),) for name, each in measured.items() if each is not None}
                series = {**record.series, **numbers}
                warnings = (*race.notes, *([] if race.warm[spec.id] else [judge.RESTLESS]))
                records.append(replace(record, series=series, warnings=warnings))
        return records
