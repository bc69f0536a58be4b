"""bench/expectations.toml: the floors and limits, by model, precision and engine."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtgate.engines import all_specs
from trtgate.files import locked, write_synced
from trtgate.kinds import PRECISIONS, EngineSpec, UserError
from trtgate.models.names import is_model, model_names
from trtgate.shipped import INSTALLED, shipped
from trtgate.verdict.answers import MAX_DROP
from trtgate.verdict.metrics import BY_NAME, METRICS, Limits, Metric

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from trtgate.graphs.quantize import QuantizeOptions

BARE = re.compile(r"[A-Za-z0-9_-]+")
DEFAULT_PATH = shipped("bench") / "expectations.toml"


@dataclass(frozen=True)
class Range:
    """What a key may hold: from `low` to `high`, and what holds where the file says nothing."""

    default: float | None
    low: float
    high: float


# What takes twice as long is no noise of any machine; what only builds, starts or stalls may be that unsteady.
LIMIT_HIGH = {"tail": 10.0, "end_to_end_tail": 10.0, "build_seconds": 10.0, "cold_start": 10.0}
KEYS: Mapping[str, Range] = {
    "agreement": Range(0.85, 0.0, 1.0),
    "max_accuracy_drop": Range(0.015, 0.0, 1.0),
    "max_answers_lost": Range(MAX_DROP, 0.0, 1.0),
    "max_class_lost": Range(0.2, 0.0, 1.0),
    "cosine": Range(0.85, -1.0, 1.0),
    "sqnr_db": Range(10.0, -20.0, 200.0),
    "mean_ap": Range(None, 0.0, 1.0),
    "confidence": Range(None, 0.0, 1.0),
    "mean_iou": Range(None, 0.0, 1.0),
    "metric": Range(None, -1e9, 1e9),
    "speedup": Range(None, 0.0, 1e6),
    "absolute_floor_us": Range(2.0, 0.0, 1e5),
    "process_spread": Range(None, 0.0, 1.0),
    **{metric.limit: Range(metric.delta, 0.001, LIMIT_HIGH.get(metric.limit, 1.0)) for metric in METRICS},
}


@dataclass(frozen=True)
class Expectation:
    """What one engine of one model must reach: every key of KEYS with its value, None where nothing is wanted."""

    values: Mapping[str, float | None] = field(default_factory=dict)

    def __getitem__(self, key: str) -> float | None:
        return self.values[key] if key in self.values else KEYS[key].default

    def number(self, key: str) -> float:
        """The value of a key that always has one."""
        value = self[key]
        assert value is not None, key
        return value

    @property
    def absolute_floor(self) -> float:
        """`absolute_floor_us` in seconds."""
        return self.number("absolute_floor_us") / 1e6

    def limits(self, metric: Metric) -> Limits:
        """What holds for a metric."""
        return Limits(self[metric.limit], self.absolute_floor, self["process_spread"])

    def as_json(self) -> dict[str, float]:
        """Everything that holds, for the record of the session."""
        return {key: value for key in KEYS if (value := self[key]) is not None}


@dataclass(frozen=True)
class Expectations:
    """The file as read; look values up with `of` and `quantize`."""

    path: Path
    table: Mapping[str, Any]
    # Models that are networks of the user's own: no floor of speed that holds for classifiers holds for them.
    own: frozenset[str] = frozenset()

    def of(self, model: str, engine: str) -> Expectation:
        """What `engine` of `model` must reach: the last of default, precision and engine, then the model's own, that
        says something. A file at several shapes is one model here, and each of them may have more of its own."""
        merged = self._of(self.table.get("default", {}), engine)
        if model in self.own or _file_name(model).endswith(".onnx"):
            merged.pop("speedup", None)
        for name in dict.fromkeys([_file_name(model), model]):
            merged |= self._of(self.table.get("models", {}).get(name, {}), engine)
        return Expectation(merged)

    @staticmethod
    def _of(section: Mapping[str, Any], engine: str) -> dict[str, float | None]:
        merged: dict[str, float | None] = {}
        precision = EngineSpec.parse(engine).precision if _parses(engine) else ""
        for level in (
            section,
            section.get("precision", {}).get(precision, {}),
            section.get("engines", {}).get(engine, {}),
        ):
            merged.update({key: value for key, value in level.items() if not isinstance(value, Mapping)})
        return merged

    def with_models(
        self, limits: Mapping[str, Mapping[str, Any]], quantize: Mapping[str, Any], own: Iterable[str]
    ) -> Expectations:
        """The same with what models' own files say of them, by name; this file has the last word. `own` are those that
        are networks of the user's own."""
        table = dict(self.table)
        for key, more in (("models", limits), ("quantize", quantize)):
            known = table.get(key, {})
            table[key] = {**known, **{name: _merged(each, known.get(name, {})) for name, each in more.items() if each}}
        return Expectations(self.path, table, self.own.union(own))

    def require_models(self, known: Iterable[str], folders: Iterable[Path] | None = None) -> None:
        """Raises UserError for a section that means none of the `known` models and no other one either: misspelt, it
        would leave the model that it means to other limits.

        Others are torchvision's, and what a TOML beside this file or in the working directory describes. A section of
        an ONNX file is misspelt only where it nearly has a known name and no such file is here or in `folders`: where
        models are only read of, their files need not be there.
        """
        names = dict.fromkeys(name for each in known for name in (each, _file_name(each)))
        beside = [Path(), self.path.parent, *(folders or ())]
        for section in ("models", "quantize"):
            for model in self.table.get(section, {}):
                file = _file_name(model)
                if model in names or file in names:
                    continue
                of_file = file.endswith(".onnx")
                if not of_file and is_model(model):
                    continue
                others = [each for each in names if not _variant(each, model)] if of_file else [*names, *model_names()]
                near = difflib.get_close_matches(model, others, 1, 0.6)
                there = any((each / file).is_file() for each in beside) if of_file else _is_described(model, beside)
                if there or (not near and (of_file or folders is None)):
                    continue
                hint = f"did you mean {_key(near[0])}?" if near else "give one that --model takes"
                raise UserError(f"{self.path}: [{section}.{_key(model)}] names no model, here or elsewhere; {hint}")

    def only(self, model: str, engine: str, metric: Metric | None, delta: float) -> Expectations:
        """The same for a question about one metric of one engine (None: about what is no metric): it is gated at
        `delta` and nothing beside it but the latency, which always has a limit, and nothing may be missing."""
        limits = {each.limit: None for each in METRICS if each.limit != BY_NAME["latency"].limit}
        own = {**limits, **({metric.limit: delta} if metric else {})}
        models = self.table.get("models", {})
        section = models.get(model, {})
        engines = section.get("engines", {})
        section = {**section, "engines": {**engines, engine: {**engines.get(engine, {}), **own}}}
        return replace(self, table={**self.table, "acknowledged_missing": [], "models": {**models, model: section}})

    def acknowledges(self, model: str, engine: str) -> bool:
        """Whether a baseline may have that engine and a run may lack it."""
        patterns = self.table.get("acknowledged_missing", ())
        return any(fnmatch.fnmatch(f"{model} {engine}", pattern) for pattern in patterns)

    def quantize(self, model: str) -> QuantizeOptions:
        """How the INT8 graphs of `model` are made."""
        from trtgate.graphs.quantize import QuantizeOptions

        sections = self.table.get("quantize", {})
        section = sections.get(model) or sections.get(_file_name(model), {})
        return QuantizeOptions(section.get("calibration", "minmax"), tuple(section.get("keep_float", ())))


def _file_name(model: str) -> str:
    """A model's name without the shape that stands in it."""
    return model.partition("@")[0]


def _variant(name: str, other: str) -> bool:
    """Whether two names differ in numbers or a suffix alone: those of two versions of a network, or of a file and of
    torchvision's."""
    plain, same = (re.sub(r"\d+|\.onnx$", "", each) for each in (name, other))
    return plain == same


def _is_described(model: str, folders: Iterable[Path]) -> bool:
    """Whether a TOML in one of the folders is that model's."""
    files = [path for folder in folders for path in folder.glob("*.toml")]
    return any(path.stem == model or _name_in(path) == model for path in files)


def _name_in(path: Path) -> str:
    """The `name` that a model's TOML gives itself; "" for what is none."""
    try:
        return str(tomllib.loads(path.read_bytes().decode("utf-8-sig")).get("name", "")) if path.is_file() else ""
    except (OSError, ValueError, RecursionError):
        return ""


def _key(name: str) -> str:
    """A name as TOML has it in a header."""
    return name if BARE.fullmatch(name) else json.dumps(name)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Two sections in one, level by level."""
    found = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], Mapping) and isinstance(over[key], Mapping):
            found[key] = _merged(under[key], over[key])
    return found


def _parses(engine: str) -> bool:
    try:
        EngineSpec.parse(engine)
    except ValueError:
        return False
    return True


def read_expectations(path: Path = DEFAULT_PATH) -> Expectations:
    """Read and check the file. Raises UserError naming the file and the key that is wrong.

    Which models there are is not known here: `require_models` holds the file to them.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file; name an expectations.toml")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); restore it or name another one") from error
    return _parsed(path, content)


def _parsed(path: Path, content: bytes) -> Expectations:
    """What the file at `path` says with that content."""
    try:
        table = tomllib.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # tomllib's own, and a number too long to be read
        raise UserError(f"{path} is not valid TOML: {error}") from error
    known_names(path, "section", table, ("acknowledged_missing", "default", "models", "quantize"))
    missing = table.get("acknowledged_missing", [])
    if not isinstance(missing, list) or not all(isinstance(each, str) for each in missing):
        raise UserError(f'{path}: acknowledged_missing must be a list such as ["resnet50 openvino-bf16"]')
    check_section(path, "default", table.get("default", {}))
    for model, section in _tables(path, "models", table.get("models", {})):
        check_section(path, f"models.{model}", section)
    for model, section in _tables(path, "quantize", table.get("quantize", {})):
        check_quantize(path, f"quantize.{model}", section)
    return Expectations(path, table)


def _tables(path: Path, name: str, section: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """The sub-sections of a section that holds nothing else."""
    if not isinstance(section, Mapping) or not all(isinstance(each, Mapping) for each in section.values()):
        raise UserError(f"{path}: [{name}] holds sub-sections only, such as [{name}.NAME]")
    return list(section.items())


def known_names(path: Path, what: str, given: Iterable[str], known: Iterable[str], where: str = "") -> None:
    """Raises UserError for a name of a file that is none of the known ones, with the one that is nearest."""
    names = sorted(known)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
            raise UserError(f"{path}: {what} {name}{where} is unknown; {hint}")


def check_section(path: Path, name: str, section: Any) -> None:
    """Raises UserError unless a section holds limits, and more of them by precision and engine."""
    if not isinstance(section, Mapping):
        raise UserError(f"{path}: [{name}] must be a section")
    inner = {key for key, value in section.items() if isinstance(value, Mapping)}
    known_names(path, "section", inner, ("engines", "precision"), f" in [{name}]")
    _check_values(path, name, {key: value for key, value in section.items() if key not in inner})
    precisions = _tables(path, f"{name}.precision", section.get("precision", {}))
    known_names(path, "precision", dict(precisions), PRECISIONS, f" in [{name}]")
    engines = _tables(path, f"{name}.engines", section.get("engines", {}))
    known_names(path, "engine", dict(engines), (spec.id for spec in all_specs()), f" in [{name}]")
    for kind, some in (("precision", precisions), ("engines", engines)):
        for each, values in some:
            _check_values(path, f"{name}.{kind}.{each}", values)


def _check_values(path: Path, name: str, values: Mapping[str, Any]) -> None:
    known_names(path, "key", values, KEYS, f" in [{name}]")
    for key, value in values.items():
        span = KEYS[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{path}: {key} in [{name}] must be a number, not {value!r}")
        # Compared as it is: a whole number of any length is no float.
        if not span.low <= value <= span.high:
            raise UserError(
                f"{path}: {key} = {str(value)[:20]} in [{name}] must lie between {span.low:g} and {span.high:g}"
            )


def check_quantize(path: Path, name: str, section: Mapping[str, Any]) -> None:
    """Raises UserError unless a section says how INT8 graphs are made."""
    known_names(path, "key", section, ("calibration", "keep_float"), f" in [{name}]")
    if section.get("calibration", "minmax") not in ("minmax", "entropy"):
        raise UserError(f'{path}: calibration in [{name}] must be "minmax" or "entropy"')
    nodes = section.get("keep_float", [])
    if not isinstance(nodes, list) or not all(isinstance(each, str) for each in nodes):
        raise UserError(f"{path}: keep_float in [{name}] must be a list of node names")


def require_own(path: Path, model: str, engine: str) -> None:
    """Raises UserError for the file that an installed trtgate brought, which the next version replaces, and for one
    that `write_delta` could not write: before anything is measured."""
    if INSTALLED and path == DEFAULT_PATH:
        raise UserError(f"{path} came with trtgate; copy it and give --expectations FILE")
    _with_delta(path, model, engine, KEYS["delta"].low)
    with _written_through(path) as beside:
        # As much as will be written, since a disk may have room for a name and for nothing else.
        write_synced(beside, path.read_bytes() + bytes(ROOM))


# More than one engine's delta takes.
ROOM = 1024
# How long another one that writes the same file is waited for.
TURN_SECONDS = 10.0


@contextlib.contextmanager
def _written_through(path: Path) -> Iterator[Path]:
    """The file beside it through which the file is written, by one process at a time; it is gone afterwards. Raises
    UserError where that cannot be."""
    beside = path.with_name(f"{path.name}.tmp")
    try:
        with locked(beside, TURN_SECONDS) as handle:
            try:
                yield beside
            finally:
                # What took its place on the way is not ours.
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.fstat(handle), beside.lstat()):
                        beside.unlink()
    except OSError as error:
        raise UserError(
            f"--write: {path} cannot be written through {beside} ({error.strerror or error}); make room, or edit it by "
            "hand"
        ) from error


def write_delta(path: Path, model: str, engine: str, delta: float) -> None:
    """Set `delta` of one engine of one model in the file, keeping its comments and layout, and what others wrote there
    meanwhile.

    Raises UserError when the result would not be the file it should be; nothing is written then.
    """
    with _written_through(path) as beside:
        write_synced(beside, _with_delta(path, model, engine, delta))
        beside.replace(path)


def _with_delta(path: Path, model: str, engine: str, delta: float) -> bytes:
    """The file's content with `delta` of an engine of a model set. Raises UserError where that cannot be done by lines,
    as in a file that has the section in another form."""
    by_hand = f"{path}: delta of {model} {engine} cannot be set; write it there by hand"
    try:
        lines = path.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); name another one") from error
    wanted, value = ["models", model, "engines", engine], f"delta = {delta:g}"
    at = next((index for index, line in enumerate(lines) if _header(line) == wanted), None)
    if at is None:
        lines += ["", f"[models.{_key(model)}.engines.{_key(engine)}]", value]
    else:
        end = next((i for i in range(at + 1, len(lines)) if lines[i].lstrip().startswith("[")), len(lines))
        there = next((i for i in range(at + 1, end) if lines[i].partition("=")[0].strip() == "delta"), None)
        lines[at + 1 if there is None else there : at + 1 if there is None else there + 1] = [value]
    content = ("\n".join(lines) + "\n").encode()
    try:
        written = _parsed(path, content).of(model, engine)["delta"]
    except UserError as error:
        raise UserError(by_hand) from error
    if written != delta:
        raise UserError(by_hand)
    return content


def _header(line: str) -> list[str]:
    """The names in the header of a section; none for any other line."""
    if not line.lstrip().startswith("["):
        return []
    try:
        table = tomllib.loads(line)
    except ValueError:
        return []
    names: list[str] = []
    while isinstance(table, dict) and len(table) == 1:
        [(name, table)] = table.items()
        names.append(name)
    return names
