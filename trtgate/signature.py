"""What goes into a network and what comes out of it: named tensors. Nothing else knows their shapes and types."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.kinds import EngineRefused

# Arrays by the name of the input or output that they are.
Tensors = Mapping[str, npt.NDArray[Any]]

# What the one input and the one output are called of a graph that we export.
INPUT = "input"
OUTPUT = "logits"

# The length of an axis that is as long as the batch; "3*batch" is three times as long.
BATCH = "batch"
_TIMES = re.compile(rf"(\d+)\*{BATCH}")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: numpy's name of its type, and its axes, each a length or BATCH or a multiple of that.

    The length -1 is one that depends on what goes in.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def at(self, size: int) -> tuple[int, ...]:
        """The shape for a batch of that size."""
        return tuple(_length(axis, size) for axis in self.shape)

    def fits(self, shape: tuple[int, ...], size: int) -> bool:
        """Whether an array of that shape may be this tensor in a batch of that size."""
        wanted = self.at(size)
        return len(wanted) == len(shape) and all(a in (-1, b) for a, b in zip(wanted, shape, strict=True))

    @property
    def batch_axis(self) -> int | None:
        """The axis along which samples lie; None where there is no such axis, or no single one."""
        found = [index for index, axis in enumerate(self.shape) if isinstance(axis, str)]
        return found[0] if len(found) == 1 and self.shape[found[0]] == BATCH else None

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}[{','.join(map(str, self.shape))}]"


def _length(axis: int | str, size: int) -> int:
    if isinstance(axis, int):
        return axis
    times = _TIMES.fullmatch(axis)
    return size * (int(times[1]) if times else 1)


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a network, in its own order."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()

    @property
    def batched(self) -> bool:
        """Whether it takes batches of any size; one that does not has the size 1, whatever its shapes are."""
        return any(isinstance(axis, str) for each in self.inputs for axis in each.shape)

    @property
    def separable(self) -> bool:
        """Whether every input and output has an axis of samples, so that a batch is nothing but its samples."""
        return all(each.batch_axis is not None for each in (*self.inputs, *self.outputs))

    @property
    def output_names(self) -> list[str]:
        return [each.name for each in self.outputs]

    def size_of(self, inputs: Tensors) -> int:
        """How large a batch some inputs are."""
        for each in self.inputs:
            if each.batch_axis is not None:
                return int(inputs[each.name].shape[each.batch_axis])
        return 1

    def blank(self, size: int) -> dict[str, npt.NDArray[Any]]:
        """Inputs of zeros."""
        return {each.name: np.zeros(each.at(size), each.dtype) for each in self.inputs}

    def named(self, outputs: Iterable[Any]) -> dict[str, npt.NDArray[Any]]:
        """Outputs in this order, by name."""
        return dict(zip(self.output_names, outputs, strict=True))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the inverse of `from_json`."""
        return {
            side: [[each.name, each.dtype, list(each.shape)] for each in some]
            for side, some in (("inputs", self.inputs), ("outputs", self.outputs))
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Signature:
        """What `to_json` wrote."""
        inputs, outputs = (
            tuple(TensorSpec(name, dtype, tuple(shape)) for name, dtype, shape in values[side])
            for side in ("inputs", "outputs")
        )
        return cls(inputs, outputs)

    def join(self, samples: Sequence[Tensors], size: int) -> dict[str, npt.NDArray[Any]]:
        """One batch of `size` of samples that are batches of one, the last repeated where there are fewer.

        What has no axis of samples is the first one's.
        """
        whole = [*samples, *[samples[-1]] * (size - len(samples))]
        return {
            each.name: contiguous(
                whole[0][each.name]
                if each.batch_axis is None
                else np.concatenate([sample[each.name] for sample in whole], each.batch_axis)
            )
            for each in self.inputs
        }

    def misfit(self, outputs: Tensors, size: int, *, whole: bool = False) -> str:
        """Why some outputs are no answers to a batch of that size, by their names and the axes of samples, or by their
        `whole` shapes; empty if they are."""
        if set(outputs) != set(self.output_names):
            return f"outputs {sorted(outputs)}, not {sorted(self.output_names)}"
        for each in self.outputs:
            axis, shape = each.batch_axis if self.separable else None, np.shape(outputs[each.name])
            lacking = axis is not None and (len(shape) <= axis or shape[axis] != size)
            if lacking or (whole and not each.fits(shape, size)):
                return f"{each.name} of shape {list(shape)}, not {list(each.at(size))}"
        return ""

    def unlike(self, wanted: Tensors, got: Tensors, whole: Collection[str] = ()) -> tuple[str, str] | None:
        """What an answer has of another kind than a wanted one to the same, and what that has; None for nothing such.

        Lengths that depend on what goes in may differ, but of outputs that are compared as a `whole`.
        """
        for each in self.outputs:
            name, (a, b) = each.name, (wanted[each.name], got[each.name])
            axes = [axis for axis in each.shape if not (self.separable and axis == BATCH)]
            fixed = [(self.separable and name in whole) or (axis != -1 and isinstance(axis, int)) for axis in axes]
            if len(axes) != a.ndim:  # the reference's own are not as it says
                continue
            if a.ndim != b.ndim or any(x != y for x, y, must in zip(a.shape, b.shape, fixed, strict=True) if must):
                return f"{name} of shape {list(b.shape)}", str(list(a.shape))
            if (a.dtype.kind == "f") != (b.dtype.kind == "f"):
                return f"{name} in {b.dtype}", str(a.dtype)
        return None

    def split(self, outputs: Tensors, count: int) -> list[Tensors]:
        """The answers to the first `count` samples of a batch, each without the axis of samples.

        Of a network that is not `separable` the answer to a batch is one, with all of its axes.
        """
        if not self.separable:
            return [dict(outputs)]
        axes = {each.name: each.batch_axis for each in self.outputs}
        return [{name: np.take(array, index, axes[name]) for name, array in outputs.items()} for index in range(count)]


def contiguous(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The array, copied if its memory is not in order. (numpy's own `ascontiguousarray` gives a scalar an axis.)"""
    return array if array.flags.c_contiguous else np.array(array, order="C")


def answers(
    infer: Callable[[Tensors], Tensors], signature: Signature, samples: Iterable[Tensors], size: int
) -> Iterator[Tensors]:
    """What `infer` answers to batches of `size` made of samples that are batches of one: see `Signature.split`. Raises
    EngineRefused for what is no answer to a batch."""
    rest = iter(samples)
    while chunk := list(itertools.islice(rest, size)):
        outputs = infer(signature.join(chunk, size))
        if wrong := signature.misfit(outputs, size):
            raise EngineRefused(f"it answers {wrong}")
        yield from signature.split(outputs, len(chunk))


def save_tensors(path: Path, rows: Iterable[Tensors]) -> None:
    """Write arrays by name, row by row, into a file that `load_tensors` reads; all rows have the same names."""
    with path.open("wb") as file:
        names: list[str] | None = None
        for row in rows:
            if names is None:
                names = list(row)
                file.write(json.dumps(names).encode() + b"\n")
            for name in names:
                np.lib.format.write_array(file, np.asanyarray(row[name]), allow_pickle=False)


def load_tensors(path: Path) -> Iterator[Tensors]:
    """The rows of a file that `save_tensors` wrote, one in memory at a time."""
    with path.open("rb") as file:
        names = json.loads(file.readline() or b"[]")
        while names and file.peek(1):
            yield {name: np.lib.format.read_array(file, allow_pickle=False) for name in names}
