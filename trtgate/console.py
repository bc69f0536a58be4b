"""Standard streams that end no command: whatever reads them may be gone, their disk full, their encoding ASCII."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from trtgate.verdict.policy import EXIT_REGRESSED

CLOSED = "standard output is closed; give it a file, or /dev/null"


class Steady:
    """A text stream that takes everything: the first error is kept, and what comes after it goes nowhere.

    What its encoding has no character for is escaped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | None = None
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError as error:
            self._lost(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lost(error)

    def status(self, status: int, mistake: int) -> int:
        """The exit status of a process that would end with `status`: with `mistake`, which is told, where not all could
        be written. A reader that left early, as `head` does, has read what it wanted; and a regression stays one.
        """
        self.flush()
        if self.error is None or isinstance(self.error, BrokenPipeError):
            return status
        why = f"standard output cannot be written ({self.error.strerror}); make room, or name another file"
        print(f"trtgate: {why}", file=sys.stderr)
        return status if status == EXIT_REGRESSED else mistake

    def _lost(self, error: OSError) -> None:
        self.error = self.error or error
        # What is still in its buffer would be written again when the process ends, and fail again.
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady_streams() -> Iterator[Steady]:
    """Standard output and error as steady ones; the former."""
    out, err = Steady(sys.stdout), Steady(sys.stderr or sys.stdout)
    with contextlib.redirect_stdout(cast(TextIO, out)), contextlib.redirect_stderr(cast(TextIO, err)):
        try:
            yield out
        finally:
            out.flush()
            err.flush()
