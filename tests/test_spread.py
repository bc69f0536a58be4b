"""A race spread over fresh processes: what it adds up to, and that no death of one loses what the others measured."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from torch import nn

from trtgate import judge
from trtgate.build import plan
from trtgate.engines import parse_spec
from trtgate.expectations import Expectation
from trtgate.kinds import Block, EngineSpec
from trtgate.measure import remote, spread
from trtgate.measure.race import NoMonitor
from trtgate.measure.remote import RequestFailed, Worker, WorkerError
from trtgate.measure.spread import Spread, schedule_for, unfinished_file
from trtgate.models.base import Architecture, Preprocessing
from trtgate.models.own import OWN
from trtgate.records import EngineRecord, from_json, read_session, to_json
from trtgate.settings import Settings
from trtgate.verdict import Outcome, states
from trtgate.verdict.metrics import Sample
from trtgate.workbench import Workbench

from .faults.table import Fault

REFERENCE, INT8 = parse_spec("pytorch-fp32"), parse_spec("onnxruntime-int8")
WITHIN = states.within


def small() -> Architecture:
    """A few convolutions: what processes add up to is under test, not what they race. Of PyTorch's own classes alone,
    which a worker can load."""
    layers = nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    return Architecture(nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 1000)), Preprocessing(resize=36, crop=32))


@pytest.fixture
def bench(plan_cache: Path, short_blocks: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workbench]:
    # Who else uses this machine is not under test.
    monkeypatch.setattr(spread, "monitor_for", lambda *_: NoMonitor)
    monkeypatch.setattr(states, "within", lambda _: math.inf)
    monkeypatch.setitem(OWN, "small", small)
    settings = Settings(engines=(REFERENCE, INT8), plan_cache=plan_cache, processes=2)
    with Workbench("small", settings) as bench:
        yield bench


def children() -> set[int]:
    """Processes of this one that live."""
    found = psutil.Process().children(recursive=True)
    return {each.pid for each in found if each.status() != psutil.STATUS_ZOMBIE}


@pytest.mark.slow
def test_processes_that_wait_for_their_turn_are_samples_too(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All import at once; one of them dies before it is asked anything, and none is left over."""
    found, greet, greeted = Spread(bench, 3), Worker.greet, []
    bench.settings = replace(bench.settings, threads=3)

    def then_kill_the_second(worker: Worker) -> None:
        greet(worker)
        greeted.append(worker.pid)
        if len(greeted) == 2:
            os.kill(worker.pid, signal.SIGKILL)

    monkeypatch.setattr(Worker, "greet", then_kill_the_second)
    before = children()
    found.add([REFERENCE, INT8], [1], 3, "two engines")
    assert found.record(INT8, 1).processes == (schedule_for("cpu", 3).rounds,) * 3
    assert len(found.lost) == 1
    assert children() <= before


@pytest.mark.slow
@pytest.mark.fault(
    done="a worker of a run that is spread over processes is killed while it races",
    said="nothing, unless more than a fifth of them are lost; then INVALID, with how the last one ended",
    status="as the other processes decide",
    kept="what the other processes measured; another one is run in its place",
)
def test_every_process_is_a_sample_of_one_record_and_a_killed_one_is_replaced(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = bench.spread()
    found.first()
    record = found.record(INT8, 1)
    rounds = schedule_for("cpu", 2).rounds
    assert record.processes == (rounds, rounds)
    assert len(record.rounds) == len(record.reference_rounds) == 2 * rounds
    samples = record.samples()
    assert [sample.get("latency").size for sample in samples] == [rounds, rounds]
    assert [sample.get("cold_start").size for sample in samples] == [1, 1]
    assert [len(sample.blocks["latency"]) for sample in samples] == [rounds, rounds]
    again = from_json(json.loads(json.dumps(to_json(record))))
    assert again.processes == record.processes
    assert np.array_equal(again.samples()[1].get("latency"), samples[1].get("latency"))
    # More of them leave the others as they are, and one that is lost leaves no gap.
    killed: list[int] = []
    ask = Worker.ask

    def kill_once(worker: Worker, do: str, **arguments: Any) -> Any:
        if do == "block" and not killed:
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)
        return ask(worker, do, **arguments)

    monkeypatch.setattr(Worker, "ask", kill_once)
    found.add([REFERENCE, INT8], [1], 1, "more")
    assert found.record(INT8, 1).processes == (rounds, rounds, rounds)
    assert {len(each) for each in found.record(INT8, 1).controls_by_process.values()} == {3}
    assert len(found.lost) == 1
    assert "SIGKILL" in found.lost[0]
    assert not children()
    # And whoever ends the run now loses none of it.
    session = read_session(unfinished_file(bench.settings, bench.name))
    assert {key[1] for key in session.engines} == {REFERENCE.id, INT8.id}
    assert session.partial


@pytest.mark.slow
def test_who_races_alone_is_loaded_after_the_same_engines(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What loading costs depends on what was loaded before, so it is no other in the processes of what is open."""
    opened: list[str] = []
    ask = Worker.ask

    def note(worker: Worker, do: str, **arguments: Any) -> Any:
        if do == "open":
            opened.append(arguments["engine"])
        return ask(worker, do, **arguments)

    monkeypatch.setattr(Worker, "ask", note)
    found = Spread(bench, 1)
    found.add([REFERENCE, INT8], [1], 1, "engines")
    found.add([REFERENCE], [1], 1, "what is open")
    assert opened == 2 * [REFERENCE.id, INT8.id]
    assert [len(found.record(spec, 1).processes) for spec in (REFERENCE, INT8)] == [2, 1]


@pytest.mark.slow
def test_processes_load_what_the_driver_has_loaded(bench: Workbench, tmp_path: Path) -> None:
    """They neither look for it again, which reads all of it, nor build it anew."""
    with Workbench("small", replace(bench.settings, plan_cache=tmp_path)) as own:
        made = own.plan(INT8)
        assert made
        manifest = made.path.with_name("manifest.json")
        manifest.unlink()
        found = Spread(own, 1)
        found.add([REFERENCE, INT8], [1], 1, "engines")
        assert found.record(INT8, 1).rounds
        assert made.path.exists()
        assert not manifest.exists()


@pytest.mark.slow
@pytest.mark.fault(
    done="a run that is spread over processes is killed with its second process",
    said="nothing",
    status="SIGKILL",
    kept="what the first process measured, in `.trtgate/unfinished`; no process lives on",
)
def test_a_killed_run_leaves_its_samples_and_no_process(plan_cache: Path, tmp_path: Path) -> None:
    options = ["--model", "efficientnet_lite0", "--engine", REFERENCE.id, "--engine", INT8.id, "--processes", "3"]
    command = [sys.executable, "-m", "pytest", "bench/", "-p", "no:cacheprovider", *options]
    command += [f"--plan-cache={plan_cache}", "--benchmark-save=a", f"--benchmark-storage={tmp_path}"]
    folder = unfinished_file(Settings(plan_cache=plan_cache), "efficientnet_lite0").parent
    before = set(folder.glob("*.json"))

    def kept() -> set[Path]:
        return set(folder.glob("efficientnet_lite0.*.json")) - before

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        workers: list[psutil.Process] = []
        until = time.monotonic() + 240
        while time.monotonic() < until and not (kept() and workers):
            time.sleep(0.05)
            workers = psutil.Process(run.pid).children(recursive=True) if kept() else []
        run.kill()
    assert workers
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive
    [left] = kept()
    session = read_session(left)
    assert {key[1] for key in session.engines} == {REFERENCE.id, INT8.id}
    assert not list(tmp_path.rglob("*.json"))
    left.unlink()


def test_runs_with_one_plan_cache_keep_what_is_their_own(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that runs meanwhile or was killed before has another file, which goes once it is of no use to anybody."""
    series = {"latency": (1.0,), "reference_latency": (1.0,)}
    record = EngineRecord("small", INT8.id, 1, "none", series)
    own, other, old = (unfinished_file(bench.settings, name) for name in ("small", "small.of-another", "small.part"))
    own.parent.mkdir(parents=True, exist_ok=True)
    own.unlink(missing_ok=True)  # of another test of this process
    for each in (other, old):
        each.write_text("{}")
    os.utime(old, (0, 0))
    found = Spread(bench, 2)
    found._sound = {(INT8.id, 1): [record]}
    monkeypatch.setattr(spread, "RUN", "later")
    later = unfinished_file(bench.settings, "small")
    found._keep()
    assert [each.exists() for each in (own, later, other, old)] == [False, True, True, False]
    later.unlink()
    other.unlink()


def let_die(monkeypatch: pytest.MonkeyPatch, spec: EngineSpec) -> None:
    """Every process dies in that engine."""
    block = Worker.block

    def die(worker: Worker, arm: str, *arguments: Any) -> Any:
        if arm == spec.id:
            os.kill(worker.pid, signal.SIGSEGV)
        return block(worker, arm, *arguments)

    monkeypatch.setattr(Worker, "block", die)


@pytest.mark.slow
def test_an_engine_in_which_processes_die_is_left_out(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    let_die(monkeypatch, INT8)
    found = Spread(bench, 10)
    found.add([REFERENCE, INT8], [1], 1, "engines")
    with pytest.raises(WorkerError, match="SIGSEGV"):
        found.record(INT8, 1)
    assert found.record(REFERENCE, 1).rounds


@pytest.mark.slow
def test_a_reference_in_which_processes_die_leaves_nothing_measured(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it there is no race; of ten processes two may be lost before that is told."""
    let_die(monkeypatch, REFERENCE)
    found = Spread(bench, 10)
    found.add([REFERENCE, INT8], [1], 3, "engines")
    for spec in (REFERENCE, INT8):
        assert "SIGSEGV" in found.record(spec, 1).disturbed


@pytest.mark.parametrize("at", ["bind", "control-copy"])
def test_what_fails_and_is_no_engine_ends_the_race(bench: Workbench, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """A second batch size that cannot be bound, or fixed work that fails, as for want of memory that another process
    holds: no engine's fault, and not tried for ever."""
    made: list[Refusing] = []

    def start(found: Spread) -> Refusing:
        assert len(made) < 10
        made.append(Refusing(at))
        return made[-1]

    monkeypatch.setattr(Spread, "_started", start)
    monkeypatch.setattr(Spread, "_job", lambda *_: {})
    found = Spread(bench, 2)
    found.add([REFERENCE, INT8], [1, 2], 2, "engines")
    verdict = judge.floor_verdict(found.record(INT8, 1), Expectation({}))
    assert verdict.outcome is Outcome.INVALID
    assert "2 processes do not count: no room" in verdict.message
    found.close()
    assert all(each.closed for each in made)


@pytest.mark.parametrize(("refusing", "told"), [([2], ""), ([2, 3, 4], "3 processes do not count: no room")])
def test_a_reference_that_fails_once_takes_nothing_from_others(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, refusing: list[int], told: str
) -> None:
    """As where another process has the memory for a moment."""
    made: list[Refusing] = []

    def start(found: Spread) -> Refusing:
        made.append(Refusing(REFERENCE.id if len(made) in refusing else ""))
        return made[-1]

    monkeypatch.setattr(Spread, "_started", start)
    monkeypatch.setattr(Spread, "_job", lambda *_: {})
    found = Spread(bench, 10)
    found.add([REFERENCE, INT8], [1], 4, "engines")
    record = found.record(INT8, 1)
    assert record.disturbed == told
    assert len(record.processes) == 4 or (told and record.processes)


def test_what_cannot_be_started_any_more_takes_nothing_from_what_was_measured(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the processes of a user, or of a container, are counted."""
    made: list[Refusing] = []

    def none_left(*_: Any, **__: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def start(_: Spread) -> Worker | Refusing:
        if len(made) == 3:
            return remote.fresh_worker()
        made.append(Refusing(""))
        return made[-1]

    monkeypatch.setattr(remote, "start_process", none_left)
    monkeypatch.setattr(Spread, "_started", start)
    monkeypatch.setattr(Spread, "_job", lambda *_: {})
    bench.settings = replace(bench.settings, threads=2)
    found = Spread(bench, 8)
    found.add([REFERENCE, INT8], [1], 8, "engines")
    record = found.record(INT8, 1)
    assert len(record.processes) == 3
    assert record.disturbed.startswith("2 processes do not count: none can be started ([Errno 11] Resource")
    found.close()
    assert all(each.closed for each in made)


@pytest.mark.parametrize(("memory", "first"), [(64, 8), (4, 4), (0, 2)])
def test_all_processes_have_imported_before_one_is_raced(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, memory: int, first: int
) -> None:
    """As many at a time as there are cores; what is free for seconds meanwhile may be taken back by the host, and is
    slow to get. Where they do not fit, fewer wait."""
    made: list[Refusing] = []
    importing: list[int] = []

    def start(_: Spread) -> Refusing:
        made.append(Refusing(""))
        importing.append(sum(not each.greeted for each in made))
        return made[-1]

    monkeypatch.setattr(Spread, "_started", start)
    monkeypatch.setattr(Spread, "_job", lambda *_: {})

    def left() -> float:
        return (memory - sum(not each.closed for each in made)) * spread.WAITING_BYTES / spread.WAITING_SHARE

    monkeypatch.setattr(spread, "memory_left", left)
    bench.settings = replace(bench.settings, threads=2, processes=8)
    found, process, waited = bench.spread(), Spread._process, []

    def note(found: Spread, *given: Any) -> bool:
        waited.append(len(found._ready))
        return process(found, *given)

    monkeypatch.setattr(Spread, "_process", note)
    assert len(made) == 2
    found.first()
    assert waited == [*range(first, 0, -1)] * (8 // first)
    assert max(importing) == 2
    assert len(made) == 8


@pytest.mark.parametrize(
    ("cores", "before", "ahead"),
    [(16, {"control-copy": 1.0}, 12), (16, None, 6), (8, {"control-copy": 1.0}, 8), (2, None, 2)],
)
def test_processes_import_while_the_driver_has_other_things_to_do(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, cores: int, before: dict[str, float] | None, ahead: int
) -> None:
    """Those of both looks, where a comparison may need a second one; on a core each, and all are there before one is
    raced. What was not needed is ended."""
    made: list[Refusing] = []

    def start(_: Spread) -> Refusing:
        made.append(Refusing(""))
        return made[-1]

    monkeypatch.setattr(Spread, "_started", start)
    monkeypatch.setattr(Spread, "_job", lambda *_: {})
    bench.settings = replace(bench.settings, threads=cores, processes=6)
    found = bench.spread({1: before} if before else None)
    assert bench.spread() is found
    assert len(made) == ahead
    assert not any(each.greeted for each in made)
    found.first()
    assert len(made) == max(6, ahead)
    assert all(each.greeted for each in made)
    assert sum(each.closed for each in made) == 6
    found.add([REFERENCE, INT8], [1], 6, "what is open")
    assert len(made) == 12
    assert all(each.closed for each in made)
    bench.close()
    assert len(found.record(INT8, 1).processes) == 12


def test_none_imports_while_a_plan_is_built(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a build costs is compared, too."""
    worker, seen = Refusing(""), []

    def building(*given: Any) -> Any:
        seen.append(worker.greeted)
        return build(*given)

    build = plan.run_in_child
    monkeypatch.setattr(plan, "run_in_child", building)
    monkeypatch.setattr(Spread, "_started", lambda _: worker)
    bench.settings = replace(bench.settings, threads=1, rebuild=True)
    bench.spread()
    assert not worker.greeted
    assert bench.plan(INT8)
    assert seen
    assert all(seen)
    bench.close()
    assert worker.closed


def test_who_hangs_as_it_imports_is_waited_for_once(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before every build and every race."""
    monkeypatch.setattr(remote, "START_SECONDS", 0.01)
    bench.settings = replace(bench.settings, threads=1)
    found, asked, receive = bench.spread(), [], Worker._receive

    def note(worker: Worker, what: str, timeout: float) -> Any:
        asked.append(what)
        return receive(worker, what, timeout)

    monkeypatch.setattr(Worker, "_receive", note)
    for _ in range(3):
        found.settle()
    assert len(asked) == 1
    bench.close()
    assert not children()


def test_a_full_disk_takes_nothing_from_what_was_measured(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(spread, "write_whole", full)
    monkeypatch.setattr(Spread, "_started", lambda _: Refusing(""))
    monkeypatch.setattr(Spread, "_job", lambda *_: {})
    found = Spread(bench, 2)
    found.add([REFERENCE, INT8], [1], 2, "engines")
    assert len(found.record(INT8, 1).processes) == 2


class Refusing:
    """A worker that needs no process, and cannot do one thing."""

    pid = os.getpid()

    def __init__(self, at: str) -> None:
        self._at = at
        self.greeted = self.closed = False

    def greet(self) -> None:
        self.greeted = True

    def ask(self, do: str, **arguments: Any) -> Any:
        if do == self._at and arguments["size"] > 1:
            raise RequestFailed("no room")
        answers = {"controls": {"arms": {"control-matmul": 0.1, "control-copy": 0.1}}, "open": {"fresh": {}}}
        return answers.get(do, {})

    def block(self, arm: str, n: int, lead_in: int) -> Block:
        if arm == self._at:
            raise RequestFailed("no room")
        return Block(np.full(n, 0.1))

    def close(self, *, wait: bool = True) -> None:
        self.closed = True


def test_too_many_lost_processes_are_no_measurement(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(worker: Worker, *_: Any, **__: Any) -> Any:
        raise WorkerError("gone")

    monkeypatch.setattr(Worker, "greet", lose)
    found = bench.spread()
    found.first()
    record = found.record(INT8, 1)
    verdict = judge.floor_verdict(record, Expectation({}))
    assert (verdict.outcome, record.rounds) == (Outcome.INVALID, ())
    assert "2 processes do not count: gone" in verdict.message
    assert not children()


@pytest.mark.parametrize(("lost", "told"), [(3, ""), (4, "4 processes do not count: gone")])
def test_of_the_processes_of_both_looks_a_fifth_may_be_lost(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, lost: int, told: str
) -> None:
    found, run = Spread(bench, 8), []

    def one(self: Spread, *_: object) -> bool:
        run.append(len(run))
        if 8 <= run[-1] < 8 + lost:
            self.lost.append("gone")
            return False
        record = EngineRecord("small", INT8.id, 1, "none", {"latency": (1.0,)}, controls=NEAR, processes=(1,))
        self._sound.setdefault((INT8.id, 1), []).append(record)
        return True

    monkeypatch.setattr(Spread, "_process", one)
    monkeypatch.setattr(found, "_fill", lambda _: None)
    monkeypatch.setattr(found, "_ready", Always())
    for _ in range(2):
        found.add([INT8], [1], 8, "them")
    assert found.record(INT8, 1).disturbed == told


# Found by every Python that starts with it on its path; a worker dies before it has imported anything.
DEADLY = """
import os, signal
if b"trtgate.measure.worker" in open("/proc/self/cmdline", "rb").read():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.fault(
    done="every process that is to measure killed before it does, as by the system for want of memory",
    said="INVALID (disturbed): 2 processes do not count: ...SIGKILL",
    status="7",
    kept="what was built; no session",
)
def test_a_run_whose_processes_all_die_is_no_regression(
    plan_cache: Path, tmp_path: Path, bench: Workbench, few_photos: Path, fault: Fault
) -> None:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    options = ["--model", "efficientnet_lite0", "--engine", INT8.id, "--processes", "2", f"--images={few_photos}"]
    command = [sys.executable, "-m", "pytest", "bench/", "-p", "no:cacheprovider", *options]
    command += ["-k", "latency or speedup", f"--plan-cache={plan_cache}", "--benchmark-save=a"]
    done = subprocess.run(
        [*command, f"--benchmark-storage={tmp_path}"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        text=True,
        capture_output=True,
        check=False,
    )
    fault.check(done.returncode, done.stdout)


NEAR, APART, BESIDE = ({"control-matmul": 0.25e-3, "control-copy": each} for each in (2.6e-3, 1.3e-3, 3.5e-3))


@pytest.mark.parametrize(
    ("states_met", "before", "ran"),
    [
        ([APART] * 3 + [NEAR] * 9, NEAR, 7),  # it goes on until four met the baseline's state
        ([NEAR] * 4, APART, 4),  # none did: the machine is told as it is
        ([NEAR, NEAR, APART, APART, APART, APART, NEAR, NEAR], NEAR, 8),
        ([APART, NEAR, NEAR, NEAR, NEAR, NEAR, NEAR, NEAR], None, 8),  # no mixture of two states
        ([NEAR] * 8, NEAR, 4),
        ([BESIDE, NEAR, BESIDE, BESIDE, NEAR, NEAR, BESIDE, NEAR], None, 8),
        ([BESIDE, NEAR, APART, BESIDE, NEAR, NEAR, BESIDE, NEAR], NEAR, 8),
    ],
)
def test_processes_of_one_state_of_the_machine_are_the_sample(
    bench: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    states_met: list[dict[str, float]],
    before: dict[str, float] | None,
    ran: int,
) -> None:
    monkeypatch.setattr(states, "within", WITHIN)
    found, come = Spread(bench, 4, {1: before} if before else None), iter(states_met)

    def met(self: Spread, *_: object) -> bool:
        work = next(come)
        series = {"latency": (2.0 if work is NEAR else 3.0,)}
        record = EngineRecord("small", INT8.id, 1, "none", series, controls=work, processes=(1,), complete=True)
        self._sound.setdefault((INT8.id, 1), []).append(record)
        return True

    monkeypatch.setattr(Spread, "_process", met)
    monkeypatch.setattr(found, "_fill", lambda _: None)
    monkeypatch.setattr(found, "_ready", Always())
    found.add([INT8], [1], 4, "them")
    assert len(found._sound[INT8.id, 1]) == ran
    record = found.record(INT8, 1)
    assert set(record.series["latency"]) == {2.0}
    assert len(record.processes) >= 4
    # What is left out is told, and what the engine took there.
    left = f"{len(record.processes)} of {ran} processes, which met it in one state, count; others took +50.0%"
    assert record.warnings == ((f"the machine is loud: {left}",) if len(record.processes) < ran else ())
    out = ran - len(record.processes)
    assert record.uncounted == ({"latency": (3.0,) * out} if out else {})


class Always(list):  # type: ignore[type-arg]
    """There is always another process, and none to close."""

    def __bool__(self) -> bool:
        return True


def test_a_series_is_of_rounds_of_processes_or_of_all() -> None:
    whole = Sample({"a": np.arange(5.0), "b": np.array([7.0, 8.0]), "c": np.array([9.0])}, {"a": [np.ones(2)] * 5})
    first, second = whole.split([2, 3])
    assert (first.get("a").tolist(), second.get("a").tolist()) == ([0, 1], [2, 3, 4])
    assert (first.get("b").tolist(), second.get("b").tolist()) == ([7], [8])
    assert (first.get("c").tolist(), second.get("c").tolist()) == ([9], [9])
    assert [len(each.blocks["a"]) for each in (first, second)] == [2, 3]
    with pytest.raises(ValueError, match="fits neither"):
        Sample({"a": np.arange(4.0)}, {}).split([2, 3])
