"""Containers as sides, on a stand-in for docker that runs on this machine what it would run in a container."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from trtgate import ab, remote
from trtgate.__main__ import main
from trtgate.containers import Image, choose_side
from trtgate.errors import UserError
from trtgate.remote import Worker, WorkerError
from trtgate.workbench import Workbench

from .faults.table import Fault

ROOT = Path(__file__).resolve().parent.parent


def digest_of(name: str) -> str:
    """The stand-in's, which it knows the name from."""
    return f"sha256:{name.encode().hex().ljust(64, '0')}"


# What docker does with the words that we use, and what it refuses; an image called broken has no numpy.
DOCKER = f"""#!{sys.executable}
import json, os, pathlib, signal, sys
here, words = pathlib.Path(__file__).parent, sys.argv[1:]
with open(here / "asked", "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[0] == "ps":
    sys.exit(os.environ.get("DOCKER_SAYS"))
if words[:2] == ["image", "inspect"]:
    if words[-1].startswith("nowhere"):
        sys.exit("Error: No such image: " + words[-1])
    print("sha256:" + words[-1].encode().hex().ljust(64, "0"))
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
    command = Image("trt:10", engine, digest_of("trt:10"), "cuda").command("x", [], ["/s"])
    at = command.index(words[0])
    assert command[at : at + 2] == words
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
    monkeypatch.setitem(ab.PROCESSES, "cpu", 3)
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
