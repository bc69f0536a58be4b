"""Checks of JSON that anybody may have written: each takes a field's name and its value, and gives the value.

What is not as it should be is a ValueError that names the field. A file's own reader catches DAMAGED around all of
them, since what is looked up in the wrong kind of value fails in its own way.
"""

from __future__ import annotations

import base64
import json
import math
import sys
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

# All that reading a damaged file may raise, but for OSError.
DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)
# From a picosecond to a petabyte: what lies beyond was not measured, and would overflow where ratios are taken.
SMALLEST, LARGEST = 1e-12, 1e15
# Of a float; a whole number may be larger.
MOST = sys.float_info.max
# What a count may come to: beyond it a number is no measurement, and no float holds it exactly.
LARGEST_COUNT = 2**53
LARGEST_BATCH = 10**9
# Characters of a name: it has to fit into a table beside others.
LONGEST_NAME = 100

T = TypeVar("T")
Floats = npt.NDArray[np.float64]


def read_json(path: Path) -> Any:
    """A file's JSON. Raises OSError, or one of DAMAGED for what is none and for a name that a table has twice."""
    return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)} is there twice")
    return found


def text(name: str, value: Any) -> str:
    """Printable text; messages may hold line ends."""
    if not isinstance(value, str) or not value.replace("\n", "").isprintable():
        raise ValueError(f"{name} must be printable text")
    return value


def line(name: str, value: Any) -> str:
    """Printable text without a line end."""
    if "\n" in text(name, value):
        raise ValueError(f"{name} must be one line of text")
    return str(value)


def label(name: str, value: Any) -> str:
    """What something is called: one line, neither empty nor too long for a table."""
    if not 0 < len(line(name, value)) <= LONGEST_NAME:
        raise ValueError(f"{name} must have from 1 to {LONGEST_NAME} characters")
    return str(value)


def number(name: str, value: Any) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MOST <= value <= MOST:
        raise ValueError(f"{name} must be a finite number")
    return float(value)


def positive(name: str, value: Any) -> float:
    """A number that can have been measured."""
    if not SMALLEST <= number(name, value) <= LARGEST:
        raise ValueError(f"{name} must be positive, and a number that can be measured")
    return float(value)


def measured(name: str, value: Any) -> tuple[float, ...]:
    """A list of numbers that can have been measured; at once where all are, since sessions have so many."""
    return tuple(value) if type(value) is list and all_positive(value) else listed(positive)(name, value)


# What holds of many values at once, of nearly all that is read: each False only has them checked one by one.


def all_numbers(values: Collection[Any]) -> bool:
    """Whether all are floats and finite."""
    return set(map(type, values)) <= {float} and math.isfinite(sum(values))


def all_positive(values: Collection[Any]) -> bool:
    """Whether all are floats that can have been measured."""
    return not values or (all_numbers(values) and min(values) >= SMALLEST and max(values) <= LARGEST)


def all_lines(values: Collection[Any]) -> bool:
    """Whether all are printable lines of text."""
    return set(map(type, values)) <= {str} and "".join(values).isprintable()


def share(name: str, value: Any) -> float:
    """A number from 0 to 1."""
    if not 0 <= number(name, value) <= 1:
        raise ValueError(f"{name} must be a share, from 0 to 1")
    return float(value)


def ratio(name: str, value: Any) -> float:
    """A positive number, or zero."""
    return 0.0 if number(name, value) == 0 else positive(name, value)


def optional(read: Callable[[str, Any], T]) -> Callable[[str, Any], T | None]:
    """The same check, or null."""
    return lambda name, value: None if value is None else read(name, value)


def count(name: str, value: Any) -> int:
    """A whole number from 0 on."""
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        raise ValueError(f"{name} must be a whole number from 0 on, and one that can be counted")
    return value


def batch(name: str, value: Any) -> int:
    """A whole number from 1 on, of what fits into a batch."""
    if not 1 <= count(name, value) <= LARGEST_BATCH:
        raise ValueError(f"{name} must be from 1 to {LARGEST_BATCH}")
    return int(value)


def flag(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false")
    return value


def items(name: str, value: Any) -> list[Any]:
    """A list of anything."""
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value


def listed(read: Callable[[str, Any], T]) -> Callable[[str, Any], tuple[T, ...]]:
    """A list whose values all pass a check."""
    return lambda name, value: tuple(read(name, each) for each in items(name, value))


def table(name: str, value: Any) -> Mapping[str, Any]:
    """A table of anything, by printable names."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a table")
    if not "".join(value).isprintable():
        for key in value:
            line(f"a name in {name}", key)
    return value


def mapped(
    read: Callable[[str, Any], T], at_once: Callable[[Collection[Any]], bool] = lambda _: False
) -> Callable[[str, Any], dict[str, T]]:
    """A table whose values all pass a check; `at_once` is True only where the check would leave all as they are."""

    def check(name: str, value: Any) -> dict[str, T]:
        given = table(name, value)
        if at_once(given.values()):
            return dict(given)
        return {key: read(f"{name}.{key}", each) for key, each in given.items()}

    return check


def plain(name: str, value: Any) -> Any:
    """Anything that can be printed: lines of text, finite numbers, true, false, null, and lists and tables of them."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        return mapped(plain)(name, value)
    if isinstance(value, list):
        return [plain(name, each) for each in value]
    if isinstance(value, str):
        return line(name, value)
    number(name, value)
    return value


def packed(values: Floats) -> str:
    """float64[N] as text, at the precision of float32 and compressed: some 3 bytes a number that varies little."""
    return base64.b64encode(zlib.compress(values.astype("<f4").tobytes(), 9)).decode("ascii")


def unpacked(name: str, compressed: bytes, count: int) -> Floats:
    """The inverse of `packed`, behind its base64: float64[count]. Raises ValueError for anything else, having made no
    more of it than that."""
    try:
        raw = zlib.decompressobj().decompress(compressed, 4 * count + 1)
    except zlib.error as error:
        raise ValueError(f"{name} cannot be unpacked ({error})") from error
    if len(raw) != 4 * count:
        raise ValueError(f"{name} are not {count} numbers")
    return np.frombuffer(raw, "<f4").astype(np.float64)
