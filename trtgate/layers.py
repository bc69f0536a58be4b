"""Layer times of one engine on two stacks: which layers changed in time or in type.

Names of layers change with the builder's version, and what it fuses does too; the ONNX nodes inside stay. So layers are
matched by those, and a layer on one side may be several on the other. Reformats, which move data between layouts and
types, count with the layer that they are for, and are told beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The layers that moved most; the rest is noise by comparison.
SHOWN = 5
# A layer that moved by less than this share of the whole engine's time is not worth a line.
WORTH = 0.005
# Node names such as `Conv_12` say which node it is in one graph only: they are used where both sides have most of them.
SAME_GRAPH = 0.8

# What TensorRT 8.6 puts behind the name of a layer of any but the first profile.
PROFILE = re.compile(r" \[profile (\d+)\]")
REFORMAT = re.compile(r"^Reformatting CopyNode for \w+ Tensor \d+ to ")
SEPARATORS = re.compile(r"\s*\+\s*|\s*\|\|\s*|[{},()]|\bPWN\b")
NUMBERED = re.compile(r"[A-Za-z]+_+\d+")
QUANTISE = re.compile(r"(?:De)?quant(?:ize)?linear", re.IGNORECASE)
# The operation that a layer is known by, the heaviest first.
OPERATIONS = ("conv", "gemm", "matmul", "pool", "mean", "softmax", "pad", "add", "mul")

Layers = Mapping[str, Mapping[str, Any]]


def own_name(name: str) -> str:
    """A layer's name without the profile that it belongs to."""
    return PROFILE.sub("", name)


def nodes_in(name: str) -> frozenset[str]:
    """The ONNX nodes that a layer's name lists: `conv1 + PWN(relu)`. A reformat has those of the layer it is for."""
    listed = REFORMAT.sub("", own_name(name))
    return frozenset(filter(None, SEPARATORS.split(listed)))


@dataclass(frozen=True)
class LayerChange:
    """One layer, or several that were fused otherwise: milliseconds and types, None on a side that has no such layer.

    `old_reformat` and `new_reformat` are the part of the milliseconds that went into reformats.
    """

    name: str
    old_ms: float | None
    new_ms: float | None
    old_type: str
    new_type: str
    old_reformat: float = 0.0
    new_reformat: float = 0.0

    @property
    def change(self) -> float:
        """Milliseconds that the layer takes more."""
        return (self.new_ms or 0.0) - (self.old_ms or 0.0)

    def __str__(self) -> str:
        old, new = ("none" if ms is None else f"{ms:.4f}" for ms in (self.old_ms, self.new_ms))
        types = f", {self.old_type or '?'} -> {self.new_type or '?'}" if self.old_type != self.new_type else ""
        reformats = ""
        if self.old_reformat or self.new_reformat:
            reformats = f", of which reformats {self.old_reformat:.4f} -> {self.new_reformat:.4f}"
        return f"{self.name}: {old} -> {new} ms ({self.change:+.4f}{reformats}){types}"


@dataclass
class _Block:
    """A layer with the reformats that are for it."""

    name: str
    kind: str
    nodes: frozenset[str]
    ms: float
    reformat: float = 0.0

    @property
    def operation(self) -> str:
        lower = " ".join(self.nodes).lower()
        return next((each for each in OPERATIONS if each in lower), "")


def changed_layers(old: Layers, new: Layers) -> tuple[LayerChange, ...]:
    """The layers whose type changed, and those whose time did by a share of the engine's that is worth a line.

    The largest change first. Empty where either side has no layer times: then nothing can be said.
    """
    if not old or not new:
        return ()
    whole = sum(layer["ms"] for layer in old.values())
    worth = [
        each
        for each in aligned_layers(old, new)
        if abs(each.change) >= WORTH * whole
        or (each.old_type != each.new_type and None not in (each.old_ms, each.new_ms))
    ]
    return tuple(sorted(worth, key=lambda each: -abs(each.change))[:SHOWN])


def aligned_layers(old: Layers, new: Layers) -> tuple[LayerChange, ...]:
    """Every layer of either side once, beside what it is on the other.

    Layers that share ONNX nodes go together. What is left, where the two were not built from the same graph, goes
    together in the order of execution, by operation.
    """
    ours, theirs = _blocks(old), _blocks(new)
    groups = _by_nodes(ours, theirs)
    rest = [[block for group in groups if not (group[0] and group[1]) for block in group[side]] for side in (0, 1)]
    groups = [group for group in groups if group[0] and group[1]]
    for side, blocks in enumerate((ours, theirs)):
        rest[side].sort(key=blocks.index)
    return tuple(_change(*group) for group in [*groups, *_by_order(rest[0], rest[1])])


def _blocks(layers: Layers) -> list[_Block]:
    """The layers in their order, each with its reformats. A quantisation that is a layer of its own is one, too."""
    blocks: list[_Block] = []
    reformats: list[tuple[int, str, float]] = []
    for name, layer in layers.items():
        plain = own_name(name)
        nodes = frozenset(layer.get("nodes") or nodes_in(name))
        if REFORMAT.match(plain) or all(QUANTISE.search(node) for node in nodes):
            reformats.append((len(blocks), REFORMAT.sub("", plain), layer["ms"]))
        else:
            blocks.append(_Block(plain, layer["type"], nodes, layer["ms"]))
    names = {block.name: block for block in blocks}
    for index, name, ms in reformats:
        if not blocks:
            return [_Block(name, "", frozenset({name}), ms) for _, name, ms in reformats]
        block = names.get(name) or blocks[min(index, len(blocks) - 1)]
        block.reformat += ms
    return blocks


Group = tuple[list[_Block], list[_Block]]


def _by_nodes(old: Sequence[_Block], new: Sequence[_Block]) -> list[Group]:
    """Blocks of both sides in groups that share no node with another."""
    found = [frozenset().union(*(block.nodes for block in side)) for side in (old, new)]
    numbered = [{node for node in side if NUMBERED.fullmatch(node)} for side in found]
    together, either = len(numbered[0] & numbered[1]), len(numbered[0] | numbered[1])
    ignored = frozenset[str]() if not either or together >= SAME_GRAPH * either else numbered[0] | numbered[1]
    groups: list[tuple[set[str], Group]] = []
    for side, blocks in enumerate((old, new)):
        for block in blocks:
            nodes = {node for node in block.nodes - ignored if not QUANTISE.search(node)}
            merged: Group = ([], [])
            apart = []
            for known, group in groups:
                if known & nodes:
                    nodes |= known
                    for each in (0, 1):
                        merged[each].extend(group[each])
                else:
                    apart.append((known, group))
            merged[side].append(block)
            groups = [*apart, (nodes, merged)]
    return [group for _, group in groups]


def _by_order(old: Sequence[_Block], new: Sequence[_Block]) -> list[Group]:
    """Blocks paired in order, each with one of the same operation; the most milliseconds that can be."""
    worth = [[0.0] * (len(new) + 1) for _ in range(len(old) + 1)]
    for i in range(len(old) - 1, -1, -1):
        for j in range(len(new) - 1, -1, -1):
            pair = -1.0
            if old[i].operation == new[j].operation:
                pair = old[i].ms + new[j].ms + worth[i + 1][j + 1]
            worth[i][j] = max(pair, worth[i + 1][j], worth[i][j + 1])
    groups: list[Group] = []
    i = j = 0
    while i < len(old) or j < len(new):
        if i < len(old) and j < len(new) and old[i].operation == new[j].operation:
            pair = old[i].ms + new[j].ms + worth[i + 1][j + 1]
            if pair >= max(worth[i + 1][j], worth[i][j + 1]):
                groups.append(([old[i]], [new[j]]))
                i, j = i + 1, j + 1
                continue
        if j >= len(new) or (i < len(old) and worth[i + 1][j] >= worth[i][j + 1]):
            groups.append(([old[i]], []))
            i += 1
        else:
            groups.append(([], [new[j]]))
            j += 1
    return _fused(groups)


def _fused(groups: Sequence[Group]) -> list[Group]:
    """Blocks that are a layer of their own on one side, and part of the layer before on the other, go with that."""
    joined: list[Group] = []
    for group in groups:
        side = 0 if group[0] else 1
        if joined and not group[1 - side] and joined[-1][0] and joined[-1][1]:
            [block], before = group[side], joined[-1]

            def has(blocks: Sequence[_Block], operation: str = block.operation) -> bool:
                return any(operation in node.lower() for each in blocks for node in each.nodes)

            if block.operation and has(before[1 - side]) and not has(before[side]):
                before[side].append(block)
                continue
        joined.append((list(group[0]), list(group[1])))
    return joined


def _change(old: Sequence[_Block], new: Sequence[_Block]) -> LayerChange:
    def of(blocks: Sequence[_Block]) -> tuple[float | None, str, float]:
        kinds = "/".join(sorted({block.kind for block in blocks if block.kind}))
        reformats = sum(block.reformat for block in blocks)
        return (sum(block.ms for block in blocks) + reformats if blocks else None), kinds, reformats

    (old_ms, old_type, old_reformat), (new_ms, new_type, new_reformat) = of(old), of(new)
    name = " | ".join(block.name for block in old or new)
    return LayerChange(name, old_ms, new_ms, old_type, new_type, old_reformat, new_reformat)
