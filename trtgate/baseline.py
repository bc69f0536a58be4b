"""Which saved files a comparison is with, in pytest-benchmark's storage, and how sessions become a baseline."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from trtgate.compare import require_own_sessions, require_usable
from trtgate.kinds import UserError
from trtgate.processes import die_with_parent, no_garbage_collection
from trtgate.records import SessionRecord, read_session
from trtgate.verdict.policy import GOOD

# Of a file or a folder, on Linux.
LONGEST_NAME = 255
LONGEST_PATH = 4096
# So many sessions, 30 ms each, are read by several processes, which hand them over in a fifth of that time.
MANY = 40
READERS = 4
AT_ONCE = 5
NUMBERED = re.compile(r"(\d{4,})_(.+)\.json")


def find_baseline(storage: Path, wanted: str | bool, stack: Mapping[str, Any]) -> tuple[list[Path], list[str]]:
    """The files of the baseline, oldest first, and why newer sessions than those were stepped over.

    `wanted` is a file, a number (`0007`), a name given to --benchmark-save (all sessions of that name), or True for
    the newest sound session of this machine. Raises UserError when there is none, naming what there is.
    """
    if wanted is True:
        path, stepped_over = _newest(storage, stack)
        return [path], stepped_over
    return find_named(storage, str(wanted)), []


def find_named(storage: Path, name: str) -> list[Path]:
    """The saved files of a name or a running number, the file itself, or all sessions of a folder.

    Raises UserError naming what there is, and where a name means more than one thing: with a slash in it, it is a path.
    """
    long = len(os.fsencode(name)) >= LONGEST_PATH
    if not name or "\0" in name or long or max(map(len, map(os.fsencode, Path(name).parts)), default=0) > LONGEST_NAME:
        raise UserError("a session has a name, a number, a file or a folder; give one of them")
    try:
        return _find_named(storage, name)
    except OSError as error:
        raise UserError(
            f"{name} cannot be searched for sessions ({error.strerror}: {error.filename}); name a file, or a folder of "
            "them"
        ) from error


def _find_named(storage: Path, name: str) -> list[Path]:
    path, saved = Path(name), [] if "/" in name else saved_in(storage)
    meant = {what: files for what, files in _meanings(saved, name).items() if files}
    if os.path.lexists(path):
        meant[f"{'the folder' if path.is_dir() else 'the file'} ./{name}"] = [path]
    if len(meant) > 1:
        fix = (
            f"give ./{name}, or rename it" if os.path.lexists(path) else "give the file that is meant, with its folder"
        )
        raise UserError(f"{name} may be {' or '.join(list(meant)[:3])}; {fix}")
    if path.is_dir():
        found = saved_in(path)
        if not found:
            raise UserError(f"the folder {name} holds no saved session; name one that does")
        return found
    found = next(iter(meant.values()), [])
    if not found and "/" in name:
        raise UserError(f"{name} does not exist; name a saved session or a folder of them")
    if not found:
        known = sorted({path.stem.split("_", 1)[1] for path in saved})
        raise UserError(
            f"no saved session is called {name} in {storage}; "
            + (f"there are {', '.join(known)}" if known else f"save one with --benchmark-save={name}")
        )
    return found


def saved_sessions(storage: Path, name: str) -> list[SessionRecord]:
    """All saved sessions of a name, number or file. Raises UserError when there is none or one cannot be read."""
    files = find_named(storage, name)
    # Layers are compared between the newest of either side.
    layers = [path == files[-1] for path in files]
    # Nothing of what is read refers to itself: to look for what does would go through all of it again and again.
    with no_garbage_collection():
        if len(files) >= MANY:
            # One that was killed, for want of memory say, leaves it to this process, which needs less.
            with contextlib.suppress(BrokenProcessPool):
                return _read_by_several(files, layers)
        return list(map(_read, files, layers))


def _read_by_several(files: Sequence[Path], layers: Sequence[bool]) -> list[SessionRecord]:
    """The sessions as other processes read them. Raises BrokenProcessPool where one of those was killed."""
    starts = range(0, len(files), AT_ONCE)
    with ProcessPoolExecutor(READERS, multiprocessing.get_context("fork"), initializer=_begin_reading) as pool:
        try:
            with _no_interrupt():  # which readers inherit: Ctrl-C, which all get, is this process's
                parts = [pool.submit(_read_some, files[at : at + AT_ONCE], layers[at : at + AT_ONCE]) for at in starts]
            return [session for part in parts for session in part.result()]
        except KeyboardInterrupt:
            # A signal to all may have ended some of them; the pool would wait for the others, for ever.
            for reader in multiprocessing.active_children():
                reader.kill()
            raise


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_reading() -> None:
    """In each reader: it ends with this process, and at once where its pool ends it, which it does when another reader
    died. By this process's own handlers it would be deaf to that, and the others would wait for it for ever."""
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def _read_some(files: Sequence[Path], layers: Sequence[bool]) -> list[SessionRecord]:
    return list(map(_read, files, layers))


def _read(path: Path, layers: bool) -> SessionRecord:
    return read_session(path, layers=layers)


def promote(files: Sequence[Path], to: Path) -> list[Path]:
    """Copy sessions into a folder of their own, as the baseline of runs to come; the copies.

    Raises UserError, and copies nothing, where a session failed anything or could not tell, where they are not all of
    one stack or one counts twice, and where `to` exists or cannot be made: a baseline is made once and for all.
    """
    sessions = [read_session(path) for path in files]
    for session in sessions:
        require_sound(session)
    require_own_sessions(sessions, ())
    to = Path(os.path.normpath(to))
    copies = [to / f"{number:04}_{to.name}.json" for number in range(1, len(files) + 1)]
    if os.path.lexists(to):
        raise UserError(f"--to {to} exists; a baseline is not overwritten, name another folder")
    if not str(to).isprintable() or len(os.fsencode(copies[-1].name)) > LONGEST_NAME:
        raise UserError(f"--to {str(to)[:40]!r} cannot be the name of sessions; give a short one in one line")
    part = to.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"--to {to} cannot be made ({error.strerror}); name another folder") from error
    try:
        for path, copied in zip(files, copies, strict=True):
            shutil.copyfile(path, part / copied.name)
        part.rename(to)
    except OSError as error:
        raise UserError(f"--to {to} could not be written ({error.strerror}); name another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return copies


def require_save_name(name: str, option: str = "--benchmark-save=") -> None:
    """Raises UserError for a name of an option that `find_named` could not tell from something else."""
    if name.isdigit():
        raise UserError(f"{option}{name} would be taken for a session's number; give it a letter")
    if os.path.lexists(name):
        raise UserError(f"{option}{name} is also the name of a file or folder here; choose another")
    if not name or not name.isprintable() or len(os.fsencode(name)) > LONGEST_NAME - len("00000000_.json"):
        raise UserError(f"{option}{name[:40]!r} cannot be a file's name; give a short one in one line")


def require_sound(session: SessionRecord) -> None:
    """Raises UserError for a session whose run failed, that left a verdict open, or that decided nothing."""
    reasons = [
        *session.unfit,
        *session.partial,
        *session.open,
        *(
            f"{record.name}: {verdict.outcome.value}, {verdict.message}"
            for record in session.engines.values()
            for verdict in (*record.verdicts, *record.flaws)
            if verdict.outcome not in GOOD
        ),
        *(
            f"{record.name}: nothing was decided"
            for record in session.engines.values()
            if not record.verdicts and not record.is_reference
        ),
        *([] if any(record.verdicts for record in session.engines.values()) else ["nothing was decided"]),
    ]
    if reasons:
        raise UserError(
            f"{session.path} cannot become a baseline: its own run did not pass ({reasons[0]}); run it again"
        )


def _meanings(saved: Sequence[Path], name: str) -> dict[str, list[Path]]:
    """The saved sessions that a name may stand for, by what it would be; each file of a number is another session."""
    parts = {path: NUMBERED.fullmatch(path.name) for path in saved}
    found = {
        f"the sessions called {name}": [path for path, match in parts.items() if match and match[2] == name],
    }
    for path, match in parts.items():
        if match and name in {match[1], path.stem, path.name}:
            found[f"the session {path}"] = [path]
    return found


def saved_in(storage: Path) -> list[Path]:
    """Saved sessions by their running number; pytest-benchmark keeps them in a folder per platform."""
    files = [path for path in storage.glob("**/*.json") if NUMBERED.fullmatch(path.name)]
    # A link that leads nowhere is told when it is read, whoever asks for its name.
    return sorted(files, key=lambda path: (int(path.name.split("_", 1)[0]), path.lstat().st_mtime))


def _newest(storage: Path, stack: Mapping[str, Any]) -> tuple[Path, list[str]]:
    """The newest session that may be a baseline of this machine, and why those after it may not.

    By the rule of `promote`: after a night that could not tell, each later one would be held against what had moved.
    """
    reasons = []
    for path in reversed(saved_in(storage)):
        try:
            session = read_session(path)
            require_usable(session, stack)
            require_sound(session)
        except UserError as error:
            reasons.append(str(error))
            continue
        return path, reasons
    raise UserError(
        f"--benchmark-compare: {storage} holds no session that this machine can be compared with"
        + (f"; the newest: {reasons[0]}" if reasons else "; save one with --benchmark-save=before")
    )
