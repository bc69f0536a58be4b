"""Layer times of one engine on two stacks: which layers changed in time or in type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# The layers that moved most; the rest is noise by comparison.
SHOWN = 5
# A layer that moved by less than this share of the whole engine's time is not worth a line.
WORTH = 0.005

Layers = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class LayerChange:
    """One layer: milliseconds and types, None on the side that has no layer of that name."""

    name: str
    old_ms: float | None
    new_ms: float | None
    old_type: str
    new_type: str

    @property
    def change(self) -> float:
        """Milliseconds that the layer takes more."""
        return (self.new_ms or 0.0) - (self.old_ms or 0.0)

    def __str__(self) -> str:
        old, new = ("none" if ms is None else f"{ms:.4f}" for ms in (self.old_ms, self.new_ms))
        types = f", {self.old_type or '?'} -> {self.new_type or '?'}" if self.old_type != self.new_type else ""
        return f"{self.name}: {old} -> {new} ms ({self.change:+.4f}){types}"


def changed_layers(old: Layers, new: Layers) -> tuple[LayerChange, ...]:
    """The layers whose type changed, and those whose time did by a share of the engine's that is worth a line.

    The largest change first. Empty where either side has no layer times: then nothing can be said.
    """
    if not old or not new:
        return ()
    changes = [
        LayerChange(
            name,
            old[name]["ms"] if name in old else None,
            new[name]["ms"] if name in new else None,
            old[name]["type"] if name in old else "",
            new[name]["type"] if name in new else "",
        )
        for name in dict.fromkeys([*old, *new])
    ]
    whole = sum(layer["ms"] for layer in old.values())
    worth = [
        each
        for each in changes
        if abs(each.change) >= WORTH * whole
        or (each.old_type != each.new_type and None not in (each.old_ms, each.new_ms))
    ]
    return tuple(sorted(worth, key=lambda each: -abs(each.change))[:SHOWN])
