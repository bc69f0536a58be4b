"""Which saved files a comparison is with, in pytest-benchmark's storage, and how sessions become a baseline."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trtgate.compare import require_usable
from trtgate.errors import UserError
from trtgate.plans import changed_fields
from trtgate.records import SessionRecord, read_session
from trtgate.stack import steady
from trtgate.verdict.policy import GOOD

# Of a file or a folder, on Linux.
LONGEST_NAME = 255
NUMBERED = re.compile(r"(\d{4,})_(.+)\.json")


def find_baseline(storage: Path, wanted: str | bool, stack: Mapping[str, Any]) -> list[Path]:
    """The files of the baseline, oldest first.

    `wanted` is a file, a number (`0007`), a name given to --benchmark-save (all sessions of that name), or True for
    the newest sound session of this machine. Raises UserError when there is none, naming what there is.
    """
    if wanted is True:
        return [_newest(storage, stack)]
    return find_named(storage, str(wanted))


def find_named(storage: Path, name: str) -> list[Path]:
    """The saved files of a name or a running number, the file itself, or all sessions of a folder.

    Raises UserError naming what there is.
    """
    if not name or max(map(len, Path(name).parts)) > LONGEST_NAME:
        raise UserError("a session has a name, a number, a file or a folder; give one of them")
    if Path(name).is_file():
        return [Path(name)]
    if Path(name).is_dir():
        found = saved_in(Path(name))
        if not found:
            raise UserError(f"the folder {name} holds no saved session; name one that does")
        return found
    saved = saved_in(storage)
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


def promote(files: Sequence[Path], to: Path) -> list[Path]:
    """Copy sessions into a folder of their own, as the baseline of runs to come; the copies.

    Raises UserError, and copies nothing, where a session failed anything or could not tell, where they are not all of
    one stack, and where `to` exists: a baseline is made once and for all.
    """
    sessions = [read_session(path) for path in files]
    for session in sessions:
        require_sound(session)
        changed = changed_fields(steady(sessions[0].stack), steady(session.stack))
        if changed:
            raise UserError(f"{session.path} is of another stack than {files[0]} ({'; '.join(changed)}); promote one")
    if to.exists():
        raise UserError(f"--to {to} exists; a baseline is not overwritten, name another folder")
    to.mkdir(parents=True)
    copies = [to / f"{number:04}_{to.name}.json" for number in range(1, len(files) + 1)]
    for path, copied in zip(files, copies, strict=True):
        shutil.copyfile(path, copied)
    return copies


def require_sound(session: SessionRecord) -> None:
    """Raises UserError for a session whose run failed, or that left a verdict open."""
    reasons = [
        *session.unfit,
        *session.partial,
        *(
            f"{record.name}: {decision.verdict.value}, {decision.message}"
            for record in session.engines.values()
            for decision in (*record.decisions, *record.flaws)
            if decision.verdict not in GOOD
        ),
    ]
    if reasons:
        raise UserError(f"{session.path} cannot become a baseline: its own run failed ({reasons[0]}); run it again")


def _names(path: Path) -> set[str]:
    match = NUMBERED.fullmatch(path.name)
    assert match is not None
    return {match[1], match[2], path.stem, path.name}


def saved_in(storage: Path) -> list[Path]:
    """Saved sessions by their running number; pytest-benchmark keeps them in a folder per platform."""
    files = [path for path in storage.glob("**/*.json") if NUMBERED.fullmatch(path.name)]
    # A link that leads nowhere is told when it is read, whoever asks for its name.
    return sorted(files, key=lambda path: (int(path.name.split("_", 1)[0]), path.lstat().st_mtime))


def _newest(storage: Path, stack: Mapping[str, Any]) -> Path:
    reasons = []
    for path in reversed(saved_in(storage)):
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
