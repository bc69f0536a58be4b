"""Signals end it in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trtgate.child import run_in_child
from trtgate.files import scratch_folder
from trtgate.measure.remote import fresh_worker
from trtgate.processes import Terminated, orderly_endings, run_command, signals_wait

from .table import ROOT, Fault

COMMAND = """
import sys
from pathlib import Path
from tests import child_work
from trtgate import __main__ as command
from trtgate.child import run_in_child
def work(options):
    run_in_child("compiling", child_work.compile_for_long, Path(sys.argv[1]))
class Work:
    add = staticmethod(lambda commands: commands.add_parser("work").set_defaults(run=work))
command.COMMANDS, command.command_of = ("work",), lambda name: Work
sys.exit(command.main(["work"]))
"""
CHILD = """
import sys
from pathlib import Path
from tests import child_work
from trtgate.child import run_in_child
run_in_child("compiling", child_work.compile_for_long, Path(sys.argv[1]))
"""
SUITE = """
from pathlib import Path
from tests import child_work
from trtgate.child import run_in_child
def test_build():
    run_in_child("compiling", child_work.compile_for_long, Path(%r))
"""


def end(command: list[str], number: int, started: Path, temporary: Path, **more: object) -> tuple[int, str]:
    """Send a command that signal once its child has started; its return code and all that it said."""
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more
    )
    until = time.monotonic() + 60
    while not started.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    return process.returncode, output


def left(folder: Path) -> list[Path]:
    """What is left in a temporary directory, besides the file that ONNX Runtime counts its sessions in."""
    return [path for path in folder.iterdir() if path.name != ".ses"]


def gone(pid: int) -> bool:
    """Whether a process is gone, or about to be."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(
            signal.SIGTERM,
            marks=pytest.mark.fault(
                done="a command ended by SIGTERM while a child of it compiles",
                said="trtgate: ended by SIGTERM",
                status="143",
                kept="finished plans; no process and nothing in the temporary directory",
            ),
        ),
        pytest.param(
            signal.SIGHUP,
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="the terminal of a command closed (SIGHUP)",
                    said="trtgate: ended by SIGHUP",
                    status="129",
                    kept="finished plans; no process and nothing in the temporary directory",
                ),
            ],
        ),
    ],
)
def test_a_command_ends_in_order(number: int, fault: Fault, tmp_path: Path) -> None:
    started = tmp_path / "started"
    status, output = end([sys.executable, "-c", COMMAND, str(started)], number, started, tmp_path / "tmp", cwd=ROOT)
    fault.check(status, output)
    assert all(gone(int(pid)) for pid in started.read_text().split())
    assert not left(tmp_path / "tmp")


@pytest.mark.fault(
    done="pytest ended by SIGTERM or SIGHUP while a child of it compiles",
    said="trtgate.processes.Terminated: SIG",
    status="2",
    kept="finished plans; no process and nothing in the temporary directory",
)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_pytest_ends_in_order(number: int, fault: Fault, tmp_path: Path) -> None:
    started = tmp_path / "started"
    (tmp_path / "test_it.py").write_text(SUITE % str(started))
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", "-p", "trtgate.plugin", "-p", "no:cacheprovider", "--basetemp=base"]
    status, output = end(command, number, started, tmp_path / "tmp", cwd=tmp_path)
    fault.check(status, output.replace("Traceback", ""))  # pytest shows where it was
    assert all(gone(int(pid)) for pid in started.read_text().split())
    assert not left(tmp_path / "tmp")


@pytest.mark.fault(
    done="a process killed (SIGKILL) while a child of it compiles",
    said="",
    status="-9",
    kept="finished plans; no process of ours",
)
def test_a_child_ends_with_its_parent(fault: Fault, tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = [sys.executable, "-c", CHILD, str(started)]
    fault.check(*end(command, signal.SIGKILL, started, tmp_path / "tmp", cwd=ROOT))
    child, compiler = map(int, started.read_text().split())
    assert gone(child)
    os.kill(compiler, signal.SIGKILL)  # it would have ended by itself


def test_a_command_that_runs_another_hands_the_signal_on(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    script = (
        "import os, signal, sys, time\n"
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(open({str(ended)!r}, 'w').close()))\n"
        "os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)"
    )
    with orderly_endings(), pytest.raises(Terminated):
        run_command([sys.executable, "-c", script], dict(os.environ))
    assert ended.exists()


def test_a_signal_that_comes_while_a_process_starts_waits_until_it_did() -> None:
    """As where a machine is busy: the process that starts is there, and the call that starts it has not returned."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the suite's own run hears only the first of two
    plain = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    done = []

    def start(*, early: bool) -> None:
        with signals_wait() as let_through:
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("started")
            if early:
                let_through()
                done.append("told too late")

    try:
        for early in (True, False):
            with orderly_endings(), pytest.raises(Terminated):
                start(early=early)
        assert done == ["started", "started"]
        assert {each: signal.getsignal(each) for each in plain} == plain
    finally:
        signal.signal(signal.SIGTERM, before)


def test_what_is_to_be_ignored_still_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with orderly_endings():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


SCRATCH = """
import sys
from pathlib import Path
from trtgate.files import scratch_folder
with scratch_folder() as folder:
    (folder / "model.pt").touch()
    Path(sys.argv[1]).touch()
    sys.stdin.read()
"""


@pytest.mark.fault(
    done="a process killed (SIGKILL) that has a model in the temporary directory",
    said="",
    status="-9",
    kept="that folder, until the next process needs one; none of a process that lives",
)
def test_what_a_killed_process_leaves_goes_with_the_next_one(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    started = tmp_path / "started"
    command = [sys.executable, "-c", SCRATCH, str(started)]
    fault.check(*end(command, signal.SIGKILL, started, tmp_path / "tmp", cwd=ROOT, stdin=subprocess.PIPE))
    [abandoned] = left(tmp_path / "tmp")
    assert (abandoned / "model.pt").exists()
    with scratch_folder() as one:
        assert left(tmp_path / "tmp") == [one]
        with scratch_folder() as another:
            assert set(left(tmp_path / "tmp")) == {one, another}
    assert not left(tmp_path / "tmp")


def test_nothing_is_left_of_a_worker_that_left_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor's kernels, for one; a fresh process that has measured is killed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    worker = fresh_worker(["tests.worker_work"])
    try:
        worker.greet()
        assert list(tmp_path.rglob("*.o"))
    finally:
        worker.close(wait=False)
    assert not left(tmp_path)


def test_nothing_is_left_of_a_child_that_left_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import child_work

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_in_child("compiling", child_work.leave_files)
    assert not list(tmp_path.iterdir())
