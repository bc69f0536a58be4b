"""`python -m trtgate bisect`: an index, environments, searches, and what becomes of a mistake."""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from packaging.version import Version

from trtgate.__main__ import main
from trtgate.ab.results import AbReport
from trtgate.ab.run import PROCESSES
from trtgate.commands import bisect
from trtgate.compare import compare_records
from trtgate.engines import parse_spec
from trtgate.files import locked
from trtgate.kinds import UserError
from trtgate.layers import LayerChange
from trtgate.measure.remote import WorkerError
from trtgate.progress import SILENT, Progress
from trtgate.records import EngineRecord
from trtgate.report import html, markdown, terminal
from trtgate.report.bisections import bisection_page
from trtgate.search import environments
from trtgate.search.environments import Environments, NotInstallable
from trtgate.search.journal import Journal, journal_of
from trtgate.search.laboratory import Effort, Installed, effort, read_report
from trtgate.search.question import ANSWERS, BUILD, Bisection, Question, Raced, Tried, search
from trtgate.search.releases import Release, find_releases
from trtgate.settings import Settings
from trtgate.stack import stack
from trtgate.verdict.bisection import Kind, Relation, State
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.workbench import Workbench

from . import scenes
from .faults.table import Fault
from .standin_index import EARLY, PACKAGE, UNRESOLVABLE, VERSIONS, make_index, planted

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(sys.executable)
LISTED = environments.WORKER
GOOD, BAD = Version(VERSIONS[0]), Version(VERSIONS[-1])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_index(tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Environments that the tests of this file share."""
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No index but the stand-in, and no requirement but it: the Python that runs the tests has the rest."""
    for name in ("PIP_FIND_LINKS", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setattr(environments, "WORKER", ())
    monkeypatch.setattr("shutil.which", lambda name: None)  # no uv, whether this machine has one or not


# The index.


def test_releases_are_those_of_pip_that_this_python_can_install(index: str) -> None:
    found = find_releases(PYTHON, PACKAGE, GOOD, BAD, ["--index-url", index])
    wanted = {*VERSIONS, UNRESOLVABLE}
    assert [str(each) for each in found] == sorted(wanted, key=Version), (
        "no pre-release, and no wheel of another Python"
    )
    assert {each.date for each in found} == {""}
    some = find_releases(PYTHON, PACKAGE, Version(EARLY), Version("1.5"), ["--index-url", index])
    assert [str(each) for each in some] == [EARLY, "1.4", "1.5"], "a pre-release that was asked for"


@pytest.fixture
def server() -> Iterator[str]:
    """An index that tells when its files were uploaded."""
    days = {"1.0": "2025-03-01T10:00:00Z", "1.1": "2025-06-02T10:00:00Z", "1.1.1": "soon"}
    names = {f"{PACKAGE}-{version}-py3-none-any.whl": day for version, day in days.items()}
    files = [{"filename": name, "url": name, "hashes": {}, "upload-time": day} for name, day in names.items()]
    body = json.dumps({"meta": {"api-version": "1.1"}, "name": PACKAGE, "files": files}).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/vnd.pypi.simple.v1+json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}/simple"
        serving.shutdown()


def test_an_index_that_tells_dates_is_asked_for_them(server: str) -> None:
    found = find_releases(PYTHON, PACKAGE, Version("1.0"), Version("1.1.1"), ["--index-url", server])
    assert [each.date for each in found] == ["2025-03-01", "2025-06-02", ""]


@pytest.mark.parametrize("page", ["http://user:****@localhost/simple/standin/", "truncated", "deep"])
def test_a_page_that_tells_no_dates_tells_nothing(page: str, tmp_path: Path) -> None:
    """As pip names it where the address holds a password; one that breaks off; one that is nested too deep."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"[" * 100_000
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + (page == "truncated")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            return

    python = tmp_path / "python"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        address = page if page.startswith("http") else f"http://127.0.0.1:{serving.server_port}/"
        python.write_text(f"#!/bin/sh\necho 'analyzing links: {address}'\necho 'Available versions: 1.1, 1.0'\n")
        python.chmod(0o755)
        found = find_releases(python, PACKAGE, Version("1.0"), Version("1.1"))
        serving.shutdown()
    assert [(str(each), each.date) for each in found] == [("1.0", ""), ("1.1", "")]


def test_what_an_old_pip_says_beside_versions_is_left_out(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nprintf 'caf\\351\\n'\necho 'Available versions: 1.1, 1.0, 2004d'\n")
    python.chmod(0o755)
    assert list(map(str, find_releases(python, PACKAGE, Version("1.0"), Version("1.1")))) == ["1.0", "1.1"]


# Environments.


def test_a_worker_gets_what_requirements_worker_lists() -> None:
    lines = (ROOT / "requirements-worker.txt").read_text().splitlines()
    assert tuple(filter(None, (line.partition("#")[0].strip() for line in lines))) == LISTED


def made(kept: Path, index: str, progress: Progress = SILENT) -> Environments:
    return Environments(kept, PYTHON, PACKAGE, ("--index-url", index), None, progress)


def test_an_environment_is_made_once(kept: Path, index: str) -> None:
    said: list[str] = []
    some = made(kept, index, Progress(said.append))
    python = some.get("1.0")
    assert python.exists()
    assert some.get("1.0") == python
    assert len(said) <= 1, "the second time there is nothing to do"
    assert some.sides(["1.0", "9.9"]) == {"1.0": str(python)}
    # What was left half is made anew.
    (python.parent.parent / environments.READY).unlink()
    python.unlink()
    assert some.get("1.0").exists()
    # So is one of which something went.
    python.unlink()
    assert some.sides(["1.0"]) == {}
    assert some.get("1.0").exists()


def test_a_version_is_not_the_build_of_it_that_an_index_has_beside_it(tmp_path: Path) -> None:
    index = make_index(tmp_path / "index", "1.0+cpu")
    home = made(tmp_path / "kept", index).get("1.0").parent.parent
    assert [each.name for each in home.rglob(f"{PACKAGE}-*.dist-info")] == [f"{PACKAGE}-1.0.dist-info"]


def test_a_folder_that_is_a_link_to_itself_is_a_mistake(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(UserError, match="--environments .*link cannot be used"):
        made(link, "nowhere").get("1.0")


def test_what_installs_ends_with_a_search_that_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip does, the stand-in works in a process of its own; and it does before the call that starts it returns, as
    on a busy machine."""
    python, inner, signalled = tmp_path / "python", tmp_path / "inner", tmp_path / "signalled"
    python.write_text(
        f'#!/bin/sh\n[ "$1" = -VV ] && exit\nsleep 100 &\necho $! > {inner}\nkill -INT $PPID\n> {signalled}\nwait\n'
    )
    python.chmod(0o755)

    class Late(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            while not signalled.exists():
                time.sleep(0.01)

    some = replace(made(tmp_path / "kept", "nowhere"), python=python)
    assert some.made_of  # the version of the Python was asked
    monkeypatch.setattr("trtgate.search.environments.subprocess.Popen", Late)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            some.get("1.0")
    finally:
        signal.signal(signal.SIGINT, before)
    pid, deadline = int(inner.read_text()), time.monotonic() + 60
    while (running := is_running(pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not running


def test_a_search_that_waits_for_another_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    some = made(tmp_path, "nowhere", Progress(said.append))
    monkeypatch.setattr(environments, "LOCK_SECONDS", 0.1)
    home = some._home(some._made_of("1.0"))
    with locked(home.with_name(f"{home.name}.lock")), pytest.raises(UserError, match="another process holds"):
        some.get("1.0")
    assert said == ["waiting for another search that installs standin 1.0"]


def installer(tmp_path: Path, does: str) -> Environments:
    """Environments whose python does that in place of making them."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -VV ] && exit\n{does}\n')
    python.chmod(0o755)
    return replace(made(tmp_path / "kept", "nowhere"), python=python)


def test_what_an_installer_says_may_be_any_bytes(tmp_path: Path) -> None:
    with pytest.raises(NotInstallable, match="caf\N{REPLACEMENT CHARACTER}"):
        installer(tmp_path, "printf 'ERROR: caf\\351\\n'; exit 1").get("1.0")


@pytest.mark.fault(
    done="a search on a disk that is full when a version is installed",
    said="--environments ... cannot be used (No space left on device); name a writable folder",
    status="2",
    kept="every race that was finished; the version does not count as one that cannot be installed",
)
def test_a_full_disk_is_no_versions_doing(tmp_path: Path, fault: Fault) -> None:
    with pytest.raises(UserError) as mistake:
        installer(tmp_path, "echo 'ERROR: [Errno 28] No space left on device'; exit 1").get("1.0")
    fault.check(2, str(mistake.value))


@pytest.mark.parametrize(
    "words",
    [
        "Could not find a version that satisfies the requirement standin===1.0 (from versions: none)",
        "Could not install packages due to an OSError: HTTPConnectionPool: Max retries exceeded with url: /standin.whl",
    ],
)
@pytest.mark.fault(
    done="a search whose index is gone when a version is installed",
    said="pip listed standin===1.0 and does not get it now (...); check the network, the index and --requirements, and "
    "run it again, which goes on from here",
    status="2",
    kept="every race that was finished; the version does not count as one that cannot be installed",
)
def test_an_index_that_is_gone_is_no_versions_doing(words: str, tmp_path: Path, fault: Fault) -> None:
    with pytest.raises(UserError) as mistake:
        installer(tmp_path, f"echo 'ERROR: {words}'; exit 1").get("1.0")
    fault.check(2, str(mistake.value))


def test_an_installer_that_outlives_its_search_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that cannot be interrupted goes on when its search is killed: nothing is made anew below its hands."""
    started = tmp_path / "started"
    some = installer(tmp_path, f"trap '' INT\necho $$ > {started}.part\nmv {started}.part {started}\nexec sleep 100")
    kill_search(some, started)
    try:
        monkeypatch.setattr(environments, "LOCK_SECONDS", 0.1)
        with pytest.raises(UserError, match="another process holds"):
            some.get("1.0")
    finally:
        psutil.Process(int(started.read_text())).kill()


def kill_search(some: Environments, started: Path) -> None:
    """Kill a search that installs a version once its installer has started."""
    code = (
        "import signal, sys; from pathlib import Path; from trtgate.search import environments; "
        "from trtgate.progress import SILENT; environments.WORKER = (); folder, python = map(Path, sys.argv[1:]); "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # ignored where tests run in the background
        "environments.Environments(folder, python, 'standin', ('--index-url', 'nowhere'), None, SILENT).get('1.0')"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(some.folder), str(some.python)], cwd=ROOT) as search:
        while not started.exists() and search.poll() is None:
            time.sleep(0.01)
        search.kill()


def test_what_pip_started_ends_with_a_search_that_is_killed(tmp_path: Path) -> None:
    """As pip does, the stand-in waits for a process of its own, and ends it when it is interrupted."""
    started, does = tmp_path / "started", tmp_path / "does.py"
    inner = f"echo $$ > {started}.part; mv {started}.part {started}; exec sleep 100"
    does.write_text(f"import subprocess\nsubprocess.run(['sh', '-c', {inner!r}])\n")
    kill_search(installer(tmp_path, f"exec {sys.executable} {does}"), started)
    pid, deadline = int(started.read_text()), time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


@pytest.mark.parametrize("line", ["-r {}", "--requirement={}", '-c "{}"  # what is known to fit', "-r{}"])
def test_an_environment_is_another_one_where_a_file_that_its_requirements_name_changed(
    line: str, tmp_path: Path
) -> None:
    folder = tmp_path / "nested"
    folder.mkdir()
    first, other = folder / "first.txt", folder / "other.txt"
    first.write_text(f"numpy\n{line.format('../nested/other.txt')}\n-r https://nowhere/more.txt\n")
    other.write_text("-r first.txt\nonnx\n")

    def home() -> Path:
        return (some := replace(made(tmp_path, "nowhere"), requirements=first))._home(some._made_of("1.0"))

    before = home()
    assert home() == before
    other.write_text("-r first.txt\nonnx<2\n")
    assert home() != before
    other.unlink()
    with pytest.raises(UserError, match=r"--requirements .*nested/other\.txt cannot be read \(No such file"):
        home()


def is_running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def test_what_cannot_be_installed_says_why_and_leaves_nothing(kept: Path, index: str) -> None:
    some = made(kept, index)
    with pytest.raises(NotInstallable, match="nowhere-to-be-found"):
        some.get(UNRESOLVABLE)
    assert not list(kept.glob(f"{PACKAGE}-{UNRESOLVABLE}-*/"))


def test_uv_is_used_where_it_is_and_pip_where_it_fails(
    tmp_path: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "uv"
    asked, venv = tmp_path / "asked", f'[ "$1" = venv ] && exec {PYTHON} -m venv --without-pip "$5"'
    uv.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n{venv}\nexit 1\n')
    uv.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(uv) if name == "uv" else None)
    python = made(tmp_path / "kept", index).get("1.0")
    first, second = asked.read_text().splitlines()
    assert first.startswith("venv --quiet --python")
    assert second.startswith("pip install --quiet --python")
    assert second.endswith(f" {PACKAGE}===1.0")
    assert (python.parent.parent / "lib").exists(), "pip made it"


# Searches, in a made-up laboratory.


class MadeUp:
    """Versions of which those from one on are slower."""

    def __init__(self, first_bad: float, tried: dict[str, Tried] | None = None) -> None:
        self.first_bad = first_bad
        self.tried = tried or {}
        self.asked: list[tuple[str, str]] = []

    def prepare(self, version: str) -> Tried:
        return self.tried.get(version, Tried(State.WORKS))

    def race(self, old: str, new: str, *, again: bool) -> Raced:
        self.asked.append((old, new))
        before, after = (Version(each) >= Version(f"1.{self.first_bad}") for each in (old, new))
        change = 1.05 if after and not before else 1.0
        return Raced(
            *(old, new, Relation.WORSE if change > 1 else Relation.SAME, again, f"{change:.2f}", 6, 30.0),
            *(change, change - 0.01, change + 0.01, 1e-3, change * 1e-3),
            stack=(f"{PACKAGE}: {old} -> {new}",),
            layers=("conv1: 0.4 -> 0.5 ms",),
            answers={"n": 240, "top1": 238, "cosine": 0.99, "sqnr_db": 31.0, "finite": True},
        )


QUESTION = Question(PACKAGE, "efficientnet_lite0", "onnxruntime-int8", 1, "cpu", "latency", 0.02)
MODEL = ["--model", QUESTION.model]
RELEASES = [Release(Version(each), "2025-01-01") for each in VERSIONS]


def found(first_bad: int, tried: dict[str, Tried] | None = None) -> Bisection:
    return search(QUESTION, RELEASES, MadeUp(first_bad, tried))


def texts(bisection: Bisection) -> dict[str, str]:
    page = bisection_page(bisection, {"1.4": "/e/1.4/bin/python", "1.5": "/e/1.5/bin/python"}, MODEL)
    return {
        "terminal": " ".join(terminal.render(page).split()),
        "markdown": markdown.render(page),
        "html": html.render(page),
    }


def test_the_page_tells_the_version_the_path_and_how_to_see_it_again() -> None:
    bisection = found(5)
    said = texts(bisection)
    first = "standin 1.5 (2025-01-01) is the first version in which onnxruntime-int8 of efficientnet_lite0 is slower"
    first += ": +5.0% [+4.0%,+6.0%] against 1.4"
    assert all(first in text for text in said.values()), said["terminal"]
    assert "--old /e/1.4/bin/python \\ --new /e/1.5/bin/python" in said["terminal"]
    assert "layer conv1: 0.4 -> 0.5 ms" in said["terminal"]
    assert "2025-01-01" in said["markdown"]
    assert "<svg" in said["html"]
    assert bisection.status == 0
    pythons = dict.fromkeys(
        VERSIONS, "/home/somebody/trtgate/.trtgate-environments/standin-1.4-0123456789ab/bin/python"
    )
    assert all(len(line) <= 100 for line in terminal.render(bisection_page(bisection, pythons, MODEL)).splitlines())


def test_what_is_raced_again_is_the_same_network_on_the_same_photos() -> None:
    parser = argparse.ArgumentParser()
    bisect.add(parser.add_subparsers())
    given = ["--model", "my net.onnx", "--shape", "x=1x3x8x8", "--images", "photos", "--skip-bad-images"]
    words = ["bisect", *given, "--engine", QUESTION.engine, "--batch-size", "1", "--processes", "8"]
    options = parser.parse_args(words)
    options.images = Path("photos")
    sides = dict.fromkeys(VERSIONS, "/e/bin/python")
    said = terminal.render(bisection_page(found(5), sides, *bisect._asked(options)))
    command = " ".join(said.partition("see it again:")[2].split())
    more = "--shape x=1x3x8x8 \\ --images photos \\ --skip-bad-images \\ --processes 8 \\ --model 'my net.onnx' "
    assert f"--new /e/bin/python \\ {more}--engine onnxruntime-int8 --batch-size 1 --device cpu" in command


def test_versions_that_were_stepped_over_are_told() -> None:
    bisection = found(5, {"1.4": Tried(State.ABSENT, "no wheel"), "1.7": Tried(State.FAILS, "libx.so")})
    assert bisection.answer.kind is Kind.BETWEEN
    said = texts(bisection)["terminal"]
    assert "from standin 1.5 on; what is between it and 1.3 cannot be used" in said
    assert "1.4 cannot be installed: no wheel" in said


def test_what_cannot_be_imported_is_not_said_to_have_been_built_before() -> None:
    class Fails(MadeUp):
        def race(self, old: str, new: str, *, again: bool) -> Raced:
            return Raced(old, new, Relation.LOST, again, "libx.so", 6, 1.0)

    fails = {each: Tried(State.FAILS, "libx.so") for each in VERSIONS[8:]}
    bisection = search(QUESTION, RELEASES, Fails(99, fails))
    assert (
        "1.8 (2025-01-01) is the first version in which onnxruntime-int8 of efficientnet_lite0 is not available"
        in (texts(bisection)["terminal"])
    )


def test_a_second_change_that_was_met_is_told() -> None:
    class Twice(MadeUp):
        def race(self, old: str, new: str, *, again: bool) -> Raced:
            raced = super().race(old, new, again=again)
            return replace(raced, low=1.09, high=1.11) if new == "1.7" else raced

    bisection = search(QUESTION, RELEASES, Twice(2))
    assert bisection.names[bisection.answer.bad] == "1.2"
    assert "not the only change: from 1.2 to 1.7 there is another; search it with --good 1.2" in bisection.remarks()


def test_a_search_goes_on_with_what_is_known(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "search.json")
    first = MadeUp(8)
    whole = search(QUESTION, RELEASES, first, keep=journal.write)
    known = journal.read(SILENT)
    assert known == list(whole.races)
    for cut in range(len(known) + 1):
        second = MadeUp(8)
        assert search(QUESTION, RELEASES, second, known[:cut]).answer == whole.answer
        assert second.asked == first.asked[cut:]


def test_two_searches_that_keep_their_races_at_once_both_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same number, too, as in two containers that share a folder."""
    journal, races, plain = Journal(tmp_path / "search.json"), list(found(5).races), Path.replace

    def replace(part: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "replace", plain)
        journal.write(races[:1])  # the other one's
        return plain(part, target)

    monkeypatch.setattr(Path, "replace", replace)
    journal.write(races)
    assert journal.read(SILENT) == races
    assert [each.name for each in tmp_path.iterdir()] == ["search.json"]


class Dies:
    """A worker that the kernel ends `times` times for want of memory."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, *arguments: Any) -> Dies:
        return self

    def greet(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise WorkerError("SIGKILL (out of memory?)")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        return {"engines": {QUESTION.engine: {"ok": True, "reason": ""}}}

    def close(self) -> None:
        return


@pytest.mark.parametrize(("times", "state"), [(0, State.WORKS), (1, State.WORKS), (2, State.FAILS)])
def test_a_version_that_fails_is_tried_once_more(
    times: int, state: State, kept: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trtgate.search.laboratory.Worker", Dies(times))
    assert Installed(QUESTION, made(kept, index), Settings(), SILENT).prepare("1.0").state is state


def test_nothing_is_raced_but_the_engine_that_was_asked_about(
    kept: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference of an ONNX file is ONNX Runtime, which images may have, or one of them."""
    raced: list[Settings] = []

    def run_ab(sides: object, settings: Settings, asked: list[str], **_: object) -> None:
        raced.append(settings)
        raise WorkerError("enough")

    monkeypatch.setattr("trtgate.search.laboratory.run_ab", run_ab)
    monkeypatch.setattr(Environments, "get", lambda *_: PYTHON)
    question, reference = replace(QUESTION, engine="openvino-int8"), parse_spec("onnxruntime-fp32")
    settings = Settings(engines=(reference, parse_spec("openvino-int8")))
    Installed(question, made(kept, index), settings, SILENT).race("1.0", "1.1", again=False)
    assert [each.engines for each in raced] == [(parse_spec("openvino-int8"),)]


def test_a_search_between_other_versions_is_another_one(
    kept: Path, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [("1.0", "1.11"), ("1.2", "1.11"), ("1.0", "1.11")]
    paths = [journal_of(QUESTION, each, made(kept, index), Settings()).path for each in ends]
    assert paths[0] == paths[2] != paths[1]
    other = journal_of(replace(QUESTION, delta=0.05), ends[0], made(kept, index), Settings())
    assert other.path not in paths
    more = [journal_of(QUESTION, ends[0], made(kept, index), Settings(), processes) for processes in (None, 6, 12)]
    assert more[0].path == more[1].path == paths[0]
    assert more[2].path not in paths, "a race depends on how many processes it has"
    for name in ("driver", "torch", "cpu_quota"):
        monkeypatch.setattr("trtgate.search.journal.stack", lambda *_, name=name: {**stack(), name: "another"})
        upgraded = journal_of(QUESTION, ends[0], made(kept, index), Settings())
        assert upgraded.path not in paths, "what was raced before an upgrade of what all versions run on"


def test_images_by_their_digests_are_kept(tmp_path: Path) -> None:
    journal, name = Journal(tmp_path / "search.json"), "registry.example.com:5000/team/runtime@sha256:" + 64 * "0"
    races = [replace(each, old=name) for each in found(5).races]
    journal.write(races)
    assert journal.read(SILENT) == races


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1, "races": [{}]}', '{"schema": 2, "races": []}', "[1"])
def test_a_damaged_journal_begins_anew(text: str, tmp_path: Path) -> None:
    journal, said = Journal(tmp_path / "search.json"), []
    journal.path.write_text(text)
    assert journal.read(Progress(said.append)) == []
    assert "is damaged" in said[0]


@pytest.mark.parametrize(
    ("end", "tried", "said"),
    [
        ("1.0", Tried(State.FAILS, "libx.so"), "--good 1.0: standin 1.0 fails .libx.so."),
        ("1.11", Tried(State.ABSENT, "no wheel"), "--bad 1.11: standin 1.11 cannot be installed .no wheel."),
    ],
)
def test_an_end_that_cannot_be_used_is_a_mistake(end: str, tried: Tried, said: str) -> None:
    with pytest.raises(UserError, match=said):
        found(5, {end: tried})


# What an A/B run says to a search.

UNREAD = Raced("1.0", "1.1", Relation.OPEN, False, "", 6, 0.0)


def report() -> AbReport:
    """An engine that is 15 % slower, on which both sides' other numbers are alike."""
    return replace(scenes.raced(), missing={})


def about(metric: str, delta: float = 0.05) -> Question:
    return replace(QUESTION, metric=metric, delta=delta)


def test_a_metric_is_read_with_its_interval_and_what_else_changed() -> None:
    found = read_report(UNREAD, report(), about("latency"))
    assert found.relation is Relation.WORSE
    assert found.low is not None
    assert found.high is not None
    assert 1.05 < found.low < 1.15 < found.high
    assert found.before == pytest.approx(1e-3, rel=0.05)
    assert found.stack == ("onnxruntime: 1.22 -> 1.23",)
    assert found.answers["top1"] == 59
    assert read_report(UNREAD, report(), about("host_memory")).relation is Relation.SAME
    assert read_report(UNREAD, report(), about(BUILD)).relation is Relation.SAME


def test_answers_are_counted() -> None:
    assert read_report(UNREAD, report(), about(ANSWERS, 0.0)).relation is Relation.WORSE
    found = read_report(UNREAD, report(), about(ANSWERS, 0.02))
    assert (found.relation, found.message) == (Relation.SAME, "1 of 60 answers changed, 2.0% may")


def answering(**pairs: dict[str, Any]) -> AbReport:
    """The report with these agreements."""
    [result] = report().results
    agreement = {pair.replace("_", " "): {**result.agreement["new with old"], **each} for pair, each in pairs.items()}
    return replace(report(), results=(replace(result, agreement=agreement),))


def test_what_answers_otherwise_in_the_same_version_too_names_none() -> None:
    """A builder that chose other kernels, or an engine that does not repeat itself."""
    assert effort(about(ANSWERS), 6, again=False).rebuilds == 3, "which is seen from several of one version"
    new = {"top1": 58, "sqnr_db": 30.0}
    for same in ({}, {"old_with_old": {"top1": 60, "sqnr_db": None}}):
        assert read_report(UNREAD, answering(new_with_old=new, **same), about(ANSWERS, 0.0)).relation is Relation.WORSE
    other = {"top1": 59, "sqnr_db": 35.0}
    found = read_report(UNREAD, answering(new_with_old=new, old_with_old=other), about(ANSWERS, 0.0))
    assert found.relation is Relation.SAME
    assert found.message == "2 of 60 answers changed; a new build of 1.0 may change as many"
    found = read_report(UNREAD, answering(new_with_old={**new, "top1": 50}, old_with_old=other), about(ANSWERS, 0.0))
    assert found.relation is Relation.WORSE


def test_logits_that_are_no_numbers_on_either_side_are_no_other_answers() -> None:
    nan = {"top1": 0, "top5": 0, "cosine": None, "sqnr_db": None, "finite": True}
    with pytest.raises(UserError, match="standin 1.0 has no finite logit on any photo, as 1.1 has none; begin with"):
        read_report(UNREAD, answering(new_with_old=nan), about(ANSWERS, 0.0))
    found = read_report(UNREAD, answering(new_with_old={**nan, "finite": False}), about(ANSWERS, 0.0))
    assert (found.relation, found.message) == (
        Relation.WORSE,
        "NaN or infinity stand in other logits than before",
    )


def test_a_search_for_a_time_tells_of_logits_that_are_no_numbers() -> None:
    class Nothing(MadeUp):
        def race(self, old: str, new: str, *, again: bool) -> Raced:
            raced = super().race(old, new, again=again)
            return replace(raced, answers={**raced.answers, "cosine": None, "sqnr_db": None})

    said = texts(search(QUESTION, RELEASES, Nothing(5)))
    assert "answers, new with old: no photo has a finite logit" in said["terminal"]


def test_what_is_said_of_a_race_can_be_kept(tmp_path: Path) -> None:
    """Names of layers are anybody's, and the kernel's names of processes."""
    [result] = report().results
    comparison = replace(
        result.comparison,
        invalid=Verdict(Outcome.INVALID, Reason.DISTURBED, "a\tb used the CPU"),
        layers=(LayerChange("conv\t1", 0.4, 0.5, "f", "f"),),
    )
    found = read_report(UNREAD, replace(report(), results=(replace(result, comparison=comparison),)), about("latency"))
    journal = Journal(tmp_path / "search.json")
    journal.write([found])
    assert journal.read(SILENT) == [found]


def test_rounds_that_were_disturbed_leave_a_time_open_and_a_size_as_it_is() -> None:
    disturbed = Verdict(Outcome.INVALID, Reason.DISTURBED, "9 rounds were disturbed")
    [result] = report().results
    invalid = replace(report(), results=(replace(result, comparison=replace(result.comparison, invalid=disturbed)),))
    found = read_report(UNREAD, invalid, about("latency"))
    assert (found.relation, found.message) == (Relation.OPEN, "9 rounds were disturbed")
    assert read_report(UNREAD, invalid, about("host_memory")).relation is Relation.SAME
    # Of a size one round is raced; where that was disturbed nothing was measured, which is no mistake in --metric.
    nothing = replace(result.comparison, invalid=disturbed, changes=())
    found = read_report(UNREAD, replace(report(), results=(replace(result, comparison=nothing),)), about("host_memory"))
    assert (found.relation, found.message) == (Relation.OPEN, "9 rounds were disturbed")


def test_memory_is_known_where_not_a_round_was_left() -> None:
    """As `ab` has it of a machine on which another search runs: each process was loaded, and no round counted."""
    key = (QUESTION.model, QUESTION.engine, 1)
    old, new = (
        [EngineRecord(*key, "file", {"host_memory": (size + index,)}, complete=False) for index in range(6)]
        for size in (1e8, 1.6e8)
    )
    [comparison] = compare_records({key: old}, {key: new}, Settings().expectations, "interleaved", {}).engines
    assert comparison.invalid is not None
    result = replace(report().results[0], comparison=comparison)
    raced = replace(report(), results=(result,))
    assert read_report(UNREAD, raced, about("host_memory")).relation is Relation.WORSE
    assert read_report(UNREAD, raced, about("latency")).relation is Relation.OPEN


def test_what_the_newer_version_cannot_run_is_lost() -> None:
    found = read_report(UNREAD, scenes.raced(), about("latency"))
    assert (found.relation, found.message) == (Relation.LOST, "new: openvino is not installed")


def test_a_metric_that_was_not_measured_is_a_mistake() -> None:
    with pytest.raises(UserError, match="--metric device_memory was not measured"):
        read_report(UNREAD, report(), about("device_memory"))


def test_no_more_is_measured_than_a_metric_takes() -> None:
    assert effort(about("latency"), 6, again=True) == Effort(None, 12, None)
    assert effort(about("host_memory"), None, again=False) == Effort(1, PROCESSES["cpu"], None)
    assert effort(about("build_seconds"), 6, again=True) == Effort(1, 6, 6)
    assert effort(about(ANSWERS), 6, again=False) == Effort(1, 3, 3)
    assert effort(about(BUILD), 6, again=True) == Effort(1, 1, 1)


# For real: the stand-in index, environments, workers.

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run(
    lite0: Workbench,
    index: str,
    kept: Path,
    few_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """Runs the command with something planted; its status, its JSON and what it said."""
    monkeypatch.setitem(PROCESSES, "cpu", 3)
    out = tmp_path / "bisect.json"

    def run(kind: str, first_bad: int, *arguments: str, **more: Any) -> tuple[int, dict[str, Any], str]:
        for name, value in planted(kind, first_bad, made_up=True, **more).items():
            monkeypatch.setenv(name, value)
        common = ["bisect", "--package", PACKAGE, "--index-url", index, "--environments", str(kept)]
        common += ["--model", "efficientnet_lite0", "--engine", "onnxruntime-int8", "--json", str(out)]
        common += ["--images", str(few_photos), "--plan-cache", str(lite0.settings.plan_cache)]
        common += ["--good", VERSIONS[0], "--bad", VERSIONS[-1]]
        status = main([*common, *arguments])
        said = capsys.readouterr()
        return status, json.loads(out.read_text()) if out.exists() else {}, said.out + said.err

    return run


@pytest.mark.slow
@pytest.mark.fault(
    done="a search that was ended after its first race, and the same command again",
    said="going on with 1 race of an earlier search (...; --afresh begins anew)",
    status="0",
    kept="the environments, and every race that was finished",
)
def test_a_planted_wait_is_found_and_a_search_that_was_ended_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    plain, raced = Installed.race, []

    def race(self: Installed, old: str, new: str, *, again: bool) -> Raced:
        if len(raced) == 1:
            raise KeyboardInterrupt
        raced.append((old, new))
        return plain(self, old, new, again=again)

    monkeypatch.setattr(Installed, "race", race)
    status, _, said = run("wait", 10, "--delta", "5%", "--good", "1.8")
    assert status == 130, said
    monkeypatch.setattr(Installed, "race", plain)
    status, document, said = run("wait", 10, "--delta", "5%", "--good", "1.8")
    fault.check(status, said)
    assert document["answer"]["kind"] == "found"
    assert (document["answer"]["good"], document["answer"]["bad"]) == ("1.9", "1.10")
    assert len(document["races"]) <= 5
    proof = document["races"][-1]
    assert (proof["old"], proof["new"], proof["outcome"]) == ("1.9", "1.10", "worse")
    assert 1.05 < proof["low"] < proof["estimate"] < proof["high"]


@pytest.mark.slow
@pytest.mark.fault(
    done="a search in which one version cannot be installed, and those from the next on not imported",
    said="1.5.1 cannot be installed: ...nowhere-to-be-found",
    status="0",
    kept="the answer, which names what was left out",
)
def test_since_when_it_cannot_be_imported(run: Run, fault: Fault) -> None:
    status, document, said = run("import", 6, "--afresh")
    fault.check(status, said)
    assert (document["answer"]["bad"], document["answer"]["how"]) == ("1.6", "lost")
    assert document["answer"]["good"] == UNRESOLVABLE or document["answer"]["kind"] == "between"
    assert len(document["races"]) == 2
    assert "libstandin.so.2: cannot open shared object file" in said


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["answers", "build"])
def test_a_good_end_that_cannot_be_built_is_a_mistake(metric: str, run: Run) -> None:
    status, document, said = run("build", 0, "--metric", metric, "--good", "1.9", "--bad", "1.10", "--afresh")
    assert (status, document) == (2, {}), said
    assert "trtgate: standin 1.9 does not run onnxruntime-int8 (the old worker" in said
    assert "no kernel for this layer" in said


@pytest.mark.slow
def test_since_when_answers_differ(run: Run) -> None:
    status, document, said = run("answers", 3, "--metric", "answers", "--good", "1.1", "--bad", "1.4", "--afresh")
    assert status == 0, said
    assert (document["answer"]["good"], document["answer"]["bad"]) == ("1.2", "1.3")
    assert "answers changed" in document["races"][-1]["message"]


@pytest.mark.slow
def test_since_when_it_cannot_be_built(run: Run) -> None:
    status, document, said = run("build", 9, "--metric", "build", "--good", "1.7", "--bad", "1.10", "--afresh")
    assert status == 0, said
    assert (document["answer"]["good"], document["answer"]["bad"]) == ("1.8", "1.9")
    assert "no kernel for this layer" in said


@pytest.mark.parametrize("count", ["0", "1", "2"])
def test_too_few_processes_for_a_bound_are_a_mistake(count: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("", 0, "--processes", count)
    assert ended.value.code == 2
    assert "argument --processes: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--index-url", "--extra-index-url"])
def test_an_index_of_no_name_is_a_mistake(option: str, run: Run) -> None:
    with pytest.raises(SystemExit) as ended:
        run("", 0, option, "")
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--package", "-r x"], "--package -r x is no package's name"),
        (["--package", "nowhere-to-be-found"], "pip finds no version of it"),
        (["--good", "newest"], "--good newest is no version"),
        (["--good", "1.0.7"], "--good 1.0.7 is no version of standin that this Python can install; near it there are"),
        (["--good", "1.11", "--bad", "1.2"], "--good 1.11 must be an older version than --bad 1.2"),
        (["--metric", "speed"], "--metric speed is not measured on this device; there are latency, "),
        (["--metric", "end_to_end"], "--metric end_to_end is not measured on this device"),
        (["--model", "resnet50"], "--model must be given once"),
        (["--engine", "onnxruntime-fp32"], "--engine must be given once"),
        (["--requirements", "nowhere.txt"], "--requirements nowhere.txt cannot be read"),
        (["--python", "/nowhere/python"], "--python /nowhere/python cannot be started"),
        (["--environments", "/dev/null/kept"], ".json cannot be written (Not a directory); make room, or name"),
    ],
)
def test_a_mistake_is_one_sentence_before_anything_is_installed(
    arguments: list[str], said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Environments, "get", lambda self, version: pytest.fail("something was installed"))
    status, _, output = run("", 0, *arguments)
    assert status == 2
    assert said in output
    assert "Traceback" not in output
