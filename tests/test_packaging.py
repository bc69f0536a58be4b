"""What is installed: one list of requirements, and a wheel that finds its files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def requirements(lines: Iterable[str]) -> set[str]:
    found = (line.partition(" #")[0].strip() for line in lines)
    return {str(Requirement(line)) for line in found if line and not line.startswith(("#", "-r "))}


def test_requirements_txt_is_the_project_with_its_tests() -> None:
    listed = requirements((ROOT / "requirements.txt").read_text().splitlines())
    assert listed == requirements([*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]])


@pytest.mark.parametrize(
    ("extra", "file"),
    [
        ("gpu-cu12", "requirements-gpu-cu12.txt"),
        ("gpu-cu13", "requirements-gpu-cu13.txt"),
        ("rtx", "requirements-rtx.txt"),
    ],
)
def test_an_extra_is_what_its_file_adds(extra: str, file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    assert "-r requirements.txt" in lines
    assert requirements(lines) == requirements(PROJECT["optional-dependencies"][extra])


def test_every_folder_of_the_package_is_packed() -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "trtgate").rglob("*.py")}
    packed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    assert packed == {".".join(folder.parts) for folder in folders} | {"trtgate.bench", "trtgate.data"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, unpacked as an installer does with one that holds only Python."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for folder in ("trtgate", "bench", "data"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    run = subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=source, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    [wheel] = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(out)
    return out


# What an entry point's script does.
MAIN = "import sys; from trtgate.__main__ import main; sys.exit(main())"
FILES = """
from trtgate.expectations import DEFAULT_PATH, read_expectations
from trtgate.shipped import import_root
from trtgate.thumbnails import shipped_photos
assert shipped_photos()
assert read_expectations().of("resnet50", "onnxruntime-int8")["speedup"]
print(DEFAULT_PATH, *sorted(path.name for path in import_root().iterdir()))
"""


@pytest.mark.slow
def test_a_wheel_has_all_it_needs_outside_of_the_checkout(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    [entries] = installed.glob("*.dist-info/entry_points.txt")
    assert entries.read_text().split("\n")[:2] == ["[console_scripts]", "trtgate = trtgate.__main__:main"]
    doctor = run(MAIN, "doctor", "--device", "cpu")
    assert doctor.returncode in {0, 7}, doctor.stderr  # 7: somebody else computes here
    assert "this machine is" in doctor.stdout
    # `ab` hands this package to another environment, and nothing else of this one's.
    files = run(FILES)
    expected = [str(installed / "trtgate/bench/expectations.toml"), "in-use.lock", "trtgate"]
    assert files.stdout.split() == expected, files.stderr
    refused = run(MAIN, "selftest", "--device", "cpu", "--write")
    assert refused.returncode == 2
    assert "came with trtgate; copy it and give --expectations FILE" in refused.stderr
