"""A network of the user's own: an ONNX file, whatever goes into it and comes out.

Its graph is brought into one form (constants as initialisers, a name for every node, the shapes that were asked for)
and changed in nothing else. What comes out is learnt by running it: what files say of their outputs is often wrong.
"""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import onnx
import onnx.inliner
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from trtgate.child import WorkFailed, run_in_child
from trtgate.files import file_digest
from trtgate.kinds import EngineBroken, EngineSpec, UserError, printable
from trtgate.limits import LOAD_SECONDS
from trtgate.models.trial import SMALL, save_small, try_graph
from trtgate.samples import constant
from trtgate.signature import BATCH, Signature, TensorSpec

# Raised whenever the form of the graph changes, so that cached graphs of before are not reused.
FORM = 1
# What protobuf can hold in one piece.
LARGEST = 2_000_000_000
# Characters of the name of an input or output; those that TensorFlow writes have up to 150.
LONGEST_NAME = 200
# The symbols that exporters give to the axis of samples, wherever it is.
BATCH_NAMES = frozenset({"batch", "batch_size", "batchsize", "n", "bs", "batch_dim"})
Own = Literal["fp32", "fp16", "bf16", "int8"]
OWN_WORDS: Mapping[Own, str] = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "quantised"}
# Operators that a graph has only if it is quantised already.
QUANTISED = re.compile(r"QuantizeLinear|DequantizeLinear|DynamicQuantizeLinear|QLinear\w+|QGemm|\w+Integer|MatMulNBits")
HALVES: Mapping[int, Own] = {onnx.TensorProto.FLOAT16: "fp16", onnx.TensorProto.BFLOAT16: "bf16"}
# Where ONNX Runtime was when it found something wrong: a file with a line, and a function with its arguments.
IN_ITS_SOURCES = re.compile(r"/\S+\.(?:cc|cpp|h):\d+ .*?\)(?: const)? (?=\S)")
# What the file is run by: ONNX Runtime in FP32 on the CPU.
REFERENCES: Mapping[str, EngineSpec] = {
    "cpu": EngineSpec("onnxruntime", "fp32"),
    "cuda": EngineSpec("onnxruntime", "fp32", "cpu"),
}

Shape = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file at one shape of its inputs.

    `digest` stands for it with all of its weights. `own` is what it holds: FP32, or a narrower type that its engines
    take as it is. `limits` are the numbers below which integer inputs must stay, where the graph shows them; `left_out`
    are outputs that are no tensors of numbers, `unsteady` those that differ from run to run on one sample.
    `unbatched` is what ONNX Runtime said of a batch that it could not run, where the inputs leave room for one.
    `apart` says that the answer to a batch is those to its samples, as it is not where an output has no axis of samples
    or one sample's answer depends on the others.
    """

    path: Path
    signature: Signature
    digest: str
    own: Own
    limits: Mapping[str, int]
    left_out: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    unbatched: str = ""
    apart: bool = True


class NotRun(UserError):
    """ONNX Runtime cannot run a file, of that digest. `said` is that alone, `model` what the model is called, and
    `alone` says that no TOML describes it: both are set by who knows."""

    model = ""
    alone = False

    def __init__(self, path: Path, problem: str) -> None:
        self.said = printable(f"--model {path}: ONNX Runtime cannot run it ({problem})")
        self.digest = digest_of(path)
        super().__init__(f"{self.said}; export it for this ONNX Runtime, or give samples that it takes")


def load_graph(path: Path) -> onnx.ModelProto:
    """The file's graph in our form, with its weights. Raises UserError for what is no ONNX file or not whole."""
    try:
        if path.is_dir():
            raise UserError(f"--model {path} is a folder; give the .onnx file in it")
        if path.exists() and not path.is_file():
            raise UserError(f"--model {path} is no regular file; give an .onnx file")
        with path.open("rb") as file:
            start = file.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise UserError(f"--model {path} is a pointer of Git LFS, not the file; run git lfs pull")
        sizes = [each.stat().st_size for each in _files_of(path)]
        if sum(sizes) > LARGEST:
            raise UserError(
                f"--model {path} has {sum(sizes) / 1e9:.1f} GB of weights, more than 2 GB are not supported"
            )
        model = onnx.load(path)
        _require_readable(model, path)
        return in_form(model)
    except FileNotFoundError as error:
        raise UserError(f"--model {path}: {error.filename or path} does not exist; check the path") from error
    except OSError as error:
        raise UserError(f"--model {path} cannot be read ({error.strerror}); check the path") from error
    except UserError:
        raise
    except Exception as error:  # protobuf and onnx raise a dozen types for a bad file; all are the user's to fix
        raise UserError(
            f"--model {path} is no ONNX file, or is damaged ({first_line(error)}); export or copy it again"
        ) from error


def _require_readable(model: onnx.ModelProto, path: Path) -> None:
    """Raises UserError for what holds no network, and for names that no table can show and no record can hold."""
    if not all(isinstance(text, str) for text in _texts(model.graph)):  # protobuf gives bytes where it is no UTF-8
        raise UserError(f"--model {path} is damaged (a name in it is no text); export or copy it again")
    if not model.graph.node or not model.graph.output:
        raise UserError(f"--model {path} holds no network; export it again")
    for side, values in (("input", model.graph.input), ("output", model.graph.output)):
        names = [value.name for value in values]
        for name in names:
            if not name or not name.isprintable() or len(name) > LONGEST_NAME:
                raise UserError(
                    f"--model {path}: {name[:40]!r} cannot be shown as the name of an {side}; export it with another"
                )
            if names.count(name) > 1:
                raise UserError(f"--model {path} has the {side} {name} twice; export it again")


def _texts(graph: onnx.GraphProto) -> Iterator[Any]:
    for node in graph.node:
        yield from (node.name, node.op_type, *node.input, *node.output, *(each.name for each in node.attribute))
    for value in (*graph.input, *graph.output):
        yield from (value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim))
    yield from (tensor.name for tensor in graph.initializer)


def _files_of(path: Path) -> list[Path]:
    """The file, and those that hold its weights where it does not."""
    model = onnx.load(path, load_external_data=False)
    tensors = [tensor for tensor in _tensors(model.graph) if uses_external_data(tensor)]
    names = dict.fromkeys(ExternalDataInfo(tensor).location for tensor in tensors)
    return [path, *(path.parent / name for name in names)]


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """The constants of a graph, those of its nodes and of the graphs in them too."""
    yield from graph.initializer
    for node in graph.node:
        for each in node.attribute:
            yield from (each.t, *each.tensors)
            for inner in (each.g, *each.graphs):
                yield from _tensors(inner)


def digest_of(path: Path) -> str:
    """SHA-256 that stands for a file with all of its weights."""
    digest = hashlib.sha256()
    for each in _files_of(path):
        digest.update(file_digest(each).encode())
    return digest.hexdigest()


def first_line(error: BaseException | str) -> str:
    """What an error says, in one line and without ONNX Runtime's own numbering and the place in its sources, which
    may be longer than what it says."""
    text = printable(str(error)).strip() or type(error).__name__
    text = IN_ITS_SOURCES.sub("", re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text.splitlines()[0]))
    return text[:200].rstrip(". ")


def in_form(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with its functions inlined, its constants as initialisers that are no inputs, and a name of its
    own for every node."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [each for each in graph.input if each.name not in constants]
    if len(inputs) < len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # where initialisers need not be inputs
    answers = {each.name for each in graph.output}
    nodes = list(graph.node)
    del graph.node[:]
    taken: set[str] = {node.name for node in nodes}
    seen: set[str] = set()
    for index, node in enumerate(nodes):
        values = [each.t for each in node.attribute if each.name == "value"]
        if node.op_type == "Constant" and values and len(node.output) == 1 and node.output[0] not in answers:
            values[0].name = node.output[0]
            graph.initializer.append(values[0])
            continue
        if not node.name or node.name in seen:
            name = f"{node.op_type}_{index}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
        seen.add(node.name)
        graph.node.append(node)
    return model


def with_shapes(model: onnx.ModelProto, inputs: Sequence[TensorSpec]) -> onnx.ModelProto:
    """The network for inputs of those shapes alone, in place: only the batch stays dynamic."""
    shapes = {each.name: each.shape for each in inputs}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        known = [dim.dim_value for dim in dims]
        wanted = shapes[value.name]
        if known != [axis if isinstance(axis, int) else 0 for axis in wanted]:
            del model.graph.value_info[:]  # they may speak of other shapes
        del dims[:]
        value.type.tensor_type.shape.SetInParent()
        for axis in wanted:
            dim = dims.add()
            if isinstance(axis, int):
                dim.dim_value = axis
            else:
                dim.dim_param = axis
    return model


def own_precision(model: onnx.ModelProto) -> Own:
    """What a file holds. One that is quantised or has half precision weights is somebody's finished work."""
    if any(QUANTISED.fullmatch(node.op_type) for node in model.graph.node):
        return "int8"
    halves = [HALVES[tensor.data_type] for tensor in model.graph.initializer if tensor.data_type in HALVES]
    return halves[0] if halves else "fp32"


def inputs_of(model: onnx.ModelProto, path: Path, shape: Shape) -> tuple[TensorSpec, ...]:
    """The inputs, `shape` having what the file leaves open, by input. See `_axis` for which axis is the batch.

    Raises UserError for a shape that does not fit, or that is missing.
    """
    names = {value.name for value in model.graph.input}
    for name in shape:
        if name not in names:
            raise UserError(f"--shape {name}=...: {path.name} has no input {name}; it has {', '.join(sorted(names))}")
    # A length that was given for a symbol holds wherever the symbol stands.
    symbols: dict[str, int | str] = {}
    for value in model.graph.input:
        axes = list(value.type.tensor_type.shape.dim)
        for index, dim in enumerate(axes):
            given = shape[value.name][index] if len(shape.get(value.name, ())) == len(axes) else None
            if dim.dim_param and (given or _is_batch(dim, index)):
                batch = _is_batch(dim, index) and given in (None, 1)
                symbols.setdefault(dim.dim_param, BATCH if batch else given or BATCH)
    found = [_input(value, path, shape.get(value.name), symbols) for value in model.graph.input]
    if unknown := [each for each in found if None in each[1]]:
        asked = ",".join(f"{each.name}={_text(_guessed(axes))}" for each, axes in unknown)
        raise UserError(
            f"--model {path}: the size of {', '.join(each.name for each, _ in unknown)} is not known; give it, such as "
            f"--shape {asked}"
        )
    for each, _ in found:
        if math.prod(each.at(1)) * np.dtype(each.dtype).itemsize > LARGEST:
            raise UserError(f"--model {path}: its input {each} is of more than 2 GB, which is not supported")
    return tuple(each for each, _ in found)


def _guessed(axes: Sequence[int | str | None]) -> list[int]:
    """A shape for an example: of photos, of words, of what else there is."""
    usual = {4: 640, 2: 128}.get(len(axes), 1)
    return [axis if isinstance(axis, int) else usual if axis is None else 1 for axis in axes]


def _is_batch(dim: Any, index: int) -> bool:
    return dim.dim_value <= 0 and (index == 0 or dim.dim_param.lower() in BATCH_NAMES)


def _input(
    value: onnx.ValueInfoProto, path: Path, given: tuple[int, ...] | None, symbols: Mapping[str, int | str]
) -> tuple[TensorSpec, list[int | str | None]]:
    """An input, and its axes with None for those of which nothing is known."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type == onnx.TensorProto.STRING:
        raise UserError(f"--model {path}: its input {value.name} is no tensor of numbers; export it without")
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        raise UserError(
            f"--model {path} does not say of what type its input {value.name} is; export it again"
        ) from None
    if dtype.kind not in "fiub":
        raise UserError(f"--model {path}: its input {value.name} is {dtype}, which is not supported; export it as FP32")
    if not tensor.HasField("shape") and given is None:
        raise UserError(f"--model {path} does not say how many axes its input {value.name} has; give --shape")
    dims = (
        list(tensor.shape.dim) if tensor.HasField("shape") else [onnx.TensorShapeProto.Dimension()] * len(given or ())
    )
    if given is not None and len(given) != len(dims):
        shown = _open(value.name, dtype, dims)
        raise UserError(f"--shape {value.name}={_text(given)}: {path.name} has {shown}; give {len(dims)} axes")
    axes = [_axis(dim, index, given[index] if given else None, symbols) for index, dim in enumerate(dims)]
    if given is not None:
        for dim, length in zip(dims, given, strict=True):
            if dim.dim_value > 0 and dim.dim_value != length:
                raise UserError(
                    f"--shape {value.name}={_text(given)}: {path.name} has {_open(value.name, dtype, dims)}, "
                    "and only ? can be chosen"
                )
    return TensorSpec(value.name, dtype.name, tuple(axis for axis in axes if axis is not None)), axes


def _axis(dim: Any, index: int, given: int | None, symbols: Mapping[str, int | str]) -> int | str | None:
    """A length that the file leaves open is what was given; on the first axis, where nothing or 1 was given, and on
    another axis that is called like the batch, it is the batch. None where nothing tells."""
    if dim.dim_value > 0:
        return int(dim.dim_value)
    if _is_batch(dim, index) and given in (None, 1):
        return symbols.get(dim.dim_param, BATCH) if dim.dim_param else BATCH
    return given or symbols.get(dim.dim_param)


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _open(name: str, dtype: np.dtype[Any], dims: Sequence[Any]) -> str:
    """An input as the file has it, ? for what it leaves open."""
    return f"{name} {dtype.name}[{','.join(str(dim.dim_value) if dim.dim_value > 0 else '?' for dim in dims)}]"


# What may stand between an input of indices and the table that they are looked up in.
PASSED_ON = frozenset({"Cast", "Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten", "Transpose"})


def index_limits(model: onnx.ModelProto) -> dict[str, int]:
    """For inputs that are looked up in tables: the length of the shortest."""
    graph = model.graph
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    source = {value.name: value.name for value in graph.input}
    limits: dict[str, int] = {}
    for node in graph.node:
        # How many there are and of what sizes is checked by whoever runs it.
        given, made = list(node.input), list(node.output)
        if node.op_type in PASSED_ON and given and given[0] in source and made:
            source[made[0]] = source[given[0]]
        elif node.op_type == "Gather" and len(given) == 2 and given[0] in sizes and given[1] in source:
            axis = next((each.i for each in node.attribute if each.name == "axis"), 0)
            size = sizes[given[0]]
            if -len(size) <= axis < len(size) and size[axis] > 0:
                name = source[given[1]]
                limits[name] = min(limits.get(name, 1 << 31), size[axis])
    return limits


def describe(path: Path, shape: Shape, constants: Mapping[str, Any]) -> OnnxFile:
    """What the file takes and gives at a shape, learnt by running it in a process of its own. `constants` are the
    values of inputs that always have the same.

    Raises UserError for a file that cannot be read, NotRun for one that ONNX Runtime cannot run; EngineBroken where
    that crashes or hangs on it, or can run nothing else either.
    """
    model = load_graph(path)
    inputs, limits = inputs_of(model, path, shape), index_limits(model)
    for name in constants:
        if name not in {each.name for each in inputs}:
            raise UserError(f"--model {path} has no input {name}, for which a value is given")
    for each in inputs:
        if each.name in constants:
            constant(each, constants[each.name])
    told = _tried(path, inputs, limits, constants)
    if told["problem"]:
        if broken := runs_nothing():
            raise EngineBroken(f"ONNX Runtime is broken: it cannot even run one small convolution ({broken})")
        raise NotRun(path, told["problem"])
    if not told["outputs"]:
        raise UserError(f"--model {path} gives no tensor of numbers; export it with one")
    if not told["batched"]:
        inputs = tuple(TensorSpec(each.name, each.dtype, each.at(1)) for each in inputs)
    outputs = tuple(TensorSpec(name, dtype, tuple(axes)) for name, dtype, axes in told["outputs"])
    signature, left_out = Signature(inputs, outputs), tuple(told["left_out"])
    own, unsteady = own_precision(model), tuple(told["unsteady"])
    return OnnxFile(path, signature, digest_of(path), own, limits, left_out, unsteady, told["unbatched"], told["apart"])


def _tried(
    path: Path, inputs: tuple[TensorSpec, ...], limits: Mapping[str, int], constants: Mapping[str, Any]
) -> dict[str, Any]:
    """What `try_graph` finds in a process of its own. Raises EngineBroken where it crashes or hangs."""
    try:
        found: dict[str, Any] = run_in_child(
            f"running {path.name} with ONNX Runtime", try_graph, path, inputs, limits, constants, timeout=LOAD_SECONDS
        )
    except WorkFailed as error:
        return {"problem": first_line(error.said)}
    return found


@functools.cache
def runs_nothing() -> str:
    """Why ONNX Runtime cannot run any network; "" if it can."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "small.onnx"
        save_small(path)
        try:
            return str(_tried(path, SMALL.inputs, {}, {})["problem"])
        except EngineBroken as error:
            return str(error)
