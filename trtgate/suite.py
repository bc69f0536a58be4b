"""Which tests the files of a folder hold, whatever of them pytest was told to collect.

There are many ways to run a part of a suite (`--ignore`, `-k`, `-o python_functions=`, `--last-failed`, a file's name)
and more to come; what counts is what should have run and did not. So the files themselves are read, not the options.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

# pytest's own defaults, which bench/ keeps to.
FILES = ("test_*.py", "*_test.py")
FUNCTIONS, CLASSES = "test", "Test"

# A test function: its file and its name, of all its parameters.
Test = tuple[Path, str]


def tests_beside(tests: Iterable[Test]) -> set[Test]:
    """The test functions of all files that are in the folders of these tests, which are among them."""
    folders = {path.parent for path, _ in tests}
    return {
        (path, name)
        for folder in folders
        for pattern in FILES
        for path in folder.glob(pattern)
        for name in _names_in(path)
    }


def _names_in(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):
        yield "(it cannot be read)"
        return
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names = [each.asname or each.name for each in node.names]
        elif isinstance(node, ast.ClassDef) and node.name.startswith(CLASSES):
            names = [each.name for each in node.body if isinstance(each, ast.FunctionDef)]
        else:
            names = [node.name] if isinstance(node, ast.FunctionDef) else []
        yield from (name for name in names if name.startswith(FUNCTIONS))
