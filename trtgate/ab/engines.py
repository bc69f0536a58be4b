"""Which engines each side has, and what becomes of those that one lacks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtgate.engines import runtimes_of
from trtgate.kinds import REFERENCE, EngineSpec, UserError
from trtgate.measure.remote import SIDES, Environment, Place, Sides
from trtgate.settings import Settings


@dataclass(frozen=True)
class Chosen:
    """Which engines are raced: `both` sides have them; `lost` are the old side's alone, `gained` the new side's alone,
    each with the reason; `left_out` is on neither."""

    stacks: Mapping[str, Mapping[str, Any]]
    both: tuple[EngineSpec, ...]
    lost: Mapping[str, str]
    gained: Mapping[str, str]
    left_out: Mapping[str, str]


def require_apart(places: Mapping[str, Place], settings: Settings) -> None:
    """Raises UserError where PYTHONPATH holds a runtime: both sides would load that one, and neither its own."""
    if len({str(place) for place in places.values() if isinstance(place, Environment)}) < 2:
        return
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        for module in dict.fromkeys(runtimes_of(settings.engines, settings.device)):
            if (Path(folder) / module).is_dir() or (Path(folder) / f"{module}.py").is_file():
                raise UserError(
                    f"PYTHONPATH: {folder} holds {module}, which both sides would load; unset it, and install what "
                    "either side is to have in its own environment"
                )


def choose_engines(both: Sides, settings: Settings, asked: Sequence[str]) -> Chosen:
    """What each side has of the engines of the run.

    Raises UserError for an engine that was asked for and that the old side lacks, and where the old side has none.
    """
    # PyTorch is nobody's upgrade; the reference of an ONNX file is a runtime like the others.
    ids = [spec.id for spec in settings.engines if spec != REFERENCE or REFERENCE.id in asked]
    described = {side: both[side][0].ask("describe", device=settings.device, engines=ids) for side in SIDES}
    here = {side: {text: described[side]["engines"][text]["ok"] for text in ids} for side in SIDES}
    why = {side: {text: f"{side}: {described[side]['engines'][text]['reason']}" for text in ids} for side in SIDES}
    for text in ids:
        if text in asked and not here["old"][text]:
            raise UserError(f"--engine {text} is not available on the old side ({why['old'][text]}); install it there")
    if not any(here["old"].values()):
        reasons = "; ".join(f"{text} {why['old'][text]}" for text in ids)
        raise UserError(f"no engine is available on the old side ({reasons}); install a runtime there")
    return Chosen(
        {side: described[side]["stack"] for side in SIDES},
        tuple(EngineSpec.parse(text) for text in ids if here["old"][text] and here["new"][text]),
        {text: why["new"][text] for text in ids if here["old"][text] and not here["new"][text]},
        {text: why["old"][text] for text in ids if here["new"][text] and not here["old"][text]},
        {text: why["old"][text] for text in ids if not here["new"][text] and not here["old"][text]},
    )


class LostEngine(Exception):
    """The new side cannot build, load or run an engine that the old side can."""
