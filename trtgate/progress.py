"""What is being done and how long it took: rewritten in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

# A count that changes faster than this only flickers.
REFRESH_SECONDS = 0.2


class Progress:
    """Prints steps through `line` (a whole line that stays) and `draft` (a line that the next one replaces)."""

    def __init__(self, line: Callable[[str], None], draft: Callable[[str], None] | None = None) -> None:
        self._line = line
        self._draft = draft
        self._drawn = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        self._line(text)

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[Callable[[int, int], None]]:
        """One step; yields a function to call with (done, total)."""
        started = time.monotonic()

        def count(done: int, total: int) -> None:
            now = time.monotonic()
            if self._draft is not None and now - self._drawn >= REFRESH_SECONDS:
                self._drawn = now
                self._draft(f"{text}: {done}/{total}")

        if self._draft is not None:
            self._draft(f"{text} ...")
        yield count
        self._line(f"{text}: {time.monotonic() - started:.1f} s")


SILENT = Progress(lambda text: None)


def console_progress(stream: TextIO | None = None) -> Progress:
    """Progress on a stream, standard error by default."""
    out = stream or sys.stderr

    def write(text: str) -> None:
        out.write(text)
        out.flush()

    if not out.isatty():
        return Progress(lambda text: write(f"{text}\n"))
    return Progress(lambda text: write(f"\r\x1b[K{text}\n"), lambda text: write(f"\r\x1b[K{text}"))
