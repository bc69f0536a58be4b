"""A model by its name, with the best weights to be had."""

from __future__ import annotations

import difflib
import hashlib
import logging
import re
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch

from trtgate.kinds import UserError
from trtgate.models import torchvision
from trtgate.models.base import (
    AUXILIARY,
    CLASSES,
    UNTRAINED_SEED,
    Architecture,
    Model,
    Weights,
    answering_layer,
    seeded,
)
from trtgate.models.checkpoints import State, fit_names, read_weights
from trtgate.models.names import is_known, model_names
from trtgate.models.own import OWN

log = logging.getLogger(__name__)


def load_model(name: str, weights_file: Path | None = None) -> Model:
    """Build the model `name` with the best weights to be had.

    In this order: `weights_file`; the weights that the model's own package carries; torchvision's pretrained weights
    from its cache or by download, hash checked; seeded untrained weights.

    Raises UserError for an unknown model, or a weights file that is missing, unreadable or of another architecture.
    """
    if weights_file is not None:
        return _from_file(name, weights_file)
    if name in OWN:
        with seeded():
            architecture = OWN[name]()
        if architecture.packaged is not None:
            return _with_weights(
                name, architecture, read_weights(architecture.packaged), "package", architecture.packaged.name
            )
        return _untrained(name, architecture)
    require_known(name)
    if (found := torchvision.pretrained(name)) is None:
        return _untrained(name, torchvision.architecture(name, torchvision.recipes(name)[0]))
    recipe, state = found
    architecture = torchvision.architecture(name, recipe, state, torchvision.size_of(name, state))
    return _with_weights(name, architecture, state, "torchvision", str(recipe))


def require_known(name: str) -> None:
    """Raises UserError for a model that nobody here can build."""
    if not is_known(name):
        close = difflib.get_close_matches(name, model_names(), 1)
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
    with torch.device("meta") if check_only else seeded():
        if name in OWN:
            architecture = OWN[name]()
        else:
            recipe, size = torchvision.recipe_of(name, path, state)
            architecture = torchvision.architecture(name, recipe, state, size)
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
    require_numbers(state, module, description)
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


def require_numbers(state: State, module: torch.nn.Module, description: str) -> None:
    """Raises UserError for weights that are NaN or infinite in FP32, as their answers would be, and for what are no
    plain numbers of the kind that the module has there: PyTorch would take whole ones without their scale, and of
    complex ones a part."""
    floats = {key for key, value in module.state_dict().items() if value.is_floating_point()}
    for key, value in state.items():
        whole = not value.is_floating_point() and (key in floats or value.is_complex())
        if value.is_quantized or value.is_nested or value.layout != torch.strided or value.is_meta or whole:
            raise UserError(
                f"--weights: {description} holds {key} quantised, sparse, complex or empty; give float weights"
            )
        if value.is_floating_point() and not bool(torch.isfinite(value.float()).all()):
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
        return f"it has {len(more)} tensors more, such as {more[0][:100]}"
    return str(error).splitlines()[0][:200]


def _plain_head(module: torch.nn.Module, state: State) -> State:
    """The last layer's weights under its name: a new head for other classes is often Sequential(Dropout, Linear)."""
    last = answering_layer(module)
    name = next(key for key, layer in module.named_modules() if layer is last)
    inside = re.compile(rf"{re.escape(name)}\.\d+\.(weight|bias)")
    matches = {key: found for key in state if (found := inside.fullmatch(key))}
    if f"{name}.weight" in state or sum(key.endswith(".weight") for key in matches) != 1:
        return state
    return OrderedDict((f"{name}.{matches[key][1]}" if key in matches else key, value) for key, value in state.items())


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
    classes = len(answering_layer(module).weight)  # type: ignore[arg-type]  # a Linear or a Conv2d
    return Model(name, module, architecture.preprocessing, weights, classes)


def state_digest(state: State) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of a state dict, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _untrained(name: str, architecture: Architecture) -> Model:
    log.warning("%s: seeded untrained weights; latency counts, agreement is skipped", name)
    return _finish(name, architecture, "untrained", f"seed {UNTRAINED_SEED}")
