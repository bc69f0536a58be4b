"""What --model may name besides torchvision's networks: an ONNX file, or a TOML file that tells of one.

One model file at one shape of its inputs is one model of a run: several shapes are several models.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.expectations import check_quantize, check_section, known_names
from trtgate.fields import label, number
from trtgate.files import at_home, file_digest, require_no_pipe
from trtgate.images import Listing, list_folder
from trtgate.kinds import REFERENCE, Availability, Device, EngineSpec, UserError
from trtgate.models.base import DATA
from trtgate.models.onnx_file import OWN_WORDS, REFERENCES, NotRun, OnnxFile, Shape, describe, load_graph
from trtgate.photos import PhotoFolder, Recipe
from trtgate.samples import ArrayFolder, Samples, Seeded, arrays_in, frame_of
from trtgate.signature import BATCH, TensorSpec
from trtgate.tasks.base import Task, load_function
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detection, from_function, from_outputs, of_boxes, read_coco
from trtgate.tasks.segmentation import Segmentation
from trtgate.tasks.tensors import TensorsTask

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Seeded samples of each split: they show whether arithmetic agrees, and more of them show no more.
SEEDED = {"evaluation": 8, "calibration": 8}
SEEDS = {"evaluation": 1, "calibration": 2}
TASKS = ("classification", "detection", "segmentation", "tensors")
KEYS = (
    *("name", "model", "weights", "task", "images", "calibration_images", "shapes"),
    *("preprocessing", "inputs", "limits", "quantize", *TASKS),
)
SHAPE = re.compile(r"([^=]+)=(\d+(?:x\d+)*)")


@dataclass(frozen=True)
class ModelFile:
    """A model that a file describes. `file` is None where that names one of torchvision's, by `architecture`."""

    name: str
    task: Task
    file: OnnxFile | None = None
    architecture: str = ""
    weights: Path | None = None
    images: Path | None = None
    calibration_images: Path | None = None
    recipe: Recipe | None = None
    photo_input: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    quantize: Mapping[str, Any] = field(default_factory=dict)
    # Stands for the TOML with all that it names, but for the network and the samples.
    digest: str = ""
    # Stands for what decides how answers are compared: the task, its section, the user's code and annotations. Empty
    # for a network of torchvision's, of which there is one way.
    task_digest: str = ""

    def reference(self, device: Device) -> EngineSpec:
        """What its answers and its speed are held against."""
        return REFERENCE if self.file is None else REFERENCES[device]

    def available(self, spec: EngineSpec, graph: str | None, device: Device) -> Availability:
        """Whether an engine can be built of it at all, `graph` being the kind that the engine wants, if any."""
        if self.file is None or spec == self.reference(device):
            return Availability(True)
        name = self.file.path.name
        if graph is None:
            return Availability(False, f"{name} is an ONNX file, and {spec.backend} wants PyTorch's module")
        own = self.file.own
        makes = {"fp32": True, "fp16": spec.precision != "int8", "bf16": spec.precision != "int8"}
        if not makes.get(own, spec.precision == "int8" and spec.variant != "calibrated"):
            return Availability(
                False, f"{name} is {OWN_WORDS[own]} already and is taken as it is: no {spec.precision} is made of it"
            )
        return Availability(True)

    def check_folders(self, images: Path | None, calibration_images: Path | None) -> None:
        """Raises UserError for a folder that holds nothing that the model can be run on, without reading what it holds.

        What the command line names has the last word.
        """
        if self.file is None:
            return
        given = (
            ("--images", images, self.images),
            ("--calibration-images", calibration_images, self.calibration_images),
        )
        for option, named, own in given:
            folder = named or own
            if folder is None:
                continue
            if not folder.is_dir():
                raise UserError(f"{option}: {folder} is not a folder; give one with photos or .npz files")
            if arrays_in(folder):
                continue
            if self.recipe is None:
                name = self.file.path.name
                raise UserError(
                    f"{option}: {folder} holds no .npz file, and how {name} wants photos is not known; "
                    "give a folder of .npz, or [preprocessing] in a model TOML (docs/models.md)"
                )
            self._listed(folder, labelled=option == "--images")

    @property
    def classes(self) -> int | None:
        """How many classes a classifier tells apart; None for what is none."""
        if self.file is None or not isinstance(self.task, Classification):
            return None
        return next(math.prod(each.at(1)) for each in self.file.signature.outputs if each.name == self.task.output)

    def _listed(self, folder: Path, *, labelled: bool) -> Listing:
        called = self.task.classes if isinstance(self.task, Classification) else ()
        return list_folder(folder, self.classes if labelled else None, called)

    def samples(self, split: str, folder: Path | None, *, skip_bad: bool) -> Samples:
        """Photos or arrays of the folder, the shipped photos where the preprocessing is known, or seeded samples.

        Raises UserError for a folder that holds a file that cannot be read, or that does not fit.
        """
        assert self.file is not None
        signature, constants = self.file.signature, self.constants
        if folder is not None and arrays_in(folder):
            return ArrayFolder(folder, signature, constants)
        if folder is None and self.recipe is None:
            limits, count, seed = self.file.limits, SEEDED[split], SEEDS[split]
            return Seeded(signature, limits, constants, count, seed=seed)
        assert self.recipe is not None
        folder = folder or DATA / split
        listing = self._listed(folder, labelled=split == "evaluation")
        photos = next(each for each in signature.inputs if each.name == self.photo_input)
        return PhotoFolder(listing, folder, self.recipe, photos, signature, constants, skip_bad=skip_bad)


def is_file(text: str) -> bool:
    """Whether --model names a file rather than a network by its name."""
    return text.endswith((".onnx", ".toml")) or "/" in text


def read_models(texts: Sequence[str], shapes: Sequence[str]) -> dict[str, ModelFile]:
    """The models of the files among the values of --model, by name, `shapes` being those of --shape.

    Raises UserError for a file that is none, for a shape that fits no model, for a name that no record could have,
    and for two models of one name.
    """
    given = [parse_shape(text) for text in shapes]
    if given and not any(map(is_file, texts)):
        raise UserError(f"--shape {shapes[0]} is for an ONNX file; give one with --model PATH.onnx")
    found: dict[str, ModelFile] = {}
    named = {text for text in texts if not is_file(text)}
    for text in filter(is_file, dict.fromkeys(texts)):
        path = at_home(text)
        for model in _read_toml(path, given) if path.suffix == ".toml" else _of_onnx(path, {}, given, Path()):
            if model.name in found or model.name in named:
                raise UserError(f"--model {text}: two models are called {model.name}; give one a TOML file with a name")
            try:
                found[label("its name", model.name)] = model
            except ValueError as error:
                raise UserError(f"--model {text}: {error}; give it a TOML file with a name") from error
    return found


def parse_shape(text: str) -> Shape:
    """`x=1x3x640x640`, or several inputs with commas between. Raises UserError for anything else."""
    shape = {}
    for part in text.split(","):
        match = SHAPE.fullmatch(part.strip())
        if match is None or "0" in match[2].split("x"):
            raise UserError(f"--shape {text}: give INPUT=1x3x640x640, with commas between several inputs")
        shape[match[1]] = tuple(map(int, match[2].split("x")))
    return shape


def shape_name(shape: Shape) -> str:
    """How a shape stands in a model's name, which is part of files' names, too."""
    texts = {re.sub(r"[\s/]+", "_", name): "x".join(map(str, axes)) for name, axes in shape.items()}
    return next(iter(texts.values())) if len(texts) == 1 else ",".join(f"{name}={text}" for name, text in texts.items())


def _of_onnx(
    path: Path, table: Mapping[str, Any], shapes: Sequence[Shape], folder: Path, digest: str = ""
) -> list[ModelFile]:
    """One model for each shape; `table` is what a TOML file in `folder` says of it."""
    name = re.sub(r"\s+", "_", str(table.get("name", path.name)))
    constants = dict(table.get("inputs", {}))
    for each, value in constants.items():
        with contextlib.suppress(ValueError, TypeError, OverflowError):  # no numbers: `describe` says so
            if not np.isfinite(np.asarray(value, np.float64)).all():
                raise UserError(f"{folder / '[inputs]'}: {each} must be finite")
    _require_nodes(path, table)
    found = []
    for shape in shapes or [_shape_of(path, table, constants, folder / "[preprocessing]")]:
        whole = f"{name}@{shape_name(shape)}" if shapes else name
        try:
            file = describe(path, shape, constants)
        except NotRun as error:
            error.model, error.alone = whole, not table
            raise
        recipe, photo_input = _recipe(table, file, constants, folder)
        task = _task(table, file, folder)
        found.append(
            ModelFile(
                whole,
                task,
                file,
                images=_folder(table, "images", folder),
                calibration_images=_folder(table, "calibration_images", folder),
                recipe=recipe,
                photo_input=photo_input,
                constants=constants,
                limits=table.get("limits", {}),
                quantize=table.get("quantize", {}),
                digest=digest,
                task_digest=_task_digest(table, folder, task),
            )
        )
    return found


def _require_nodes(path: Path, table: Mapping[str, Any]) -> None:
    """Raises UserError for a pattern of keep_float that names no node: a misspelt name would quantise silently."""
    patterns = table.get("quantize", {}).get("keep_float", [])
    names = [node.name for node in load_graph(path).graph.node] if patterns else []
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(f"[quantize]: keep_float {pattern} names no node of {path.name}, such as {names[0]}")


def _shape_of(path: Path, table: Mapping[str, Any], constants: Mapping[str, Any], where: Path) -> Shape:
    """The shape that the size of [preprocessing] gives the input that it is for, which may leave it open."""
    how = table.get("preprocessing", {})
    size = how.get("size")
    if size is None:
        return {}
    height, width = _checked(where, "size", size)
    photos = [
        value.name
        for value in load_graph(path).graph.input
        if len(value.type.tensor_type.shape.dim) == 4 and value.name not in constants
    ]
    chosen = [name for name in photos if how.get("input", name) == name]
    if len(chosen) != 1:
        return {}
    channels = 1 if how.get("colour") == "GREY" else 3
    axes = (height, width, channels) if how.get("layout") == "NHWC" else (channels, height, width)
    return {chosen[0]: (1, *axes)}


def _read_toml(path: Path, shapes: Sequence[Shape]) -> list[ModelFile]:
    try:
        require_no_pipe(path)
        table = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"--model {path} cannot be read ({error.strerror}); check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--model {path} is not valid TOML: {error}") from error
    _check(path, table)
    folder, model = path.parent, str(table["model"])
    own = [parse_shape(text) for text in table.get("shapes", [])]
    digest = _digest(path, table)
    if model.endswith(".onnx"):
        if "weights" in table:
            raise UserError(f"{path}: weights are for a network of torchvision's; {model} has its own")
        return _of_onnx(folder / model, {"name": path.stem, **table}, shapes or own, folder, digest)
    for key in ("inputs", "preprocessing", "shapes", *TASKS):
        if key in table:
            raise UserError(f"{path}: {key} is for an ONNX file; {model} has its own")
    if table.get("task", "classification") != "classification":
        raise UserError(f"{path}: {model} is a classifier; leave task out")
    weights = folder / table["weights"] if "weights" in table else None
    return [
        ModelFile(
            str(table.get("name", path.stem)),
            Classification(),
            architecture=model,
            weights=weights,
            images=_folder(table, "images", folder),
            calibration_images=_folder(table, "calibration_images", folder),
            limits=table.get("limits", {}),
            quantize=table.get("quantize", {}),
            digest=digest,
        )
    ]


def _digest(path: Path, table: Mapping[str, Any]) -> str:
    """SHA-256 over a TOML, the files that its tasks name, and the user's own code beside it."""
    digest = hashlib.sha256(path.read_bytes())
    sections = [table[task] for task in TASKS if task in table]
    _add_files(digest, [each for section in sections for each in _named_files(section, path.parent)])
    return digest.hexdigest()


def _task_digest(table: Mapping[str, Any], folder: Path, made: Task) -> str:
    """SHA-256 over what decides how answers are compared; what classes are called does not."""
    task = str(table.get("task", "tensors"))
    section = {key: value for key, value in table.get(task, {}).items() if key != "classes"}
    # Sessions saved before took them from the first axis.
    told = [task, section, *(["classes last"] if isinstance(made, Segmentation) and made.last else [])]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    _add_files(digest, _named_files(section, folder))
    return digest.hexdigest()


def _named_files(section: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files that a task's section names, and where it names code all code beside it, which that may import."""
    named = [folder / name for key in ("classes", "annotations") if isinstance(name := section.get(key), str)]
    if "metric" in section or "decode" in section:
        packages = [each.parent for each in folder.glob("*/__init__.py")]
        named += sorted({*folder.glob("*.py"), *(each for package in packages for each in package.rglob("*.py"))})
    return [each for each in named if each.is_file()]


def _add_files(digest: hashlib._Hash, files: Sequence[Path]) -> None:
    for each in files:
        digest.update(f"{each.name}:{file_digest(each)};".encode())


def _check(path: Path, table: Mapping[str, Any]) -> None:
    known_names(path, "key", table, KEYS)
    for key in ("name", "model", "weights", "task", "images", "calibration_images"):
        if key in table and not (isinstance(table[key], str) and table[key]):
            raise UserError(f"{path}: {key} must be a text")
    for key in ("preprocessing", "inputs", "limits", "quantize", *TASKS):
        if not isinstance(table.get(key, {}), Mapping):
            raise UserError(f"{path}: {key} must be a section, [{key}]")
    if "model" not in table:
        raise UserError(f'{path} names no model; write model = "FILE.onnx", or a name that torchvision has')
    if not re.fullmatch(r"[\w.+-]+", str(table.get("name", "x"))):
        raise UserError(f"{path}: name must be one word of letters, digits, dots, dashes and underscores")
    shapes = table.get("shapes", [])
    if not isinstance(shapes, list) or not all(isinstance(each, str) for each in shapes):
        raise UserError(f'{path}: shapes must be a list such as ["x=1x3x640x640"]')
    known_names(path, "task", [table.get("task", "tensors")], TASKS)
    usual = "tensors" if str(table["model"]).endswith(".onnx") else "classification"
    task = table.get("task", usual)
    for other in TASKS:
        if other in table and other != task:
            raise UserError(f'{path}: [{other}] means nothing where the task is {task}; write task = "{other}"')
    check_section(path, "limits", table.get("limits", {}))
    scored = SCORED[task] | ({"metric"} if "metric" in table.get(task, {}) else set())
    for key in _limits_in(table.get("limits", {})):
        if key in FLOORS and key not in scored:
            raise UserError(
                f"{path}: {key} in [limits] is of no score of the task {task}; it has {', '.join(sorted(scored))}"
            )
    check_quantize(path, "quantize", table.get("quantize", {}))


# The limits that are floors of scores, and those that each task has a score for.
BY_VALUE = frozenset({"agreement", "cosine", "sqnr_db"})
SCORED: Mapping[str, frozenset[str]] = {
    "classification": BY_VALUE | {"max_accuracy_drop"},
    "detection": BY_VALUE | {"mean_ap", "confidence"},
    "segmentation": BY_VALUE | {"mean_iou"},
    "tensors": BY_VALUE,
}
FLOORS = frozenset().union(*SCORED.values(), {"metric"})


def _limits_in(section: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a section of limits, and of those in it."""
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _limits_in(value)
        else:
            yield key


def _folder(table: Mapping[str, Any], key: str, folder: Path) -> Path | None:
    return folder / table[key] if key in table else None


def _recipe(
    table: Mapping[str, Any], file: OnnxFile, constants: Mapping[str, Any], folder: Path
) -> tuple[Recipe | None, str]:
    """How photos become the input that they are for. Raises UserError for what cannot be."""
    if "preprocessing" not in table:
        return None, ""
    how = dict(table["preprocessing"])
    where = folder / "[preprocessing]"
    known_names(where, "key", how, ("input", *Recipe.__dataclass_fields__))
    wanted = how.pop("input", None)
    left = [each for each in file.signature.inputs if each.name not in constants and len(each.shape) == 4]
    chosen = [each for each in left if wanted in (None, each.name)]
    if len(chosen) != 1:
        names = ", ".join(map(str, file.signature.inputs))
        raise UserError(f'{where}: photos are for one input of four axes; write input = "NAME", one of {names}')
    for each in file.signature.inputs:
        if each.name != chosen[0].name and each.name not in constants:
            raise UserError(f"{where}: input {each} has no value; give one under [inputs]")
    values = {"size": _size(chosen[0], str(how.get("layout", "NCHW"))), **how}
    for name, value in values.items():
        values[name] = _checked(where, name, value)
    channels = 1 if values.get("colour") == "GREY" else 3
    for name in ("mean", "std"):
        if len(values.get(name, (0,))) not in (1, channels):
            raise UserError(f"{where}: {name} must be one number, or {channels} for as many channels")
    return Recipe(**values), chosen[0].name


def _size(each: TensorSpec, layout: str) -> list[int]:
    axes = each.at(1)
    return list(axes[1:3] if layout == "NHWC" else axes[2:4])


LONGEST_SIDE = 16384
# What photos are prepared in.
MOST_FP32 = float(np.finfo(np.float32).max)
CHOICES: Mapping[str, tuple[str, ...]] = {
    "fit": ("stretch", "crop", "pad"),
    "colour": ("RGB", "BGR", "GREY"),
    "layout": ("NCHW", "NHWC"),
    "interpolation": ("bilinear", "bicubic"),
}


def _checked(where: Path, name: str, value: Any) -> Any:
    """A value of [preprocessing], a list as a tuple."""
    if name in CHOICES:
        known_names(where, name, [str(value)], CHOICES[name])
        return value
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(isinstance(each, int | float) and not isinstance(each, bool) for each in numbers):
        raise UserError(f"{where}: {name} must be a number, or a list of numbers")
    if not all(abs(each) <= MOST_FP32 for each in numbers):
        raise UserError(f"{where}: {name} must be finite in FP32")
    if name == "size" and (len(numbers) != 2 or not all(isinstance(each, int) and each > 0 for each in numbers)):
        raise UserError(f"{where}: size must be height and width, as [640, 640]")
    if name in {"scale", "pad", "resize"} and isinstance(value, list):
        raise UserError(f"{where}: {name} must be one number")
    if name == "pad" and not 0 <= value <= 255:
        raise UserError(f"{where}: pad must lie between 0 and 255")
    if name == "resize" and not (isinstance(value, int) and 1 <= value <= LONGEST_SIDE):
        raise UserError(f"{where}: resize must be a whole number of pixels up to {LONGEST_SIDE}")
    if name == "size" and max(numbers) > LONGEST_SIDE:
        raise UserError(f"{where}: size must be of at most {LONGEST_SIDE} pixels a side")
    if name in {"scale", "std"} and any(np.float32(each) == 0 for each in numbers):
        raise UserError(f"{where}: {name} must not be 0")
    return tuple(numbers) if name in {"size", "mean", "std"} else value


def _task(table: Mapping[str, Any], file: OnnxFile, folder: Path) -> Task:
    """The task that a TOML file names, with its section."""
    name = str(table.get("task", "tensors"))
    section = dict(table.get(name, {}))
    where = f"[{name}] of {file.path.name}"
    outputs = file.signature.output_names

    def output(key: str) -> str:
        chosen = section.pop(key, outputs[0] if len(outputs) == 1 else None)
        if chosen not in outputs:
            raise UserError(f'{where}: write {key} = "OUTPUT", one of {", ".join(outputs)}')
        return str(chosen)

    def threshold() -> float:
        value = section.pop("threshold", 0.5)
        try:
            return number("threshold", value)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from error

    # A classifier has none: there it stays in the section, as what means nothing.
    metric = section.pop("metric", None) if name != "classification" else None
    own = None if metric is None else load_function(str(metric), folder, where)
    made: Task
    if name == "classification":
        chosen, names = output("output"), _classes(section.pop("classes", None), folder, where)
        axes = next(each.at(1) for each in file.signature.outputs if each.name == chosen)
        if -1 in axes or math.prod(axes) < 2:
            raise UserError(f"{where}: {chosen} of {list(axes)} is no answer of two classes or more; name another task")
        if names and len(names) != math.prod(axes):
            raise UserError(f"{where}: classes names {len(names)}, and {chosen} has {math.prod(axes)}")
        made = Classification(chosen, names)
    elif name == "segmentation":
        chosen = output("output")
        stays = _stays(file, [chosen])
        made = Segmentation(chosen, threshold(), own, stays, _classes_last(file, chosen, stays=stays))
    elif name == "detection":
        least, truth = threshold(), section.pop("annotations", None)
        if truth is not None and not (isinstance(truth, str) and truth):
            raise UserError(f"{where}: annotations must be the name of a file")
        if (decode := section.pop("decode", None)) is not None:
            reading = from_function(load_function(str(decode), folder, where))
        else:
            form = str(section.pop("form", "xyxy"))
            known_names(folder / where, "form", [form], ("xyxy", "cxcywh"))
            labels = output("labels") if "labels" in section else ""
            boxes, scores = output("boxes"), output("scores")
            _require_boxes(where, file, boxes, [each for each in (scores, labels) if each])
            reading = from_outputs(boxes, scores, labels, form)
        made = Detection(reading, least, read_coco(folder / truth) if truth else None, own, _stays(file, outputs))
    else:
        made = TensorsTask(own)
    if section:
        raise UserError(f"{where}: {', '.join(section)} means nothing there")
    return made


def _stays(file: OnnxFile, outputs: Sequence[str]) -> bool:
    """Whether the answers to one sample keep an axis of samples, the first one, as those of a file without batches."""
    chosen = [each for each in file.signature.outputs if each.name in outputs]
    first = [each.shape[0] if each.shape else 0 for each in (*file.signature.inputs[:1], *chosen)]
    return not file.signature.separable and all(axis in (1, BATCH) for axis in first)


def _classes_last(file: OnnxFile, output: str, *, stays: bool) -> bool:
    """Whether classes are the last axis of an output, as TensorFlow's networks have them: its other two axes are of the
    picture's form, and where the first two and the last two are, the picture's channels are its last axis, too."""
    signature, frame = file.signature, frame_of(file.signature)
    each = next(each for each in signature.outputs if each.name == output)
    axes = list(each.at(1))
    if signature.separable and each.batch_axis is not None:
        del axes[each.batch_axis]
    elif stays:
        del axes[0]
    if frame is None or len(axes) != 3 or min(axes) < 1:
        return False

    def fits(height: int, width: int) -> bool:
        # A side that no power of two divides is rounded.
        return abs(height * frame.width - width * frame.height) <= max(frame.height, frame.width)

    if fits(*axes[:2]) and fits(*axes[1:]):
        return any(given.at(1)[1:3] == (frame.height, frame.width) for given in signature.inputs)
    return fits(*axes[:2])


def _require_boxes(where: str, file: OnnxFile, boxes: str, others: Sequence[str]) -> None:
    """Raises UserError for boxes that are not [n,4], and for scores or labels that are not of as many."""
    shapes = {each.name: each.at(1) for each in file.signature.outputs}
    if not shapes[boxes] or shapes[boxes][-1] not in (4, -1):
        raise UserError(f"{where}: boxes = {boxes} is of {list(shapes[boxes])}, not [n,4]; write decode")
    if -1 in shapes[boxes]:
        return
    n = math.prod(shapes[boxes]) // 4
    for name in others:
        if -1 not in shapes[name] and (not n or math.prod(shapes[name]) % n or not of_boxes(n, shapes[name])):
            raise UserError(f"{where}: {name} is of {list(shapes[name])}, which is not of {n} boxes; write decode")


def _classes(given: Any, folder: Path, where: str) -> tuple[str, ...]:
    """Names of classes: a list, or a file with one in each line."""
    if given is None:
        return ()
    if isinstance(given, list):
        return tuple(map(str, given))
    try:
        require_no_pipe(folder / str(given))
        return tuple((folder / str(given)).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, ValueError) as error:  # of bytes that are no text, of a name that no file can have
        raise UserError(
            f"{where}: {folder / str(given)} cannot be read; give a file with a name in each line"
        ) from error
