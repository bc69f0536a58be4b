"""Two stacks raced against each other on one machine, round by round.

Worker processes of either Python build or load their own plans from the same graphs and photos and take turns: old,
new, new, old. What drifts in the machine weighs on both, which no two runs one after the other can say. Each side has
several processes, since two processes of the very same stack differ, and by more than their rounds show.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtgate import judge
from trtgate.engines import backend
from trtgate.engines.base import REFERENCE, Block, Device, EngineSpec, PrecisionAudit
from trtgate.errors import UserError
from trtgate.expectations import Expectation
from trtgate.images import ImageSet
from trtgate.layers import LayerChange, changed_layers
from trtgate.plans import changed_fields
from trtgate.progress import Progress
from trtgate.protocol import VERSION, Frames, ProtocolError
from trtgate.race import SCHEDULES, Arm, Monitor, Race, Schedule, race_until_decided
from trtgate.records import SCHEMA, decision_to_json
from trtgate.stack import steady
from trtgate.telemetry import cpu_seconds, monitor_for
from trtgate.verdict.agreement import Agreement, compare_logits
from trtgate.verdict.decision import Decision, Reason
from trtgate.verdict.policy import GOOD, worst
from trtgate.verdict.processes import decide_processes, medians, spread_text, unlucky_builds
from trtgate.workbench import Logits, Settings, Workbench

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("old", "new")
# A worker that says nothing for this long hangs. Builds of TensorRT take minutes and say something only at the end.
START_SECONDS = 120.0
BUILD_SECONDS = 3600.0
ANSWER_SECONDS = 300.0
# How long a worker gets to leave by itself.
GOODBYE_SECONDS = 5.0
LOG_LINES = 15
# Workers whose turn it is not may use this share of a core: more, and they disturb the one whose turn it is.
IDLE_SHARE = 0.1
# Processes a side. Those of ONNX Runtime on a CPU differ by 1.3 % (standard deviation, 12 processes, EfficientNet-Lite0
# INT8), with single ones 3 % off; 6 a side bear one that is. For a GPU: the fewest that give a bound.
PROCESSES: dict[Device, int] = {"cpu": 6, "cuda": 3}
# TensorRT chooses kernels by timing them, and may choose others the next time.
DEFAULT_REBUILDS = {"tensorrt": 3}
# Enough to tell whether two stacks compute the same; how often an untrained model answers the same says nothing.
UNTRAINED_PHOTOS = 24
# Of one process, whose side has several.
BLOCK_ITERATIONS = 5


class WorkerError(Exception):
    """A worker died, hung, failed or does not fit; the message says which, and what it last said. No verdict."""


class Worker:
    """A worker process, seen from the driver."""

    def __init__(self, side: str, python: Path, *, timeout: float = ANSWER_SECONDS) -> None:
        """Start it. Raises UserError for a `python` that cannot be started."""
        self.side = side
        self._python = python
        self._timeout = timeout
        self._leaves_by: float | None = None
        self._log = tempfile.NamedTemporaryFile(prefix=f"trtgate-{side}-", suffix=".log")  # noqa: SIM115
        from_worker, its_writing = os.pipe()
        its_reading, to_worker = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        try:
            self._process = subprocess.Popen(
                [str(python), "-m", "trtgate.worker", str(its_reading), str(its_writing)],
                pass_fds=(its_reading, its_writing),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._log,  # whatever libraries print is no frame
                stderr=self._log,
                start_new_session=True,  # Ctrl-C is for the driver, which ends its workers in order
            )
        except OSError as error:
            for descriptor in (from_worker, to_worker):
                os.close(descriptor)
            raise UserError(
                f"--{side} {python} cannot be started ({error.strerror}); give the python of an environment"
            ) from error
        finally:
            os.close(its_reading)
            os.close(its_writing)
        self._frames = Frames(from_worker, to_worker)
        self.pid = self._process.pid

    def greet(self) -> None:
        """Wait for its greeting. Raises WorkerError when that does not come, or is another protocol's."""
        greeting = self._receive("its start; the environment needs requirements-worker.txt", START_SECONDS)
        if greeting.get("protocol") != VERSION:
            raise self._broken(f"speaks protocol {greeting.get('protocol')}, this driver speaks {VERSION}")

    def ask(
        self, do: str, *, timeout: float | None = None, progress: Callable[[str], None] | None = None, **arguments: Any
    ) -> Any:
        """The answer to one request. Raises WorkerError when there is none, or when the request failed there."""
        try:
            self._frames.send({"do": do, "with": arguments})
        except ProtocolError as error:
            raise self._broken(str(error)) from error
        while True:
            message = self._receive(do, timeout or self._timeout)
            if "progress" in message:
                if progress is not None:
                    progress(f"{self.side}: {message['progress']}")
            elif "error" in message:
                raise WorkerError(self._told(f"failed in {do}: {message['error']}"))
            else:
                return message["answer"]

    def _receive(self, what: str, timeout: float) -> Any:
        try:
            message = self._frames.receive(timeout)
        except ProtocolError as error:
            raise self._broken(f"{error} (waiting for {what})") from error
        if not isinstance(message, dict):
            raise self._broken(f"it sent something that is no answer (waiting for {what})")
        return message

    def _broken(self, what: str) -> WorkerError:
        """The error for a worker that cannot go on: how it ended, if it did, and what it said last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        status = self._process.returncode
        ended = "" if status is None else f"; it ended with {_ending(status)}"
        return WorkerError(self._told(f"{what}{ended}"))

    def _told(self, what: str) -> str:
        lines = Path(self._log.name).read_text(errors="replace").splitlines()[-LOG_LINES:]
        said = "".join(f"\n  | {line}" for line in lines)
        return f"the {self.side} worker ({self._python}): {what}{said}"

    def goodbye(self) -> None:
        """Tell it to leave; saying so twice does nothing."""
        if self._leaves_by is not None:
            return
        self._leaves_by = time.monotonic() + GOODBYE_SECONDS
        with contextlib.suppress(ProtocolError):
            self._frames.send({"do": "goodbye"})
        self._frames.close()

    def close(self) -> None:
        """Say goodbye, and end the worker and everything it started if it does not leave."""
        self.goodbye()
        assert self._leaves_by is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, self._leaves_by - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads its own group
        self._process.wait()
        self._log.close()


def _ending(status: int) -> str:
    if status == -signal.SIGKILL:
        return "SIGKILL (out of memory?)"
    return signal.Signals(-status).name if status < 0 else f"status {status}"


Sides = Mapping[str, Sequence[Worker]]


@contextlib.contextmanager
def workers(pythons: Mapping[str, Path], count: int = 1) -> Iterator[Sides]:
    """`count` workers a side, by side; none outlives the block."""
    made: dict[str, list[Worker]] = {side: [] for side in SIDES}

    def everybody() -> list[Worker]:
        return [worker for side in SIDES for worker in made[side]]

    def dismiss() -> None:
        for worker in everybody():
            worker.goodbye()

    with contextlib.ExitStack() as running:
        for _ in range(count):
            for side in SIDES:
                made[side].append(Worker(side, pythons[side]))
                running.callback(made[side][-1].close)
        running.callback(dismiss)  # the last callback is the first to be called: all leave at the same time
        for worker in everybody():
            worker.greet()
        yield made


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

    def readings(self) -> dict[str, float]:
        return {**self._machine.readings(), "idle_share": float(np.median(self._shares))}


@dataclass(frozen=True)
class SideFacts:
    """One side's engine: seconds of its median process and of each, and what was built. Sizes are bytes."""

    latency: float
    processes: tuple[float, ...]
    end_to_end: float | None
    build_seconds: float | None
    plan_bytes: int | None
    memory_bytes: int
    layers: Mapping[str, int]


@dataclass(frozen=True)
class AbResult:
    """One engine of one model at one batch size on both stacks."""

    model: str
    engine: str
    batch: int
    old: SideFacts
    new: SideFacts
    latency: Decision
    end_to_end: Decision | None
    answers: tuple[Decision, ...]
    agreement: Mapping[str, Mapping[str, Any]]
    layers: tuple[LayerChange, ...]
    notes: tuple[str, ...]
    rounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    end_to_end_rounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)

    @property
    def decision(self) -> Decision:
        """The worst of latency, end-to-end time and answers; where all is well, what the latency came to."""
        everything = [self.latency, *([self.end_to_end] if self.end_to_end else []), *self.answers]
        return worst([each for each in everything if each.verdict not in GOOD] or [self.latency])


@dataclass(frozen=True)
class AbReport:
    """A whole run: the stacks, what was left out and why, and every engine's result."""

    stacks: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]
    results: tuple[AbResult, ...]

    @property
    def stack_changes(self) -> tuple[str, ...]:
        """What differs between the stacks."""
        return tuple(changed_fields(steady(self.stacks["old"]), steady(self.stacks["new"])))


def choose_engines(
    both: Sides, settings: Settings, asked: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[EngineSpec], dict[str, str]]:
    """The stacks by side, the engines that both sides have, and why the others are left out.

    Raises UserError for an engine that was asked for and is missing on a side, and where none is left.
    """
    ids = [spec.id for spec in settings.engines if spec != REFERENCE or REFERENCE.id in asked]
    described = {side: both[side][0].ask("describe", device=settings.device, engines=ids) for side in SIDES}
    left_out = {}
    for text in ids:
        reasons = [
            f"{side}: {described[side]['engines'][text]['reason']}"
            for side in SIDES
            if not described[side]["engines"][text]["ok"]
        ]
        if reasons and text in asked:
            raise UserError(f"--engine {text} is not available on both sides ({'; '.join(reasons)})")
        if reasons:
            left_out[text] = "; ".join(reasons)
    chosen = [EngineSpec.parse(text) for text in ids if text not in left_out]
    if not chosen:
        raise UserError(
            "no engine is available on both sides "
            f"({'; '.join(f'{text} {why}' for text, why in left_out.items())}); install a runtime in both of them"
        )
    return {side: described[side]["stack"] for side in SIDES}, chosen, left_out


def run_ab(
    pythons: Mapping[str, Path],
    settings: Settings,
    asked: Sequence[str],
    *,
    rounds: int | None,
    rebuilds: int | None,
    progress: Progress,
) -> AbReport:
    """Race every chosen engine of every model at every batch size, `pythons` by side.

    Each engine gets fresh workers, so that none inherits memory or threads from the one before. `rounds` and `rebuilds`
    replace the defaults: the schedule's rounds, and 3 builds a side for TensorRT, 1 otherwise. Raises WorkerError when
    a worker fails in any way: then there is no verdict at all.
    """
    with workers(pythons) as both:
        stacks, specs, left_out = choose_engines(both, settings, asked)
    results = []
    with tempfile.TemporaryDirectory(prefix="trtgate-ab-") as folder:
        for name in settings.models:
            with Workbench(name, settings, progress) as bench:
                for spec in specs:
                    builds = rebuilds or DEFAULT_REBUILDS.get(spec.backend, 1)
                    count = max(PROCESSES[settings.device], builds)
                    schedule = schedule_for(settings.device, count, rounds)
                    with contextlib.ExitStack() as running:
                        with progress.step(f"{name}: starting {count} workers a side for {spec.id}"):
                            both = running.enter_context(workers(pythons, count))
                        results += _Sides(bench, both, Path(folder), schedule, progress).race(spec, builds)
    return AbReport(stacks, left_out, tuple(results))


def schedule_for(device: Device, processes: int, rounds: int | None) -> Schedule:
    """The device's schedule with a side's time shared out among its processes.

    The workers run their own lead-in, since between two requests their threads come to rest; and the order of the arms
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
    )


class _Sides:
    """Both sides' workers on one model; each worker has one engine."""

    def __init__(self, bench: Workbench, both: Sides, folder: Path, schedule: Schedule, progress: Progress) -> None:
        self._bench = bench
        self._workers = both
        self._folder = folder
        self._schedule = schedule
        self._progress = progress
        photos = bench.photos("evaluation")
        if not bench.model.weights.trained:
            photos = photos.first(UNTRAINED_PHOTOS)
        self._photos = self._saved("evaluation", photos)

    def _saved(self, split: str, photos: ImageSet) -> Path:
        """The file that hands photos to the workers, written when the model's first engine asks for it."""
        path = self._folder / f"{self._bench.name}-{split}.npy"
        if not path.exists():
            photos.save(path)
        return path

    def race(self, spec: EngineSpec, builds: int) -> list[AbResult]:
        """Build, compare answers and race one engine; one result for each batch size."""
        settings, name = self._bench.settings, self._bench.name
        opened: dict[str, list[Any]] = {side: [] for side in SIDES}
        with self._progress.step(f"{name}: loading {spec.id} on both sides"):
            for index in range(len(self._workers["old"])):
                for side in SIDES:
                    job = self._job(spec, index % builds)
                    opened[side].append(self._ask(side, index, "open", timeout=BUILD_SECONDS, **job))
        size = min(settings.batch_sizes)
        with self._progress.step(f"{name}: {spec.id} answers on both sides"):
            logits = {side: self._infer(side, size) for side in SIDES}
        return [self._at(spec, size, builds, opened, logits) for size in settings.batch_sizes]

    def _ask(self, side: str, index: int, do: str, **arguments: Any) -> Any:
        return self._workers[side][index].ask(do, progress=self._progress.say, **arguments)

    def _job(self, spec: EngineSpec, rebuild: int) -> dict[str, Any]:
        bench, settings = self._bench, self._bench.settings
        kind = backend(spec.backend).graph_kind(spec)
        weights = settings.weights.get(bench.name)
        calibration = None
        if spec.variant == "calibrated":
            photos = bench.photos("calibration")
            calibration = {"images": str(self._saved("calibration", photos)), "digest": photos.digest}
        return {
            "engine": spec.id,
            "model": bench.name,
            "graph": str(bench.graph(kind).path.resolve()) if kind is not None else None,
            "source": bench.source(spec),
            "batch_sizes": list(settings.batch_sizes),
            "threads": settings.threads,
            "device": settings.device,
            "crop": bench.model.preprocessing.crop,
            "plan_cache": str(settings.plan_cache.resolve()),
            "rebuild": rebuild,
            "calibration": calibration,
            "weights": str(weights.resolve()) if weights else None,
        }

    def _infer(self, side: str, size: int) -> Logits:
        path = self._folder / f"{side}.npy"
        self._ask(side, 0, "infer", images=str(self._photos), size=size, logits=str(path))
        logits: Logits = np.load(path)
        return logits

    def _at(
        self,
        spec: EngineSpec,
        size: int,
        builds: int,
        opened: Mapping[str, Sequence[Mapping[str, Any]]],
        logits: Mapping[str, Logits],
    ) -> AbResult:
        """One batch size."""
        settings, name = self._bench.settings, self._bench.name
        expectation = settings.expectations.of(name, spec.id)
        race = self._run_race(spec, size, expectation)
        facts = {side: self._ask(side, 0, "facts") for side in SIDES}
        agreements = self._agreements(logits)
        rounds, second = _by_side(race), _by_side(race, end_to_end=True)
        latency, end_to_end = decisions(race, expectation)
        return AbResult(
            model=name,
            engine=spec.id,
            batch=size,
            old=_side_facts(rounds["old"], second["old"], opened["old"][:builds], facts["old"]),
            new=_side_facts(rounds["new"], second["new"], opened["new"][:builds], facts["new"]),
            latency=latency,
            end_to_end=end_to_end,
            answers=self._answers(agreements, facts["new"], expectation, self._bench.kept_in_float(spec)),
            agreement={pair: judge.agreement_summary(found) for pair, found in agreements.items()},
            layers=changed_layers(facts["old"]["layer_times"], facts["new"]["layer_times"]),
            notes=self._notes(race, rounds, builds, facts, expectation),
            rounds={arm: tuple(map(float, race.round_latencies(arm))) for arm in race.blocks},
            end_to_end_rounds={arm: tuple(map(float, race.round_end_to_end(arm))) for arm in race.end_to_end},
            readings=race.readings,
        )

    def _run_race(self, spec: EngineSpec, size: int, expectation: Expectation) -> Race:
        device, lead_in = self._bench.settings.device, SCHEDULES[self._bench.settings.device].lead_in_iterations
        pids = [worker.pid for side in SIDES for worker in self._workers[side]]
        turns = Turns(pids)

        def arm(side: str, index: int) -> Arm:
            worker = self._workers[side][index]
            self._ask(side, index, "bind", images=str(self._photos), size=size)

            def block(n: int) -> Block:
                with turns.of(worker.pid):
                    found = worker.ask("block", n=n, lead_in=lead_in)
                second = found["end_to_end"]
                return Block(np.array(found["seconds"]), None if second is None else np.array(second))

            return Arm(f"{side} {index + 1}", block)

        def undecided(race: Race) -> bool:
            return more_rounds_may_decide(race, expectation)

        machine = monitor_for(device, pids)
        order = [SIDES if index % 2 == 0 else SIDES[::-1] for index in range(len(self._workers["old"]))]
        arms = [arm(side, index) for index, sides in enumerate(order) for side in sides]
        text = f"{self._bench.name}: racing {spec.id} old against new at batch {size}"
        with self._progress.step(text) as count:
            return race_until_decided(
                arms, undecided, self._schedule, monitor=lambda: TurnMonitor(machine(), turns), progress=count
            )

    def _agreements(self, logits: Mapping[str, Logits]) -> dict[str, Agreement]:
        """New with old, and each with PyTorch where the model is trained."""
        found = {"new with old": compare_logits(logits["old"], logits["new"])}
        if self._bench.model.weights.trained:
            reference = self._bench.logits(REFERENCE)
            found |= {f"{side} with PyTorch": compare_logits(reference, logits[side]) for side in SIDES}
        return found

    def _answers(
        self,
        agreements: Mapping[str, Agreement],
        facts: Mapping[str, Any],
        expectation: Expectation,
        kept_in_float: frozenset[str],
    ) -> tuple[Decision, ...]:
        """What is expected of the new side's answers, and of what it was built with."""
        told = facts["audit"]
        audit = PrecisionAudit(told["asked"], told["layers"], frozenset(told["also"]))
        decisions = [judge.audit_decision(audit, kept_in_float)]
        for pair in ("new with old", "new with PyTorch"):
            if pair in agreements:
                decisions.append(_named(pair, judge.fidelity_decision(agreements[pair], expectation)))
                if self._bench.model.weights.trained:
                    decisions.append(_named(pair, judge.agreement_decision(agreements[pair], expectation)))
        return tuple(decisions)

    def _notes(
        self,
        race: Race,
        rounds: Mapping[str, Sequence[Any]],
        builds: int,
        facts: Mapping[str, Mapping[str, Any]],
        expectation: Expectation,
    ) -> tuple[str, ...]:
        notes = [*race.notes, *(f"a round was dropped: {reason}" for reason in race.dropped)]
        for side in SIDES:
            if builds > 1 and race.complete:
                # A build's number is that of the processes that run it.
                each = [np.median(rounds[side][index::builds], 0) for index in range(builds)]
                notes.append(f"{side}: {spread_text(medians(each))} over {builds} builds")
                notes += [f"{side}: {line}" for line in unlucky_builds(each, expectation.delta)]
            notes += [f"{side}: {line}" for line in facts[side]["notes"]]
        if not self._bench.model.weights.trained:
            notes.append("untrained weights: top-1 agreement means nothing and is not judged")
        return tuple(notes)


def _by_side(race: Race, *, end_to_end: bool = False) -> dict[str, list[Any]]:
    """By side, the rounds, float64[R] seconds, of each of its processes in the order of their numbers."""
    read = race.round_end_to_end if end_to_end else race.round_latencies
    found: dict[str, list[Any]] = {}
    for side in SIDES:
        count = sum(arm.startswith(f"{side} ") for arm in race.blocks)
        each = (read(f"{side} {index + 1}") for index in range(count))
        found[side] = [rounds for rounds in each if rounds.size]
    return found


def decisions(race: Race, expectation: Expectation) -> tuple[Decision, Decision | None]:
    """On the latency of new against old, and on the end-to-end time of engines that have one."""
    if not race.complete:
        unfinished = judge.unfinished(len(race.dropped), race.dropped[-1])
        return unfinished, unfinished if race.end_to_end else None

    def decide(rounds: Mapping[str, Sequence[Any]]) -> Decision:
        delta, floor = expectation.delta, expectation.absolute_floor
        return decide_processes(rounds["old"], rounds["new"], delta=delta, absolute_floor=floor)

    return decide(_by_side(race)), decide(_by_side(race, end_to_end=True)) if race.end_to_end else None


def more_rounds_may_decide(race: Race, expectation: Expectation) -> bool:
    """Whether a series is open for its noise; where processes differ, more rounds of the same ones decide nothing."""
    return any(each is not None and each.reason is Reason.INTERVAL_TOO_WIDE for each in decisions(race, expectation))


def _named(pair: str, decision: Decision) -> Decision:
    return replace(decision, message=f"{pair}: {decision.message}")


def _side_facts(
    rounds: Sequence[Any], second: Sequence[Any], opened: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> SideFacts:
    """`opened` is what the workers said of one process for each build."""
    audit = PrecisionAudit(facts["audit"]["asked"], facts["audit"]["layers"])
    plans = [each["plan"] for each in opened if each["plan"]]
    return SideFacts(
        latency=float(np.median(medians(rounds))) if rounds else float("nan"),
        processes=tuple(map(float, medians(rounds))),
        end_to_end=float(np.median(medians(second))) if second else None,
        build_seconds=float(np.median([plan["build_seconds"] for plan in plans])) if plans else None,
        plan_bytes=plans[0]["bytes"] if plans else None,
        memory_bytes=facts["engine"].get("device_memory_bytes") or opened[-1]["memory_bytes"],
        layers=audit.histogram,
    )


def report_to_json(report: AbReport) -> dict[str, Any]:
    """A whole run as plain JSON values."""
    return {
        "schema": SCHEMA,
        "stacks": {side: dict(stack) for side, stack in report.stacks.items()},
        "stack_changes": list(report.stack_changes),
        "left_out": dict(report.left_out),
        "engines": [
            {
                "model": each.model,
                "engine": each.engine,
                "batch": each.batch,
                "old": asdict(each.old),
                "new": asdict(each.new),
                "rounds": {arm: list(rounds) for arm, rounds in each.rounds.items()},
                "end_to_end_rounds": {arm: list(rounds) for arm, rounds in each.end_to_end_rounds.items()},
                "readings": dict(each.readings),
                "agreement": {pair: dict(found) for pair, found in each.agreement.items()},
                "latency": decision_to_json(each.latency),
                "end_to_end": decision_to_json(each.end_to_end) if each.end_to_end else None,
                "answers": [decision_to_json(decision) for decision in each.answers],
                "decision": decision_to_json(each.decision),
                "layers": [str(layer) for layer in each.layers],
                "notes": list(each.notes),
            }
            for each in report.results
        ],
    }
