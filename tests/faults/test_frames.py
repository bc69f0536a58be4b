"""Frames between the driver of an A/B run and its workers."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtgate.protocol import LARGEST_FRAME, Frames, ProtocolError, parse, require

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "200"))


@contextlib.contextmanager
def sent(content: bytes) -> Iterator[Frames]:
    """A reader of exactly these bytes."""
    reading, writing = os.pipe()
    os.write(writing, content)
    os.close(writing)
    frames = Frames(reading, os.open(os.devnull, os.O_WRONLY))
    try:
        yield frames
    finally:
        frames.close()


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


ODD: dict[str, tuple[bytes, str]] = {
    "noise": (b"Segmentation fault\n", "no frame"),
    "half": (framed(b'{"answer": 1}')[:-3], "closed its pipe"),
    "huge": (struct.pack(">I", LARGEST_FRAME + 1), "no frame"),
    "deep": (framed(b"[" * 50_000), "no JSON"),
    "bytes": (framed(b"\xff\xfe"), "no JSON"),
    "NaN": (framed(b'{"answer": NaN}'), "no JSON"),
    "list": (framed(b"[1]"), "no answer"),
    "null": (framed(b"null"), "no answer"),
    "empty": (framed(b""), "no JSON"),
}


@pytest.mark.parametrize(("content", "said"), ODD.values(), ids=ODD)
def test_an_odd_frame_is_a_sentence(content: bytes, said: str) -> None:
    with sent(content) as frames, pytest.raises(ProtocolError, match=said):
        frames.receive(1.0)


def test_a_message_says_one_thing() -> None:
    assert require({"answer": None}, "progress", "error", "answer") == ("answer", None)
    with pytest.raises(ProtocolError, match="without progress or error or answer"):
        require({"anser": 1}, "progress", "error", "answer")
    with pytest.raises(ProtocolError, match="two things"):
        require({"answer": 1, "error": "x"}, "progress", "error", "answer")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=80) | json_values.map(lambda value: framed(json.dumps(value).encode())))
def test_fuzzed_frames_are_read_or_refused(content: bytes) -> None:
    with sent(content) as frames, contextlib.suppress(ProtocolError):
        assert isinstance(frames.receive(1.0), dict)


@pytest.mark.fuzz
@settings(max_examples=EXAMPLES)
@given(st.dictionaries(st.text(max_size=8), json_values.filter(lambda value: "NaN" not in repr(value)), max_size=4))
def test_what_is_no_message_is_refused_and_the_rest_is_read(message: dict[str, object]) -> None:
    with contextlib.suppress(ProtocolError):
        assert parse(json.dumps(message).encode()) == message
