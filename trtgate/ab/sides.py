"""One engine of one model on both sides: built, compared and raced."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trtgate import judge
from trtgate.ab.answers import agreements_of
from trtgate.ab.engines import LostEngine, OldSideFails
from trtgate.ab.results import AbResult, SideFacts
from trtgate.ab.rounds import more_rounds_may_decide
from trtgate.ab.turns import TurnMonitor, Turns
from trtgate.compare import Change, compare_records
from trtgate.expectations import Expectation
from trtgate.kinds import Block, EngineRefused, EngineSpec, PrecisionAudit
from trtgate.layers import changed_layers
from trtgate.limits import LOAD_SECONDS
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import Arm, Race, Schedule, run_race
from trtgate.measure.remote import SIDES, Sides, WorkerError, WorkerGone
from trtgate.progress import Progress
from trtgate.records import EngineRecord, from_race
from trtgate.samples import Samples, rows_of
from trtgate.signature import load_tensors, save_tensors
from trtgate.tasks.base import Outputs, Task, spoilt_outputs
from trtgate.tasks.batches import decide_finite, of_batches
from trtgate.tasks.classification import Classification
from trtgate.tasks.places import Visits, arranged, decide_places
from trtgate.tasks.tensors import digest_of
from trtgate.verdict.agreement import Rebuilt, measure_accuracy
from trtgate.verdict.outcome import Outcome, Verdict
from trtgate.verdict.processes import medians, spread_text, unlucky_builds
from trtgate.workbench import Workbench

# A plan that is there is loaded and run in a process of its own first, and then here.
OPEN_SECONDS = 2 * LOAD_SECONDS


# Enough to tell whether two stacks compute the same; how often an untrained model answers the same says nothing.
UNTRAINED_PHOTOS = 24


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

    def race(self, spec: EngineSpec, builds: int, sizes: Sequence[int]) -> Iterator[AbResult]:
        """Build, compare answers and race one engine at those of the model's batch sizes; one result for each."""
        name = self._bench.name
        opened: dict[str, list[Any]] = {side: [] for side in SIDES}
        with self._progress.step(f"{name}: loading {spec.id} on both sides"):
            for index in range(len(self._workers["old"])):
                for side in SIDES:
                    job = self._job(spec, index % builds)
                    with self._losing(side):
                        opened[side].append(self._ask(side, index, "open", timeout=OPEN_SECONDS, **job))
        smallest = min(self._bench.batch_sizes)
        alone = self._outputs(spec, smallest, builds)
        for size in sizes:
            outputs = alone if size == smallest else self._outputs(spec, size, builds)
            places = self._places(spec, size, alone)
            yield self._at(spec, size, builds, opened, outputs, places)

    def _outputs(self, spec: EngineSpec, size: int, builds: int) -> dict[str, list[Outputs]]:
        """The answers of each build of both sides, in batches of that size."""
        outputs: dict[str, list[Outputs]] = {}
        with self._progress.step(f"{self._bench.name}: {spec.id} answers on both sides at batch {size}"):
            for side in SIDES:
                with self._losing(side):
                    outputs[side] = [self._infer(side, index, spec, size) for index in range(builds)]
                    self._require_alike(side, spec, outputs)
        return outputs

    def _places(self, spec: EngineSpec, size: int, alone: Mapping[str, Sequence[Outputs]]) -> tuple[Verdict, ...]:
        """On the places of a batch, of each new build, as the bench asks of an engine; `alone` are the answers in the
        smallest batch. What an old build answers to the last bit is not the upgrade's."""
        bench = self._bench
        if size == 1 or not bench.apart or bench.unsteady:
            return ()
        reference = bench.outputs(bench.reference)[: len(self._given)]
        found = []
        text = f"{bench.name}: {spec.id} answers at all places of batches of {size}"
        with self._progress.step(text):
            for index, mine in enumerate(alone["new"]):
                own = reference if size == min(bench.batch_sizes) else mine
                verdict = decide_places(bench.task, reference, own, self._visits("new", index, spec, size))
                if verdict.outcome is Outcome.REGRESSED and self._visited_alike(index, len(alone["old"]), spec, size):
                    verdict = judge.as_before(verdict)
                found.append(verdict)
        return tuple(dict.fromkeys(found))

    def _visits(self, side: str, index: int, spec: EngineSpec, size: int) -> Iterator[Visits]:
        """A build's answers to batches with samples at random places, one batch at a time."""
        for chosen in arranged(len(self._given), size):
            with self._losing(side):
                rows = self._infer(side, index, spec, size, chosen=chosen)
            yield chosen, rows

    def _visited_alike(self, new: int, builds: int, spec: EngineSpec, size: int) -> bool:
        """Whether an old build's answers at all places are those of that new build."""

        def digests(side: str, index: int) -> list[str]:
            return [digest_of(rows) for _, rows in self._visits(side, index, spec, size)]

        return digests("new", new) in [digests("old", index) for index in range(builds)]

    def _require_alike(self, side: str, spec: EngineSpec, outputs: Mapping[str, Sequence[Outputs]]) -> None:
        """Raises WorkerError where a side's answers are of another kind than the old side's, or where those can be held
        against the reference's, than those."""
        bench = self._bench
        for rows in outputs[side]:
            wrong = bench.unlike(outputs["old"][0], rows, "the old side")
            if not wrong and bench.weights.trained and not bench.unsteady:
                wrong = bench.unlike_reference(rows)
            if wrong:
                raise WorkerError(f"{bench.name}: the {side} side's {spec.id} answers {wrong}")

    @contextlib.contextmanager
    def _losing(self, side: str) -> Iterator[None]:
        """What fails on the new side, after the old one did it, is lost by the upgrade. Raises LostEngine then, and
        OldSideFails where the old side fails; a worker that is gone may be the machine's doing."""
        try:
            yield
        except WorkerGone:
            raise
        except (WorkerError, EngineRefused) as error:
            if side == "old":
                raise OldSideFails(str(error)) from error
            if os.strerror(errno.ENOSPC) in str(error):  # what the old side wrote may have filled the disk
                raise
            raise LostEngine(str(error)) from error

    def _ask(self, side: str, index: int, do: str, **arguments: Any) -> Any:
        return self._workers[side][index].ask(do, progress=self._progress.say, **arguments)

    def _job(self, spec: EngineSpec, rebuild: int) -> dict[str, Any]:
        calibration = None
        if spec.variant == "calibrated":
            calibration = self._saved("calibration", self._bench.samples("calibration"))
        return self._bench.job(spec, rebuild, calibration, self._samples)

    def _infer(self, side: str, index: int, spec: EngineSpec, size: int, **more: Any) -> Outputs:
        path = self._folder / f"{side}-{index}"
        asked = {"engine": spec.id, "samples": str(self._samples), "size": size, "outputs": str(path), **more}
        self._ask(side, index, "infer", **asked)
        return list(load_tensors(path))

    def _at(
        self,
        spec: EngineSpec,
        size: int,
        builds: int,
        opened: Mapping[str, Sequence[Mapping[str, Any]]],
        outputs: Mapping[str, Sequence[Outputs]],
        places: Sequence[Verdict],
    ) -> AbResult:
        """One batch size."""
        settings, name = self._bench.settings, self._bench.name
        expectation = settings.expectations.of(name, spec.id)
        race = self._run_race(spec, size, expectation)
        told = {side: [self._ask(side, index, "facts", engine=spec.id) for index in range(builds)] for side in SIDES}
        facts = {side: each[0] for side, each in told.items()}
        found, alike = self._compared(outputs, size)
        raced = {side: self._records(race, side, spec, size, builds, opened[side]) for side in SIDES}
        # What was lost of them is decided on as between sessions.
        records = {side: self._answering(raced[side], outputs[side], size) for side in SIDES}
        key = (name, spec.id, size)
        report = compare_records({key: records["old"]}, {key: records["new"]}, settings.expectations, "interleaved", {})
        answers = self._answers(outputs, found, alike, told, expectation, self._bench.graphs.kept_in_float(spec))
        if _same(outputs):
            answers = tuple(map(judge.same_as_before, answers))
        answers = (*answers, *places)
        [compared] = report.engines
        if not race.complete:
            compared = replace(compared, invalid=judge.unfinished(len(race.dropped), race.dropped[-1]))
        changes = (*compared.changes, *(Change(each.metric, None, None, each) for each in answers))
        if _not_finite_alike(outputs):
            changes = tuple(replace(each, verdict=judge.not_finite_before(each.verdict)) for each in changes)
        return AbResult(
            comparison=replace(
                compared,
                changes=changes,
                layers=changed_layers(facts["old"]["layer_times"], facts["new"]["layer_times"]),
            ),
            old=_side_facts(records["old"], opened["old"][:builds], facts["old"]),
            new=_side_facts(records["new"], opened["new"][:builds], facts["new"]),
            agreement={pair: _without_kept(self._bench.task.summary(each)) for pair, each in found.items()},
            notes=(*self._notes(race, records, builds, facts, expectation), *judge.rebuild_note(alike)),
            rounds={arm: tuple(map(float, race.round_latencies(arm))) for arm in race.blocks},
            end_to_end_rounds={arm: tuple(map(float, race.round_end_to_end(arm))) for arm in race.end_to_end},
            readings=race.readings,
            samples=records,
        )

    def _answering(self, records: Sequence[EngineRecord], outputs: Sequence[Outputs], size: int) -> list[EngineRecord]:
        """A side's records with what a session keeps of its answers; `outputs` are those of each build, in batches of
        that size."""
        kept = [self._kept(each, size) for each in outputs]
        return [replace(record, **kept[index % len(kept)]) for index, record in enumerate(records)]

    def _answered(self, outputs: Outputs) -> Samples:
        """The samples that answers are to; of answers to batches as many as there are."""
        return self._given if len(outputs) == len(self._given) else self._given.first(len(outputs))

    def _task(self, size: int) -> Task:
        """How answers in batches of that size are compared."""
        return self._bench.task if self._bench.apart or size == 1 else of_batches(self._bench.task)

    def _kept(self, outputs: Outputs, size: int) -> dict[str, Any]:
        bench, task, given = self._bench, self._task(size), self._answered(outputs)
        if bench.unsteady or (isinstance(task, Classification) and not bench.weights.trained):
            return {}
        reference = bench.reference_at(size)
        summary = task.summary(task.compare(reference, outputs, given))
        if not isinstance(task, Classification):
            return {"scores": summary}
        others = task.others(reference, outputs, given)
        return {
            "agreement": summary,
            "answers": task.answers(reference, outputs, given),
            "scores": {} if others is None else others.to_json(task.name),
        }

    def _records(
        self,
        race: Race,
        side: str,
        spec: EngineSpec,
        size: int,
        builds: int,
        opened: Sequence[Mapping[str, Any]],
    ) -> list[EngineRecord]:
        """One record for each process of a side; what a plan cost is told by the first of those that share it."""
        found = []
        for index, told in enumerate(opened):
            arm = f"{side} {index + 1}"
            record = from_race(race, self._bench.name, arm, arm, size, self._bench.weights.source)
            series = {name: values for name, values in record.series.items() if not name.startswith("reference_")}
            plan = told["plan"] if index < builds else {}
            measured = {
                **told["fresh"],
                "build_seconds": plan.get("build_seconds"),
                "plan_bytes": plan.get("bytes"),
            }
            series |= {name: (float(value),) for name, value in measured.items() if value is not None}
            found.append(replace(record, engine=spec.id, reference=self._bench.reference.id, series=series))
        return found

    def _run_race(self, spec: EngineSpec, size: int, expectation: Expectation) -> Race:
        device = self._bench.settings.device
        pids = [worker.pid for side in SIDES for worker in self._workers[side]]
        turns = Turns(pids)

        def arm(side: str, index: int) -> Arm:
            worker = self._workers[side][index]
            with self._losing(side):
                self._ask(side, index, "bind", samples=str(self._samples), size=size)

            def led(lead_in: int, n: int) -> Block:
                with turns.of(worker.pid), self._losing(side):
                    found = worker.block(spec.id, n, lead_in)
                    worker.ask("rest")
                    return found

            return Arm.elsewhere(f"{side} {index + 1}", led)

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

    def _compared(self, outputs: Mapping[str, Sequence[Outputs]], size: int) -> tuple[dict[str, Any], Rebuilt | None]:
        """What the task finds of new with old and of each with the reference, where the model is trained; and what
        builds of the old side say of those of the new one, which only a classifier's do.

        `outputs` has the answers of each build of a side, in batches of that size.
        """
        bench, task = self._bench, self._task(size)
        given = self._answered(outputs["old"][0])
        reference = bench.reference_at(size) if bench.weights.trained else None
        if isinstance(task, Classification):
            logits = {side: [task.logits(each) for each in outputs[side]] for side in SIDES}
            wanted = None if reference is None else task.logits(reference)
            return agreements_of(logits, wanted, lambda a, b: task.agreement(a, b, given), bench.reference_words)
        found = {}
        if reference is not None:
            for side in SIDES:
                with self._losing(side):
                    found[f"{side} with {bench.reference_words}"] = task.compare(reference, outputs[side][0], given)
        spoilt = next((each for each in found.values() if each.spoilt), None)
        both = spoilt or task.compare(outputs["old"][0], outputs["new"][0], given)
        return {"new with old": both, **found}, None

    def _answers(
        self,
        outputs: Mapping[str, Sequence[Outputs]],
        found: Mapping[str, Any],
        alike: Rebuilt | None,
        facts: Mapping[str, Sequence[Mapping[str, Any]]],
        expectation: Expectation,
        kept_in_float: frozenset[str],
    ) -> tuple[Verdict, ...]:
        """What is expected of the new side's answers, and of what each of its builds was made of."""
        bench = self._bench
        verdicts: list[Verdict] = []
        if not bench.excuse(bench.reference):
            # Which layers of a file a runtime leaves in float is told by the old side: none may be added.
            before = [] if bench.file is None else list(map(_audit, facts["old"]))
            verdicts = [judge.audit_verdict(_audit(new), kept_in_float, before) for new in facts["new"]]
            verdicts = list(dict.fromkeys(verdicts))
        # What a narrow type makes of samples that say little says little, too: two stacks can still be compared on it.
        if bench.unsteady:
            return (*verdicts, *(decide_finite(outputs["old"][0], each) for each in outputs["new"]))
        labelled = self._given.labels is not None and len(outputs["old"][0]) == len(self._given)
        if isinstance(bench.task, Classification) and labelled and bench.weights.trained:
            verdicts += self._accuracy(outputs, expectation)
        words = bench.reference_words
        decided = {
            pair: bench.task.decide(found[pair], expectation, alike if pair == "new with old" else None)
            for pair in ("new with old", *([] if self._given.doubt else [f"new with {words}", f"old with {words}"]))
            if pair in found
        }
        failed = {pair: any(each.outcome is Outcome.REGRESSED for each in some) for pair, some in decided.items()}
        if failed.pop(f"old with {words}", False) and not failed.get(f"new with {words}"):
            decided["new with old"] = list(map(judge.mended, decided["new with old"]))
        for pair in failed:
            verdicts += [
                _named(pair, verdict)
                for verdict in decided[pair]
                # How often an untrained model answers the same says nothing.
                if bench.weights.trained or verdict.metric != "agreement"
            ]
        return tuple(verdicts)

    def _accuracy(self, outputs: Mapping[str, Sequence[Outputs]], expectation: Expectation) -> list[Verdict]:
        """On each new build's labelled accuracy. Where the old side fails its limit too, that is not the upgrade's, and
        what the upgrade lost is asked photo by photo."""
        task, given = self._bench.task, self._given
        assert isinstance(task, Classification)
        assert given.labels is not None
        wanted = task.logits(self._bench.outputs(self._bench.reference))
        found = {
            side: [
                judge.accuracy_verdict(
                    measure_accuracy(wanted, task.logits(each), given.labels, given.clusters), expectation
                )
                for each in outputs[side]
            ]
            for side in SIDES
        }
        failed = any(each.outcome is Outcome.REGRESSED for each in found["old"])
        return [each for each in found["new"] if not (failed and each.outcome is Outcome.REGRESSED)]

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
        notes += [each for each in (self._given.doubt, self._bench.unsteady, self._bench.not_compared) if each]
        if not self._bench.weights.trained:
            notes.append("untrained weights: top-1 agreement means nothing and is not judged")
        return tuple(notes)


def _audit(facts: Mapping[str, Any]) -> PrecisionAudit:
    told = facts["audit"]
    return PrecisionAudit(told["asked"], told["layers"], frozenset(told["also"]))


def _same(outputs: Mapping[str, Sequence[Outputs]]) -> bool:
    """Whether each build of the new side answers to the last bit what one of the old side does."""
    old, new = (set(map(digest_of, outputs[side])) for side in SIDES)
    return new <= old


def _not_finite_alike(outputs: Mapping[str, Sequence[Outputs]]) -> bool:
    """Whether NaN and infinity stand in each build of the new side where they stand in one of the old side."""
    return all(any(not spoilt_outputs(old, new) for old in outputs["old"]) for new in outputs["new"])


def _without_kept(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary without what only a comparison with it needs."""
    return {name: value for name, value in summary.items() if name != "kept"}


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
