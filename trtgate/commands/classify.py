"""`python -m trtgate classify`: what each engine sees on photos, and how long it takes, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trtgate import images
from trtgate.engines import parse_spec
from trtgate.kinds import REFERENCE, EngineRefused, EngineSpec, EngineUnavailable, UserError
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import SCHEDULES, Race, run_race
from trtgate.models.base import CLASSES, image_classes
from trtgate.options import add_options, read_settings
from trtgate.progress import console_progress
from trtgate.report.gallery import LEAST
from trtgate.report.page import Cell, Column, Headline, Notes, Page, Section, Table, cells
from trtgate.report.terminal import print_page
from trtgate.report.words import time_cell
from trtgate.settings import Settings
from trtgate.signature import INPUT, OUTPUT, Tensors
from trtgate.verdict.answers import shares_of
from trtgate.workbench import Logits, Workbench, engine_arm

DEFAULT_MODEL = "efficientnet_lite0"
ROUNDS = 3


@dataclass(frozen=True)
class Seen:
    """What one model's engines say: `logits[engine]` is float32[photos,classes], `latency[engine]` in seconds.

    `left_out` says of engines why they are not there, `notes` what makes the latencies less sure.
    """

    model: str
    photos: tuple[str, ...]
    classes: Sequence[str]
    logits: Mapping[str, Logits]
    latency: Mapping[str, float]
    batch: int
    trained: bool
    left_out: Mapping[str, str]
    notes: tuple[str, ...] = ()


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("classify", help="what each engine sees on photos, and how long it takes")
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO")
    add_options(parser.add_argument)
    parser.set_defaults(run=_classify)


def _classify(options: argparse.Namespace) -> int:
    options.model = options.model or [DEFAULT_MODEL]
    settings = read_settings(lambda name: getattr(options, name))
    asked = [parse_spec(text).id for text in options.engine]
    pixels = {str(path): _decode(path) for path in options.photos}
    progress = console_progress()
    found = []
    for name in settings.models:
        with Workbench(name, settings, progress) as bench:
            found.append(look(bench, pixels, asked))
    print_page(classify_page(found))
    return 0


def _decode(path: Path) -> images.Pixels:
    try:
        return images.decode(path)
    except UserError as error:
        raise UserError(f"{str(error).rpartition('; ')[0]}; give a photo, such as a JPEG or PNG file") from error


def look(bench: Workbench, photos: Mapping[str, images.Pixels], asked: Sequence[str] = ()) -> Seen:
    """Every engine's answers on photos, uint8[H,W,3] by name, and its latency on the first of them.

    Raises UserError for an engine of `asked` that cannot be had.
    """
    if bench.file is not None:
        raise UserError(
            f"--model {bench.name}: classify is for torchvision's classifiers; an ONNX file is gated by bench/"
        )
    how, size = bench.model.preprocessing, min(bench.settings.batch_sizes)
    crops = [images.centre_crop(each, how)[None] for each in photos.values()]
    batches = [{INPUT: images.normalise(np.repeat(crop, size, 0), how)} for crop in crops]
    logits: dict[str, Logits] = {}
    left_out: dict[str, str] = {}
    for spec in bench.settings.engines:
        try:
            logits[spec.id] = _answers(bench, spec, batches)
        except (EngineUnavailable, EngineRefused) as error:
            if spec.id in asked:
                raise UserError(f"--engine {spec.id}: {error}") from error
            left_out[spec.id] = str(error)
    race = _raced(bench, [spec for spec in bench.settings.engines if spec.id in logits], batches[0])
    return Seen(
        bench.name,
        tuple(photos),
        _class_names(bench.settings, bench.model.classes),
        logits,
        {engine: race.latency(engine) for engine in logits},
        size,
        bench.weights.trained,
        left_out,
        race.notes or ((f"{race.disturbed} during the race",) if race.disturbed else ()),
    )


def _answers(bench: Workbench, spec: EngineSpec, batches: Sequence[Tensors]) -> Logits:
    """float32[photos,classes]; each batch is one photo. Raises EngineUnavailable."""
    availability = bench.available(spec)
    if not availability.ok:
        raise EngineUnavailable(str(availability))
    engine = bench.engine(spec)
    return np.concatenate([engine.infer(batch)[OUTPUT][:1] for batch in batches])


def _raced(bench: Workbench, specs: Sequence[EngineSpec], batch: Tensors) -> Race:
    """A race that is too short for a verdict, and long enough for a number to look at."""
    device = bench.settings.device
    # As many rounds may be lost as to a long race: one that throttled is no reason to show nothing.
    short = replace(SCHEDULES[device], rounds=ROUNDS, dropped_share=SCHEDULES[device].rounds * 0.2 / ROUNDS)
    arms = [engine_arm(bench.engine(spec), batch) for spec in specs]
    with bench.progress.step(f"{bench.name}: racing {len(arms)} engines at batch {len(batch[INPUT])}") as count:
        race = run_race(arms, short, monitor=monitor_for(device)(), progress=count)
    if not race.rounds:
        raise UserError(f"the machine is not fit to measure on ({race.dropped[-1]}); see python -m trtgate doctor")
    return race


def _class_names(settings: Settings, classes: int) -> tuple[str, ...]:
    """As the folders of --images have them, ImageNet's, or numbers."""
    named = images.list_folder(settings.images, classes).classes if settings.images else ()
    if not named and classes == CLASSES:
        return tuple(each.name for each in image_classes())
    return named or tuple(f"class {index}" for index in range(classes))


def classify_page(found: Sequence[Seen]) -> Page:
    """A table for each model: photo by photo, engine by engine, its classes."""
    answers = differ = 0
    sections = []
    for seen in found:
        # No answer at all is that of nothing else.
        first = {e: np.where(np.isfinite(logits).all(1), logits.argmax(1), np.nan) for e, logits in seen.logits.items()}
        others = [engine for engine in first if engine != REFERENCE.id]
        answers += len(others) * len(seen.photos)
        differ += sum(int((first[engine] != first[REFERENCE.id]).sum()) for engine in others)
        sections.append(Section(seen.model, (_table(seen), Notes(tuple(_notes(seen))))))
    photos = len(found[0].photos)
    same = f"{answers - differ} of {answers} first answers are those of {REFERENCE.id}" if answers else "no engine"
    return Page("classify", Headline(None, f"{photos} photo{'s' * (photos > 1)}: {same}"), tuple(sections))


def _table(seen: Seen) -> Table:
    columns = (
        Column("photo", text=True),
        Column("engine", text=True),
        Column("latency\nms"),
        Column("confidence"),
        Column("class", text=True),
    )
    rows = []
    for index, photo in enumerate(seen.photos):
        for engine, logits in seen.logits.items():
            if not np.isfinite(logits[index]).all():
                rows.append(cells(photo, engine, time_cell(seen.latency[engine]), "-", "not finite"))
                continue
            [shares] = shares_of(logits[index : index + 1])
            order = np.argsort(-shares)
            shown = [int(which) for which in order if shares[which] > LEAST] or [int(order[0])]
            for which in shown:
                share = Cell(f"{shares[which]:.1%}", value=float(shares[which]))
                rows.append(cells(photo, engine, time_cell(seen.latency[engine]), share, seen.classes[which]))
    return Table(columns, tuple(rows), grouped=3)


def _notes(seen: Seen) -> list[str]:
    notes = [f"at batch {seen.batch}, of one photo"] if seen.batch > 1 else []
    if not seen.trained:
        notes.append(f"{seen.model} is untrained, its answers mean nothing; give --weights {seen.model}=PATH")
    notes += seen.notes
    return notes + [f"left out: {engine}: {why}" for engine, why in seen.left_out.items()]
