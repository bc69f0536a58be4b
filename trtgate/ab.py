"""Two stacks raced against each other on one machine, round by round.

Two worker processes, one for each Python, build or load their own plans from the same graphs and photos and take turns:
old, new, new, old. What drifts in the machine weighs on both, which no two runs one after the other can say.
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

from trtgate import images, judge
from trtgate.engines import backend
from trtgate.engines.base import REFERENCE, Block, EngineSpec, PrecisionAudit
from trtgate.errors import UserError
from trtgate.expectations import Expectation
from trtgate.layers import LayerChange, changed_layers
from trtgate.plans import changed_fields
from trtgate.progress import Progress
from trtgate.protocol import VERSION, Frames, ProtocolError
from trtgate.race import SCHEDULES, Arm, Monitor, Race, Schedule, race_until_decided
from trtgate.records import SCHEMA, decision_to_json
from trtgate.stack import NOISE
from trtgate.telemetry import cpu_seconds, monitor_for
from trtgate.verdict.agreement import Agreement, compare_logits
from trtgate.verdict.decision import Decision, Verdict
from trtgate.verdict.policy import GOOD, worst
from trtgate.verdict.rebuilds import decide_rebuilds, spread_of, unlucky_builds
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
# The worker whose turn it is not may use this share of a core: more, and it disturbs the one whose turn it is.
IDLE_SHARE = 0.1


class WorkerError(Exception):
    """A worker died, hung, failed or does not fit; the message says which, and what it last said. No verdict."""


class Worker:
    """A worker process, seen from the driver."""

    def __init__(self, side: str, python: Path, *, timeout: float = ANSWER_SECONDS) -> None:
        """Start it and wait for its greeting. Raises WorkerError when it does not come."""
        self.side = side
        self._python = python
        self._timeout = timeout
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
        try:
            greeting = self._receive("its start; the environment needs requirements-worker.txt", START_SECONDS)
            if greeting.get("protocol") != VERSION:
                raise self._broken(f"speaks protocol {greeting.get('protocol')}, this driver speaks {VERSION}")
        except BaseException:
            self.close()
            raise
        self.pid: int = greeting["pid"]

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

    def close(self) -> None:
        """Say goodbye, and end the worker and everything it started if it does not leave."""
        with contextlib.suppress(ProtocolError):
            self._frames.send({"do": "goodbye"})
        self._frames.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GOODBYE_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # it leads its own group
        self._process.wait()
        self._log.close()


def _ending(status: int) -> str:
    if status == -signal.SIGKILL:
        return "SIGKILL (out of memory?)"
    return signal.Signals(-status).name if status < 0 else f"status {status}"


@contextlib.contextmanager
def workers(pythons: Mapping[str, Path]) -> Iterator[dict[str, Worker]]:
    """Both workers, by side; neither outlives the block."""
    with contextlib.ExitStack() as running:
        made = {}
        for side in SIDES:
            made[side] = Worker(side, pythons[side])
            running.callback(made[side].close)
        yield made


class Turns:
    """Whose turn it is, and what the other worker does meanwhile, which should be nothing."""

    def __init__(self, both: Mapping[str, Worker]) -> None:
        self._workers = both
        self.idle_seconds = self.wall_seconds = 0.0

    def reset(self) -> None:
        """A round begins."""
        self.idle_seconds = self.wall_seconds = 0.0

    @property
    def share(self) -> float:
        """Of a core, what the workers used while it was not their turn."""
        return self.idle_seconds / self.wall_seconds if self.wall_seconds else 0.0

    @contextlib.contextmanager
    def of(self, side: str) -> Iterator[Worker]:
        """This side's turn."""
        other = self._workers[SIDES[1 - SIDES.index(side)]]
        before, start = cpu_seconds(other.pid), time.monotonic()
        yield self._workers[side]
        self.idle_seconds += cpu_seconds(other.pid) - before
        self.wall_seconds += time.monotonic() - start


class TurnMonitor:
    """The machine's monitor, which also objects to a round in which a worker was busy out of turn."""

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
            return f"the worker whose turn it was not used {self._turns.share:.0%} of a core"
        return objection

    def notes(self) -> tuple[str, ...]:
        return self._machine.notes()

    def readings(self) -> dict[str, float]:
        return {**self._machine.readings(), "idle_share": float(np.median(self._shares))}


@dataclass(frozen=True)
class SideFacts:
    """One side's engine: latency in seconds of its median build, and what was built. Sizes are bytes."""

    latency: float
    builds: tuple[float, ...]
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
        old, new = ({k: v for k, v in self.stacks[side].items() if k not in NOISE} for side in SIDES)
        return tuple(changed_fields(old, new))


def choose_engines(
    both: Mapping[str, Worker], settings: Settings, asked: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], list[EngineSpec], dict[str, str]]:
    """The stacks by side, the engines that both sides have, and why the others are left out.

    Raises UserError for an engine that was asked for and is missing on a side, and where none is left.
    """
    ids = [spec.id for spec in settings.engines if spec != REFERENCE or REFERENCE.id in asked]
    described = {side: worker.ask("describe", device=settings.device, engines=ids) for side, worker in both.items()}
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

    Each engine gets two fresh workers, so that none inherits memory or threads from the one before.
    `rounds` and `rebuilds` replace the defaults: the schedule's rounds, and 3 builds a side for TensorRT, 1 otherwise.
    Raises WorkerError when a worker fails in any way: then there is no verdict at all.
    """
    with workers(pythons) as both:
        stacks, specs, left_out = choose_engines(both, settings, asked)
    schedule = SCHEDULES[settings.device]
    if rounds is not None:
        schedule = replace(schedule, rounds=rounds)
    results = []
    with tempfile.TemporaryDirectory(prefix="trtgate-ab-") as folder:
        for name in settings.models:
            with Workbench(name, settings, progress) as bench:
                for spec in specs:
                    with workers(pythons) as both:
                        pair = _Pair(bench, both, Path(folder), schedule, progress)
                        results += pair.race(spec, rebuilds or DEFAULT_REBUILDS.get(spec.backend, 1))
    return AbReport(stacks, left_out, tuple(results))


# Enough to tell whether two stacks compute the same; how often an untrained model answers the same says nothing.
UNTRAINED_PHOTOS = 24
# TensorRT chooses kernels by timing them, and may choose others the next time.
DEFAULT_REBUILDS = {"tensorrt": 3}


@dataclass(frozen=True)
class _Built:
    """One side's builds of an engine in its worker; the memory that the first one took."""

    handles: Sequence[int]
    plans: Sequence[Mapping[str, Any]]
    memory_bytes: int


class _Pair:
    """Both workers on one model."""

    def __init__(
        self, bench: Workbench, both: Mapping[str, Worker], folder: Path, schedule: Schedule, progress: Progress
    ) -> None:
        self._bench = bench
        self._workers = both
        self._folder = folder
        self._schedule = schedule
        self._progress = progress
        photos = bench.photos("evaluation")
        if not bench.model.weights.trained:
            photos = photos.first(UNTRAINED_PHOTOS)
        self._photos = folder / f"{bench.name}.npy"
        np.save(self._photos, images.normalise(photos.pixels, photos.preprocessing))

    def race(self, spec: EngineSpec, builds: int) -> list[AbResult]:
        """Build, compare answers and race one engine; one result for each batch size."""
        settings, name = self._bench.settings, self._bench.name
        handles: dict[str, list[int]] = {side: [] for side in SIDES}
        plans: dict[str, list[Mapping[str, Any]]] = {side: [] for side in SIDES}
        memory: dict[str, list[int]] = {side: [] for side in SIDES}
        for index in range(builds):
            for side in SIDES:
                job = self._job(spec, index)
                opened = self._ask(side, "open", timeout=BUILD_SECONDS, handle=index, **job)
                handles[side].append(index)
                plans[side].append(opened["plan"])
                memory[side].append(opened["memory_bytes"])
        size = min(settings.batch_sizes)
        with self._progress.step(f"{name}: {spec.id} answers on both sides"):
            logits = {side: self._infer(side, handles[side][0], size) for side in SIDES}
        built = {side: _Built(handles[side], plans[side], memory[side][0]) for side in SIDES}
        return [self._at(spec, size, built, logits) for size in settings.batch_sizes]

    def _ask(self, side: str, do: str, **arguments: Any) -> Any:
        return self._workers[side].ask(do, progress=self._progress.say, **arguments)

    def _job(self, spec: EngineSpec, rebuild: int) -> dict[str, Any]:
        bench, settings = self._bench, self._bench.settings
        kind = backend(spec.backend).graph_kind(spec)
        weights = settings.weights.get(bench.name)
        calibration = None
        if spec.variant == "calibrated":
            photos = bench.photos("calibration")
            path = self._folder / f"{bench.name}-calibration.npy"
            np.save(path, images.normalise(photos.pixels, photos.preprocessing))
            calibration = {"images": str(path), "digest": photos.digest}
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

    def _infer(self, side: str, handle: int, size: int) -> Logits:
        path = self._folder / f"{side}.npy"
        self._ask(side, "infer", handle=handle, images=str(self._photos), size=size, logits=str(path))
        logits: Logits = np.load(path)
        return logits

    def _at(
        self,
        spec: EngineSpec,
        size: int,
        built: Mapping[str, _Built],
        logits: Mapping[str, Logits],
    ) -> AbResult:
        """One batch size."""
        settings, name = self._bench.settings, self._bench.name
        expectation = settings.expectations.of(name, spec.id)
        for side in SIDES:
            for handle in built[side].handles:
                self._ask(side, "bind", handle=handle, images=str(self._photos), size=size)
        race = self._run_race(spec, size, built, expectation)
        facts = {side: self._ask(side, "facts", handle=built[side].handles[0]) for side in SIDES}
        agreements = self._agreements(logits)
        rounds = {side: _builds(race, side) for side in SIDES}
        second = {side: _builds(race, side, end_to_end=True) for side in SIDES}
        latency = _decide(race, rounds, expectation)
        return AbResult(
            model=name,
            engine=spec.id,
            batch=size,
            old=_side_facts(rounds["old"], second["old"], built["old"], facts["old"]),
            new=_side_facts(rounds["new"], second["new"], built["new"], facts["new"]),
            latency=latency,
            end_to_end=_decide(race, second, expectation) if second["old"] and second["new"] else None,
            answers=self._answers(agreements, facts["new"], expectation, self._bench.kept_in_float(spec)),
            agreement={pair: judge.agreement_summary(found) for pair, found in agreements.items()},
            layers=changed_layers(facts["old"]["layer_times"], facts["new"]["layer_times"]),
            notes=self._notes(race, rounds, facts, expectation),
            rounds={arm: tuple(map(float, race.round_latencies(arm))) for arm in race.blocks},
        )

    def _run_race(self, spec: EngineSpec, size: int, built: Mapping[str, _Built], expectation: Expectation) -> Race:
        turns, lead_in = Turns(self._workers), self._schedule.lead_in_iterations
        # The worker runs its own lead-in: between two requests its threads come to rest.
        schedule = replace(self._schedule, lead_in_iterations=0)

        def arm(side: str, index: int) -> Arm:
            handle = built[side].handles[index]

            def block(n: int) -> Block:
                with turns.of(side) as worker:
                    found = worker.ask("block", handle=handle, n=n, lead_in=lead_in)
                second = found["end_to_end"]
                return Block(np.array(found["seconds"]), None if second is None else np.array(second))

            return Arm(f"{side} {index + 1}", block)

        def undecided(race: Race) -> bool:
            rounds = {side: _builds(race, side) for side in SIDES}
            return _decide(race, rounds, expectation).verdict is Verdict.INCONCLUSIVE

        machine = monitor_for(self._bench.settings.device, [worker.pid for worker in self._workers.values()])
        arms = [arm(side, index) for index in range(len(built["old"].handles)) for side in SIDES]
        text = f"{self._bench.name}: racing {spec.id} old against new at batch {size}"
        with self._progress.step(text) as count:
            return race_until_decided(
                arms, undecided, schedule, monitor=lambda: TurnMonitor(machine(), turns), progress=count
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
        kept_in_float: int,
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
        facts: Mapping[str, Mapping[str, Any]],
        expectation: Expectation,
    ) -> tuple[str, ...]:
        notes = [*race.notes, *(f"a round was dropped: {reason}" for reason in race.dropped)]
        for side in SIDES:
            if len(rounds[side]) > 1 and race.complete:
                notes.append(f"{side}: {spread_of(rounds[side])}")
                notes += [f"{side}: {line}" for line in unlucky_builds(rounds[side], expectation.delta)]
            notes += [f"{side}: {line}" for line in facts[side]["notes"]]
        if not self._bench.model.weights.trained:
            notes.append("untrained weights: top-1 agreement means nothing and is not judged")
        return tuple(notes)


def _builds(race: Race, side: str, *, end_to_end: bool = False) -> list[Any]:
    """The rounds, float64[R] seconds, of each build of a side."""
    arms = [arm for arm in race.blocks if arm.startswith(f"{side} ")]
    read = race.round_end_to_end if end_to_end else race.round_latencies
    return [rounds for rounds in map(read, arms) if rounds.size]


def _decide(race: Race, rounds: Mapping[str, Sequence[Any]], expectation: Expectation) -> Decision:
    if not race.complete:
        return judge.unfinished(len(race.dropped), race.dropped[-1])
    return decide_rebuilds(
        rounds["old"], rounds["new"], delta=expectation.delta, absolute_floor=expectation.absolute_floor
    )


def _named(pair: str, decision: Decision) -> Decision:
    return replace(decision, message=f"{pair}: {decision.message}")


def _side_facts(rounds: Sequence[Any], second: Sequence[Any], built: _Built, facts: Mapping[str, Any]) -> SideFacts:
    audit = PrecisionAudit(facts["audit"]["asked"], facts["audit"]["layers"])
    builds = spread_of(rounds).builds if rounds else ()
    seconds = [plan["build_seconds"] for plan in built.plans if plan]
    return SideFacts(
        latency=float(np.median(builds)) if builds else float("nan"),
        builds=builds,
        end_to_end=float(np.median([np.median(each) for each in second])) if second else None,
        build_seconds=float(np.median(seconds)) if seconds else None,
        plan_bytes=built.plans[0].get("bytes"),
        memory_bytes=facts["engine"].get("device_memory_bytes") or built.memory_bytes,
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
