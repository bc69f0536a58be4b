"""Which engines each side has, and what becomes of those that one lacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trtgate.kinds import REFERENCE, EngineSpec, UserError
from trtgate.measure.remote import SIDES, Environment, Sides, WorkerError
from trtgate.settings import Settings


@dataclass(frozen=True)
class Chosen:
    """Which engines are raced: `both` sides have them; `lost` are the old side's alone, `gained` the new side's alone,
    each with the reason; `left_out` is on neither. Of what the old side lacks `broken` is installed and no use."""

    stacks: Mapping[str, Mapping[str, Any]]
    both: tuple[EngineSpec, ...]
    lost: Mapping[str, str]
    gained: Mapping[str, str]
    left_out: Mapping[str, str]
    broken: Mapping[str, str] = field(default_factory=dict)


def require_apart(described: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises UserError where two environments load all of an engine's runtime from the same files: neither side would
    be raced with its own.

    A python that only sets variables for another one is of the same environment, and meant so.
    """
    old, new = (described[side] for side in SIDES)
    if old["environment"] == new["environment"]:
        return
    for text, engine in old["engines"].items():
        places = {module: place for module, place in engine["places"].items() if place}
        if places and places == new["engines"][text]["places"]:
            module, place = next(iter(places.items()))
            raise UserError(
                f"--old and --new both load {module} from {place}; install it in each environment, unset PYTHONPATH, "
                "set PYTHONNOUSERSITE=1 and leave folders that hold a runtime, or name other engines with --engine"
            )


def choose_engines(both: Sides, settings: Settings, asked: Sequence[str]) -> Chosen:
    """What each side has of the engines of the run.

    Raises UserError for an engine that was asked for and that the old side lacks, and where the old side has none.
    """
    # PyTorch is nobody's upgrade; the reference of an ONNX file is a runtime like the others.
    ids = [spec.id for spec in settings.engines if spec != REFERENCE or REFERENCE.id in asked]
    described = {side: both[side][0].ask("describe", device=settings.device, engines=ids) for side in SIDES}
    if all(isinstance(both[side][0].place, Environment) for side in SIDES):  # a path in a container is its own
        require_apart(described)
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
        {
            text: why[side][text]
            for text in ids
            for side in reversed(SIDES)
            if not here["old"][text] and described[side]["engines"][text].get("broken")
        },
    )


class OldSideFails(WorkerError):
    """The old side cannot build, load or run an engine that it has: there is nothing that the new one could lose."""


class LostEngine(Exception):
    """The new side cannot build, load or run an engine that the old side can."""
