"""docs/faults.md, made from the tests: python -m tests.faults.table

A test, or one case of its parameters, carries `pytest.mark.fault(done=..., said=..., status=..., kept=...)`, literal
texts: what was done, what the user is told (`...` stands for what varies), which exit status ("-" where no
process ends), and what is kept. The fixture `fault` holds the test to the middle two.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "faults.md"
INTRODUCTION = """# What was done to it, and what it says

Made from the tests that do these things, by `python -m tests.faults.table`; `make faults` runs them. `...` stands for
what varies. Status 1: something regressed or is missing, or a test failed; a mistake of the user's is 4 (pytest) or 2
(a command).
"""


@dataclass(frozen=True)
class Fault:
    """One row; see the module."""

    done: str
    said: str
    status: str
    kept: str

    def says(self, output: str) -> None:
        """Assert that the sentence is there."""
        text = " ".join(output.split())
        pattern = ".*".join(re.escape(" ".join(part.split())) for part in self.said.split("..."))
        assert re.search(pattern, text), f"{self.said!r} is not in\n{output}"

    def check(self, status: int, output: str) -> None:
        """Assert that a process ended, and said, as the row promises, and showed no traceback."""
        self.says(output)
        assert str(status) in self.status.split(" or "), f"status {status} instead of {self.status}\n{output}"
        assert "Traceback" not in output, output


def rows_of(path: Path) -> tuple[str, list[Fault]]:
    """The first line of a test file's docstring, and the rows of its tests in their order."""
    tree = ast.parse(path.read_text())
    title = (ast.get_docstring(tree) or path.stem).splitlines()[0].removesuffix(".")
    calls = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault"
    ]
    rows = [
        Fault(**{each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg})
        for call in sorted(calls, key=lambda call: call.lineno)
    ]
    return title, rows


def page() -> str:
    """The whole of docs/faults.md."""
    parts = [INTRODUCTION]
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        title, rows = rows_of(path)
        if rows:
            cells = [(row.done, row.said, row.status, row.kept) for row in rows]
            lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
            head = "| what was done | what is said | status | what is kept |\n| --- | --- | --- | --- |"
            parts.append(f"## {title}\n\n{head}\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
