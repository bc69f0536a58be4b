"""Who may import whom (design: two columns, doing and deciding), read off the files."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOING = (
    *("building", "child", "cuda", "engines", "graphs", "images", "models", "plans", "race", "remote", "spread"),
    *("telemetry", "workbench", "worker"),
)
DECIDING = ("baseline", "compare", "fleet", "records", "report", "trend", "verdict")
# What everybody may know of the other column: the nouns, what a race is, and what changed between two descriptions.
SHARED = ("engines.base", "plans", "race")
# By module or package: what it must not import.
FORBIDDEN = {
    "verdict": (*DOING, *(each for each in DECIDING if each != "verdict"), "engines.base"),
    **dict.fromkeys(("records", "compare", "baseline", "fleet", "trend", "report"), DOING),
    **dict.fromkeys(DOING, ("baseline", "compare", "fleet", "report", "trend", "ab", "plugin")),
    "models": ("engines", "graphs", "workbench"),
    "graphs": ("engines", "workbench"),
    "engines": ("building", "plans", "remote", "spread", "workbench", "worker"),
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
        allowed = (owner,) if owner == "verdict" else (owner, *SHARED)
        for found in imports(path):
            other = found.removeprefix("trtgate.")
            if found != other and within(other, FORBIDDEN[owner]) and not within(other, allowed):
                yield f"{name} imports {found}"


def test_the_columns_keep_apart() -> None:
    assert [breach for path in FILES for breach in breaches(path)] == []


@pytest.mark.parametrize(("runtime", "places"), RUNTIMES.items())
def test_a_runtime_is_imported_in_one_place(runtime: str, places: tuple[str, ...]) -> None:
    files = [
        str(path.relative_to(ROOT / "trtgate")) for path in FILES for each in imports(path) if within(each, (runtime,))
    ]
    assert [file for file in files if not file.startswith(places)] == []
