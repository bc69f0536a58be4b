"""What a network is run on: inputs in a fixed order, each a batch of one, made when it is asked for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trtgate.files import require_no_pipe
from trtgate.kinds import UserError
from trtgate.signature import Signature, Tensors, TensorSpec


@dataclass(frozen=True)
class Frame:
    """What a network sees of a sample that is a picture: pixels, and how a photo is brought to them, as a recipe says.

    `fit` is empty for what is no photo.
    """

    height: int
    width: int
    fit: str = ""
    resize: int = 0


class Samples(Protocol):
    """A sequence of inputs.

    `digest` stands for all of them; `labels` is int64[N], class indices, or None where nobody said what they show;
    `clusters` is int64[N], the photo that each is a crop of, or None where each stands for itself; `classes` are the
    names of the classes where the samples give them. `doubt` says what they tell little of; empty if there is no doubt.
    `files` are the photos that they are made of, one for each, empty where nobody could show them; `frame` is what the
    network sees of one, None where it is no picture.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...
    @property
    def labels(self) -> npt.NDArray[np.int64] | None: ...
    @property
    def clusters(self) -> npt.NDArray[np.int64] | None: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def doubt(self) -> str: ...
    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def frame(self) -> Frame | None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensors: ...
    def first(self, n: int) -> Samples:
        """The first n as samples of their own."""


def rows_of(samples: Samples) -> Iterator[Tensors]:
    """The samples one by one."""
    return (samples[index] for index in range(len(samples)))


class Unlabelled:
    """What samples are that nobody said anything about."""

    labels: npt.NDArray[np.int64] | None = None
    clusters: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    doubt = ""
    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    frame: Frame | None = None

    def __len__(self) -> int:
        return len(self.names)

    def require(self, index: int) -> None:
        """Raises IndexError for an index that no sample has."""
        if not 0 <= index < len(self):
            raise IndexError(index)


class Seeded(Unlabelled):
    """Samples made from the signature: floats between 0 and 1, integers below what they are looked up in, else ones.

    They are the same on every machine.
    """

    def __init__(
        self, signature: Signature, limits: Mapping[str, int], constants: Mapping[str, Any], count: int, *, seed: int
    ) -> None:
        self._signature, self._limits, self._constants, self._seed = signature, limits, constants, seed
        self.names = tuple(f"seeded {index}" for index in range(count))
        self.frame = frame_of(signature)
        self.doubt = "the samples are made from the signature and say little of real data; give --images"
        about = [signature.to_json(), dict(limits), {name: repr(value) for name, value in constants.items()}]
        self.digest = hashlib.sha256(json.dumps([about, count, seed], sort_keys=True).encode()).hexdigest()

    def __getitem__(self, index: int) -> Tensors:
        self.require(index)
        random = np.random.default_rng([self._seed, index])
        return {
            each.name: constant(each, self._constants[each.name])
            if each.name in self._constants
            else _drawn(each, self._limits.get(each.name), random)
            for each in self._signature.inputs
        }

    def first(self, n: int) -> Seeded:
        return Seeded(self._signature, self._limits, self._constants, min(n, len(self)), seed=self._seed)


def _drawn(each: TensorSpec, limit: int | None, random: np.random.Generator) -> npt.NDArray[Any]:
    shape, kind = each.at(1), np.dtype(each.dtype)
    if kind.kind == "f":
        return np.asarray(random.random(shape), kind)
    if limit is not None:
        return np.asarray(random.integers(0, limit, shape), kind)
    if kind == np.uint8:
        return np.asarray(random.integers(0, 256, shape), kind)
    return np.ones(shape, kind)


# Of pictures: grey, colours, and with transparency.
CHANNELS = frozenset({1, 3, 4})


def frame_of(signature: Signature) -> Frame | None:
    """What is seen through the only input that takes pictures, [1,channels,H,W] or [1,H,W,channels]; None for none."""
    found = []
    for each in signature.inputs:
        shape = each.at(1)
        if len(shape) == 4 and shape[1] in CHANNELS:
            found.append(Frame(shape[2], shape[3]))
        elif len(shape) == 4 and shape[3] in CHANNELS:
            found.append(Frame(shape[1], shape[2]))
    return found[0] if len(found) == 1 and min(found[0].height, found[0].width) > 0 else None


def constant(each: TensorSpec, value: Any) -> npt.NDArray[Any]:
    """A value that an input always has, in its type and shape for a batch of one.

    Raises UserError if it does not fit, which a fraction does not into whole numbers.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind not in "fiub":
            raise ValueError("no numbers")
        return np.array(np.broadcast_to(in_type(given, each.dtype), each.at(1)))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"the value of input {each.name} does not fit {each}") from error


def in_type(array: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Numbers in a type. Raises ValueError where it has no such ones: numpy would cut a fraction off, count on from the
    lowest behind the highest, or write infinity."""
    with np.errstate(all="ignore"):
        made = np.asarray(array, dtype)
    same = np.array_equal(made, array) if made.dtype.kind in "iub" else not (np.isinf(made) & np.isfinite(array)).any()
    if not same:
        raise ValueError(f"no numbers of {dtype}")
    return made


def arrays_in(folder: Path) -> list[Path]:
    """The .npz files of a folder in the order of their names, but for what a system leaves beside them (`._0.npz`)."""
    return sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))


class ArrayFolder(Unlabelled):
    """A folder of .npz files, each a sample with the inputs by name: read when asked for, so memory stays flat."""

    def __init__(self, folder: Path, signature: Signature, constants: Mapping[str, Any], count: int | None = None):
        """Reads every file once. Raises UserError for one that lacks an input or has it in another shape or type."""
        self._folder, self._signature, self._constants = folder, signature, constants
        self.frame = frame_of(signature)
        self._paths = arrays_in(folder)[:count]
        self.names = tuple(path.name for path in self._paths)
        digest = hashlib.sha256()
        for path in self._paths:
            for name, array in self._read(path).items():
                digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
                digest.update(np.ascontiguousarray(array).data)
        self.digest = digest.hexdigest()

    def __getitem__(self, index: int) -> Tensors:
        self.require(index)
        return self._read(self._paths[index])

    def first(self, n: int) -> ArrayFolder:
        return ArrayFolder(self._folder, self._signature, self._constants, n)

    def _read(self, path: Path) -> Tensors:
        try:
            require_no_pipe(path)
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception as error:  # zipfile's, numpy's and the system's
            raise UserError(f"{path} cannot be read as .npz; save it with numpy.savez") from error
        return {each.name: self._fitted(path, each, arrays) for each in self._signature.inputs}

    def _fitted(self, path: Path, each: TensorSpec, arrays: Tensors) -> npt.NDArray[Any]:
        if each.name not in arrays:
            if each.name in self._constants:
                return constant(each, self._constants[each.name])
            raise UserError(f"{path} has no {each.name}; it needs the inputs by name: {_inputs(self._signature)}")
        array = arrays[each.name]
        wanted = each.at(1)
        if array.ndim == len(wanted) - 1 and each.batch_axis is not None:
            array = np.expand_dims(array, each.batch_axis)
        if array.shape != wanted:
            raise UserError(
                f"{path} has {each.name} of shape {list(array.shape)}, wanted is {list(wanted)}; see --shape"
            )
        if not np.can_cast(array.dtype, each.dtype, "same_kind"):
            raise UserError(f"{path} has {each.name} as {array.dtype}, wanted is {each.dtype}")
        try:
            return in_type(array, each.dtype)
        except ValueError as error:
            raise UserError(
                f"{path} has {each.name} with numbers that {each.dtype} does not have; save what the network takes"
            ) from error


def _inputs(signature: Signature) -> str:
    return ", ".join(map(str, signature.inputs))
