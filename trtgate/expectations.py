"""bench/expectations.toml: the floors and tolerances, per model and engine."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtgate.errors import UserError
from trtgate.graphs.quantize import QuantizeOptions

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT_PATH = Path(__file__).resolve().parent.parent / "bench" / "expectations.toml"


@dataclass(frozen=True)
class Expectation:
    """What one engine of one model must reach; the fields are the keys of the file."""

    agreement: float = 0.85
    max_accuracy_drop: float = 0.015
    cosine: float = 0.85
    sqnr_db: float = 10.0
    speedup: float | None = None
    delta: float = 0.05
    absolute_floor_us: float = 2.0

    @property
    def absolute_floor(self) -> float:
        """`absolute_floor_us` in seconds."""
        return self.absolute_floor_us / 1e6


@dataclass(frozen=True)
class Expectations:
    """The file as read; look values up with `of` and `quantize`."""

    path: Path
    table: Mapping[str, Any]

    def of(self, model: str, engine: str) -> Expectation:
        """What `engine` of `model` must reach."""
        merged: dict[str, Any] = {}
        for section in (self.table.get("default", {}), self.table.get("models", {}).get(model, {})):
            for level in (section, section.get("engines", {}).get(engine, {})):
                merged.update({key: value for key, value in level.items() if not isinstance(value, Mapping)})
        return Expectation(**merged)

    @property
    def acknowledged_missing(self) -> tuple[str, ...]:
        """Patterns of "MODEL ENGINE" that a baseline may have and a run may lack."""
        return tuple(self.table.get("acknowledged_missing", ()))

    def quantize(self, model: str) -> QuantizeOptions:
        """How the INT8 graphs of `model` are made."""
        section = self.table.get("models", {}).get(model, {}).get("quantize", {})
        return QuantizeOptions(section.get("calibration", "minmax"), tuple(section.get("keep_float", ())))


def read_expectations(path: Path = DEFAULT_PATH) -> Expectations:
    """Read and check the file. Raises UserError naming the file and the key that is wrong."""
    try:
        table = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore it or name another one") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error
    for key in table:
        if key not in {"acknowledged_missing", "default", "models"}:
            raise UserError(f"{path}: [{key}] is unknown; sections are [default...] and [models.MODEL...]")
    if not isinstance(table.get("acknowledged_missing", []), list):
        raise UserError(f'{path}: acknowledged_missing must be a list such as ["resnet50 openvino-bf16"]')
    _check_section(path, "default", table.get("default", {}))
    for model, section in table.get("models", {}).items():
        _check_section(path, f"models.{model}", section)
    return Expectations(path, table)


KEYS = frozenset(field.name for field in dataclasses.fields(Expectation))


def _check_section(path: Path, name: str, section: Mapping[str, Any]) -> None:
    _check_values(path, name, section)
    for engine, values in section.get("engines", {}).items():
        _check_values(path, f"{name}.engines.{engine}", values)
    quantize = section.get("quantize", {})
    for key in quantize:
        if key not in {"calibration", "keep_float"}:
            raise UserError(f"{path}: {key} in [{name}.quantize] is unknown; keys are calibration and keep_float")
    if quantize.get("calibration", "minmax") not in {"minmax", "entropy"}:
        raise UserError(f'{path}: calibration in [{name}.quantize] must be "minmax" or "entropy"')
    if not isinstance(quantize.get("keep_float", []), list):
        raise UserError(f"{path}: keep_float in [{name}.quantize] must be a list of node names")


def _check_values(path: Path, name: str, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in {"engines", "quantize"}:
                raise UserError(f"{path}: [{name}.{key}] is unknown; sub-sections are engines and quantize")
        elif key not in KEYS:
            raise UserError(f"{path}: {key} in [{name}] is unknown; keys are {', '.join(sorted(KEYS))}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path}: {key} in [{name}] must be a number, not {value!r}")


def write_delta(path: Path, model: str, engine: str, delta: float) -> None:
    """Set `delta` of one engine of one model in the file, keeping its comments and layout.

    Raises UserError when the result would not be the file it should be; nothing is written then.
    """
    lines = path.read_text().splitlines()
    header = f"[models.{model}.engines.{engine}]"
    value = f"delta = {delta:g}"
    if header in lines:
        start = lines.index(header) + 1
        end = next((i for i in range(start, len(lines)) if lines[i].startswith("[")), len(lines))
        at = next((i for i in range(start, end) if lines[i].partition("=")[0].strip() == "delta"), None)
        if at is None:
            lines.insert(start, value)
        else:
            lines[at] = value
    else:
        lines += ["", header, value]
    text = "\n".join(lines) + "\n"
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    try:
        written = read_expectations(temporary).of(model, engine).delta
        if written != delta:
            raise UserError(f"{path}: delta of {model} {engine} could not be set; edit it by hand")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
