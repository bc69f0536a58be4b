"""How a session gets into pytest-benchmark's storage: whole or not at all, and under a number of its own.

pytest-benchmark itself opens the file before it knows what goes in: for a second a session is empty for whoever reads
it, and stays so where a run is ended then; and of two runs that end at once one would overwrite the other.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.storage.file import FileStorage

from trtgate.baseline import saved_in
from trtgate.files import locked, write_whole

# Whoever holds it is saving a session of a megabyte.
LOCK = ".saving.lock"
LOCK_SECONDS = 30.0


@contextlib.contextmanager
def saved_whole() -> Iterator[None]:
    """A block in which pytest-benchmark saves so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileStorage, "save", _save)
        yield


def _save(storage: Any, output_json: Any, save: str) -> None:
    content = json.dumps(output_json, indent=4, default=str).encode()
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):  # not every file system has locks
            held.enter_context(locked(storage.get(LOCK), LOCK_SECONDS))
        folder: Path = storage.get(LOCK).parent
        # Another Python has another folder; the newest of all is that with the highest number.
        number = max((int(path.name.partition("_")[0]) for path in saved_in(folder.parent)), default=0) + 1
        path = folder / f"{number:04}_{save}.json"
        write_whole(path, content)
    storage.logger.info(f"Saved benchmark data in: {path}")
