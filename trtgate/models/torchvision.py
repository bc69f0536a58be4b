"""Torchvision's classifiers, as its own builders make them, and the weights that it publishes of them."""

from __future__ import annotations

import logging
import math
import re
import socket
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trtgate.files import file_digest
from trtgate.kinds import UserError
from trtgate.models.base import Architecture, Preprocessing, answering_layer, seeded
from trtgate.models.checkpoints import State

log = logging.getLogger(__name__)

# Connecting and every single read must answer within this, or the network counts as absent: a gate without
# internet should lose seconds here, not a TCP time-out of minutes.
DOWNLOAD_STALL_S = 5.0
# What torchvision's builders set when they are given weights.
TRANSFORMS_INPUT = ("inception_v3", "googlenet")
# Of so many residual blocks that each adds to what the ones before have drawn.
DEEP_RESIDUAL = ("resnet101", "resnet152", "wide_resnet101_2")
# Those that have a position for each patch, and take photos of one size only.
POSITIONED = re.compile(r"vit_\w_\d+")


def names() -> list[str]:
    """Those of its models that classify."""
    from torchvision import models

    found: list[str] = models.list_models(module=models)
    return found


def architecture(name: str, recipe: Any, state: State | None = None, size: int | None = None) -> Architecture:
    """The network as torchvision's own builder makes it for the weights of a recipe, untrained.

    `size` is that of the photos where the weights, `state`, decide it; else they have the recipe's.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name in TRANSFORMS_INPUT:
        # Both were trained by others, on photos normalised in another way; the network converts.
        options |= {"transform_input": True, "init_weights": False}
    elif name.startswith("vgg"):
        options["init_weights"] = state is None
    preprocessing = _as_preprocessing(recipe)
    if size is not None and size != preprocessing.crop:
        preprocessing = replace(preprocessing, resize=size, crop=size)
    if POSITIONED.fullmatch(name):
        options["image_size"] = preprocessing.crop
    with seeded():
        module: torch.nn.Module = models.get_model(name, weights=None, **options)
        if state is None:
            _draw_constant_head(module)
            if name in TRANSFORMS_INPUT:
                _draw_convolutions(module)
            if name in DEEP_RESIDUAL:
                _calm_residuals(module)
    return Architecture(module, preprocessing)


def _draw_constant_head(module: torch.nn.Module) -> None:
    """ViT's last layer starts at zero: untrained, it would answer the same to everything."""
    weight = answering_layer(module).weight
    assert isinstance(weight, torch.Tensor)
    if not weight.any():
        torch.nn.init.normal_(weight, std=0.02)


def _draw_convolutions(module: torch.nn.Module) -> None:
    """As torchvision draws them, Inception's activations grow to 4e11, beyond FP16, and GoogLeNet's vanish at 1e-12;
    by He's rule they keep their size."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _calm_residuals(module: torch.nn.Module) -> None:
    """As torchvision draws them, their activations grow by half with each block, to 1e9 after 50, and FP16 ends at 6e4;
    a quarter of each block's change keeps them below 20 on noise."""
    from torchvision.models.resnet import Bottleneck

    for block in module.modules():
        if isinstance(block, Bottleneck):
            torch.nn.init.constant_(block.bn3.weight, 0.25)


def recipes(name: str) -> list[Any]:
    """The published weights of a model for as many classes as ImageNet has."""
    from torchvision import models

    return [each for each in models.get_model_weights(name) if each.meta.get("categories") is not None]


def recipe_of(name: str, weights_file: Path, state: State) -> tuple[Any, int | None]:
    """The published weights that a file is a copy of, or those that it is likest to; the size that it decides, if any.

    A Vision Transformer has a position for each patch of its photos.
    """
    published = recipes(name)
    size = size_of(name, state)
    digest = file_digest(weights_file)
    for recipe in published:
        if digest.startswith(_hash_in_url(recipe.url)):
            return recipe, size
    fitting = [recipe for recipe in published if size is None or recipe.transforms().crop_size[0] == size]
    return (fitting or published)[0], size


def size_of(name: str, state: State) -> int | None:
    """The height and width of the photos that a Vision Transformer's positions stand for."""
    if not POSITIONED.fullmatch(name):
        return None
    patch = int(name.rpartition("_")[2])
    positions = next((value for key, value in state.items() if key.endswith("encoder.pos_embedding")), None)
    if positions is None or positions.ndim != 3 or positions.shape[1] < 2:
        return None
    return math.isqrt(positions.shape[1] - 1) * patch


def _as_preprocessing(recipe: Any) -> Preprocessing:
    transform = recipe.transforms()
    return Preprocessing(
        resize=transform.resize_size[0],
        crop=transform.crop_size[0],
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        interpolation=transform.interpolation.value,
    )


def _hash_in_url(url: str) -> str:
    return url.rsplit("-", 1)[-1].split(".", maxsplit=1)[0]


def pretrained(name: str) -> tuple[Any, State] | None:
    """The default weights of a model with their recipe, from the cache or the network; None when they cannot be had."""
    from torchvision import models

    recipe = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir()) / "checkpoints" / recipe.url.rsplit("/", 1)[-1]
    if cached.is_file():
        # torch.hub checks the hash of a download only, never of a file that it finds.
        if not file_digest(cached).startswith(_hash_in_url(recipe.url)):
            raise UserError(f"{cached} is damaged (its SHA-256 is not the one in its name); delete it and run again")
    elif reason := _unreachable(recipe.url):
        log.warning("%s: pretrained weights cannot be downloaded (%s)", name, reason)
        return None
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_STALL_S)
    try:
        return recipe, recipe.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except OSError as error:  # URLError and socket time-outs
        log.warning("%s: download of the pretrained weights failed (%s)", name, error)
        return None
    finally:
        socket.setdefaulttimeout(before)


def _unreachable(url: str) -> str | None:
    """Why the address does not answer, or None. A name look-up has no time-out of its own, so it gets a thread."""
    answer: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=DOWNLOAD_STALL_S):
                answer.append(None)
        except OSError as error:
            answer.append(str(getattr(error, "reason", error)))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(DOWNLOAD_STALL_S)
    return answer[0] if answer else f"no answer in {DOWNLOAD_STALL_S:.0f} s"
