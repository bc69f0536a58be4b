"""Files that a command writes for the user: checked before anything is measured, and written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtgate.baseline import LONGEST_NAME, NUMBERED
from trtgate.fields import DAMAGED, read_json
from trtgate.files import is_regular, write_whole
from trtgate.kinds import UserError

# How every Markdown file of ours begins, and what is in every JSON file but a session's.
TITLE = "### trtgate"
OURS = (
    {"engines", "missing"},
    {"trials", "decision"},
    {"series", "stack_changes"},
    {"question", "races", "answer"},
)
ENTRY = frozenset({"name", "unit", "value", "extra"})
# What stands within the first characters of every HTML file of ours.
GENERATOR = '<meta name="generator" content="trtgate">'


def require_outputs(outputs: Mapping[str, Path | None]) -> None:
    """Raises UserError, before anything is measured, for a file of an option that cannot be written or must not be.

    `outputs` maps options to files. What is there already is only overwritten where the same option once wrote it: no
    session, baseline or expectations.toml is lost to a slip of the keyboard.
    """
    seen: dict[Path, str] = {}
    for option, path in outputs.items():
        if path is None:
            continue
        _require_writable(option, path)
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise UserError(f"{other} and {option} both name {path}; give each a file of its own")


def _require_writable(option: str, path: Path) -> None:
    short = bool(path.name) and len(os.fsencode(path.name)) <= LONGEST_NAME
    try:
        there = os.path.lexists(path)
        regular = path.is_file() and not path.is_symlink()
        touched = [path.parent, *([path] if there else [])]
        can = path.parent.is_dir() and all(os.access(each, os.W_OK) for each in touched)
        if not can or (there and not regular) or not short:
            raise UserError(f"{option} {path} cannot be written; name a file in a folder that is there and writable")
        if NUMBERED.fullmatch(path.name):
            raise UserError(f"{option} {path} would be taken for a saved session by its name; give it another")
        if there and not _is_ours(path, option):
            raise UserError(f"{option} {path} exists and was not written by {option}; name another file")
    except OSError as error:
        raise UserError(f"{option} {path} cannot be written ({error.strerror}); name another file") from error


def _is_ours(path: Path, option: str) -> bool:
    if not path.stat().st_size:
        return True
    try:
        if option == "--html":
            with path.open(encoding="utf-8") as text:
                return GENERATOR in text.read(1024)
        if option == "--markdown":
            with path.open(encoding="utf-8") as lines:
                return lines.readline(len(TITLE) + 1).startswith(TITLE)
        found = read_json(path)
    except DAMAGED:
        return False
    return (isinstance(found, dict) and any(keys <= found.keys() for keys in OURS)) or _is_export(found)


def _is_export(found: Any) -> bool:
    """Whether it has the form of what `report --json-as` writes: a list of entries, or tables of tables of numbers."""
    if isinstance(found, list):
        return bool(found) and all(isinstance(each, dict) and each.keys() >= ENTRY for each in found)
    tables = list(found.values()) if isinstance(found, dict) else []
    return bool(tables) and all(
        isinstance(table, dict) and table and all(isinstance(each, dict) and "value" in each for each in table.values())
        for table in tables
    )


def is_own_output(path: Path) -> bool:
    """Whether some option of ours wrote that file; nobody knows of an empty one."""
    return (
        is_regular(path)
        and path.stat().st_size > 0
        and any(_is_ours(path, option) for option in ("--html", "--markdown", "--json"))
    )


def write_output(option: str, path: Path | None, text: str) -> None:
    """Write an option's file, if there is one. Raises UserError where that fails: what was there is left, and what was
    to be written is in the temporary directory."""
    if path is None:
        return
    try:
        write_whole(path, text.encode())
    except OSError as error:
        kept = kept_elsewhere(path.name, text)
        raise UserError(f"{option} {path} could not be written ({error.strerror}); {kept}") from error


def kept_elsewhere(name: str, text: str) -> str:
    """Write what could not be written where there may be room; a clause that says where."""
    try:
        path = Path(tempfile.mkdtemp(prefix="trtgate-")) / name
        path.write_text(text, encoding="utf-8")
    except OSError:
        return "nor is there room in the temporary directory, so what is printed is all there is"
    return f"what it was to hold is in {path}"
