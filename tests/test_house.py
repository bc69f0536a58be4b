"""Who may import whom (design: two columns, doing and deciding), read off the files."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOING = (
    "ab",
    "build",
    "child",
    "cuda",
    "engines",
    "graphs",
    "images",
    "measure",
    "models",
    "nvml",
    "search",
    "workbench",
)
DECIDING = ("baseline", "comparable", "compare", "compared", "fleet", "records", "report", "trend", "verdict")
# Where both meet.
ABOVE = ("commands", "plugin", "__main__")
# What the deciding column may know of the other one: what a race is, and what an A/B run or a search found.
SHARED = {
    "records": ("measure.race",),
    "comparable": ("measure.race",),
    "report": ("ab.results", "search.question"),
}
# By module or package: what it must not import.
FORBIDDEN = {
    "kinds": (*DOING, *DECIDING, *ABOVE),
    "verdict": (*DOING, *(each for each in DECIDING if each != "verdict"), *ABOVE),
    **{name: (*DOING, *ABOVE) for name in DECIDING if name != "verdict"},
    **dict.fromkeys(DOING, ("baseline", "fleet", "report", "trend", *ABOVE)),
    "models": ("graphs", "engines", "build", "measure", "workbench"),
    "graphs": ("engines", "build", "measure", "workbench"),
    "engines": ("build", "measure", "workbench"),
    "build": ("measure", "workbench"),
    "measure": ("ab", "search"),
}


# Runtimes under test, and the one place that imports each; where graphs are read and made, onnxruntime is a tool.
RUNTIMES = {
    "tensorrt": ("engines/tensorrt/",),
    "openvino": ("engines/openvino.py",),
    "onnxruntime": ("engines/onnxruntime.py", "graphs/", "models/trial.py"),
    "pycuda": ("cuda.py", "nvml.py"),
}


@functools.cache
def imports(path: Path) -> tuple[str, ...]:
    """The modules that a file imports when it is imported or used; not what only a type checker sees."""
    tree = ast.parse(path.read_text())
    unseen = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for branch in node.body
        for each in ast.walk(branch)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += (f"{node.module}.{name.name}" for name in node.names)
    return tuple(found)


FILES = sorted((ROOT / "trtgate").rglob("*.py"))


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def breaches(path: Path) -> Iterator[str]:
    name = ".".join(path.relative_to(ROOT / "trtgate").with_suffix("").parts)
    for owner in (each for each in FORBIDDEN if within(name, (each,))):
        allowed = (owner, *SHARED.get(owner, ()))
        for found in imports(path):
            other = found.removeprefix("trtgate.")
            if found != other and within(other, FORBIDDEN[owner]) and not within(other, allowed):
                yield f"{name} imports {found}"


def test_a_group_of_processes_is_ended_in_one_place() -> None:
    assert [path.name for path in FILES if "killpg" in path.read_text()] == ["processes.py"]


def test_the_columns_keep_apart() -> None:
    assert [breach for path in FILES for breach in breaches(path)] == []


@pytest.mark.parametrize(("runtime", "places"), RUNTIMES.items())
def test_a_runtime_is_imported_in_one_place(runtime: str, places: tuple[str, ...]) -> None:
    files = [
        str(path.relative_to(ROOT / "trtgate")) for path in FILES for each in imports(path) if within(each, (runtime,))
    ]
    assert [file for file in files if not file.startswith(places)] == []
