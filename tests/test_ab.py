"""A/B runs: the protocol, each way a worker can fail, turns, and a real run of this environment against itself."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import struct
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import psutil
import pytest

from trtgate.__main__ import main
from trtgate.ab import run as ab_run
from trtgate.ab.answers import agreements_of
from trtgate.ab.engines import Chosen, LostEngine, OldSideFails, choose_engines, require_apart
from trtgate.ab.results import AbReport, AbResult, SideFacts
from trtgate.ab.rounds import more_rounds_may_decide, verdicts
from trtgate.ab.run import PROCESSES, run_ab
from trtgate.ab.sides import _not_finite_alike, _Sides
from trtgate.ab.turns import TurnMonitor, Turns
from trtgate.compare import Change, Comparison, Report, compare_records
from trtgate.engines import all_specs, backend, parse_spec
from trtgate.expectations import Expectation, read_expectations
from trtgate.files import scratch_folder
from trtgate.judge import (
    agreement_verdict,
    audit_verdict,
    fidelity_verdict,
    not_finite_before,
    rebuild_note,
    same_as_before,
)
from trtgate.kinds import Availability, EngineBroken, EngineSpec, EngineUnavailable, PrecisionAudit, UserError
from trtgate.limits import BUILD_SECONDS
from trtgate.measure import remote
from trtgate.measure import worker as serving
from trtgate.measure.race import NoMonitor, Race
from trtgate.measure.remote import RequestFailed, Worker, WorkerError, WorkerGone
from trtgate.models.model_file import read_models
from trtgate.processes import Terminated, come_to_rest
from trtgate.progress import SILENT
from trtgate.protocol import HEADER, VERSION, Frames, ProtocolError
from trtgate.report.pages import comparison_headline
from trtgate.settings import Settings
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detection, from_outputs
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict import Outcome, Reason, Verdict
from trtgate.verdict.agreement import compare_logits
from trtgate.verdict.policy import exit_status
from trtgate.workbench import Workbench

from . import networks, small_classifier
from .faults.table import Fault

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)

# The protocol.


@pytest.fixture
def pair() -> Iterator[tuple[Frames, Frames]]:
    """Two ends that talk to each other."""
    first, second = os.pipe(), os.pipe()
    ends = Frames(first[0], second[1]), Frames(second[0], first[1])
    yield ends
    for end in ends:
        end.close()


def test_what_is_sent_is_received(pair: tuple[Frames, Frames]) -> None:
    ours, theirs = pair
    messages = [{"do": "block", "with": {"n": 3}}, {"answer": [1.5] * 5000}, {"error": "Ü"}]
    for message in messages:
        theirs.send(message)
        assert ours.receive(1.0) == message


def test_a_side_that_is_gone_silent_or_talks_nonsense(pair: tuple[Frames, Frames]) -> None:
    ours, theirs = pair
    with pytest.raises(ProtocolError, match="in time"):
        ours.receive(0.05)
    os.write(theirs._writing, HEADER.pack(4) + b"nope")
    with pytest.raises(ProtocolError, match="no JSON"):
        ours.receive(1.0)
    os.write(theirs._writing, b"Warning: CUDA is old\n")
    with pytest.raises(ProtocolError, match="no frame"):
        ours.receive(1.0)
    theirs.close()
    with pytest.raises(ProtocolError, match="closed its pipe|no frame"):
        ours.receive(1.0)


def test_half_a_frame_is_waited_for_no_longer_than_asked(pair: tuple[Frames, Frames]) -> None:
    ours, theirs = pair
    os.write(theirs._writing, struct.pack(">I", 100) + b"{")
    start = time.monotonic()
    with pytest.raises(ProtocolError, match="in time"):
        ours.receive(0.2)
    assert time.monotonic() - start < 5


# Each way a worker can fail. The workers here are scripts that do one thing wrong.

HELLO = f"""
import json, os, struct, sys, time
def send(message):
    body = json.dumps(message).encode()
    os.write(int(sys.argv[4]), struct.pack(">I", len(body)) + body)
def receive():
    size, = struct.unpack(">I", os.read(int(sys.argv[3]), 4))
    return json.loads(os.read(int(sys.argv[3]), size))
print("loading libraries", file=sys.stderr, flush=True)
GREETING = {{"protocol": {VERSION}, "python": "3", "pid": os.getpid()}}
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Worker]]:
    """Start a worker that runs a script; none of them may outlive the test."""
    monkeypatch.setattr(remote, "START_SECONDS", 5.0)
    monkeypatch.setattr(remote, "GOODBYE_SECONDS", 0.1)
    made: list[Worker] = []

    def start(script: str, timeout: float = 5.0) -> Worker:
        path = tmp_path / f"python{len(made)}"
        path.write_text(f"#!{sys.executable}\n{HELLO}\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IEXEC)
        made.append(Worker("new", path, timeout=timeout))
        made[-1].greet()
        return made[-1]

    yield start
    for each in made:
        each.close()
        assert not psutil.pid_exists(each.pid)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("sys.exit('No module named numpy')", r"(?s)the new worker .*status 1.*No module named numpy"),
        ("os.kill(os.getpid(), 9)", "SIGKILL \\(out of memory\\?\\)"),
        ("send({'protocol': 99, 'pid': 1}); time.sleep(60)", f"speaks protocol 99, this driver speaks {VERSION}"),
        ("os.write(int(sys.argv[4]), b'Segmentation fault'); time.sleep(60)", "no frame"),
        ("send([1, 2]); time.sleep(60)", "no answer"),
    ],
)
def test_a_worker_that_does_not_start(script: str, message: str, worker: Callable[..., Worker]) -> None:
    with pytest.raises(WorkerError, match=message) as raised:
        worker(script)
    assert "loading libraries" in str(raised.value)


def test_a_worker_that_never_greets(worker: Callable[..., Worker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "START_SECONDS", 0.5)
    with pytest.raises(WorkerError, match="did not answer in time"):
        worker("time.sleep(60)")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("receive(); sys.exit('undefined symbol: cudnnCreate')", "(?s)status 1.*undefined symbol: cudnnCreate"),
        ("receive(); os.kill(os.getpid(), 9)", "SIGKILL"),
        ("receive(); os.abort()", "SIGABRT"),
        ("receive(); time.sleep(60)", "did not answer in time"),
        ("receive(); send({'error': 'MemoryError: 8 GiB'}); time.sleep(60)", "failed in block: MemoryError: 8 GiB"),
        ("receive(); os.write(int(sys.argv[4]), b'noise noise'); time.sleep(60)", "no frame"),
    ],
)
def test_a_worker_that_fails_while_it_works(script: str, message: str, worker: Callable[..., Worker]) -> None:
    broken = worker(f"send(GREETING); {script}", timeout=1.0)
    with pytest.raises(WorkerError, match=message):
        broken.ask("block", n=3)


def test_what_libraries_print_does_no_harm(worker: Callable[..., Worker]) -> None:
    noisy = worker("print('welcome to CUDA', flush=True); send(GREETING); receive(); print('!'); send({'answer': 7})")
    assert noisy.ask("block") == 7


def test_progress_is_passed_on(worker: Callable[..., Worker]) -> None:
    busy = worker("send(GREETING); receive(); send({'progress': 'building: 3 s'}); send({'answer': 7})")
    said: list[str] = []
    assert busy.ask("open", progress=said.append) == 7
    assert said == ["new: building: 3 s"]


def test_a_build_may_take_longer_than_an_answer(worker: Callable[..., Worker]) -> None:
    busy = worker(
        "send(GREETING); receive(); send({'progress': 'building ...', 'within': 30}); time.sleep(1); "
        "send({'answer': 7}); receive(); send({'progress': 'building ...', 'within': 30}); "
        "send({'progress': 'building: 9 s'}); time.sleep(60)",
        timeout=0.5,
    )
    said: list[str] = []
    assert busy.ask("open", progress=said.append) == 7
    assert said == [], "what takes long is told when it is over"
    with pytest.raises(WorkerError, match="did not answer in time"):
        busy.ask("open", progress=said.append)
    assert said == ["new: building: 9 s"]


def test_a_worker_says_when_it_builds(tmp_path: Path) -> None:
    """And only then: a plan that is there is loaded within the limit of `open`."""
    onnx.save(small_classifier.graph(), graph := tmp_path / "graph.onnx")
    job = {"engine": "onnxruntime-fp32", "model": "small", "graph": str(graph), "source": {"graph": "0"}}
    job |= {"batch_sizes": [1], "threads": 1, "device": "cpu", "anew": False, "sample": None}
    job |= {"signature": small_classifier.signature().to_json()}
    job |= {"plan_cache": str(tmp_path / "cache"), "rebuild": 0, "calibration": None}
    sent: list[dict[str, Any]] = []
    frames: Any = SimpleNamespace(send=sent.append)
    for reused in (False, True):
        assert serving.Worker(frames).open(**job)["plan"]["reused"] is reused
        assert [each["within"] for each in sent if "within" in each] == ([] if reused else [BUILD_SECONDS])
        sent.clear()


def test_what_a_worker_started_ends_with_it(worker: Callable[..., Worker]) -> None:
    parent = worker(
        "import subprocess; child = subprocess.Popen(['sleep', '60']); send({**GREETING, 'child': child.pid}); "
        "receive(); send({'answer': child.pid}); time.sleep(60)"
    )
    child = parent.ask("describe")
    assert psutil.pid_exists(child)
    parent.close()
    wait_until(lambda: not alive(child))


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    return False


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("path", ["nowhere/python", "README.md"])
def test_what_is_no_python_is_one_sentence(path: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--old .* cannot be started"):
        Worker("old", ROOT / path)


def test_workers_die_with_their_driver_and_leave_no_file_to_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        "import sys; from pathlib import Path; from trtgate.measure.remote import Worker; "
        f"made = Worker('old', Path({str(PYTHON)!r})); made.greet(); print(made.pid, flush=True); sys.stdin.read()"
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    assert alive(pid)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_until(lambda: not alive(pid))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with scratch_folder() as own:
        assert list(tmp_path.iterdir()) == [own]


# Turns.


def test_a_worker_that_is_busy_out_of_turn_disturbs_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 2.0, 2.0, 3.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    # What each worker has used at each look at it.
    used = {1: iter([0.0, 0.4]), 2: iter([5.0, 5.0, 5.0, 5.0])}
    monkeypatch.setattr("trtgate.ab.turns.cpu_seconds", lambda pid: next(used[pid]))
    turns = Turns([1, 2])
    monitor = TurnMonitor(NoMonitor(), turns)
    monitor.start()
    with turns.of(1):
        pass
    assert monitor.stop() is None
    monitor.start()
    with turns.of(2):  # the old one used 0.4 of this second
        pass
    with turns.of(1):
        pass
    assert "used 20% of a core" in (monitor.stop() or "")
    assert monitor.readings() == {"idle_share": pytest.approx(0.1)}


def test_coming_to_rest_waits_for_threads_that_spin() -> None:
    import threading

    until = time.monotonic() + 0.3

    def spin() -> None:
        while time.monotonic() < until:
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    come_to_rest()
    assert time.monotonic() >= until
    thread.join()


# What is raced.


@pytest.mark.parametrize(
    ("noise", "second_noise", "more"), [(0.0, None, False), (0.0, 0.0, False), (0.0, 0.3, True), (0.3, 0.0, True)]
)
def test_a_noisy_series_of_either_kind_gets_more_rounds(noise: float, second_noise: float | None, more: bool) -> None:
    """A GPU's engine has two series and both are judged, so both may leave a race undecided."""
    generator = np.random.default_rng(0)

    def series(spread: float) -> dict[str, tuple[Any, ...]]:
        names = [f"{side} {number}" for number in (1, 2, 3) for side in ("old", "new")]
        return {name: tuple(np.full(5, 1e-3 * (1 + spread * generator.random())) for _ in range(15)) for name in names}

    first, second = series(noise), {} if second_noise is None else series(second_noise)
    race = Race(first, dict.fromkeys(first, True), statistic="median", end_to_end=second)
    expectation = Expectation({"delta": 0.02})
    found = {each.metric: each.outcome for each in verdicts(race, expectation)}
    assert found["latency"] is (Outcome.INCONCLUSIVE if noise else Outcome.PASS)
    assert ("end_to_end" in found) == (second_noise is not None)
    assert more_rounds_may_decide(race, expectation, races=1) == more


@pytest.mark.parametrize(("rounds", "more"), [(8, True), (15, False)])
def test_a_slower_side_gets_as_many_rounds_as_many_verdicts_take(rounds: int, more: bool) -> None:
    """8 rounds of which all are slower happen by chance in 0.4 %: among 8 verdicts that proves nothing."""
    names = [f"{side} {number}" for number in (1, 2, 3) for side in ("old", "new")]
    slower = {name: 1.03 if name.startswith("new") else 1.0 for name in names}
    blocks = {
        name: tuple(np.full(5, 1e-3 * (factor + 1e-4 * n)) for n in range(rounds)) for name, factor in slower.items()
    }
    race = Race(blocks, dict.fromkeys(names, True), statistic="median")
    assert more_rounds_may_decide(race, Expectation({"delta": 0.02}), races=4) == more


class Describing:
    """A worker that has some engines and not others."""

    place = None

    def __init__(self, **engines: str) -> None:
        self._engines = engines

    def ask(self, do: str, **arguments: Any) -> Any:
        found = {
            text: {
                "ok": text not in self._engines,
                "reason": self._engines.get(text, ""),
                "broken": "broken" in self._engines.get(text, ""),
            }
            for text in arguments["engines"]
        }
        return {"stack": {"node": "x", "onnxruntime": "1.0"}, "engines": found}


def test_engines_that_a_side_lacks() -> None:
    settings = Settings(engines=tuple(map(parse_spec, ("pytorch-fp32", "onnxruntime-fp32", "openvino-int8"))))
    both: Any = {"old": [Describing()], "new": [Describing(**{"openvino-int8": "no module"})]}
    for asked in ([], ["openvino-int8"]):
        chosen = choose_engines(both, settings, asked)
        assert [spec.id for spec in chosen.both] == ["onnxruntime-fp32"], "the reference is nobody's upgrade"
        assert chosen.lost == {"openvino-int8": "new: no module"}, "what the upgrade took away is no detail"
    other: Any = {"old": both["new"], "new": both["old"]}
    assert choose_engines(other, settings, []).gained == {"openvino-int8": "old: no module"}
    with pytest.raises(UserError, match="openvino-int8 is not available on the old side"):
        choose_engines(other, settings, ["openvino-int8"])
    none: Any = {"old": [Describing(**{"onnxruntime-fp32": "no", "openvino-int8": "no"})], "new": both["new"]}
    with pytest.raises(UserError, match="no engine is available on the old side"):
        choose_engines(none, settings, [])


@pytest.mark.parametrize(
    ("old", "new", "acknowledged", "status"),
    [
        ("openvino is broken: libtbb", "openvino is broken: libtbb", [], 7),
        ("openvino is broken: libtbb", "openvino is not installed", [], 7),
        ("openvino is not installed", "openvino is broken: libtbb", [], 7),
        ("openvino is broken: libtbb", "", [], 7),
        ("openvino is broken: libtbb", "openvino is broken: libtbb", ["* openvino-int8"], 0),
        ("openvino is not installed", "openvino is not installed", [], 0),
    ],
)
def test_a_runtime_that_is_broken_on_the_old_side_is_no_pass(
    old: str, new: str, acknowledged: list[str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other engines' PASS says nothing of it."""
    settings = Settings(engines=tuple(map(parse_spec, ("onnxruntime-fp32", "openvino-int8"))))
    lacking = {side: {"openvino-int8": why} if why else {} for side, why in (("old", old), ("new", new))}
    both: Any = {side: [Describing(**lacking[side])] for side in ("old", "new")}
    chosen = choose_engines(both, settings, [])
    report = raced_with([], monkeypatch, chosen=chosen, acknowledged=acknowledged)
    assert [each.comparison.key[1] for each in report.results] == ["onnxruntime-fp32"]
    told = report.report.verdicts()
    assert exit_status(each.outcome for each in told) == status
    assert not status or "openvino is broken: libtbb" in str(told[-1])


@pytest.mark.parametrize(
    ("reason", "torch", "broken"),
    [
        ("inductor cannot be imported: ModuleNotFoundError: No module named 'torch'", False, False),
        ("inductor cannot be imported: ImportError: libcudart.so.12: cannot open", False, True),
        ("openvino cannot be imported: OSError: libtbb.so.12: cannot open", False, True),
        ("pytorch cannot be imported: ModuleNotFoundError: No module named 'torch'", True, True),
    ],
)
def test_an_environment_without_pytorch_is_not_broken(
    reason: str, torch: bool, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sides' own need not have it, and the engines that do are left out."""
    found = Availability(False, reason, broken=True)
    monkeypatch.setattr(serving, "available", lambda spec, device: found)
    monkeypatch.setattr(serving, "place_of", lambda module: "/somewhere" if torch else None)
    frames: Any = None
    told = serving.Worker(frames).describe("cpu", ["inductor-fp32"])["engines"]["inductor-fp32"]
    assert (told["ok"], told["broken"]) == (False, broken)


def test_what_is_built_anew_is_what_times_kernels() -> None:
    tuned = {spec.id for spec in all_specs() if backend(spec.backend).tunes(spec)}
    assert tuned == {each.id for each in all_specs() if each.backend == "tensorrt"} | {
        "inductor-fp16",
        "inductor-fp16-aot",
        "inductor-fp16-autotune",
    }


# Answers of several builds a side.

PHOTOS = np.random.default_rng(0).standard_normal((40, 10)).astype(np.float32)


def build(seed: int, noise: float) -> np.ndarray:
    """Logits of a build whose kernels round in a way of their own."""
    return PHOTOS + noise * np.random.default_rng(seed).standard_normal(PHOTOS.shape).astype(np.float32)


def judged(old: list[np.ndarray], new: list[np.ndarray], sqnr_db: float) -> tuple[list[Outcome], tuple[str, ...]]:
    found, alike = agreements_of({"old": old, "new": new}, None, compare_logits)
    expectation = Expectation({"agreement": 0.9, "cosine": 0.0, "sqnr_db": sqnr_db})
    verdicts = [rule(found["new with old"], expectation, alike) for rule in (fidelity_verdict, agreement_verdict)]
    return [each.outcome for each in verdicts], rebuild_note(alike)


def test_answers_that_differ_no_more_than_builds_of_one_version_are_not_the_upgrades() -> None:
    old, new = [build(seed, 0.1) for seed in (1, 2, 3)], [build(seed, 0.1) for seed in (4, 5, 6)]
    outcomes, note = judged(old, new, sqnr_db=30)
    assert outcomes[0] is Outcome.PASS, "each build lies 17 dB from every other"
    assert note[0].startswith("answers changed by no more")
    outcomes, note = judged(old[:1], new[:1], sqnr_db=30)
    assert (outcomes[0], note) == (Outcome.REGRESSED, ()), "one build of a version shows nothing"


def test_a_float_layer_may_be_called_otherwise_but_none_may_be_added() -> None:
    old = PrecisionAudit("int8", {"conv": "int8", "head/MatMul": "float32"})
    for layers, outcome in (
        ({"conv": "int8", "head/MatMul + head/Add": "float32"}, Outcome.PASS),
        ({"conv": "int8", "head/MatMul": "float32"}, Outcome.PASS),
        ({"conv": "float32", "head/MatMul + head/Add": "float32"}, Outcome.REGRESSED),
        ({"conv": "int8", "head/MatMul": "float32", "head/Add": "float32"}, Outcome.REGRESSED),
        ({"conv": "int8", "head/MatMul + head/Add": "float32", "more": "float32"}, Outcome.REGRESSED),
    ):
        new = PrecisionAudit("int8", layers)
        assert audit_verdict(new, (), [old]).outcome is outcome, layers


def test_a_builder_that_chose_int8_nowhere_before_either_is_not_the_upgrades() -> None:
    chosen, float16, float32, untold = (
        PrecisionAudit("int8", {"conv": kind, "head": "float16"}, frozenset({"float16"}))
        for kind in ("int8", "float16", "float32", "")
    )
    for before, new, outcome in (
        ([float16], float16, Outcome.PASS),
        ([chosen, float16], float16, Outcome.PASS),
        ([chosen], float16, Outcome.REGRESSED),
        ([untold], float16, Outcome.REGRESSED),
        ([float16], float32, Outcome.REGRESSED),
        ([], float16, Outcome.REGRESSED),
    ):
        assert audit_verdict(new, (), before).outcome is outcome


def test_one_new_build_beyond_all_old_ones_is_a_change() -> None:
    old, odd = [build(seed, 0.01) for seed in (1, 2, 3)], build(4, 0.3)
    outcomes, note = judged(old, [*old[:2], odd], sqnr_db=30)
    assert outcomes[0] is Outcome.REGRESSED
    assert note[0].startswith("answers changed by more")
    outcomes, note = judged(old, [*old[:2], np.full_like(PHOTOS, np.nan)], sqnr_db=30)
    assert outcomes == [Outcome.REGRESSED] * 2
    outcomes, note = judged(old, [*old[:2], odd], sqnr_db=5)
    assert outcomes[0] is Outcome.PASS, "within what is expected, and still told"
    assert note[0].startswith("answers changed by more")


@pytest.mark.parametrize("builds", [1, 3])
@pytest.mark.parametrize("reference", [False, True])
def test_a_class_whose_logit_is_dead_on_the_new_side_alone(builds: int, reference: bool) -> None:
    """One of many classes that is on no photo is hardly any noise: less than builds of one version may differ by."""
    task, samples = Classification(output="y"), SimpleNamespace(clusters=None, doubt="")
    photos = np.random.default_rng(0).standard_normal((40, 300)).astype(np.float32)

    def side(seed: int, dead: bool) -> list[np.ndarray]:
        some = [photos + 0.05 * np.random.default_rng(seed + n).standard_normal(photos.shape) for n in range(builds)]
        for logits in some:
            logits[:, 7] *= not dead
        return [logits.astype(np.float32) for logits in some]

    expectation = Expectation({"agreement": 0.9, "cosine": 0.9, "sqnr_db": 10})
    for dead in (False, True):
        logits = {"old": side(1, False), "new": side(4, dead)}
        wanted = photos if reference else None
        found, alike = agreements_of(logits, wanted, lambda a, b: task.agreement(a, b, samples))  # type: ignore[arg-type]
        for pair in ("new with old", *(["new with PyTorch"] if reference else [])):
            verdict = fidelity_verdict(found[pair], expectation, alike if pair == "new with old" else None)
            assert verdict.outcome is (Outcome.REGRESSED if dead else Outcome.PASS), (pair, verdict)
            assert ("7 along axis 0" in verdict.message) is dead


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (Reason.BELOW_FLOOR, Outcome.PASS),
        (Reason.TOO_FEW_IMAGES, Outcome.PASS),
        (Reason.NOT_FINITE, Outcome.REGRESSED),
        (Reason.WRONG_PRECISION, Outcome.REGRESSED),
    ],
)
def test_a_floor_that_both_sides_miss_with_the_same_answers_is_not_the_upgrades(
    reason: Reason, outcome: Outcome
) -> None:
    """Seen with a classifier of two classes: one photo's INT8 logits at a cosine of 0.72, on either side the same."""
    found = same_as_before(Verdict(Outcome.REGRESSED, reason, "as it is"))
    assert found.outcome is outcome
    assert found.message.endswith("as it is")


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [(np.nan, np.nan, Outcome.INVALID), (0.0, np.nan, Outcome.REGRESSED), (np.inf, np.nan, Outcome.REGRESSED)],
)
def test_what_is_no_number_on_both_sides_alike_is_not_the_upgrades(old: float, new: float, outcome: Outcome) -> None:
    outputs = {"old": [[{"y": np.array([1.0, old])}]], "new": [[{"y": np.array([2.0, new])}]]}
    verdict = Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, "NaN elsewhere than in the reference's")
    found = not_finite_before(verdict) if _not_finite_alike(outputs) else verdict
    assert found.outcome is outcome
    kept = Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, "others")
    assert not_finite_before(kept) is kept


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("task", [TensorsTask(), Classification(output="y")])
@pytest.mark.parametrize(
    ("old", "new", "regressed"),
    [
        ("sound", "sound", False),
        ("sound", "other", True),
        ("sound", "nan", True),
        ("other", "sound", False),
        ("nan", "sound", False),
        ("nan", "other", True),
        ("other", "nan", True),
    ],
)
def test_answers_that_the_new_side_mends_are_no_regression(
    old: str, new: str, regressed: bool, task: Any, trained: bool
) -> None:
    rows = {
        "sound": [{"y": row} for row in PHOTOS],
        "other": [{"y": row} for row in build(1, 3.0)],
        "nan": [{"y": np.full_like(row, np.nan)} for row in PHOTOS],
    }
    names = [str(n) for n in range(len(PHOTOS))]
    samples = SimpleNamespace(clusters=None, doubt="", labels=None, names=names, digest="")
    bench: Any = SimpleNamespace(
        task=task,
        apart=True,
        unsteady="",
        weights=SimpleNamespace(trained=trained or task.name == "tensors"),
        reference_words="PyTorch",
        reference_at=lambda size: rows["sound"],
        reference=None,
        excuse=lambda spec: "not asked here",
    )
    sides: Any = _Sides.__new__(_Sides)
    sides._bench, sides._given = bench, samples
    sides._answered = lambda outputs: samples
    outputs = {"old": [rows[old]], "new": [rows[new]]}
    expectation = Expectation({"agreement": 0.8, "cosine": 0.9, "sqnr_db": 20})
    found, alike = sides._compared(outputs, 1)
    verdicts = sides._answers(outputs, found, alike, {}, expectation, frozenset())
    if bench.weights.trained:
        assert any(each.outcome is Outcome.REGRESSED for each in verdicts) is regressed, verdicts
    else:  # nobody knows which side is right
        assert any(each.outcome is Outcome.REGRESSED for each in verdicts) is (old != new), verdicts


def test_boxes_that_are_no_numbers_on_the_old_side_are_not_the_references() -> None:
    def answered(value: float) -> list[dict[str, np.ndarray]]:
        row = {"boxes": np.array([[0.0, 0, 80, 80]]), "scores": np.full(1, value), "labels": np.zeros(1, np.int64)}
        return [row] * 4

    bench: Any = SimpleNamespace(
        apart=True,
        task=Detection(from_outputs("boxes", "scores", "labels", "xyxy"), 0.3),
        weights=SimpleNamespace(trained=True),
        reference_words="ONNX Runtime FP32",
        reference_at=lambda size: answered(0.9),
    )
    sides: Any = _Sides.__new__(_Sides)
    sides._bench = bench
    sides._answered = lambda outputs: SimpleNamespace(names=list("abcd"), doubt="")
    found, _ = sides._compared({"old": [answered(np.nan)], "new": [answered(np.nan)]}, 1)
    assert all(each.spoilt == ("scores",) for each in found.values())


# For real.


@pytest.fixture
def arguments(lite0: Workbench, tmp_path: Path) -> list[str]:
    expectations = tmp_path / "expectations.toml"
    # A delta that no noise reaches: this machine's load must not decide a unit test.
    wide = "delta = 0.9\ntypical = 0.9\ntail = 9\ncold_start = 9\nhost_memory = 0.9\n"
    expectations.write_text(f"[default]\n{wide}agreement = 0.8\ncosine = 0.5\n")
    return [
        *("ab", "--model", "efficientnet_lite0", "--engine", "onnxruntime-int8", "--plan-cache"),
        *(str(lite0.settings.plan_cache), "--expectations", str(expectations), "--old", str(PYTHON)),
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
def test_this_environment_against_itself(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 3)
    # The driver of a race needs no runtime of its own: both sides have theirs.
    monkeypatch.setattr("trtgate.workbench.available", lambda spec, device: Availability(False, "not here"))
    out, markdown = tmp_path / "ab.json", tmp_path / "ab.md"
    more = ["--new", str(PYTHON), "--rounds", "8", "--rebuilds", "2", "--json", str(out), "--markdown", str(markdown)]
    assert main([*arguments, *more]) == 0
    text = capsys.readouterr().out
    assert "old -> new: the same versions of everything" in text
    assert "answers, new with old: top-1 240/240, worst cosine 1.0000, the same to the last bit" in text
    assert all(len(line) <= 100 for line in text.splitlines()[-3:])
    report = json.loads(out.read_text())
    [engine] = report["engines"]
    assert engine["decision"]["verdict"] in {Outcome.PASS.value, Outcome.IMPROVED.value}
    assert len(engine["old"]["processes"]) == len(engine["new"]["processes"]) == 3
    assert set(engine["rounds"]) == {f"{side} {number}" for side in ("old", "new") for number in (1, 2, 3)}
    assert engine["end_to_end_rounds"] == {}
    assert 0 <= engine["readings"]["idle_share"] < 1
    assert sum("over 2 builds" in note for note in engine["notes"]) == 2
    assert {"new with old", "old with old", "new with new"} <= set(engine["agreement"])
    assert "answers changed by no more than building the old version anew changes them" in engine["notes"]
    assert {len(rounds) for rounds in engine["rounds"].values()} <= {8, 16}
    assert np.isfinite(engine["metrics"]["latency"]["old"])
    assert {"typical", "tail", "host_memory", "cold_start", "plan_bytes"} <= set(engine["metrics"])
    assert engine["old"]["layers"] == {"int8": 50}
    assert report["stacks"]["new"]["onnxruntime"]
    assert "| efficientnet_lite0 | onnxruntime-int8 | 1 |" in markdown.read_text()


def python_with(folder: Path, module: str, text: str) -> Path:
    """A python of this environment that finds a module of that text before all others."""
    (folder / f"{module}.py").write_text(text)
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{folder}:$PYTHONPATH" exec {PYTHON} "$@"\n')
    script.chmod(0o755)
    return script


def broken(folder: Path, text: str) -> Path:
    """A python of this environment whose ONNX Runtime is that text."""
    folder.mkdir()
    return python_with(folder, "onnxruntime", text)


@pytest.mark.parametrize(("sides", "status"), [(("old", "new"), 1), (("new", "old"), 2)])
@pytest.mark.fault(
    done="`ab` with a runtime that cannot be imported on one side: the new one (1), the old one (2)",
    said="version GLIBC_2.99 not found",
    status="1 or 2",
    kept="the table",
)
def test_an_engine_that_the_upgrade_broke(
    sides: tuple[str, str],
    status: int,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
) -> None:
    text = "raise ImportError('libonnxruntime.so.1: version GLIBC_2.99 not found')\n"
    pythons = {sides[0]: PYTHON, sides[1]: broken(tmp_path / "runtime", text)}
    found = main([*arguments[:-2], *(f"--{side}={path}" for side, path in pythons.items())])
    assert found == status
    captured = capsys.readouterr()
    fault.check(found, captured.out + captured.err)
    assert "PASS" not in captured.out


FLIPS = """
import sys
if "trtgate.measure.worker" in sys.orig_argv:
    import numpy as np
    import onnxruntime
    run = onnxruntime.InferenceSession.run
    def flipped(self, names, given, *more):
        found = run(self, names, given, *more)
        [photo] = given.values()
        # Of one photo in eight, by what is on it, the best two classes change places.
        if int(float(photo.mean()) * 1e4) % 8 == 0:
            best = np.argsort(found[0][0])[-2:]
            found[0][0][best] = found[0][0][best[::-1]]
        return found
    onnxruntime.InferenceSession.run = flipped
"""


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
@pytest.mark.fault(
    done="`ab` with a runtime that answers another class to one photo in eight on the new side (INT8)",
    said="answers: REGRESSED (answers_lost), answers against the baseline's: ",
    status="1",
    kept="the table",
)
def test_answers_that_the_upgrade_lost(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 2)
    script = python_with(tmp_path, "sitecustomize", FLIPS)
    fault.check(main([*arguments, "--new", str(script), "--rounds", "2"]), capsys.readouterr().out)


SHORT = """
import sys
if "trtgate.measure.worker" in sys.orig_argv:
    import onnxruntime
    run = onnxruntime.InferenceSession.run
    onnxruntime.InferenceSession.run = lambda *given: [each[..., :-1] for each in run(*given)]
"""


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
@pytest.mark.fault(
    done="`ab` with a runtime whose answers have a class less on the new side",
    said="the new side's onnxruntime-int8 answers logits of shape [999] where the old side has [1000]",
    status="1",
    kept="the table",
)
def test_answers_of_another_size(
    arguments: list[str], few_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    script = python_with(tmp_path, "sitecustomize", SHORT)
    more = ["--new", str(script), "--rounds", "2", "--processes", "3", "--images", str(few_photos)]
    fault.check(main([*arguments, *more]), capsys.readouterr().out)


@pytest.mark.fault(
    done="`ab` of two environments that both find one runtime first: PYTHONPATH, `pip install --user`, this folder",
    said="--old and --new both load onnxruntime from ...; install it in each environment, unset PYTHONPATH, set "
    "PYTHONNOUSERSITE=1 and leave folders that hold a runtime, or name other engines with --engine",
    status="2",
    kept="nothing was begun",
)
def test_a_runtime_that_both_sides_would_load(
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    for side in ("old", "new"):
        venv.create(tmp_path / side)
    monkeypatch.setenv("PYTHONPATH", sysconfig.get_path("purelib"))
    sides = [f"--{side}={tmp_path / side / 'bin' / 'python'}" for side in ("old", "new")]
    fault.check(main([*arguments[:-2], *sides]), capsys.readouterr().err)


@pytest.mark.parametrize(("old", "new"), [("/usr 3.10", "/usr 3.12"), ("/a 3.12", "/b 3.12")])
def test_pythons_of_two_versions_are_two_environments_also_with_one_prefix(old: str, new: str) -> None:
    engines = {"onnxruntime-int8": {"places": {"onnxruntime": "/shared/onnxruntime"}}}
    sides = {side: {"environment": name, "engines": engines} for side, name in (("old", old), ("new", new))}
    with pytest.raises(UserError, match="both load onnxruntime from /shared/onnxruntime"):
        require_apart(sides)
    require_apart({**sides, "new": sides["old"]})


@pytest.mark.fault(
    done="`ab --streams 2`",
    said="--streams 2: ab races one inference at a time; leave it out, and have pytest bench/ measure the throughput",
    status="2",
    kept="nothing was begun",
)
def test_throughput_is_not_raced(arguments: list[str], capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    fault.check(main([*arguments, "--new", str(PYTHON), "--streams", "2"]), capsys.readouterr().err)


KILLED = """
import sys
if "trtgate.measure.worker" in sys.orig_argv:
    import os, signal
    from pathlib import Path
    import onnxruntime
    run, before, calls = onnxruntime.InferenceSession.run, Path({before!r}), []
    def killed(self, *given):
        calls.append(1)
        if len(calls) > 3 and not before.exists():
            before.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return run(self, *given)
    onnxruntime.InferenceSession.run = killed
"""


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
@pytest.mark.fault(
    done="a process of the new side of `ab` killed once (SIGKILL), which shows in two rounds no more than any",
    said="it ended with SIGKILL (out of memory?) ... efficientnet_lite0: racing onnxruntime-int8 once more",
    status="6",
    kept="every engine, this one too",
)
def test_a_process_that_is_killed_once(
    arguments: list[str], few_photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    script = python_with(tmp_path, "sitecustomize", KILLED.format(before=str(tmp_path / "killed")))
    more = ["--new", str(script), "--rounds", "2", "--processes", "3", "--images", str(few_photos)]
    fault.check(main([*arguments, *more]), capsys.readouterr().err)


@pytest.mark.parametrize("count", ["1", "2"])
def test_too_few_processes_for_a_bound_are_not_begun(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes of one stack may differ by more than delta."""
    with pytest.raises(SystemExit):
        main(["ab", "--old=old", "--new=new", "--processes", count])
    assert f"argument --processes: {count} a side give no bound; give 3 at least" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--processes", "--rebuilds"])
@pytest.mark.fault(
    done="`ab` with a thousand processes a side",
    said="--... 1000: all processes of a side are there at once, and more than 100 tell no more; give fewer",
    status="2",
    kept="nothing was begun",
)
def test_more_processes_than_a_machine_has_room_for_are_not_begun(
    option: str, arguments: list[str], capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    fault.check(main([*arguments, "--new", str(PYTHON), option, "1000"]), capsys.readouterr().err)


BISECT = ("bisect", "--package", "onnxruntime", "--good", "1.0", "--bad", "2.0", "--model", "resnet50")


@pytest.mark.fault(
    done="`ab --reuse-timing-cache`",
    said="--reuse-timing-cache: ab builds each side from scratch, since builders choose kernels anew; leave it out",
    status="2",
    kept="nothing was begun",
)
def test_kernels_timed_before_are_not_raced(
    arguments: list[str], capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    fault.check(main([*arguments, "--new", str(PYTHON), "--reuse-timing-cache"]), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--streams", "2"], "--streams 2: bisect races one inference at a time"),
        (["--reuse-timing-cache"], "--reuse-timing-cache: bisect builds each side from scratch"),
    ],
)
def test_a_search_refuses_what_its_races_do(option: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BISECT, "--engine", "tensorrt-fp16", *option]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "acknowledged"), [([], []), (["onnxruntime-int8"], []), (["onnxruntime-int8"], ["*"])]
)
def test_an_engine_whose_graph_cannot_be_made_leaves_the_others(
    asked: list[str], acknowledged: list[str], lite0: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no pass where it was asked for."""
    both = (EngineSpec.parse("onnxruntime-int8"), EngineSpec.parse("onnxruntime-fp32"))
    chosen = Chosen({"old": {}, "new": {}}, both, {}, {}, {})
    monkeypatch.setattr(ab_run, "workers", lambda *_: contextlib.nullcontext({"old": [], "new": []}))
    monkeypatch.setattr(ab_run, "choose_engines", lambda *_: chosen)
    raced = []

    def race(self: Any, spec: EngineSpec, builds: int, sizes: Any) -> list[Any]:
        if spec.precision == "int8":
            raise EngineUnavailable("onnxruntime cannot be built: nothing to quantise")
        raced.append(spec.id)
        return []

    monkeypatch.setattr(_Sides, "race", race)
    expectations = replace(lite0.settings.expectations, table={"acknowledged_missing": acknowledged})
    settings = replace(lite0.settings, models=("efficientnet_lite0",), expectations=expectations)
    report = run_ab({"old": PYTHON, "new": PYTHON}, settings, asked, rounds=None, rebuilds=None, progress=SILENT)
    assert raced == ["onnxruntime-fp32"]
    told = report.report.problems.get("efficientnet_lite0 onnxruntime-int8")
    assert (told is not None) is (bool(asked) and not acknowledged)
    assert told is None or told.outcome is Outcome.INVALID
    assert report.left_out == {
        "efficientnet_lite0 onnxruntime-int8": "onnxruntime cannot be built: nothing to quantise"
    }


def gone(side: str) -> WorkerGone:
    return WorkerGone(side, f"the {side} worker (python): it ended with SIGKILL (out of memory?)")


@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        ([gone("new")], 0, ""),
        ([gone("old")], 0, ""),
        ([gone("old"), gone("new")], 0, ""),
        ([gone("new"), gone("old"), gone("new")], 1, "a second time: the new worker (python): it ended with SIGKILL"),
        ([gone("old"), gone("old")], 7, "a second time: the old worker (python): it ended with SIGKILL"),
        ([LostEngine("the new worker: failed in open: no kernel")], 1, "failed in open: no kernel"),
        ([OldSideFails("the old worker: failed in open: no kernel")], 7, "the old worker: failed in open: no kernel"),
        ([RequestFailed("the new worker: failed in facts: no inspector\n  | at")], 7, "failed in facts: no inspector"),
        ([OSError(28, "No space left on device")], 7, "No space left on device"),
        ([EngineBroken("its graph crashed its own process (SIGABRT)")], 7, "its graph crashed its own process"),
    ],
)
def test_a_worker_that_is_gone_once_is_not_the_upgrades(
    ends: list[Exception], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been killed for the machine's lack of memory. And what becomes of one engine leaves the others."""
    report = raced_with(ends, monkeypatch)
    told = report.report.verdicts()
    assert [each.comparison.key[1] for each in report.results] == ["onnxruntime-int8", "onnxruntime-fp32"][status > 0 :]
    assert exit_status(each.outcome for each in told) == status
    why = next((each.message for each in told if each.outcome is not Outcome.PASS), "")
    assert said in why
    assert "\n" not in why


def test_a_disk_that_the_old_side_filled_is_not_the_new_ones_loss() -> None:
    sides: Any = _Sides.__new__(_Sides)
    with pytest.raises(RequestFailed), sides._losing("new"):
        raise RequestFailed("the new worker: failed in infer: OSError: [Errno 28] No space left on device")


@pytest.mark.parametrize(("fails", "lost"), [("new", LostEngine), ("old", OldSideFails)])
def test_an_engine_that_cannot_be_made_ready_for_its_race_is_lost_by_its_side(fails: str, lost: type) -> None:
    """Where a graph is captured, or memory for a batch taken."""

    def worker(side: str) -> Any:
        def ask(do: str, **_: Any) -> None:
            if side == fails:
                raise RequestFailed(f"the {side} worker: failed in {do}: capture is not permitted")

        return SimpleNamespace(ask=ask, pid=os.getpid())

    sides: Any = _Sides.__new__(_Sides)
    sides._bench = SimpleNamespace(name="net", settings=Settings())
    sides._workers = {side: [worker(side)] for side in ("old", "new")}
    sides._progress, sides._samples = SILENT, Path("samples")
    with pytest.raises(lost, match="failed in bind"):
        sides._run_race(parse_spec("onnxruntime-int8"), 1, Expectation())


@pytest.mark.parametrize(
    ("reason", "said"),
    [(Reason.TOO_FEW_ROUNDS, "race more rounds"), (Reason.INTERVAL_TOO_WIDE, "race more processes")],
)
def test_what_was_too_few_is_raced_more_of(reason: Reason, said: str) -> None:
    verdict = Verdict(Outcome.INCONCLUSIVE, reason, "too few")
    report = Report((Comparison(("small", "onnxruntime-fp32", 1), (Change("latency", 1.0, 1.0, verdict),)),))
    assert said in (comparison_headline(report, raced=True).next or "")


def test_an_old_side_that_fails_alone_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OldSideFails):
        raced_with([OldSideFails("the old worker: failed in open: no kernel")], monkeypatch, ("onnxruntime-int8",))


def raced_with(
    ends: Sequence[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    engines: tuple[str, ...] = ("onnxruntime-int8", "onnxruntime-fp32"),
    sizes: tuple[int, ...] = (1,),
    keep: Callable[[AbReport], object] = lambda report: None,
    models: tuple[str, ...] = ("efficientnet_lite0",),
    chosen: Chosen | None = None,
    acknowledged: Sequence[str] = (),
) -> AbReport:
    """An A/B run in which races of INT8 at the last batch size end so, one after the other, and all others pass."""
    left, passed = iter(ends), Verdict(Outcome.PASS, Reason.WITHIN_DELTA, "as fast")
    side = SideFacts((), None, None, 0, {})

    class Racing:
        def __init__(self, bench: Workbench, *_: object) -> None:
            self.model = bench.name

        def race(self, spec: EngineSpec, builds: int, asked: Sequence[int]) -> Iterator[AbResult]:
            for size in asked:
                if spec.precision == "int8" and size == sizes[-1] and (error := next(left, None)):
                    raise error
                comparison = Comparison((self.model, spec.id, size), (Change("latency", 1.0, 1.0, passed),))
                yield AbResult(comparison, side, side, {}, ())

    chosen = chosen or Chosen({"old": {}, "new": {}}, tuple(map(parse_spec, engines)), {}, {}, {})
    monkeypatch.setattr(ab_run, "_Sides", Racing)
    monkeypatch.setattr(ab_run, "workers", lambda *_: contextlib.nullcontext({"old": [], "new": []}))
    monkeypatch.setattr(ab_run, "choose_engines", lambda *_: chosen)
    monkeypatch.setattr(Workbench, "samples", lambda *_: [])
    monkeypatch.setattr(Workbench, "buildable", lambda *_: Availability(True, ""))
    settings = Settings(models=models, batch_sizes=sizes)
    table = {**settings.expectations.table, "acknowledged_missing": list(acknowledged)}
    settings = replace(settings, expectations=replace(settings.expectations, table=table))
    sides = {"old": PYTHON, "new": PYTHON}
    return run_ab(sides, settings, [], rounds=None, rebuilds=None, progress=SILENT, keep=keep)


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ([gone("new")], 0),
        ([LostEngine("the new worker: failed in infer: out of memory")], 1),
        ([gone("new"), gone("new")], 1),
        ([OldSideFails("the old worker: failed in infer: out of memory")], 7),
    ],
)
def test_what_fails_at_one_batch_size_takes_no_other_one_with_it(
    ends: list[Exception], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = raced_with(ends, monkeypatch, ("onnxruntime-int8",), (1, 32))
    sizes = {each.comparison.key[2] for each in report.results}
    assert sizes == ({1, 32} if not status else {1})
    assert exit_status(each.outcome for each in report.report.verdicts()) == status
    assert [key[2] for key in report.missing] == ([32] if status == 1 else [])


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Terminated(signal.SIGTERM), ValueError("a mistake of ours")])
def test_what_cuts_a_run_off_leaves_what_was_decided(end: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[AbReport] = []
    engines = ("onnxruntime-fp32", "onnxruntime-int8", "openvino-int8")
    with pytest.raises(type(end)):
        raced_with([end], monkeypatch, engines, (1, 32), told.append)
    report = told[-1]
    assert list(dict.fromkeys(len(each.results) for each in told)) == [1, 2, 3]
    assert [each.comparison.key[1:] for each in report.results] == [
        ("onnxruntime-fp32", 1),
        ("onnxruntime-fp32", 32),
        ("onnxruntime-int8", 1),
    ]
    [why] = report.report.problems.values()
    assert why.outcome is Outcome.INVALID
    assert "onnxruntime-int8 batch 32, efficientnet_lite0 openvino-int8 batch 1, " in why.message


def test_a_model_of_which_no_engine_is_raced_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another one's are."""
    refused = [EngineUnavailable("heads has 3.0 GB of weights, and graphs of more than 2 GB are not supported")] * 2
    report = raced_with(refused, monkeypatch, ("onnxruntime-int8",), models=("heads", "efficientnet_lite0", "resnet50"))
    assert [each.comparison.key[0] for each in report.results] == ["resnet50"]
    assert exit_status(each.outcome for each in report.report.verdicts()) == 7
    assert set(report.report.problems) == {"heads", "efficientnet_lite0"}
    assert "not one of its engines was raced: heads has 3.0 GB" in report.report.problems["heads"].message


def test_nothing_is_told_of_a_run_that_was_cut_off_before_anything_was_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[AbReport] = []
    with pytest.raises(KeyboardInterrupt):
        raced_with([KeyboardInterrupt()], monkeypatch, keep=told.append)
    assert not told


@pytest.mark.parametrize(
    ("asked", "raced"),
    [
        ([], ["onnxruntime-fp32", "onnxruntime-int8", "openvino-bf16", "openvino-int8"]),
        (["openvino-fp32"], ["openvino-fp32"]),
        (["openvino-int8", "onnxruntime-fp32"], ["openvino-int8", "onnxruntime-fp32"]),
    ],
)
def test_the_engines_that_are_asked_for_are_raced_and_no_reference_beside_them(
    asked: list[str], raced: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of an ONNX file is ONNX Runtime, which an environment for another runtime need not have."""
    path = networks.save(networks.heads(batch=1, height=16, width=16), tmp_path / "heads.onnx")
    found: list[Settings] = []

    def run_ab(sides: object, settings: Settings, *_: object, **__: object) -> None:
        found.append(settings)
        raise UserError("enough")

    monkeypatch.setattr("trtgate.commands.ab.run_ab", run_ab)
    sides = [f"--old={PYTHON}", f"--new={PYTHON}", "--device=cpu", f"--plan-cache={tmp_path / 'plans'}"]
    assert main(["ab", *sides, f"--model={path}", *(f"--engine={each}" for each in asked)]) == 2
    assert [spec.id for spec in found[0].engines] == raced


@pytest.mark.parametrize("asked", [False, True])
def test_a_batch_size_that_the_reference_cannot_run_is_no_pass_where_it_was_asked_for(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = networks.save(networks.heads(batch=1, height=16, width=16), tmp_path / "heads.onnx")
    [(name, model)] = read_models([str(path)], []).items()
    assert model.file is not None
    file = replace(model.file, unbatched="CUDNN_STATUS_EXECUTION_FAILED")
    settings = Settings(
        models=(name,), files={name: replace(model, file=file)}, batch_sizes=(1, 8), sizes_asked=asked, engines=()
    )
    monkeypatch.setattr(ab_run, "workers", lambda *_: contextlib.nullcontext({"old": [], "new": []}))
    monkeypatch.setattr(ab_run, "choose_engines", lambda *_: Chosen({"old": {}, "new": {}}, (), {}, {}, {}))
    report = run_ab({"old": PYTHON, "new": PYTHON}, settings, [], rounds=None, rebuilds=None, progress=SILENT)
    assert f"{name} at batch 8" in report.left_out
    told = report.report.problems.get(name)
    assert (told is not None and told.outcome is Outcome.INVALID) is asked


@pytest.mark.slow
@pytest.mark.fault(
    done="`ab` with a runtime that imports on the new side and fails when it is used",
    said="MISSING: efficientnet_lite0 onnxruntime-int8 batch 1: the new worker",
    status="1",
    kept="the table",
)
def test_an_engine_that_loads_no_more(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    """It imports, says that it is there, and fails when it is used."""
    text = "__version__ = '9.9'\ndef get_available_providers():\n    return ['CPUExecutionProvider']\n"
    fault.check(main([*arguments, "--new", str(broken(tmp_path / "runtime", text))]), capsys.readouterr().out)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_behind(arguments: list[str]) -> None:
    few = (
        "import sys; from trtgate.__main__ import main; from trtgate.ab.run import PROCESSES; "
        "PROCESSES['cpu'] = 2; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", few, *arguments, "--new", str(PYTHON), "--rounds", "500"]
    driver = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs these tests in the background has this signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # nothing else runs here
    )

    def children() -> list[psutil.Process]:
        """The workers; who tried the runtimes' imports is over, and waits to be asked what came of it."""
        found = psutil.Process(driver.pid).children()
        return [child for child in found if child.status() != psutil.STATUS_ZOMBIE]

    def racing() -> bool:
        return len(children()) == 4 and all(child.cpu_times().user > 1.0 for child in children())

    wait_until(racing, 90)
    workers = [child.pid for child in children()]
    driver.send_signal(signal.SIGINT)
    _, error = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert error.rstrip().endswith("trtgate: interrupted")
    for pid in workers:
        wait_until(lambda pid=pid: not alive(pid))  # type: ignore[misc]


@pytest.mark.parametrize("processes", [3, 6])
def test_a_plan_that_several_processes_load_is_one_build(processes: int) -> None:
    """The old builder was unlucky once of three times, which excuses no new one that always is."""
    spec = EngineSpec.parse("tensorrt-fp16")
    sides = _Sides.__new__(_Sides)
    sides._bench = SimpleNamespace(name="net", weights=SimpleNamespace(source="file"), reference=spec)  # type: ignore[assignment]
    blocks = {f"{side} {index + 1}": (np.full(10, 1e-3),) * 8 for side in ("old", "new") for index in range(processes)}
    race, key = Race(blocks, dict.fromkeys(blocks, True)), ("net", spec.id, 1)
    records = {}
    for side, sizes in (("old", (25e6, 25e6, 60e6)), ("new", (60e6,) * 3)):
        opened = [{"fresh": {}, "plan": {"bytes": sizes[index % 3]}} for index in range(processes)]
        records[side] = {key: sides._records(race, side, spec, 1, 3, opened)}
    report = compare_records(records["old"], records["new"], read_expectations(), "interleaved", {})
    [verdict] = [each for each in report.engines[0].verdicts if each.metric == "plan_bytes"]
    assert verdict.outcome is Outcome.INCONCLUSIVE
