"""The workflows' scripts: names with spaces, patterns and commands in them stay names."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from trtgate.__main__ import main

from .table import ROOT, Fault

SCRIPTS = ROOT / ".github" / "scripts"
# Stands for Python, and for a venv's: writes down what it was given, one argument a line.
RECORDER = """#!/bin/sh
for each in "$@"; do echo "$each" >> {log}; done
if [ "$2" = venv ]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


def run(script: str, folder: Path, **variables: str) -> tuple[int, str, list[str]]:
    """A script's status, what it says, and every argument that its Pythons got."""
    log, python = folder / "log", folder / "the python"
    log.touch()
    python.write_text(RECORDER.format(log=log))
    python.chmod(0o755)
    (folder / "onnxruntime-fp32").touch()  # what a pattern would find
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", str(SCRIPTS / script)],
        cwd=folder,
        env={**os.environ, "PYTHON": str(python), "RECORDS": f"records of {script}", **variables},
        text=True,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stderr, log.read_text().splitlines()


@pytest.mark.fault(
    done="engines, plan cache and arguments with patterns, spaces and commands in them, in the workflows",
    said="",
    status="0",
    kept="every name as it was given; nothing is run",
)
def test_names_stay_names(fault: Fault, tmp_path: Path) -> None:
    versions = {"OLD": "onnxruntime==1.22.0", "NEW": "onnxruntime==1.23.2", "ENVS": str(tmp_path / "the envs")}
    engines = "onnxruntime-* $(touch${IFS}ran) `touch${IFS}ran`"
    along = "pycuda nvidia-cudnn-cu12==8.9.* cuda-python~=12.9"
    (tmp_path / "nvidia-cudnn-cu12==8.9.7").touch()
    status, said, given = run(
        "upgrade.sh", tmp_path, PLANS="/tool cache/plans", ENGINES=engines, COMMON=along, **versions
    )
    fault.check(status, said)
    assert " ".join(given).count(along) == 2
    assert given.count("--clear") == 2, "what another upgrade left in an environment is no part of this one"
    assert given[-4:] == ["--plan-cache=/tool cache/plans", *(f"--engine={engine}" for engine in engines.split())]
    status, said, given = run(
        "gate.sh", tmp_path, PLANS="/tool cache/plans", BENCH="--engine onnxruntime-*; --model $(touch ran)"
    )
    fault.check(status, said)
    assert given[-6:] == ["--engine", "onnxruntime-*;", "--model", "$(touch", "ran)", "--plan-cache=/tool cache/plans"]
    assert not (tmp_path / "ran").exists()


def test_what_stands_on_more_than_one_line_is_not_left_out(tmp_path: Path) -> None:
    _, _, given = run("gate.sh", tmp_path, BENCH="--model mine.toml\n--engine onnxruntime-fp32\n")
    assert given[-4:] == ["--model", "mine.toml", "--engine", "onnxruntime-fp32"]
    versions = {"OLD": "onnxruntime==1.22.0", "NEW": "onnxruntime==1.23.2", "ENVS": str(tmp_path / "envs")}
    lines = {"AB": "--rounds\n8", "ENGINES": "onnxruntime-fp32\nonnxruntime-int8", "COMMON": "pycuda\ncuda-python"}
    _, _, given = run("upgrade.sh", tmp_path, **versions, **lines)
    assert given[-4:] == ["--rounds", "8", "--engine=onnxruntime-fp32", "--engine=onnxruntime-int8"]
    assert " ".join(given).count("pycuda cuda-python onnxruntime==") == 2


GATE = """#!/bin/bash
case "$3" in
    sessions) mkdir -p records/Linux; head -c 9000 /dev/zero > records/Linux/0001_gate.json;;
    compare) echo compared; exit {status};;
esac
"""


@pytest.mark.parametrize("status", [0, 1, 6])
@pytest.mark.parametrize("where", ["full", "missing"])
@pytest.mark.fault(
    done="the folder of all nights' sessions full, or not writable",
    said="HISTORY=... cannot be written; make room there, or name another folder",
    status="0 or 1 or 6",
    kept="the comparison, whose status it is, and every whole session",
)
def test_a_history_that_cannot_be_written(
    where: str, status: int, fault: Fault, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python, baseline = tmp_path / "python", tmp_path / "baseline"
    python.write_text(GATE.format(status=status))
    python.chmod(0o755)
    baseline.mkdir()
    history = request.getfixturevalue("full_disk") if where == "full" else Path("/proc/history")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", str(SCRIPTS / "gate.sh")],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHON": str(python),
            "RECORDS": "records",
            "BASELINE": "baseline",
            "HISTORY": str(history),
        },
        text=True,
        capture_output=True,
        check=False,
    )
    fault.check(done.returncode, done.stderr)
    assert (done.returncode, done.stdout) == (status, "compared\n")
    assert not list(history.glob("*gate*")) if where == "full" else True


@pytest.mark.fault(
    done="a version that is an option, or a shell's command, in the workflow that races two versions",
    said="=... is no package with its version; give NAME==VERSION",
    status="2",
    kept="nothing is installed",
)
@pytest.mark.parametrize(
    "package", ["--index-url=elsewhere", "onnxruntime==1.0; touch ran", "git+https://elsewhere", ""]
)
@pytest.mark.parametrize("side", ["OLD", "NEW"])
def test_a_version_that_is_none(side: str, package: str, fault: Fault, tmp_path: Path) -> None:
    versions = {**dict.fromkeys(("OLD", "NEW"), "onnxruntime==1.0"), side: package}
    status, said, given = run("upgrade.sh", tmp_path, ENVS=str(tmp_path / "envs"), **versions)
    fault.check(status, said)
    assert not given


def test_what_is_no_environment_is_not_emptied_for_one(tmp_path: Path) -> None:
    (mine := tmp_path / "new" / "mine").mkdir(parents=True)
    versions = dict.fromkeys(("OLD", "NEW"), "onnxruntime==1.0")
    status, said, given = run("upgrade.sh", tmp_path, ENVS=str(tmp_path), **versions)
    assert (status, given) == (2, [])
    assert f"ENVS: {tmp_path}/new is there and no environment" in said
    assert mine.is_dir()


@pytest.mark.fault(
    done="a runner of `gpu-gate` that sent no records, or none that did",
    said="records-t4: INVALID (no_records): no session was recorded",
    status="7",
    kept="the other runners' rows",
)
def test_a_runner_that_sent_nothing(
    fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yaml = pytest.importorskip("yaml")
    from tests.workflows import fill

    monkeypatch.chdir(tmp_path)
    job = yaml.safe_load((ROOT / ".github/workflows/gpu-gate.yml").read_text())["jobs"]["fleet"]
    names = {"vars.TRTGATE_RUNNERS": '["t4", "l4 of mine; touch ran"]'}
    for step in job["steps"]:
        if "run" in step and "make env" not in step["run"] and "trtgate" not in step["run"]:
            given = {name: fill(str(value), names) for name, value in step["env"].items()}
            subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], env={**os.environ, **given}, check=True)
    status = main(["report", "fleet"])
    fault.check(status, capsys.readouterr().out)
    assert [path.name for path in sorted(Path("fleet").iterdir())] == ["records-l4 of mine; touch ran", "records-t4"]


def test_what_waits_for_a_runner_is_not_replaced() -> None:
    pytest.importorskip("yaml")
    from tests.workflows import require_queues

    assert require_queues(ROOT / ".github" / "workflows") == ["${{ matrix.runner }}", *["${{ inputs.runner }}"] * 2]
