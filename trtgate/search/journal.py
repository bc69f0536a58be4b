"""What a search for a version has found, in a file with which it goes on after it was ended, and as JSON for others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from trtgate import fields
from trtgate.compare import HARDWARE, SETTINGS
from trtgate.fields import DAMAGED, read_json
from trtgate.files import file_digest, write_whole
from trtgate.kinds import UserError
from trtgate.progress import Progress
from trtgate.search.laboratory import effort
from trtgate.search.question import Bisection, Question, Raced, Versions
from trtgate.settings import Settings
from trtgate.stack import stack
from trtgate.verdict.bisection import Relation

# Raised when the file changes its meaning.
SCHEMA = 1
# What every version runs on, or its graph is made by, whichever version it is.
UNDER_ALL = ("driver", "torch", "onnx")


class Journal:
    """The races of one search, in a file that is whole after each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, progress: Progress) -> list[Raced]:
        """Those that are known; none where the file is damaged, which is told."""
        if not self.path.is_file():
            return []
        try:
            given = fields.table("the search", read_json(self.path))
            if given["schema"] != SCHEMA:
                raise ValueError(f"schema {given['schema']}")
            return list(fields.listed(lambda _, each: raced_from_json(each))("races", given["races"]))
        except DAMAGED as error:
            progress.say(f"{self.path} is damaged ({error}); the search begins anew")
            return []

    def write(self, races: Sequence[Raced]) -> None:
        """Keep those races. Raises UserError where that fails."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, json.dumps({"schema": SCHEMA, "races": list(map(raced_to_json, races))}).encode())
        except OSError as error:
            raise UserError(
                f"--environments: {self.path} cannot be written ({error.strerror}); make room, or name another folder"
            ) from error


def journal_of(
    question: Question, ends: tuple[str, str], versions: Versions, settings: Settings, processes: int | None = None
) -> Journal:
    """The file of that question between two versions: another machine, or anything else that a race depends on, is
    another question."""
    here = stack(settings.threads, settings.device)
    depends = {
        **asdict(question),
        "ends": ends,
        **versions.made_of,
        **{name: here.get(name) for name in (*HARDWARE, *SETTINGS, *UNDER_ALL)},
        "effort": asdict(effort(question, processes, again=False)),
        **contents_of(settings),
        "expectations": settings.expectations.of(question.model, question.engine).as_json(),
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]
    return Journal(versions.folder / f"search-{digest}.json")


def contents_of(settings: Settings) -> dict[str, Any]:
    """What the models and samples of a run are, by content: what lies at a path may be another thing the next time."""
    models = settings.files.values()
    folders = [settings.images, settings.calibration_images]
    folders += [each for model in models for each in (model.images, model.calibration_images)]
    weights = {**settings.weights, **{name: model.weights for name, model in settings.files.items() if model.weights}}
    return {
        "weights": {name: _content(path) for name, path in weights.items()},
        "files": {name: [model.digest, model.file and model.file.digest] for name, model in settings.files.items()},
        "quantize": {name: asdict(settings.expectations.quantize(name)) for name in settings.models},
        "images": [_content(path) for path in folders],
    }


def _content(path: Path | None) -> str:
    """SHA-256 of a file, or of all in a folder by name; empty for what is not there."""
    if path is None or not path.exists():
        return ""
    if path.is_file():
        return file_digest(path)
    digest = hashlib.sha256()
    for each in sorted(path.rglob("*")):
        if each.is_file():
            digest.update(f"{each.relative_to(path)}:{file_digest(each)};".encode())
    return digest.hexdigest()


def raced_to_json(raced: Raced) -> dict[str, Any]:
    """A race as plain JSON values."""
    values = asdict(raced)
    del values["relation"]
    return {**values, "outcome": raced.relation.value, "stack": list(raced.stack), "layers": list(raced.layers)}


def raced_from_json(values: Any) -> Raced:
    """The inverse of `raced_to_json`. Raises one of `fields.DAMAGED` for anything else."""
    given = fields.table("a race", values)
    number = fields.optional(fields.ratio)
    return Raced(
        old=fields.line("old", given["old"]),  # with its digest the name of an image is longer than a label
        new=fields.line("new", given["new"]),
        relation=Relation(given["outcome"]),
        again=fields.flag("again", given["again"]),
        message=fields.text("message", given["message"]),
        processes=fields.count("processes", given["processes"]),
        seconds=fields.number("seconds", given["seconds"]),
        **{name: number(name, given[name]) for name in ("estimate", "low", "high", "before", "after")},
        stack=fields.listed(fields.text)("stack", given["stack"]),
        layers=fields.listed(fields.text)("layers", given["layers"]),
        answers=fields.mapped(fields.plain)("answers", given["answers"]),
    )


def bisection_to_json(found: Bisection) -> dict[str, Any]:
    """A whole search as plain JSON values."""
    answer, names = found.answer, found.names
    return {
        "schema": SCHEMA,
        "question": asdict(found.question),
        "versions": [
            {
                "version": str(release),
                "released": release.date or None,
                "digest": release.digest or None,
                "state": found.tried[str(release)].words if str(release) in found.tried else None,
                "why": found.tried[str(release)].why if str(release) in found.tried else "",
            }
            for release in found.releases
        ],
        "races": list(map(raced_to_json, found.races)),
        "answer": {
            "kind": answer.kind.value,
            "good": names[answer.good],
            "bad": names[answer.bad],
            "how": answer.how.value if answer.how else None,
            "first": answer.first,
            "remarks": found.remarks(),
        },
    }
