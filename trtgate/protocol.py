"""How the driver of an A/B run and its workers talk: framed JSON over two pipes, or over a Unix socket.

A frame is its length in bytes, four of them big-endian, and then as many bytes of UTF-8 JSON. The pipes are the
worker's alone: what its libraries print goes to its log. A worker's first frame is its greeting; then it answers
requests one by one, with any number of progress frames before each answer.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any

# Raised whenever a request or an answer changes its meaning.
VERSION = 4
HEADER = struct.Struct(">I")
# Blocks of latencies and descriptions; arrays travel as files. More than this is no frame but noise.
LARGEST_FRAME = 64 << 20


class ProtocolError(Exception):
    """The other side is gone, is silent, or does not speak this protocol."""


def parse(body: bytes) -> dict[str, Any]:
    """What a frame says. Raises ProtocolError, and nothing else, for bytes that are no JSON object."""
    try:
        found = json.loads(body, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"it sent something that is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise ProtocolError("it sent something that is no answer and no request")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number")


def require(message: Mapping[str, Any], *names: str) -> tuple[str, Any]:
    """The one of `names` that a message has, and what it says there. Raises ProtocolError if it has none or several."""
    found = [name for name in names if name in message]
    if len(found) != 1:
        raise ProtocolError(
            f"it sent a message without {' or '.join(names)}" if not found else "it said two things at once"
        )
    return found[0], message[found[0]]


class Frames:
    """Frames over a pair of file descriptors, which it owns."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._closed = False

    @classmethod
    def over(cls, connection: socket.socket) -> Frames:
        """Over a connected socket, which is theirs from now on."""
        reading = connection.detach()
        return cls(reading, os.dup(reading))

    def send(self, message: Any) -> None:
        """Write one frame. Raises ProtocolError when nobody reads any more."""
        body = json.dumps(message, allow_nan=False).encode()
        frame = HEADER.pack(len(body)) + body
        try:
            while frame:
                frame = frame[os.write(self._writing, frame) :]
        except OSError as error:
            raise ProtocolError(f"it no longer reads ({error.strerror})") from error

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """Read one frame, within `timeout` seconds if given.

        Raises ProtocolError when the other side is gone, stays silent, or sends what is no frame.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        (length,) = HEADER.unpack(self._exactly(HEADER.size, deadline))
        if length > LARGEST_FRAME:
            raise ProtocolError(f"it sent something that is no frame ({length} bytes long)")
        return parse(self._exactly(length, deadline))

    def _exactly(self, size: int, deadline: float | None) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([self._reading], [], [], left)[0]:
                    raise ProtocolError("it did not answer in time")
            part = os.read(self._reading, size - len(parts))
            if not part:
                raise ProtocolError("it closed its pipe")
            parts += part
        return bytes(parts)

    def close(self) -> None:
        """Close both descriptors; calling it twice does nothing."""
        if not self._closed:
            self._closed = True
            os.close(self._reading)
            os.close(self._writing)
