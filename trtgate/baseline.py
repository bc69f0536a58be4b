"""Which saved files a comparison is with, in pytest-benchmark's storage."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtgate.compare import require_usable
from trtgate.errors import UserError
from trtgate.records import SessionRecord, read_session

NUMBERED = re.compile(r"(\d{4})_(.+)\.json")


def find_baseline(storage: Path, wanted: str | bool, stack: Mapping[str, Any]) -> list[Path]:
    """The files of the baseline, oldest first.

    `wanted` is a file, a number (`0007`), a name given to --benchmark-save (all sessions of that name), or True for
    the newest sound session of this machine. Raises UserError when there is none, naming what there is.
    """
    if wanted is True:
        return [_newest(storage, stack)]
    return find_named(storage, str(wanted))


def find_named(storage: Path, name: str) -> list[Path]:
    """The saved files of a name, a running number, or the file itself. Raises UserError naming what there is."""
    if Path(name).is_file():
        return [Path(name)]
    saved = _saved(storage)
    found = [path for path in saved if name in _names(path)]
    if not found:
        known = sorted({path.stem.split("_", 1)[1] for path in saved})
        raise UserError(
            f"no saved session is called {name} in {storage}; "
            + (f"there are {', '.join(known)}" if known else f"save one with --benchmark-save={name}")
        )
    return found


def saved_sessions(storage: Path, name: str) -> list[SessionRecord]:
    """All saved sessions of a name, number or file. Raises UserError when there is none or one cannot be read."""
    return [read_session(path) for path in find_named(storage, name)]


def _names(path: Path) -> set[str]:
    match = NUMBERED.fullmatch(path.name)
    assert match is not None
    return {match[1], match[2], path.stem, path.name}


def _saved(storage: Path) -> list[Path]:
    """Saved sessions by their running number; pytest-benchmark keeps them in a folder per platform."""
    files = [path for path in storage.glob("**/*.json") if NUMBERED.fullmatch(path.name)]
    return sorted(files, key=lambda path: (path.name[:4], path.stat().st_mtime))


def _newest(storage: Path, stack: Mapping[str, Any]) -> Path:
    reasons = []
    for path in reversed(_saved(storage)):
        try:
            require_usable(read_session(path), stack)
        except UserError as error:
            reasons.append(str(error))
            continue
        return path
    raise UserError(
        f"--benchmark-compare: {storage} holds no session that this machine can be compared with"
        + (f"; the newest: {reasons[0]}" if reasons else "; save one with --benchmark-save=before")
    )
