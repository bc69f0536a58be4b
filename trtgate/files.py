"""Files: their digests, their locks, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from trtgate.errors import UserError

# How often a lock that somebody else holds is tried again.
RETRY_SECONDS = 0.05


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_regular(path: Path) -> bool:
    """Whether there is a file of that name that is neither a link nor something that a reader would wait for."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, timeout: float = 0.0, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path`, which is made if need be and may be removed by whoever holds it.

    `waiting` is called once if somebody else holds it. Raises TimeoutError when that lasts `timeout` seconds, and
    OSError for a path that can be no lock. The kernel frees the lock of a process that dies.
    """
    deadline, told = time.monotonic() + timeout, False
    while (handle := _try_lock(path)) is None:
        if not told:
            told = True
            waiting()
        if time.monotonic() >= deadline:
            raise TimeoutError(f"another process holds {path}")
        time.sleep(RETRY_SECONDS)
    try:
        yield
    finally:
        os.close(handle)


def _try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock, or None while somebody else does."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed the file: then this one is a lock that nobody else will see.
        found, wanted = os.fstat(handle), path.lstat()
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def require_writable(option: str, path: Path) -> None:
    """Raises UserError, before anything is measured, when the file of an option cannot be written."""
    if (
        (path.exists() and not path.is_file())
        or path.is_symlink()
        or not os.access(path if path.exists() else path.parent, os.W_OK)
    ):
        raise UserError(f"{option} {path} cannot be written; name a file in a folder that is there and writable")
