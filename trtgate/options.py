"""The options that say what to measure: the same words for pytest and for `python -m trtgate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trtgate.build.cache import require_usable
from trtgate.engines import (
    DEFAULT_ENGINES,
    DEVICES,
    all_specs,
    available,
    backend,
    parse_spec,
    running_here,
    start_probing,
)
from trtgate.expectations import DEFAULT_PATH, read_expectations
from trtgate.files import at_home, named_path
from trtgate.images import list_folder
from trtgate.kinds import REFERENCE, Device, EngineSpec, UserError
from trtgate.models.loading import classes_in
from trtgate.models.model_file import ModelFile, is_file, read_models
from trtgate.models.onnx_file import LARGEST
from trtgate.nvml import current_gpu
from trtgate.settings import DEFAULT_MODELS, Settings

# Flag and keyword arguments of argparse's add_argument, which pytest's addoption shares.
OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--model",
        {
            "action": "append",
            "default": [],
            "help": f"a name of torchvision's, or a file .onnx or .toml; repeats; default {', '.join(DEFAULT_MODELS)}",
        },
    ),
    (
        "--shape",
        {
            "action": "append",
            "default": [],
            "metavar": "INPUT=1x3x640x640",
            "help": "of an ONNX file that leaves sizes open, commas between inputs; repeats: each is gated by itself",
        },
    ),
    ("--device", {"choices": DEVICES, "help": "default: cuda where PyTorch sees a GPU"}),
    ("--engine", {"action": "append", "default": [], "help": "repeats; docs/reference.md has the defaults"}),
    ("--batch-size", {"action": "append", "type": int, "default": [], "help": "repeats; default 1, on a GPU 1 and 32"}),
    ("--streams", {"type": int, "default": 1, "metavar": "N", "help": "on a GPU: throughput of N inferences at once"}),
    ("--reuse-timing-cache", {"action": "store_true", "help": "TensorRT: build faster, but not from scratch"}),
    ("--rebuild", {"action": "store_true", "help": "build every plan anew: builders may choose other kernels"}),
    (
        "--weights",
        {
            "action": "append",
            "default": [],
            "metavar": "MODEL=PATH",
            "help": "safetensors or a PyTorch checkpoint; repeats",
        },
    ),
    (
        "--images",
        {
            "type": named_path,
            "metavar": "DIR",
            "help": "evaluation photos, flat or <class>/*.jpg (labelled); or .npz samples",
        },
    ),
    ("--calibration-images", {"type": named_path, "metavar": "DIR", "help": "photos that INT8 ranges are measured on"}),
    ("--skip-bad-images", {"action": "store_true", "help": "leave unreadable photos out instead of failing"}),
    (
        "--plan-cache",
        {"type": named_path, "default": Path(".trtgate"), "metavar": "DIR", "help": "cached graphs and plans"},
    ),
    (
        "--expectations",
        {"type": named_path, "default": DEFAULT_PATH, "metavar": "FILE", "help": "floors and tolerances"},
    ),
)


# The release file of NVIDIA's Linux for Tegra.
JETSON = Path("/etc/nv_tegra_release")

# More would be a slip of the keyboard, and more memory than there is.
LARGEST_BATCH = 1 << 16

# What a GPU is bought for: one photo as fast as can be, and many.
DEFAULT_BATCH_SIZES: dict[Device, tuple[int, ...]] = {"cpu": (1,), "cuda": (1, 32)}


def default_device() -> Device:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_device(asked: Device | None) -> Device:
    """The device that was asked for, or the default. Raises UserError for a GPU that is not there."""
    device = asked or default_device()
    if device == "cuda" and JETSON.exists():
        raise UserError("--device cuda: this is a Jetson, which is not supported: it has no NVML; give --device cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU; give --device cpu, or check the driver with nvidia-smi")
    if device == "cuda" and current_gpu() is None:
        raise UserError("--device cuda: NVML does not answer; run pip install nvidia-ml-py, or check nvidia-smi")
    return device


def add_options(add: Callable[..., Any]) -> None:
    """Declare OPTIONS through argparse's `add_argument` or pytest's `addoption`."""
    for flag, keywords in OPTIONS:
        add(flag, **keywords)


def read_settings(get: Callable[[str], Any], require: Iterable[str] = ()) -> Settings:
    """Settings from parsed options, `get("batch_size")` and so on. Raises UserError for values that cannot be."""
    device = choose_device(get("device"))
    # What loading a plan takes is measured with a run at the first, which is not to depend on the order of the options.
    batch_sizes = tuple(sorted(set(get("batch_size")))) or DEFAULT_BATCH_SIZES[device]
    for size in batch_sizes:
        if not 1 <= size <= LARGEST_BATCH:
            raise UserError(f"--batch-size {size}: give a number from 1 on, up to {LARGEST_BATCH}")
    if get("streams") < 1:
        raise UserError(f"--streams {get('streams')}: give a number from 1 on")
    files = read_models(get("model"), get("shape"))
    named = [text for text in dict.fromkeys(get("model")) if not is_file(text)]
    models = (*named, *files) or DEFAULT_MODELS
    weights = choose_weights(get("weights"))
    for name in weights:
        if name not in models:
            raise UserError(f"--weights {name}=...: {name} is not among the models of this run; add --model {name}")
        if name in files:
            mend = "it has its own" if files[name].file is not None else 'write weights = "FILE" into its TOML file'
            raise UserError(f"--weights {name}=...: {name} is described by a file; {mend}")
    require_usable(get("plan_cache"))
    expectations = read_expectations(get("expectations"))
    by_file = {name: model for name, model in files.items() if model.file is None}
    architectures = {**dict.fromkeys(named or ([] if files else DEFAULT_MODELS)), **by_file}
    for name in architectures:
        own = files.get(name)
        check_files(
            own.architecture if own else name,
            own.weights if own else weights.get(name),
            get("images") or (own.images if own else None),
            get("calibration_images") or (own.calibration_images if own else None),
        )
    references = dict.fromkeys(files[name].reference(device) if name in files else REFERENCE for name in models)
    chosen = [parse_spec(text) for text in get("engine") or DEFAULT_ENGINES[device]]
    if not get("engine") and REFERENCE not in references:  # nobody asked for what an ONNX file cannot have
        chosen = [spec for spec in chosen if backend(spec.backend).graph_kind(spec) is not None]
    start_probing(chosen, device)
    for model in files.values():
        model.check_folders(get("images"), get("calibration_images"))
    check_batches(files, batch_sizes if get("batch_size") else ())
    folders = [at_home(text).parent for text in get("model") if is_file(text)]
    expectations.require_models(models, folders)
    return Settings(
        device=device,
        models=models,
        files=files,
        engines=with_required(chosen, require, device, tuple(references)),
        batch_sizes=batch_sizes,
        sizes_asked=bool(get("batch_size")),
        streams=get("streams"),
        reuse_timing_cache=get("reuse_timing_cache"),
        rebuild=get("rebuild"),
        weights=weights,
        images=get("images"),
        calibration_images=get("calibration_images"),
        skip_bad_images=get("skip_bad_images"),
        plan_cache=get("plan_cache"),
        expectations=expectations.with_models(
            {name: model.limits for name, model in files.items()},
            {name: model.quantize for name, model in files.items()},
            [name for name, model in files.items() if model.file is not None],
        ),
    )


def check_files(model: str, weights: Path | None, images: Path | None, calibration_images: Path | None) -> None:
    """Raises UserError for an unknown model, weights that do not fit it, and folders that hold no photos for it."""
    classes = classes_in(model, weights)
    for option, folder, asked in (("--images", images, classes), ("--calibration-images", calibration_images, None)):
        if folder is not None:
            try:
                list_folder(folder, asked)
            except UserError as error:
                raise UserError(f"{option}: {error}") from error


def check_batches(files: Mapping[str, ModelFile], asked: Sequence[int]) -> None:
    """Raises UserError for batch sizes that were asked for and that an ONNX file cannot take."""
    for name, model in files.items():
        if model.file is None or not asked:
            continue
        signature = model.file.signature
        if 1 not in asked and not signature.batched:
            why = f" (ONNX Runtime: {said})" if (said := model.file.unbatched) else ""
            raise UserError(
                f"--batch-size {asked[0]}: {name} takes no batches{why}; leave it out, or add --batch-size 1"
            )
        size = max(asked)
        if any(math.prod(each.at(size)) * np.dtype(each.dtype).itemsize > LARGEST for each in signature.inputs):
            raise UserError(f"--batch-size {size}: an input of {name} is of more than 2 GB then; give a smaller one")


def with_required(
    chosen: Sequence[EngineSpec],
    required: Iterable[str],
    device: Device,
    references: Sequence[EngineSpec] = (REFERENCE,),
) -> tuple[EngineSpec, ...]:
    """The chosen engines with the references first and the required ones added.

    Of a required backend of which none was chosen, those are added that run on the device, or all if none does. Raises
    UserError for unknown names.
    """
    specs = [*references, *chosen]
    backends = {spec.backend for spec in all_specs()}
    for text in required:
        if text in {spec.id for spec in all_specs()}:
            specs.append(parse_spec(text))
        elif text not in backends:
            raise UserError(f"--require {text} is neither an engine nor a backend ({', '.join(sorted(backends))})")
        elif text not in {spec.backend for spec in specs}:
            specs += running_here((spec, available(spec, device)) for spec in all_specs() if spec.backend == text)
    return tuple(dict.fromkeys(specs))


def choose_weights(pairs: Iterable[str]) -> dict[str, Path]:
    """`MODEL=PATH` options as a mapping. Raises UserError for anything else."""
    chosen = {}
    for pair in pairs:
        model, separator, path = pair.partition("=")
        if not separator or not model or not path:
            raise UserError(f"--weights {pair}: give MODEL=PATH, for example resnet50=resnet50.safetensors")
        chosen[model] = at_home(path)
    return chosen
