"""The one exception that is the user's to fix."""

from __future__ import annotations

import re

# Escape sequences of a terminal as a whole (ECMA-48: CSI, OSC, and what begins with ESC otherwise), then what is left
# of control characters: a message quotes file names and other libraries, and must not be able to repaint a terminal.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """The text without terminal escape sequences; other control characters but tab and newline become "?"."""
    return _CONTROLS.sub("?", _SEQUENCES.sub("", text))


class UserError(Exception):
    """A mistake in what the user gave: one sentence that names the file or option, and the fix.

    The command line and the pytest plugin print the sentence without a traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))
