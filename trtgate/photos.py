"""Photos for a network of the user's own, prepared as its model file says."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trtgate.images import Listing, Pixels, decode, resize
from trtgate.kinds import UserError
from trtgate.samples import Frame, Unlabelled, constant, in_type
from trtgate.signature import Signature, Tensors, TensorSpec


@dataclass(frozen=True)
class Recipe:
    """How a photo becomes an input: brought to `size`, height by width, then (value / scale - mean) / std.

    `fit` is "stretch"; "crop", the short side to `resize` and the middle cut out; or "pad", as large as fits and the
    rest of the value `pad`.
    """

    size: tuple[int, int]
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    resize: int = 0
    pad: float = 0.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 255.0
    colour: Literal["RGB", "BGR", "GREY"] = "RGB"
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def prepare(self, image: Pixels, each: TensorSpec) -> npt.NDArray[Any]:
        """A photo, uint8[H,W,3] in RGB, as a batch of one of that input."""
        return np.ascontiguousarray(self.numbers(image, each), each.dtype)

    def numbers(self, image: Pixels, each: TensorSpec) -> npt.NDArray[np.float32]:
        """The same before it is brought into the input's type."""
        values = np.asarray(self.fitted(image), np.float32)
        if self.colour == "BGR":
            values = values[:, :, ::-1]
        elif self.colour == "GREY":  # ITU-R BT.601
            values = values @ np.array([[0.299], [0.587], [0.114]], np.float32)
        mean, std = (np.asarray(some, np.float32) for some in (self.mean, self.std))
        values = (values / np.float32(self.scale) - mean) / std
        if np.dtype(each.dtype).kind in "iu":
            values = np.rint(values)
        ordered: npt.NDArray[np.float32] = values if self.layout == "NHWC" else values.transpose(2, 0, 1)
        return ordered[None]

    def fitted(self, image: Pixels) -> Pixels:
        """A photo, uint8[H,W,3], in the size that it is wanted in."""
        height, width = self.size
        if self.fit == "stretch":
            return resize(image, height, width, self.interpolation)
        old = image.shape[:2]
        if self.fit == "crop":
            ratio = max((self.resize or min(self.size)) / min(old), height / old[0], width / old[1])
        else:
            ratio = min(height / old[0], width / old[1])
        new = [max(1, round(length * ratio)) for length in old]
        scaled = resize(image, new[0], new[1], self.interpolation)
        if self.fit == "crop":
            top, left = (new[0] - height) // 2, (new[1] - width) // 2
            return scaled[top : top + height, left : left + width]
        whole = np.full((height, width, 3), self.pad, np.uint8)
        whole[: new[0], : new[1]] = scaled
        return whole


# Of black and white at least so many steps apart in an input of whole numbers: of fewer nothing is left of a photo.
LEVELS = 16


def _require_fits(recipe: Recipe, each: TensorSpec) -> None:
    """Raises UserError unless photos, which are nowhere darker than black or brighter than white, become that input."""
    black, white = (recipe.numbers(np.full((8, 8, 3), level, np.uint8), each) for level in (0, 255))
    if black.shape != each.at(1):
        shape = list(black.shape)
        raise UserError(f"[preprocessing] gives {shape}, the input is {each}; change size, colour or layout")
    low, high = (float(end(np.stack([black, white]))) for end in (np.min, np.max))
    told = f"[preprocessing] makes numbers from {low:g} to {high:g} of photos, and the input is {each}"
    try:
        in_type(np.stack([black, white]), each.dtype)
    except ValueError as error:
        raise UserError(f"{told}, which has not all of them; change scale, mean or std") from error
    if np.dtype(each.dtype).kind in "iu" and float(np.abs(white - black).min()) < LEVELS:
        raise UserError(f"{told}; change scale, which is 1 for pixels as they are, or std")


class PhotoFolder(Unlabelled):
    """Photos of a listing, decoded when they are asked for, so that memory stays flat; all other inputs are constants.

    The digest is that of the photos as they come out, and of the constants.
    """

    def __init__(
        self,
        listing: Listing,
        folder: Path,
        recipe: Recipe,
        each: TensorSpec,
        signature: Signature,
        constants: Mapping[str, Any],
        *,
        skip_bad: bool = False,
    ) -> None:
        """Reads every photo once. Raises UserError for one that cannot be read, unless bad ones are to be skipped."""
        self._recipe, self._input, self._signature, self._constants = recipe, each, signature, constants
        _require_fits(recipe, each)
        digest = hashlib.sha256()
        for other in signature.inputs:
            if other != each:
                digest.update(f"{other}:".encode() + constant(other, constants[other.name]).tobytes())
        kept: list[int] = []
        for index, path in enumerate(listing.files):
            try:
                array = recipe.prepare(decode(path), each)
            except UserError:
                if not skip_bad:
                    raise
                continue
            digest.update(array.data)
            kept.append(index)
        if not kept:
            raise UserError(f"{folder} holds no readable photo; give a folder of JPEG or PNG files")
        self.files = tuple(listing.files[index] for index in kept)
        self.frame = Frame(*recipe.size, recipe.fit, recipe.resize)
        self.names = tuple(str(path.relative_to(folder)) for path in self.files)
        self.labels = None if listing.labels is None else np.asarray(listing.labels, np.int64)[kept]
        self.classes = listing.classes
        self.digest = digest.hexdigest()

    def __getitem__(self, index: int) -> Tensors:
        self.require(index)
        photo = self._recipe.prepare(decode(self.files[index]), self._input)
        return {
            each.name: photo if each == self._input else constant(each, self._constants[each.name])
            for each in self._signature.inputs
        }

    def first(self, n: int) -> PhotoFolder:
        part = object.__new__(PhotoFolder)
        part.__dict__.update(self.__dict__)
        part.files, part.names = self.files[:n], self.names[:n]
        part.labels = None if self.labels is None else self.labels[:n]
        part.digest = f"{self.digest} first {n}"
        return part
