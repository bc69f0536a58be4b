"""docs/reference.md names every option there is, and no other."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trtgate import plugin
from trtgate.__main__ import COMMANDS, command_of
from trtgate.options import OPTIONS

REFERENCE = (Path(__file__).resolve().parent.parent / "docs" / "reference.md").read_text()
SHARED = {flag for flag, _ in OPTIONS}


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = REFERENCE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


class Declared:
    """A parser of pytest's, as far as `pytest_addoption` uses it."""

    def __init__(self) -> None:
        self.flags: set[str] = set()

    def getgroup(self, *_: str) -> Declared:
        return self

    def addoption(self, flag: str, **_: Any) -> None:
        self.flags.add(flag)


def test_the_options_of_pytest() -> None:
    declared = Declared()
    plugin.pytest_addoption(declared, pytest.PytestPluginManager())  # type: ignore[arg-type]
    listed = {
        re.findall(r"--[\w-]+", cells[0])[0]: cells[0].endswith("*") for cells in rows("Options of `pytest bench/`")
    }
    assert set(listed) == declared.flags
    assert {flag for flag, starred in listed.items() if not starred} == SHARED


def commands() -> Iterator[tuple[str, set[str]]]:
    """Every command with its options."""
    parsers = argparse.ArgumentParser().add_subparsers()
    for command in COMMANDS:
        command_of(command).add(parsers)
    for name, parser in parsers.choices.items():
        inner = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        for more, each in (inner[0] if inner else {"": parser}).items():
            flags = {flag for action in each._actions for flag in action.option_strings}
            yield f"{name} {more}".strip(), flags - {"-h", "--help"}


@pytest.mark.parametrize(("command", "flags"), [pytest.param(*each, id=each[0]) for each in commands()])
def test_the_options_of_a_command(command: str, flags: set[str]) -> None:
    [cells] = [cells for cells in rows("Commands") if re.fullmatch(rf"`{command}( [A-Z ]+)?`", cells[0])]
    options = cells[-1]
    listed = set(re.findall(r"--[\w-]+", options)) | (SHARED if options.startswith("also") else set())
    assert listed == flags


def test_no_other_command_is_named() -> None:
    named = {re.sub(r"[`A-Z ]+$", "", cells[0].strip("`")) for cells in rows("Commands")}
    assert named == {command for command, _ in commands()}
