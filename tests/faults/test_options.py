"""Folders and files given to options are data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .table import ROOT, Fault

# Each option that takes a path, and what it is given inside a trapped folder.
PATHS = {
    "--images": "",
    "--calibration-images": "",
    "--plan-cache": "",
    "--expectations": "expectations.toml",
    "--weights": "",
    "--benchmark-json": "out.json",
    "--benchmark-storage": "",
}


def traps(folder: Path) -> Path:
    """Set up a conftest.py, a test and a configuration that leave a file behind if they are run; that file."""
    ran = folder / "ran"
    trap = f"open({str(ran)!r}, 'w').close()\n"
    (folder / "conftest.py").write_text(trap)
    (folder / "evil.py").write_text(trap)
    (folder / "test_evil.py").write_text(trap)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = -p evil\n")
    return ran


def run(command: list[str]) -> tuple[int, str]:
    """A command's status and all that it says."""
    done = subprocess.run(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.fault(
    done="every option that takes a path given a folder with a `conftest.py` and a `pytest.ini`",
    said="--weights: ... is a folder; give the weights file in it",
    status="4",
    kept="nothing in those folders is run",
)
@pytest.mark.parametrize(
    "given",
    [
        pytest.param("after, with a space"),
        pytest.param("after, with =", marks=pytest.mark.slow),
        pytest.param("before, with =", marks=pytest.mark.slow),
    ],
)
def test_a_folder_given_to_an_option_is_not_run(given: str, fault: Fault, tmp_path: Path) -> None:
    ran, options = [], []
    for option, name in PATHS.items():
        folder = tmp_path / option
        folder.mkdir()
        ran.append(traps(folder))
        (folder / "expectations.toml").touch()
        value = str(folder / name)
        if option == "--weights":
            value = f"resnet50={value}"
        options += [option, value] if "space" in given else [f"{option}={value}"]
    command = [str(Path(sys.executable).with_name("pytest")), "-p", "no:cacheprovider", "-q"]
    command += [*options, "bench/"] if "before" in given else ["bench/", *options]
    fault.check(*run(command))
    assert not [each for each in ran if each.exists()]


@pytest.mark.fault(
    done="`pytest --images DIR bench/`, where DIR has a `pytest.ini` of its own",
    said="pytest took its configuration from somewhere else ...; name bench/ before any option",
    status="4",
    kept="nothing is measured",
)
@pytest.mark.slow
def test_another_configuration_is_refused(fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--images", str(tmp_path), "bench/"]
    fault.check(*run(command))
