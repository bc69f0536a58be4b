"""A classifier in PyTorch with its weights, its preprocessing and the names of its classes."""

from __future__ import annotations

import contextlib
import csv
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from trtgate.shipped import shipped
from trtgate.signature import BATCH, INPUT, OUTPUT, Signature, TensorSpec

DATA = shipped("data")

# Of ILSVRC 2012, which torchvision's classifiers are trained on.
CLASSES = 1000
# Untrained weights are the same on every machine, so that two sessions measure the same network.
UNTRAINED_SEED = 0
# Classifiers beside the main one that Inception and GoogLeNet are trained with; no answer depends on them.
AUXILIARY = ("AuxLogits", "aux1", "aux2")


@dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the network's input: short side to `resize`, centre `crop`, (x / 255 - mean) / std."""

    resize: int = 256
    crop: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


@dataclass(frozen=True)
class Weights:
    """Where the weights came from.

    `source` is "file", "torchvision", "package" or "untrained", "onnx" for those of an ONNX file; `digest` is the
    SHA-256 of the parameters and buffers as loaded, whatever file they came in, or of the ONNX file.
    """

    source: Literal["file", "torchvision", "package", "untrained", "onnx"]
    description: str
    digest: str

    @property
    def trained(self) -> bool:
        return self.source != "untrained"


@dataclass(frozen=True)
class Model:
    """A classifier ready to run: `module` maps one input to one output, the logits, in eval mode."""

    name: str
    module: torch.nn.Module
    preprocessing: Preprocessing
    weights: Weights
    classes: int = CLASSES

    @property
    def signature(self) -> Signature:
        """float32[batch,3,crop,crop] -> float32[batch,classes]."""
        crop = self.preprocessing.crop
        photos = TensorSpec(INPUT, "float32", (BATCH, 3, crop, crop))
        return Signature((photos,), (TensorSpec(OUTPUT, "float32", (BATCH, self.classes)),))

    @property
    def size(self) -> int:
        """Bytes of its weights."""
        return sum(each.nbytes for each in self.module.state_dict().values())


class Architecture(NamedTuple):
    """An untrained module, what it wants of a photo, and the weights that come with it."""

    module: torch.nn.Module
    preprocessing: Preprocessing
    packaged: Path | None = None


@dataclass(frozen=True)
class ImageClass:
    index: int
    wnid: str
    name: str


@functools.cache
def image_classes() -> tuple[ImageClass, ...]:
    """The 1000 classes of ILSVRC 2012 in the order of the logits."""
    with (DATA / "imagenet_classes.csv").open(newline="", encoding="utf-8") as table:
        return tuple(ImageClass(int(row["index"]), row["wnid"], row["name"]) for row in csv.DictReader(table))


def answering_layer(module: torch.nn.Module) -> torch.nn.Module:
    """The layer whose outputs are the logits: the last one that has as many outputs as some classes."""
    layers = [
        layer
        for key, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and key.split(".")[0] not in AUXILIARY
    ]
    return layers[-1]


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Weights that are drawn at random are always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        yield
