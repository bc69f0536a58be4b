"""Files: their digests, their locks, and writing them so that a reader never sees half of one."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

# How often a lock that somebody else holds is tried again.
RETRY_SECONDS = 0.05
# What scratch folders are called, and the lock in each; nothing that is kept for the user is called so.
SCRATCH = "trtgate-scratch-"
IN_USE = "in-use.lock"


def named_path(text: str) -> Path:
    """The path that an option names; an empty text, as of a variable that is not set, would be the working directory.

    Raises what argparse tells as a mistake.
    """
    if not text:
        raise argparse.ArgumentTypeError("it names nothing; give a path, or leave the option out")
    return Path(text)


def at_home(text: str) -> Path:
    """The path that a text names, with the home folder for `~`: a name like any other where nobody knows that."""
    return Path(os.path.expanduser(text))


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


def require_no_pipe(path: Path) -> None:
    """Raises OSError for a pipe, a socket or a device, at which a reader would wait without end."""
    if not stat.S_ISREG(mode := path.stat().st_mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


# What is wrong with a path rather than with a program.
WRONG_PATHS = frozenset({errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EACCES, errno.EINVAL})


def path_mistake(error: OSError) -> str | None:
    """A sentence on an error that only another path mends, None for any other."""
    if error.errno not in WRONG_PATHS or not error.filename:
        return None
    shown = os.fsdecode(error.filename)
    return f"{shown[:200]}{'...' * (len(shown) > 200)} cannot be used ({error.strerror}); name another file or folder"


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole at any time, whoever else writes it meanwhile; processes in two containers may have
    the same number."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")  # which no name is too long for
    try:
        write_synced(part, content)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(path: Path, timeout: float = 0.0, waiting: Callable[[], None] = lambda: None) -> Iterator[int]:
    """Hold the lock file `path`, which is made if need be and may be removed by whoever holds it; gives a descriptor.

    A process that is handed it holds the lock, too, for as long as it lives.

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
        yield handle
    finally:
        os.close(handle)


def lasting_scratch() -> Path:
    """A scratch folder for as long as this process lives."""
    held = contextlib.ExitStack()
    atexit.register(held.close)
    return held.enter_context(scratch_folder())


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, gone after the block; one that a killed process left goes when the next is made."""
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with contextlib.suppress(OSError):
            if stat.S_ISDIR((found := left.lstat()).st_mode) and found.st_uid == os.getuid():
                with locked(left / IN_USE):
                    shutil.rmtree(left)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=SCRATCH))
        with contextlib.ExitStack() as held:
            held.callback(shutil.rmtree, folder, ignore_errors=True)
            try:
                held.enter_context(locked(folder / IN_USE))
            except (FileNotFoundError, TimeoutError):  # before it was, another process took it for left over
                continue
            yield folder
            return


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
