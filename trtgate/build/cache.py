"""The plan cache: content-addressed, locked, and never trusted unread.

An entry is a folder `<root>/<kind>/<key>/` with one artifact and its `manifest.json`. The key is the SHA-256 of the
canonical JSON of what the artifact depends on, so an artifact built from anything else has another key. The manifest
also holds the artifact's digest, which is checked before anyone deserialises it. The digest finds damage; it is no
protection from somebody who can write both, so a cache that others can write is refused.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import re
import shutil
import stat
import time
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from trtgate.files import file_digest, is_regular, locked, sync, write_synced
from trtgate.kinds import UserError
from trtgate.stack import changed_fields

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# Held, shared, by every process that uses the cache; whoever prunes wants it alone.
IN_USE = "in-use.lock"
# An artifact that differs in one of these is not another version of the same thing, but another thing.
IDENTITY = ("model", "kind", "engine", "rebuild")
# Of a manifest; ours have 1 to 3 kB.
LARGEST_MANIFEST = 1 << 20
# Nobody but the owner may write what is deserialised as native code, whatever the umask says.
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
FOLDER_MODE = 0o755
CODE = Path(__file__).resolve()
# How long another process may take to build what this one wants too: as long as two builds.
LOCK_SECONDS = 3600.0
# While other processes use the cache, entries that were used within this time stay. No job of ours runs longer.
RECENT_SECONDS = 4 * 3600.0
# Entries that the log looks at for the nearest to a new one; each takes 0.2 ms to read.
LOOKED_AT = 100
# A disk with no more than this is full: the writer that found out gave up at a whole block.
FULL_BYTES = 1 << 16
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})

DIGEST = re.compile(r"[0-9a-f]{64}")
# The names of what the cache makes in a folder of a kind; whatever is called otherwise is not the cache's.
ENTRY_NAME = re.compile(r"[0-9a-f]{32}")
LEFT_NAME = re.compile(r"([0-9a-f]{32})(?:\.lock)?\.(damaged|building)-[0-9a-f]{8}")
ASIDE_NAME = re.compile(r"\.damaged-[0-9a-f]{8}$")
LOCK_NAME = re.compile(r"([0-9a-f]{32})\.lock")

# Of a manifest; what else is in it may be a later version's.
REQUIRED = frozenset({"key", "file", "sha256", "build_seconds", "depends"})

Depends = Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What an entry says of itself: its whole key, its artifact, and what that depends on.

    `built_on` is what was noted of the machine that built it, and is no reason to build another.
    """

    key: str
    file: str
    sha256: str
    build_seconds: float
    depends: Depends
    built_on: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The content of its file, which `parse_manifest` reads."""
        return json.dumps(vars(self), indent=1, sort_keys=True, allow_nan=False).encode()


@dataclass(frozen=True)
class CachedFile:
    """An artifact on disk with what it depends on, what its build cost, and what was noted of where that was."""

    path: Path
    depends: Depends
    digest: str
    build_seconds: float
    reused: bool
    built_on: Mapping[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self.path.stat().st_size


@dataclass(frozen=True)
class Entry:
    """A whole entry as one sees it from outside. `built` and `used` are seconds since 1970."""

    kind: str
    path: Path
    manifest: Manifest
    size: int
    built: float
    used: float


@dataclass(frozen=True)
class Pruned:
    """What pruning removed, what stays, and how many bytes of that only because a run may be using it."""

    removed: tuple[Entry, ...]
    leftovers: int
    freed: int
    kept: tuple[Entry, ...]
    busy: bool


def key_of(depends: Depends) -> str:
    """SHA-256 of the canonical JSON: sorted keys, no spaces, no NaN."""
    text = json.dumps(depends, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return sha256(text.encode()).hexdigest()


def parse_manifest(content: bytes) -> Manifest:
    """A manifest from the bytes of its file. Raises ValueError, and nothing else, for anything that is none."""
    try:
        found = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(found, dict) or not found.keys() >= REQUIRED:
        raise ValueError("not the fields of a manifest")
    key, file, digest, seconds, depends = (
        found[name] for name in ("key", "file", "sha256", "build_seconds", "depends")
    )
    built_on = found.get("built_on", {})
    if not all(isinstance(text, str) and DIGEST.fullmatch(text) for text in (key, digest)):
        raise ValueError("key or sha256 is no digest")
    if not isinstance(file, str) or not file or "/" in file or "\0" in file or file in {".", "..", MANIFEST}:
        raise ValueError("file is no name of an artifact")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise ValueError("build_seconds is no time")
    if not isinstance(depends, dict) or key_of(depends) != key:
        raise ValueError("depends does not make up its key")
    if not isinstance(built_on, dict):
        raise ValueError("built_on is no description")
    return Manifest(key, file, digest, float(seconds), depends, built_on)


def read_manifest(path: Path) -> Manifest:
    """A manifest. Raises ValueError for a file that is none, and OSError for one that cannot be read."""
    if not is_regular(path):
        raise ValueError("no regular file")
    with path.open("rb") as stream:
        content = stream.read(LARGEST_MANIFEST + 1)
    if len(content) > LARGEST_MANIFEST:
        raise ValueError("too large for a manifest")
    return parse_manifest(content)


def require_usable(root: Path) -> None:
    """Say what is wrong with a cache before anything is measured; it need not be there yet.

    Raises UserError for what is no folder, cannot be written, or can be written by others: plans are native code, and
    whoever can write them decides what runs here.
    """
    if not os.path.lexists(root):
        above = next(folder for folder in root.absolute().parents if os.path.lexists(folder))
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"--plan-cache: {root} cannot be made in {above}; name a writable folder")
        return
    if not root.is_dir():
        what = "a link that leads nowhere" if root.is_symlink() and not root.exists() else "not a folder"
        raise UserError(f"--plan-cache: {root} is {what}; name a writable folder")
    try:
        folders = [Path(each.path) for each in os.scandir(root) if each.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise refusal(root, error) from error
    for folder in (root, *folders):
        require_own(folder)
    for folder in root.resolve().parents:
        if folder in CODE.parents:  # whoever can rename there can replace this code, too
            break
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(
                f"--plan-cache: everybody can rename what is in {folder}, and plans are native code; "
                f"run chmod o-w {folder}, or name another folder"
            )


def require_own(folder: Path) -> None:
    """Raises UserError unless the folder can be written by this user, and by nobody else but root."""
    status = folder.stat()
    if not own(status):
        if status.st_mode & WRITABLE_BY_OTHERS and status.st_uid == os.geteuid():
            raise UserError(
                f"--plan-cache: others can write {folder} (mode {stat.S_IMODE(status.st_mode):o}), and plans are "
                f"native code; if you trust what is in it run chmod -R go-w {folder}, or name another folder"
            )
        raise UserError(
            f"--plan-cache: {folder} belongs to another user ({status.st_uid}), and plans are native code; "
            "name a folder of your own"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        owner = f", it belongs to user {status.st_uid}" if status.st_uid != os.geteuid() else ""
        raise UserError(f"--plan-cache: {folder} is not writable{owner}; name a writable folder")


def own(status: os.stat_result) -> bool:
    """Whether nobody but this user, root, and the owner of this code could have written what has that status."""
    return status.st_uid in {os.geteuid(), 0, CODE.stat().st_uid} and not status.st_mode & WRITABLE_BY_OTHERS


def refusal(path: Path, error: OSError) -> UserError:
    """The sentence for a path in the cache that the system refuses."""
    if error.errno in NO_ROOM:
        return UserError(f"--plan-cache: {path}: {error.strerror}; make room, or name another folder")
    return UserError(f"--plan-cache: {path} cannot be used ({error.strerror}); remove it, or name another folder")


class PlanCache:
    """The cache under `root`; safe for several processes at once."""

    def __init__(self, root: Path, waiting: Callable[[str], object] = log.info) -> None:
        """`waiting` is told when another process builds what this one wants.

        Raises UserError when `root` cannot be made or written, or others can write it.
        """
        self.root = root
        self._waiting = waiting
        require_usable(root)
        try:
            _make(root)
            handle = os.open(root / IN_USE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            weakref.finalize(self, os.close, handle)
            fcntl.flock(handle, fcntl.LOCK_SH)  # waits while somebody prunes
        except OSError as error:
            raise refusal(root, error) from error
        self._handle = handle

    def get_or_build(
        self,
        kind: str,
        filename: str,
        depends: Depends,
        build: Callable[[Path], object],
        *,
        built_on: Mapping[str, Any] | None = None,
        anew: bool = False,
    ) -> CachedFile:
        """The artifact that `depends` describes, built by `build(path)` unless a sound one is there.

        With `anew` it is built whatever is there, and replaces that. `built_on` is noted in the manifest. If `build`
        returns a float, that is what it cost in seconds; otherwise it is timed from outside.

        Only one process builds; the others wait for its lock and reuse. The build writes into a temporary folder that
        is renamed as the last step, so a killed build leaves nothing that has a manifest. A damaged entry is set aside
        beside the cache and rebuilt, with a warning. Raises UserError when the disk is full.
        """
        with self._locked(kind, depends) as (entry, key):
            found = self._read(entry, filename, key)
            if found is not None and not anew:
                return found
            if found is None:
                self._log_why(kind, depends)
            return self._build(entry, filename, key, depends, build, dict(built_on or {}))

    def find(self, kind: str, filename: str, depends: Depends) -> CachedFile | None:
        """The artifact that `depends` describes if a sound one is there; a damaged one is set aside with a warning."""
        with self._locked(kind, depends) as (entry, key):
            return self._read(entry, filename, key)

    @contextlib.contextmanager
    def _locked(self, kind: str, depends: Depends) -> Iterator[tuple[Path, str]]:
        """The folder and the key of an entry that no other process touches meanwhile."""
        key = key_of(depends)
        folder = self.root / kind
        lock = folder / f"{key[:32]}.lock"

        def waiting() -> None:
            self._waiting(f"waiting for another process that builds {kind} of {depends.get('model', 'a model')}")

        with contextlib.ExitStack() as held:
            try:
                if os.path.lexists(folder) and not folder.is_dir():
                    _set_aside(folder, "is no folder")
                _make(folder)
                require_own(folder)
                if os.path.lexists(lock) and not is_regular(lock):
                    _set_aside(lock, "is no lock")
                held.enter_context(locked(lock, LOCK_SECONDS, waiting))
            except TimeoutError as error:
                raise UserError(
                    f"--plan-cache: another process has held {lock} for {LOCK_SECONDS / 60:.0f} min; "
                    "end it, or name another folder"
                ) from error
            except OSError as error:
                raise refusal(lock, error) from error
            yield folder / key[:32], key

    def _read(self, entry: Path, filename: str, key: str) -> CachedFile | None:
        if not os.path.lexists(entry):
            return None
        try:
            manifest = _sound_manifest(entry, filename, key)
        except (OSError, ValueError) as error:
            try:
                _set_aside(entry, f"is damaged ({error})")
            except OSError as refused:
                raise refusal(entry, refused) from refused
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)  # when it was last used, for whoever prunes
        seconds = manifest.build_seconds
        return CachedFile(entry / filename, manifest.depends, manifest.sha256, seconds, True, manifest.built_on)

    def _build(
        self,
        entry: Path,
        filename: str,
        key: str,
        depends: Depends,
        build: Callable[[Path], object],
        built_on: Mapping[str, Any],
    ) -> CachedFile:
        # A build that was killed left its own temporary folder; nobody else can be in it while the lock is held.
        for stale in entry.parent.glob(f"{entry.name}.building-*"):
            _remove(stale)
        working = entry.with_name(f"{entry.name}.building-{uuid.uuid4().hex[:8]}")
        try:
            working.mkdir(FOLDER_MODE)
            started = time.monotonic()
            measured = build(working / filename)
            seconds = measured if isinstance(measured, float) else time.monotonic() - started
            digest = file_digest(working / filename)
            write_synced(working / MANIFEST, Manifest(key, filename, digest, seconds, depends, built_on).to_json())
            for name in (filename, MANIFEST):
                path = working / name
                path.chmod(stat.S_IMODE(path.stat().st_mode) & ~WRITABLE_BY_OTHERS)
            sync(working / filename)
            sync(working)
            # One after the other, and only then is anything removed: whoever was given the old one may just be loading.
            gone = _hide(entry) if os.path.lexists(entry) else None
            working.rename(entry)
            sync(entry.parent)
            if gone is not None:
                _remove(gone)
        except BaseException as error:
            full = _is_full(entry.parent)  # before the half of it that was written is removed
            shutil.rmtree(working, ignore_errors=True)
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise refusal(self.root, error) from error
            if isinstance(error, Exception) and full:  # builders have their own words for it
                raise refusal(self.root, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
            raise
        return CachedFile(entry / filename, depends, digest, seconds, False, built_on)

    def _log_why(self, kind: str, depends: Depends) -> None:
        """Say which fields keep the nearest earlier entry of the same thing from being used."""
        entries = self._of_kind(self.root / kind, LOOKED_AT)
        nearest = nearest_change(depends, (entry.manifest.depends for entry in reversed(list(entries))))
        if nearest:
            log.info("rebuilding %s: changed since the nearest one: %s", kind, "; ".join(nearest))

    def entries(self) -> list[Entry]:
        """All whole entries, the one that was used last at the end. What is damaged, or called otherwise, is none."""
        found = [entry for folder in self._folders() for entry in self._of_kind(folder)]
        return sorted(found, key=lambda entry: entry.used)

    def _folders(self) -> list[Path]:
        return [Path(each.path) for each in _scan(self.root) if each.is_dir(follow_symlinks=False)]

    @staticmethod
    def _of_kind(folder: Path, most: int | None = None) -> Iterator[Entry]:
        """The whole entries of a kind, at most so many, last used first; one that vanishes meanwhile is left out."""
        found = []
        for each in _scan(folder):
            if ENTRY_NAME.fullmatch(each.name):
                with contextlib.suppress(OSError):
                    found.append((each.stat(follow_symlinks=False).st_mtime, each.name))
        for _, name in sorted(found, reverse=True)[:most]:
            with contextlib.suppress(OSError, ValueError):
                yield _entry(folder / name)

    def prune(self, keep_bytes: int) -> Pruned:
        """Remove what was set aside or left behind, and the entries used longest ago until `keep_bytes` bytes are left.

        While another process uses the cache, what was used within RECENT_SECONDS stays: it may be about to be loaded.
        """
        freed = leftovers = 0
        with self._alone() as alone:
            for path in self._left_behind():
                freed += _size(path)
                _remove(path)
                leftovers += 1
            kept, removed = self.entries(), []
            size = sum(entry.size for entry in kept)
            for entry in tuple(kept):
                if size <= keep_bytes or (not alone and entry.used > time.time() - RECENT_SECONDS):
                    continue
                if self._drop(entry):
                    size -= entry.size
                    freed += entry.size
                    kept.remove(entry)
                    removed.append(entry)
            for folder in self._folders():
                _remove_idle_locks(folder)
        return Pruned(tuple(removed), leftovers, freed, tuple(kept), not alone)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process uses the cache; if so, none begins to before this is over."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._handle, fcntl.LOCK_SH)  # a conversion that fails may have lost what there was
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._handle, fcntl.LOCK_SH)

    def _left_behind(self) -> Iterator[Path]:
        """What was set aside, and what builds left that nobody is at any more."""
        for folder in self._folders():
            for each in _scan(folder):
                match = LEFT_NAME.fullmatch(each.name)
                if match and match[2] == "damaged":
                    yield Path(each.path)
                elif match:
                    with contextlib.suppress(OSError), locked(folder / f"{match[1]}.lock"):
                        yield Path(each.path)
        yield from (Path(each.path) for each in _scan(self.root) if ASIDE_NAME.search(each.name))

    @staticmethod
    def _drop(entry: Entry) -> bool:
        """Remove an entry unless somebody is at it."""
        try:
            with locked(entry.path.with_suffix(".lock")):
                _remove(_hide(entry.path))
        except OSError:  # a TimeoutError is one
            return False
        return True


def nearest_change(depends: Depends, others: Iterable[Depends]) -> list[str]:
    """What changed since the nearest of `others` that are the same thing; of equally near ones the last. Or nothing."""
    differences = [
        changed_fields(other, depends)
        for other in others
        if all(other.get(name) == depends.get(name) for name in IDENTITY)
    ]
    return min(reversed(differences), key=len) if differences else []


def _entry(path: Path) -> Entry:
    """Raises OSError or ValueError for what is no whole entry."""
    folder = path.lstat()
    if not stat.S_ISDIR(folder.st_mode):
        raise ValueError("not a folder")
    manifest = read_manifest(path / MANIFEST)
    if not manifest.key.startswith(path.name):
        raise ValueError("it has another's key")
    size, built = (path / manifest.file).lstat().st_size, (path / MANIFEST).lstat().st_mtime
    return Entry(path.parent.name, path, manifest, size, built, max(folder.st_mtime, built))


def _sound_manifest(entry: Path, filename: str, key: str) -> Manifest:
    """The manifest of an entry that is what it should be to the last byte. Raises OSError or ValueError otherwise."""
    artifact = entry / filename
    found = _entry(entry)
    if found.manifest.key != key or found.manifest.file != filename:
        raise ValueError("it is another's")
    if not is_regular(artifact):
        raise ValueError(f"{filename} is no regular file")
    for path in (entry, entry / MANIFEST, artifact):
        if not own(path.lstat()):
            raise ValueError(f"others can write {path.name}")
    if file_digest(artifact) != found.manifest.sha256:
        raise ValueError(f"{filename} is not what was built")
    return found.manifest


def _set_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.damaged-{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):  # two processes saw it, one was first
        path.rename(aside)
        log.warning("%s %s; set aside as %s and made anew", path, why, aside.name)


def _hide(entry: Path) -> Path:
    """Give an entry whose lock is held the name of what is to be removed, so that nobody ever finds half of it."""
    gone = entry.with_name(f"{entry.name}.building-{uuid.uuid4().hex[:8]}")
    entry.rename(gone)
    return gone


def _make(folder: Path) -> None:
    """A folder, with those above it that are missing; nobody else may write any of them, whatever the umask."""
    if not folder.is_dir():
        if not folder.parent.is_dir():
            _make(folder.parent)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(FOLDER_MODE)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    paths = [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]
    return sum(each.lstat().st_size for each in paths if is_regular(each))


def _remove_idle_locks(folder: Path) -> None:
    """Remove the locks of entries that are gone and that nobody is at."""
    for each in _scan(folder):
        match = LOCK_NAME.fullmatch(each.name)
        if match and not os.path.lexists(folder / match[1]):
            with contextlib.suppress(OSError), locked(Path(each.path)):
                os.unlink(each.path)


def _is_full(folder: Path) -> bool:
    try:
        return shutil.disk_usage(folder).free < FULL_BYTES
    except OSError:
        return False
