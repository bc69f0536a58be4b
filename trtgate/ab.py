"""Two stacks raced against each other on one machine, round by round.

Worker processes of either Python build or load their own plans from the same graphs and photos and take turns: old,
new, new, old. What drifts in the machine weighs on both, which no two runs one after the other can say. Each side has
several processes, since two processes of the very same stack differ, and by more than their rounds show.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtgate import judge
from trtgate.compare import (
    ANSWERS,
    Change,
    Comparison,
    Report,
    compare_records,
    corrected_comparisons,
    missing_verdict,
    nothing_compared,
)
from trtgate.compare import report_to_json as compared_to_json
from trtgate.engines import backend
from trtgate.engines.base import REFERENCE, Block, Device, EngineSpec, PrecisionAudit
from trtgate.errors import UserError
from trtgate.expectations import Expectation
from trtgate.layers import changed_layers
from trtgate.limits import LOAD_SECONDS
from trtgate.plans import changed_fields
from trtgate.progress import Progress
from trtgate.race import SCHEDULES, Arm, Monitor, Race, Schedule, run_race
from trtgate.records import EngineRecord, Key, from_race
from trtgate.remote import SIDES, Place, Sides, WorkerError, as_place, workers
from trtgate.samples import Samples
from trtgate.signature import load_tensors, save_tensors
from trtgate.stack import steady
from trtgate.tasks.against import decide_all_scores
from trtgate.tasks.base import Outputs
from trtgate.tasks.classification import Classification
from trtgate.telemetry import cpu_seconds, monitor_for
from trtgate.verdict.agreement import Agreement, Rebuilt, compare_logits, furthest, nearest, rebuilt
from trtgate.verdict.metrics import BY_NAME, Sample, decide
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.policy import more_may_decide
from trtgate.verdict.processes import medians, spread_text, unlucky_builds
from trtgate.verdict.shares import Ints
from trtgate.workbench import Logits, Settings, Workbench, rows_of

# A plan that is there is loaded and run in a process of its own first, and then here.
OPEN_SECONDS = 2 * LOAD_SECONDS
# Workers whose turn it is not may use this share of a core: more, and they disturb the one whose turn it is.
IDLE_SHARE = 0.1
# Processes a side. Those of ONNX Runtime on a CPU differ by 1.3 % (standard deviation, 12 processes, EfficientNet-Lite0
# INT8), with single ones 3 % off; 6 a side bear one that is. For a GPU: the fewest that give a bound.
PROCESSES: dict[Device, int] = {"cpu": 6, "cuda": 3}
# Builds a side of an engine whose builder chooses kernels by timing them, and may choose others the next time.
REBUILDS = 3
# Enough to tell whether two stacks compute the same; how often an untrained model answers the same says nothing.
UNTRAINED_PHOTOS = 24
# Of one process, whose side has several.
BLOCK_ITERATIONS = 5


class Turns:
    """Whose turn it is, and what the other workers do meanwhile, which should be nothing."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.idle_seconds = self.wall_seconds = 0.0

    def reset(self) -> None:
        """A round begins."""
        self.idle_seconds = self.wall_seconds = 0.0

    @property
    def share(self) -> float:
        """Of a core, what the workers used while it was not their turn."""
        return self.idle_seconds / self.wall_seconds if self.wall_seconds else 0.0

    @contextlib.contextmanager
    def of(self, pid: int) -> Iterator[None]:
        """This worker's turn."""
        others = [other for other in self._pids if other != pid]
        before, start = sum(map(cpu_seconds, others)), time.monotonic()
        yield
        self.idle_seconds += sum(map(cpu_seconds, others)) - before
        self.wall_seconds += time.monotonic() - start


class TurnMonitor:
    """The machine's monitor, which also objects to a round in which workers were busy out of turn."""

    def __init__(self, machine: Monitor, turns: Turns) -> None:
        self._machine = machine
        self._turns = turns
        self._shares: list[float] = []

    def start(self) -> None:
        self._turns.reset()
        self._machine.start()

    def sample(self) -> None:
        self._machine.sample()

    def stop(self) -> str | None:
        objection = self._machine.stop()
        self._shares.append(self._turns.share)
        if self._turns.share > IDLE_SHARE:
            return f"workers whose turn it was not used {self._turns.share:.0%} of a core"
        return objection

    def notes(self) -> tuple[str, ...]:
        return self._machine.notes()

    def disturbed(self) -> str:
        return self._machine.disturbed()

    def readings(self) -> dict[str, float]:
        return {**self._machine.readings(), "idle_share": float(np.median(self._shares))}


@dataclass(frozen=True)
class SideFacts:
    """One side's engine: seconds of each process, and what was built. Sizes are bytes."""

    processes: tuple[float, ...]
    build_seconds: float | None
    plan_bytes: int | None
    memory_bytes: int
    layers: Mapping[str, int]


@dataclass(frozen=True)
class AbResult:
    """One engine of one model at one batch size on both stacks: the comparison, and what it rests on.

    `samples` are the records of each side's processes.
    """

    comparison: Comparison
    old: SideFacts
    new: SideFacts
    agreement: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]
    rounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    end_to_end_rounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sequence[EngineRecord]] = field(default_factory=dict)


@dataclass(frozen=True)
class AbReport:
    """A whole run: the comparison of all engines, what was left out on both sides and why, and each engine's facts."""

    stacks: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]
    results: tuple[AbResult, ...]
    missing: Mapping[Key, Verdict] = field(default_factory=dict)
    added: tuple[Key, ...] = ()

    @property
    def report(self) -> Report:
        """The run as any other comparison."""
        changed = changed_fields(steady(self.stacks["old"]), steady(self.stacks["new"]))
        # A worker has no settings of its own that could differ: the driver gave both the same.
        engines = tuple(each.comparison for each in self.results)
        problems = nothing_compared([each.key for each in engines], [*self.missing, *self.added])
        return Report(engines, self.missing, problems, self.added, tuple(changed))


@dataclass(frozen=True)
class Chosen:
    """Which engines are raced: `both` sides have them; `lost` are the old side's alone, `gained` the new side's alone,
    each with the reason; `left_out` is on neither."""

    stacks: Mapping[str, Mapping[str, Any]]
    both: tuple[EngineSpec, ...]
    lost: Mapping[str, str]
    gained: Mapping[str, str]
    left_out: Mapping[str, str]


def choose_engines(both: Sides, settings: Settings, asked: Sequence[str]) -> Chosen:
    """What each side has of the engines of the run.

    Raises UserError for an engine that was asked for and that the old side lacks, and where the old side has none.
    """
    # PyTorch is nobody's upgrade; the reference of an ONNX file is a runtime like the others.
    ids = [spec.id for spec in settings.engines if spec != REFERENCE or REFERENCE.id in asked]
    described = {side: both[side][0].ask("describe", device=settings.device, engines=ids) for side in SIDES}
    here = {side: {text: described[side]["engines"][text]["ok"] for text in ids} for side in SIDES}
    why = {side: {text: f"{side}: {described[side]['engines'][text]['reason']}" for text in ids} for side in SIDES}
    for text in ids:
        if text in asked and not here["old"][text]:
            raise UserError(f"--engine {text} is not available on the old side ({why['old'][text]}); install it there")
    if not any(here["old"].values()):
        reasons = "; ".join(f"{text} {why['old'][text]}" for text in ids)
        raise UserError(f"no engine is available on the old side ({reasons}); install a runtime there")
    return Chosen(
        {side: described[side]["stack"] for side in SIDES},
        tuple(EngineSpec.parse(text) for text in ids if here["old"][text] and here["new"][text]),
        {text: why["new"][text] for text in ids if here["old"][text] and not here["new"][text]},
        {text: why["old"][text] for text in ids if here["new"][text] and not here["old"][text]},
        {text: why["old"][text] for text in ids if not here["new"][text] and not here["old"][text]},
    )


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
    otherwise, and PROCESSES. Raises WorkerError when a worker fails in any way: then there is no verdict at all.
    """
    places = {side: as_place(place) for side, place in sides.items()}
    with workers(places) as both:
        chosen = choose_engines(both, settings, asked)
    results: list[AbResult] = []
    missing = {
        (name, text, size): missing_verdict(name, text, why, settings.expectations)
        for name in settings.models
        for text, why in chosen.lost.items()
        for size in settings.sizes_of(name)
    }
    left_out = dict(chosen.left_out)
    with tempfile.TemporaryDirectory(prefix="trtgate-ab-") as folder:
        given = [*settings.weights.values(), *(model.weights for model in settings.files.values() if model.weights)]
        shared = [Path(folder), settings.plan_cache, *(path.parent for path in given)]
        for name in settings.models:
            with Workbench(name, settings, progress) as bench:
                for spec in chosen.both:
                    if not (availability := bench.available(spec)).ok:
                        left_out[f"{name} {spec.id}"] = str(availability)
                        continue
                    builds = rebuilds or (REBUILDS if backend(spec.backend).tunes(spec) else 1)
                    count = max(processes or PROCESSES[settings.device], builds)
                    schedule = schedule_for(settings.device, count, rounds)
                    with contextlib.ExitStack() as running:
                        with progress.step(f"{name}: starting {count} workers a side for {spec.id}"):
                            both = running.enter_context(workers(places, count, shared))
                        try:
                            racing = _Sides(bench, both, Path(folder), schedule, progress)
                            results += racing.race(spec, builds)
                        except LostEngine as error:
                            progress.say(str(error))
                            missing |= {
                                (name, spec.id, size): missing_verdict(name, spec.id, str(error), settings.expectations)
                                for size in bench.batch_sizes
                            }
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
    )


class LostEngine(Exception):
    """The new side cannot build, load or run an engine that the old side can."""


def schedule_for(device: Device, processes: int, rounds: int | None) -> Schedule:
    """The device's schedule with a side's time shared out among its processes.

    An arm's turn begins with the lead-in and ends with rest, so the race has none of its own; and the order of the arms
    (old new new old) is there and back already.
    """
    usual = SCHEDULES[device]
    return replace(
        usual,
        rounds=rounds or usual.rounds,
        block_seconds=usual.block_seconds / processes,
        block_iterations=BLOCK_ITERATIONS,
        warm_up_seconds=usual.warm_up_seconds / processes,
        lead_in_iterations=0,
        passes=1,
        alike=True,
    )


class _Sides:
    """Both sides' workers on one model; each worker has one engine."""

    def __init__(self, bench: Workbench, both: Sides, folder: Path, schedule: Schedule, progress: Progress) -> None:
        self._bench = bench
        self._workers = both
        self._folder = folder
        self._schedule = schedule
        self._progress = progress
        self._given = bench.samples("evaluation")
        if not bench.weights.trained:
            self._given = self._given.first(UNTRAINED_PHOTOS)
        self._samples = self._saved("evaluation", self._given)

    def _saved(self, split: str, samples: Samples) -> Path:
        """The file that hands samples to the workers, written when the model's first engine asks for it."""
        path = self._folder / f"{self._bench.name}-{split}"
        if not path.exists():
            save_tensors(path, rows_of(samples))
        return path

    def race(self, spec: EngineSpec, builds: int) -> list[AbResult]:
        """Build, compare answers and race one engine; one result for each batch size."""
        name = self._bench.name
        opened: dict[str, list[Any]] = {side: [] for side in SIDES}
        with self._progress.step(f"{name}: loading {spec.id} on both sides"):
            for index in range(len(self._workers["old"])):
                for side in SIDES:
                    job = self._job(spec, index % builds)
                    with self._losing(side):
                        opened[side].append(self._ask(side, index, "open", timeout=OPEN_SECONDS, **job))
        size = min(self._bench.batch_sizes)
        outputs: dict[str, list[Outputs]] = {}
        with self._progress.step(f"{name}: {spec.id} answers on both sides"):
            for side in SIDES:
                with self._losing(side):
                    outputs[side] = [self._infer(side, index, spec, size) for index in range(builds)]
        return [self._at(spec, size, builds, opened, outputs) for size in self._bench.batch_sizes]

    @contextlib.contextmanager
    def _losing(self, side: str) -> Iterator[None]:
        """What fails on the new side, after the old one did it, is lost by the upgrade. Raises LostEngine then."""
        try:
            yield
        except WorkerError as error:
            if side == "old":
                raise
            raise LostEngine(str(error)) from error

    def _ask(self, side: str, index: int, do: str, **arguments: Any) -> Any:
        return self._workers[side][index].ask(do, progress=self._progress.say, **arguments)

    def _job(self, spec: EngineSpec, rebuild: int) -> dict[str, Any]:
        calibration = None
        if spec.variant == "calibrated":
            calibration = self._saved("calibration", self._bench.samples("calibration"))
        return self._bench.job(spec, rebuild, calibration, self._samples)

    def _infer(self, side: str, index: int, spec: EngineSpec, size: int) -> Outputs:
        path = self._folder / f"{side}-{index}"
        self._ask(side, index, "infer", engine=spec.id, samples=str(self._samples), size=size, outputs=str(path))
        return list(load_tensors(path))

    def _at(
        self,
        spec: EngineSpec,
        size: int,
        builds: int,
        opened: Mapping[str, Sequence[Mapping[str, Any]]],
        outputs: Mapping[str, Sequence[Outputs]],
    ) -> AbResult:
        """One batch size."""
        settings, name = self._bench.settings, self._bench.name
        expectation = settings.expectations.of(name, spec.id)
        race = self._run_race(spec, size, expectation)
        facts = {side: self._ask(side, 0, "facts", engine=spec.id) for side in SIDES}
        found, alike = self._compared(outputs)
        records = {side: self._records(race, side, spec, size, opened[side], facts[side]) for side in SIDES}
        key = (name, spec.id, size)
        report = compare_records({key: records["old"]}, {key: records["new"]}, settings.expectations, "interleaved", {})
        answers = self._answers(found, alike, facts, expectation, self._bench.kept_in_float(spec))
        answers += self._kept(outputs, expectation)
        [compared] = report.engines
        if not race.complete:
            compared = replace(compared, invalid=judge.unfinished(len(race.dropped), race.dropped[-1]))
        changes = [Change(each.metric, None, None, each) for each in answers]
        return AbResult(
            comparison=replace(
                compared,
                changes=(*compared.changes, *changes),
                layers=changed_layers(facts["old"]["layer_times"], facts["new"]["layer_times"]),
            ),
            old=_side_facts(records["old"], opened["old"][:builds], facts["old"]),
            new=_side_facts(records["new"], opened["new"][:builds], facts["new"]),
            agreement={pair: _without_kept(self._bench.task.summary(each)) for pair, each in found.items()},
            notes=(*self._notes(race, records, builds, facts, expectation), *judge.rebuild_note(alike)),
            rounds={arm: tuple(map(float, race.round_latencies(arm))) for arm in race.blocks},
            end_to_end_rounds={arm: tuple(map(float, race.round_end_to_end(arm))) for arm in race.end_to_end},
            readings=race.readings,
            samples={side: self._answering(records[side], outputs[side]) for side in SIDES},
        )

    def _answering(self, records: Sequence[EngineRecord], outputs: Sequence[Outputs]) -> Sequence[EngineRecord]:
        """A side's records with its answers, for whoever shows them: what is decided on them has been."""
        task = self._bench.task
        if not self._bench.weights.trained or not isinstance(task, Classification):
            return records
        reference = self._bench.outputs(self._bench.reference)
        builds = [task.answers(reference, each, self._given) for each in outputs]
        return [replace(record, answers=builds[index % len(builds)]) for index, record in enumerate(records)]

    def _records(
        self,
        race: Race,
        side: str,
        spec: EngineSpec,
        size: int,
        opened: Sequence[Mapping[str, Any]],
        facts: Mapping[str, Any],
    ) -> list[EngineRecord]:
        """One record for each process of a side; those that share a plan share what it cost."""
        found = []
        for index, told in enumerate(opened):
            arm = f"{side} {index + 1}"
            record = from_race(race, self._bench.name, arm, arm, size, self._bench.weights.source)
            series = {name: values for name, values in record.series.items() if not name.startswith("reference_")}
            plan = told["plan"]
            measured = {
                **told["fresh"],
                "build_seconds": plan.get("build_seconds"),
                "plan_bytes": plan.get("bytes"),
            }
            series |= {name: (float(value),) for name, value in measured.items() if value is not None}
            found.append(replace(record, engine=spec.id, reference=self._bench.reference.id, series=series))
        return found

    def _run_race(self, spec: EngineSpec, size: int, expectation: Expectation) -> Race:
        device, lead_in = self._bench.settings.device, SCHEDULES[self._bench.settings.device].lead_in_iterations
        pids = [worker.pid for side in SIDES for worker in self._workers[side]]
        turns = Turns(pids)

        def arm(side: str, index: int) -> Arm:
            worker = self._workers[side][index]
            self._ask(side, index, "bind", samples=str(self._samples), size=size)

            def block(n: int) -> Block:
                with turns.of(worker.pid):
                    worker.block(spec.id, lead_in)
                    found = worker.block(spec.id, n)
                    worker.ask("rest")
                    return found

            return Arm(f"{side} {index + 1}", block)

        def undecided(race: Race) -> bool:
            settings = self._bench.settings
            return more_rounds_may_decide(race, expectation, len(settings.engines) * len(settings.batch_sizes))

        machine = monitor_for(device, pids)
        order = [SIDES if index % 2 == 0 else SIDES[::-1] for index in range(len(self._workers["old"]))]
        arms = [arm(side, index) for index, sides in enumerate(order) for side in sides]
        text = f"{self._bench.name}: racing {spec.id} old against new at batch {size}"
        with self._progress.step(text) as count:
            return run_race(
                arms, self._schedule, undecided=undecided, monitor=TurnMonitor(machine(), turns), progress=count
            )

    def _compared(self, outputs: Mapping[str, Sequence[Outputs]]) -> tuple[dict[str, Any], Rebuilt | None]:
        """What the task finds of new with old and of each with the reference, where the model is trained; and what
        builds of the old side say of those of the new one, which only a classifier's do.

        `outputs` has the answers of each build of a side.
        """
        bench, task = self._bench, self._bench.task
        reference = bench.outputs(bench.reference) if bench.weights.trained else None
        if isinstance(task, Classification):
            logits = {side: [task.logits(each) for each in outputs[side]] for side in SIDES}
            wanted = None if reference is None else task.logits(reference)
            return agreements_of(logits, wanted, self._given.clusters, bench.reference_words)
        found = {"new with old": task.compare(outputs["old"][0], outputs["new"][0], self._given)}
        if reference is not None:
            found |= {
                f"{side} with {bench.reference_words}": task.compare(reference, outputs[side][0], self._given)
                for side in SIDES
            }
        return found, None

    def _answers(
        self,
        found: Mapping[str, Any],
        alike: Rebuilt | None,
        facts: Mapping[str, Mapping[str, Any]],
        expectation: Expectation,
        kept_in_float: frozenset[str],
    ) -> tuple[Verdict, ...]:
        """What is expected of the new side's answers, and of what it was built with."""
        bench = self._bench
        audits = {side: _audit(facts[side]) for side in SIDES}
        if bench.file is not None and not bench.excuse(bench.reference):
            # Which layers a runtime leaves in float is told by the old side: none may be added.
            kept_in_float |= set(audits["old"].outside(judge.ASKED_TYPES[audits["old"].asked] | audits["old"].also))
        verdicts = [] if bench.excuse(bench.reference) else [judge.audit_verdict(audits["new"], kept_in_float)]
        # What a narrow type makes of samples that say little says little, too: two stacks can still be compared on it.
        if bench.unsteady:
            return tuple(verdicts)
        pairs = ("new with old", *([] if self._given.doubt else [f"new with {bench.reference_words}"]))
        for pair in pairs:
            builds = alike if pair == "new with old" else None
            verdicts += [
                _named(pair, verdict)
                for verdict in (bench.task.decide(found[pair], expectation, builds) if pair in found else ())
                # How often an untrained model answers the same says nothing.
                if bench.weights.trained or verdict.metric != "agreement"
            ]
        return tuple(verdicts)

    def _kept(self, outputs: Mapping[str, Sequence[Outputs]], expectation: Expectation) -> tuple[Verdict, ...]:
        """Whether the new side lost something that the old one had, by any task but classification: every build of the
        one against those of the other."""
        bench, task = self._bench, self._bench.task
        if isinstance(task, Classification) or bench.unsteady:
            return ()
        reference = bench.outputs(bench.reference)
        old, new = (
            [task.summary(task.compare(reference, each, self._given)) for each in outputs[side]] for side in SIDES
        )
        return (replace(decide_all_scores(old, new, expectation), metric=ANSWERS),)

    def _notes(
        self,
        race: Race,
        records: Mapping[str, Sequence[EngineRecord]],
        builds: int,
        facts: Mapping[str, Mapping[str, Any]],
        expectation: Expectation,
    ) -> tuple[str, ...]:
        notes = [*race.notes, *(f"a round was dropped: {reason}" for reason in race.dropped)]
        for side in SIDES:
            if builds > 1 and race.complete:
                # A build's number is that of the processes that run it.
                rounds = [record.rounds for record in records[side]]
                each = [np.median(rounds[index::builds], 0) for index in range(builds)]
                notes.append(f"{side}: {spread_text(medians(each))} over {builds} builds")
                notes += [f"{side}: {line}" for line in unlucky_builds(each, expectation.number("delta"))]
            notes += [f"{side}: {line}" for line in facts[side]["notes"]]
        notes += [each for each in (self._given.doubt, self._bench.unsteady) if each]
        if not self._bench.weights.trained:
            notes.append("untrained weights: top-1 agreement means nothing and is not judged")
        return tuple(notes)


def _audit(facts: Mapping[str, Any]) -> PrecisionAudit:
    told = facts["audit"]
    return PrecisionAudit(told["asked"], told["layers"], frozenset(told["also"]))


def _without_kept(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without what only a comparison with it needs."""
    return {name: value for name, value in summary.items() if name != "kept"}


def agreements_of(
    logits: Mapping[str, Sequence[Logits]], reference: Logits | None, clusters: Ints | None, words: str = "PyTorch"
) -> tuple[dict[str, Agreement], Rebuilt | None]:
    """How far answers lie apart: new from old, each from the reference's, and each side's builds from each other; and
    what that says of the new builds.

    `logits` has float32[N,classes] of each build of a side, `words` what the reference is called. Of several builds
    those that lie furthest apart are told, of new with old that new build which is furthest from every old one.
    """

    def pair(first: Logits, second: Logits) -> Agreement:
        return compare_logits(first, second, clusters)

    crossed = [[pair(old, new) for old in logits["old"]] for new in logits["new"]]
    found = {"new with old": furthest([nearest(some) for some in crossed])}
    within: dict[str, list[Agreement]] = {}
    for side in SIDES:
        finite = [each for each in logits[side] if np.isfinite(each).all()]
        within[side] = [pair(*two) for two in itertools.combinations(finite, 2)]
        if within[side]:
            found[f"{side} with {side}"] = furthest(within[side])
        if reference is not None:
            found[f"{side} with {words}"] = furthest([pair(reference, each) for each in logits[side]])
    return found, rebuilt(within["old"], crossed)


def verdicts(race: Race, expectation: Expectation) -> list[Verdict]:
    """On each gated series of the new side against the old one: those that more rounds of the race could decide."""
    found = []
    for name in ("latency", "typical", "tail", "end_to_end", "end_to_end_tail"):
        metric, samples = BY_NAME[name], {side: _samples(race, side) for side in SIDES}
        if expectation.limits(metric).delta is None:
            continue
        verdict = decide(metric, samples["old"], samples["new"], expectation.limits(metric), "interleaved")
        found += [verdict] if verdict else []
    return found


def _samples(race: Race, side: str) -> list[Sample]:
    arms = [arm for arm in race.blocks if arm.startswith(f"{side} ")]
    return [from_race(race, "", arm, arm, 1, "").sample() for arm in arms]


def more_rounds_may_decide(race: Race, expectation: Expectation, races: int) -> bool:
    """Whether a series is open for its noise, or REGRESSED by what as many `races` as this run has could have produced
    by chance; where processes differ, more rounds of the same ones decide nothing."""
    found = verdicts(race, expectation)
    return any(more_may_decide(each, races * len(found)) for each in found)


def _named(pair: str, verdict: Verdict) -> Verdict:
    return replace(verdict, message=f"{pair}: {verdict.message}")


def _side_facts(
    records: Sequence[EngineRecord], opened: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> SideFacts:
    """`opened` is what the workers said of one process for each build."""
    audit = PrecisionAudit(facts["audit"]["asked"], facts["audit"]["layers"])
    plans = [each["plan"] for each in opened if each["plan"]]
    return SideFacts(
        processes=tuple(record.latency for record in records if record.rounds),
        build_seconds=float(np.median([plan["build_seconds"] for plan in plans])) if plans else None,
        plan_bytes=plans[0]["bytes"] if plans else None,
        memory_bytes=int(opened[-1]["fresh"].get("device_memory") or opened[-1]["fresh"]["host_memory"]),
        layers=audit.histogram,
    )


def report_to_json(run: AbReport) -> dict[str, Any]:
    """A whole run as plain JSON values: that of its comparison, and what it rests on."""
    document = compared_to_json(run.report)
    more = [
        {
            "old": asdict(each.old),
            "new": asdict(each.new),
            "rounds": {arm: list(rounds) for arm, rounds in each.rounds.items()},
            "end_to_end_rounds": {arm: list(rounds) for arm, rounds in each.end_to_end_rounds.items()},
            "readings": dict(each.readings),
            "agreement": {pair: dict(found) for pair, found in each.agreement.items()},
            "notes": list(each.notes),
        }
        for each in run.results
    ]
    document["engines"] = [{**both, **each} for both, each in zip(document["engines"], more, strict=True)]
    return {
        **document,
        "stacks": {side: dict(stack) for side, stack in run.stacks.items()},
        "left_out": dict(run.left_out),
    }
