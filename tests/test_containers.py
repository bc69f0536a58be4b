"""Containers as sides, and as what is searched, on a stand-in for docker that runs here what it is asked for."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from trtgate.__main__ import main
from trtgate.ab.run import PROCESSES
from trtgate.kinds import UserError
from trtgate.measure import remote
from trtgate.measure.containers import Image, choose_side
from trtgate.measure.remote import Worker, WorkerError
from trtgate.progress import Progress
from trtgate.report import terminal
from trtgate.report.bisections import bisection_page
from trtgate.search.images import Images, NotPulled, find_images
from trtgate.search.journal import bisection_to_json, journal_of
from trtgate.search.laboratory import Installed
from trtgate.search.question import Bisection, Question, Raced, Tried, search
from trtgate.search.releases import Release
from trtgate.settings import Settings
from trtgate.verdict.bisection import Answer, Kind, Relation, State
from trtgate.workbench import Workbench

from .faults.table import Fault
from .standin_index import planted, runtime

ROOT = Path(__file__).resolve().parent.parent


def digest_of(name: str) -> str:
    """The stand-in's, which it knows the name from."""
    return f"sha256:{name.encode().hex().ljust(64, '0')}"


# What docker does with the words that we use, and what it refuses. An image called broken has no numpy, one called
# nowhere is in no registry, and one called far is not here before it is pulled; TAGS has those that moved. Folders
# beside it, called like an image, hide modules from what it runs.
DOCKER = f"""#!{sys.executable}
import json, os, pathlib, signal, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
with open(here / "asked", "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "ps":
    sys.exit(os.environ.get("DOCKER_SAYS"))
if words[:2] == ["image", "inspect"]:
    name = json.loads(os.environ.get("TAGS", "{{}}")).get(words[-1], words[-1])
    if name.startswith("nowhere") or (name.startswith("far") and not (here / name).exists()):
        sys.exit("Error: No such image: " + name)
    print("sha256:" + name.encode().hex().ljust(64, "0"))
if words[0] == "pull":
    if words[-1].startswith("nowhere"):
        sys.exit("Trying to pull " + words[-1] + "\\nError: manifest unknown")
    (here / words[-1]).touch()
if words[0] == "inspect":
    print((here / words[-1]).read_text())
if words[0] == "kill":
    os.kill(int((here / words[-1]).read_text()), signal.SIGKILL)
if words[0] == "run":
    words, name, environment = words[1:], "", dict(os.environ)
    environment.pop("PYTHONPATH")
    while words[0].startswith("--"):
        option = words.pop(0)
        value = words.pop(0) if option != "--rm" else ""
        if option == "--name":
            name = value
        if option == "--env":
            environment.update([value.split("=", 1)])
        if option == "--volume" and not pathlib.Path(value.split(":")[0]).exists():
            sys.exit("no such folder: " + value)
    image = bytes.fromhex(words.pop(0).removeprefix("sha256:")).rstrip(bytes(1)).decode()
    environment["PYTHONPATH"] = str(here / image.replace(":", "-")) + os.pathsep + environment["PYTHONPATH"]
    (here / name).write_text(str(os.getpid()))
    if image.startswith("hangs"):
        signal.pause()
    if image.startswith("broken"):
        sys.exit("ModuleNotFoundError: No module named 'numpy'")
    os.execve({sys.executable!r}, [{sys.executable!r}, *words], environment)
"""


def install(folder: Path, name: str) -> Path:
    script = folder / name
    script.write_text(DOCKER)
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    return script


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the stand-in lies in, alone on the path but for what every machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    install(folder, "docker")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    return folder


@pytest.fixture
def worker(docker: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    place = choose_side("--old", "trt:10.13", "cpu")
    with contextlib.closing(Worker("old", place, folders=[docker])) as made:
        made.greet()
        yield made


def asked(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "asked").read_text().splitlines()]


def test_a_worker_in_a_container_speaks_over_a_socket(worker: Worker, docker: Path) -> None:
    told = worker.ask("describe", device="cpu", engines=["onnxruntime-int8"])
    assert told["engines"]["onnxruntime-int8"]["ok"]
    [run] = [words for words in asked(docker) if words[0] == "run"]
    name = run[run.index("--name") + 1]
    assert worker.pid == int((docker / name).read_text()), "its process out here"
    assert run[run.index("--network") + 1] == "none"
    assert f"{docker}:{docker}" in run, "the folders of the run are where they are outside"
    assert f"{ROOT}:{ROOT}:ro" in run, "and the code is read only"
    assert digest_of("trt:10.13") in run, "by its digest, since a tag may move"
    socket = Path(run[-1])
    assert socket.is_socket()
    worker.close()
    assert not psutil.pid_exists(worker.pid)
    assert not socket.parent.exists(), "nothing is left"


def test_a_container_that_does_not_start_says_why(docker: Path) -> None:
    broken = Worker("new", Image("broken:1", "docker", digest_of("broken:1"), "cpu"))
    with pytest.raises(WorkerError, match=r"(?s)the new worker \(broken:1\): it ended .*status 1.*named 'numpy'"):
        broken.greet()
    broken.close()


def test_a_container_that_hangs_is_ended(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "START_SECONDS", 0.5)
    monkeypatch.setattr(remote, "GOODBYE_SECONDS", 0.1)
    hanging = Worker("new", Image("hangs:1", "docker", digest_of("hangs:1"), "cpu"))
    with pytest.raises(WorkerError, match="did not answer in time"):
        hanging.greet()
    hanging.close()
    assert asked(docker)[-1][0] == "kill"


def test_what_is_a_file_is_no_image(docker: Path, tmp_path: Path) -> None:
    python = tmp_path / "python:3"
    python.touch()
    assert choose_side("--old", str(python), "cpu") == python
    assert choose_side("--old", "docker", "cpu") == Path("docker"), "a command that is on the path"
    assert choose_side("--old", "nowhere/python", "cpu") == Path("nowhere/python"), "without a tag"
    assert not (docker / "asked").exists()


NO_ENGINE = pytest.mark.fault(
    done="`ab` with an image as a side, where there is neither docker nor podman",
    said="--new trt:10 is no file, and an image needs docker or podman, neither of which is installed; install one",
    status="2",
    kept="nothing is measured",
)
SILENT = pytest.mark.fault(
    done="`ab` with an image as a side, where docker is installed and its daemon does not run",
    said="docker does not answer: Cannot connect to the daemon; start it, or give the python of an environment",
    status="2",
    kept="nothing is measured",
)
ABSENT = pytest.mark.fault(
    done="`ab` with an image that is not on this machine",
    said="--new nowhere/trt:10 is no image on this machine; run podman pull nowhere/trt:10",
    status="2",
    kept="nothing is measured, and nothing is pulled",
)


@pytest.mark.parametrize(
    ("text", "says", "engines"),
    [
        pytest.param("trt:10", None, (), marks=NO_ENGINE),
        pytest.param("trt:10", "Cannot connect to the daemon", ("docker",), marks=SILENT),
        pytest.param("nowhere/trt:10", None, ("podman",), marks=ABSENT),
    ],
)
def test_what_stands_in_the_way_of_an_image_is_one_sentence(
    text: str,
    says: str | None,
    engines: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in engines:
        install(tmp_path, name)
    if says:
        monkeypatch.setenv("DOCKER_SAYS", says)
    sides = ["--old", sys.executable, "--new", text, "--plan-cache", str(tmp_path / "plans")]
    status = main(["ab", *sides, "--model", "efficientnet_lite0", "--engine", "onnxruntime-int8"])
    captured = capsys.readouterr()
    fault.check(status, captured.err)
    assert not captured.out


def test_an_image_may_be_named_by_its_digest(docker: Path) -> None:
    digest = digest_of("trt")
    found = choose_side("--old", f"trt@{digest}", "cpu")
    assert isinstance(found, Image)
    with pytest.raises(UserError, match="run docker pull nowhere@sha256:"):
        choose_side("--old", f"nowhere@{digest}", "cpu")


def test_podman_is_asked_where_docker_does_not_answer(docker: Path) -> None:
    (docker / "docker").write_text("#!/bin/sh\nexit 1\n")
    install(docker, "podman")
    found = choose_side("--old", "trt:10", "cpu")
    assert isinstance(found, Image)
    assert found.engine == "podman"
    assert found.facts == {"image": f"trt:10 ({digest_of('trt:10')[7:19]})"}


@pytest.mark.parametrize(
    ("engine", "words"),
    [("docker", ["--gpus", "all"]), ("podman", ["--device", "nvidia.com/gpu=all"])],
)
def test_a_gpu_is_passed_through(engine: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    command = Image("trt:10", engine, digest_of("trt:10"), "cuda").command("x", [], ["/s"])
    at = command.index(words[0])
    assert command[at : at + 2] == words
    assert command[command.index("CUDA_VISIBLE_DEVICES") - 1] == "--env", "the very one that is watched out here"
    assert "CUDA_DEVICE_ORDER" not in command
    assert words[0] not in Image("trt:10", engine, digest_of("trt:10"), "cpu").command("x", [], ["/s"])
    owner = ["--user", f"1000:{os.getgid()}"] if engine == "docker" else ["--userns", "keep-id"]
    assert command[command.index(owner[0]) + 1] == owner[1], "what it writes is ours"


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks", "docker")
def test_images_are_raced(
    lite0: Workbench,
    few_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 3)
    out = tmp_path / "ab.json"
    arguments = ["--model", "efficientnet_lite0", "--engine", "onnxruntime-int8", "--rounds", "8", "--json", str(out)]
    arguments += ["--plan-cache", str(lite0.settings.plan_cache), "--images", str(few_photos)]
    status = main(["ab", "--old", sys.executable, "--new", "ort:1.32", *arguments])
    text = capsys.readouterr().out
    assert status in {0, 6, 7}, text  # this machine's load must not decide a unit test
    assert f"image: None -> ort:1.32 ({digest_of('ort:1.32')[7:19]})" in text
    [engine] = json.loads(out.read_text())["engines"]
    assert engine["agreement"]["new with old"]["top1"] == 8
    assert len(engine["new"]["processes"]) == 3


# Images as the versions of a search.

QUIET = Progress(lambda text: None)
STANDINS = tuple(f"standin:1.{minor}" for minor in range(6))
Search = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def standins(docker: Path) -> Path:
    """Images with the stand-in's versions of ONNX Runtime."""
    for minor, name in enumerate(STANDINS):
        folder = docker / name.replace(":", "-")
        folder.mkdir()
        (folder / "onnxruntime.py").write_text(runtime(minor))
    return docker


@pytest.fixture
def bisect(
    lite0: Workbench,
    few_photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Search:
    """Runs the command with something planted; its status, its JSON and what it said."""
    out = tmp_path / "bisect.json"

    def run(*arguments: str, kind: str = "", first_bad: int = 0) -> tuple[int, dict[str, Any], str]:
        for name, value in planted(kind, first_bad, made_up=True).items():
            monkeypatch.setenv(name, value)
        common = ["bisect", "--model", "efficientnet_lite0", "--engine", "onnxruntime-int8", "--json", str(out)]
        common += ["--environments", str(tmp_path / "kept"), "--plan-cache", str(lite0.settings.plan_cache)]
        status = main([*common, "--images", str(few_photos), *arguments])
        said = capsys.readouterr()
        return status, json.loads(out.read_text()) if out.exists() else {}, said.out + said.err

    return run


def find(docker: Path, *names: str) -> Images:
    return find_images(names, "cpu", docker / "kept", QUIET)


QUESTION = Question(None, "efficientnet_lite0", "onnxruntime-int8", 1, "cpu", "answers", 0.0)


def test_images_that_are_not_here_are_pulled(docker: Path) -> None:
    found = find(docker, "ort:1", "far:2", "nowhere:3")
    assert [words[-1] for words in asked(docker) if words[0] == "pull"] == ["far:2", "nowhere:3"]
    assert found.get("far:2").digest == digest_of("far:2")
    with pytest.raises(NotPulled, match="^manifest unknown$"):
        found.get("nowhere:3")
    assert found.sides(["ort:1", "far:2", "nowhere:3"]) == {"ort:1": "ort:1", "far:2": "far:2"}
    assert [each.digest for each in found.releases] == [digest_of("ort:1"), digest_of("far:2"), ""]


def test_a_tag_that_moved_is_another_search(docker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def path(*names: str) -> Path:
        return journal_of(QUESTION, (names[0], names[-1]), find(docker, *names), Settings()).path

    first = path("ort:1", "ort:2", "ort:3")
    assert path("ort:1", "ort:2", "ort:3") == first
    assert path("ort:1", "ort:4", "ort:3") != first
    monkeypatch.setenv("TAGS", json.dumps({"ort:2": "ort:2b"}))
    assert path("ort:1", "ort:2", "ort:3") != first


def test_what_stands_in_the_way_of_an_image_of_a_search_is_told(
    standins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in planted("import", 3).items():
        monkeypatch.setenv(name, value)
    images = find(standins, "standin:1.0", "broken:1", "nowhere:1", "standin:1.3")
    laboratory = Installed(QUESTION, images, Settings(device="cpu"), QUIET)
    assert laboratory.prepare("standin:1.0").state is State.WORKS
    broken, nowhere, bad = (laboratory.prepare(name) for name in ("broken:1", "nowhere:1", "standin:1.3"))
    assert (broken.state, broken.words) == (State.ABSENT, "cannot be started")
    assert "the broken:1 worker (broken:1): it ended" in broken.why
    assert "No module named 'numpy'" in broken.why
    assert nowhere == Tried(State.ABSENT, "manifest unknown", "cannot be pulled")
    assert bad.state is State.FAILS
    assert "libstandin.so.2" in bad.why


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (("nowhere:1", "ort:2"), "--images nowhere:1 cannot be pulled (no route); begin with an image in which"),
        (("ort:1", "nowhere:2"), "--images nowhere:2 cannot be pulled (no route); end with an image that can be"),
    ],
)
def test_an_end_that_cannot_be_pulled_is_a_mistake(images: tuple[str, ...], said: str) -> None:
    class Unreachable:
        def prepare(self, version: str) -> Tried:
            absent = Tried(State.ABSENT, "no route", NotPulled.what)
            return absent if version.startswith("nowhere") else Tried(State.WORKS)

        def race(self, old: str, new: str, *, again: bool) -> Raced:
            raise AssertionError("nothing is raced")

    with pytest.raises(UserError, match=re.escape(said)):
        search(QUESTION, [Release(name) for name in images], Unreachable())


def test_the_page_of_a_search_among_images() -> None:
    raced = Raced("ort:2", "ort:3", Relation.WORSE, True, "4 of 8 answers changed", 1, 20.0)
    first = Raced("ort:1", "ort:3", Relation.WORSE, False, "4 of 8 answers changed", 1, 20.0)
    releases = tuple(Release(f"ort:{number}", digest=digest_of(f"ort:{number}")) for number in (1, 2, 3, 4))
    tried = {"ort:4": Tried(State.ABSENT, "manifest unknown", "cannot be pulled")}
    answer = Answer(Kind.FOUND, 1, 2, Relation.WORSE)
    found = Bisection(QUESTION, releases, tried, (first, raced), answer)
    text = terminal.render(
        bisection_page(found, {name: name for name in ("ort:1", "ort:2", "ort:3")}, ["--model", "efficientnet_lite0"])
    )
    said = " ".join(text.split())
    assert "ort:3 is the first image in which onnxruntime-int8 of efficientnet_lite0 answers otherwise" in said
    assert "python -m trtgate ab \\ --old ort:2 \\ --new ort:3 \\ --model efficientnet_lite0" in said
    assert "ort:4 cannot be pulled: manifest unknown" in said
    assert digest_of("ort:2")[7:19] in said
    document = bisection_to_json(found)
    assert document["question"]["package"] is None
    assert document["versions"][3]["state"] == "cannot be pulled"
    assert document["versions"][1]["digest"] == digest_of("ort:2")


MISTAKES = [
    (["--images", "ort:1", "ort:2", "--package", "x", "--good", "1"], "--package, --good: a search among --images"),
    (["--images", "ort:1", "ort:2", "--index-url", "http://x"], "--index-url: a search among --images installs"),
    (["--images", "ort:1", "ort:2", "--requirements", "x"], "--requirements: a search among --images installs"),
    (["--images", "ort:1", "ort:2", "--python", "x"], "--python: a search among --images installs nothing"),
    (["--images", "ort:1"], "--images ort:1 is one image; give two at least, the good one first"),
    (["--images", "ort:1", "ort:1"], "--images ort:1 is given twice; give each image once"),
    (["--images", "ort:1", "ort:2", "ort:latest"], "--images ort:2 and ort:latest are the same image; give each"),
    (["--images", "ort", "ort:1", "ort:2"], "--images ort is no image: give each with its tag, and one folder"),
    (["--images", ".", "ort:1", "ort:2"], "--images . is no image: give each with its tag, and one folder"),
    (["--package", "x", "--bad", "2"], "bisect needs --good, or container images (--images IMAGE IMAGE ...)"),
    ([], "bisect needs --package and --good and --bad, or container images"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES)
def test_a_mistake_with_images_is_one_sentence_before_anything_is_started(
    arguments: list[str], said: str, docker: Path, bisect: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAGS", json.dumps({"ort:latest": "ort:2"}))
    status, _, output = bisect(*arguments)
    assert status == 2
    assert f"trtgate: {said}" in output
    assert "Traceback" not in output
    assert not (docker / "asked").exists() or "run" not in {words[0] for words in asked(docker)}


@pytest.mark.fault(
    done="`bisect --images`, where there is neither docker nor podman",
    said="--images trt:9 is no file, and an image needs docker or podman, neither of which is installed; install one",
    status="2",
    kept="nothing is measured",
)
def test_a_search_among_images_without_an_engine(
    bisect: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, _, said = bisect("--images", "trt:9", "trt:10")
    fault.check(status, said)


@pytest.mark.slow
@pytest.mark.fault(
    done="`bisect --images` with an image that cannot be pulled and one in which no worker starts, ended after its "
    "first race, and the same command again",
    said="nowhere:1 cannot be pulled: manifest unknown...going on with 1 race of an earlier search",
    status="0",
    kept="every race that was finished, and the answer, which names what was left out",
)
def test_images_are_searched(bisect: Search, standins: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
    images = [*STANDINS[:2], "nowhere:1", STANDINS[2], "broken:1", *STANDINS[3:]]
    arguments = ["--images", *images, "--metric", "answers"]
    plain, raced = Installed.race, []

    def race(self: Installed, old: str, new: str, *, again: bool) -> Raced:
        if raced:
            raise KeyboardInterrupt
        raced.append((old, new))
        return plain(self, old, new, again=again)

    monkeypatch.setattr(Installed, "race", race)
    status, _, said = bisect(*arguments, kind="answers", first_bad=3)
    assert status == 130, said
    monkeypatch.setattr(Installed, "race", plain)
    status, document, said = bisect(*arguments, kind="answers", first_bad=3)
    fault.check(status, said)
    # The image before it has no worker, so that what is before that is what it differs from.
    assert document["answer"]["kind"] == "between"
    assert (document["answer"]["good"], document["answer"]["bad"]) == ("standin:1.2", "standin:1.3")
    assert (document["races"][0]["old"], document["races"][0]["new"]) == raced[0]
    assert f"image: standin:1.2 ({digest_of('standin:1.2')[7:19]}) -> standin:1.3" in said
    assert "broken:1 cannot be started" in said


# For real, where podman runs. Images have a few kilobytes: what else a worker needs is mounted from this machine.

MOUNTED = ("/usr", "/lib", "/lib64", "/bin")
PYTHON = Path(sys.prefix).resolve() / "bin" / "python"


def make_image(podman: str, folder: Path, name: str, files: Mapping[str, str]) -> None:
    """An image of these files, which looks for commands in /own first."""
    archive = folder / "image.tar"
    with tarfile.open(archive, "w") as tar:
        for path, text in files.items():
            info = tarfile.TarInfo(path)
            info.size, info.mode = len(text), 0o755
            tar.addfile(info, io.BytesIO(text.encode()))
    command = [podman, "import", "--quiet", "--change", "ENV PATH=/own:/nowhere", str(archive), name]
    subprocess.run(command, capture_output=True, check=True)


@pytest.fixture
def podman(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the names of this test's images begin with: of the stand-in's 1.0 to 1.3, in which answers flip from 1.2 on,
    and of one without a Python."""
    real = shutil.which("podman")
    if real is None:
        pytest.skip("podman is not installed")
    folder = tmp_path / "bin"
    folder.mkdir()
    homes = {str(Path(each).resolve()) for each in (sys.prefix, sys.base_prefix)}
    volumes = [f"--volume {each}:{each}:ro" for each in (*MOUNTED, *sorted(homes)) if Path(each).exists()]
    run = f'[ "$1" = run ] && shift && set -- run {" ".join(volumes)} "$@"'
    for name, script in (("podman", f'{run}\nexec {real} "$@"'), ("docker", "exit 1")):
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    [(variable, what)] = planted("answers", 2).items()
    python3 = f"#!/bin/sh\nPYTHONPATH=/standin:$PYTHONPATH {variable}='{what}' exec {PYTHON} \"$@\"\n"
    images = {f"1.{minor}": {"own/python3": python3, "standin/onnxruntime.py": runtime(minor)} for minor in range(4)}
    base = f"localhost/trtgate-test-{os.getpid()}"
    try:
        try:
            for tag, files in {**images, "empty": {"nothing": ""}}.items():
                make_image(real, tmp_path, f"{base}:{tag}", files)
            probe = ["run", "--rm", "--network", "none", "--entrypoint", "python3", f"{base}:1.0", "-c", "import numpy"]
            subprocess.run([str(folder / "podman"), *probe], capture_output=True, check=True)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"podman does not run here: {error.stderr.decode()}")
        yield base
    finally:
        tags = [f"{base}:{tag}" for tag in (*images, "empty")]
        subprocess.run([real, "rmi", "--force", *tags], capture_output=True, check=False)


@pytest.mark.slow
def test_images_of_podman_are_searched(podman: str, bisect: Search) -> None:
    """Nobody listens where one of them would have to be pulled from."""
    nowhere, empty = "localhost:9/nowhere:1", f"{podman}:empty"
    images = [f"{podman}:1.0", f"{podman}:1.1", empty, nowhere, f"{podman}:1.2", f"{podman}:1.3"]
    status, document, said = bisect("--images", *images, "--metric", "answers")
    assert status == 0, said
    assert document["answer"]["kind"] == "between"
    assert (document["answer"]["good"], document["answer"]["bad"]) == (f"{podman}:1.1", f"{podman}:1.2")
    assert len(document["races"]) == 3
    assert f"{empty} cannot be started: " in said
    assert f"{nowhere} cannot be pulled: " in said
    status, again, said = bisect("--images", *images, "--metric", "answers")
    assert "going on with" in said
    assert again["answer"] == document["answer"]
    assert again["races"] == document["races"]
