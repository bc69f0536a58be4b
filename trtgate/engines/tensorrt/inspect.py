"""What was built: the engine inspector's words, of TensorRT 8.6 to 11."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtgate.engines.tensorrt.api import TensorRTError
from trtgate.layers import PROFILE, REFORMAT, nodes_in, own_name


@dataclass(frozen=True)
class BuiltLayer:
    """A layer as the engine inspector tells it: what it computes in, and the ONNX nodes that went into it."""

    name: str
    kind: str
    arithmetic: str
    nodes: frozenset[str] = field(default_factory=frozenset)


# The inspector's words for a type, up to TensorRT 10 inside a sentence about the format ("Channel major FP16 format
# where channel % 8 == 0"), in 11 in a field of their own.
TYPE_WORDS = {
    "fp32": "float32",
    "float": "float32",
    "fp16": "float16",
    "half": "float16",
    "bf16": "bfloat16",
    "bfloat16": "bfloat16",
    "int8": "int8",
    "fp8": "float8",
}
# The narrowest first: a layer computes in the narrowest type that comes in.
NARROWEST = ("int8", "float8", "float16", "bfloat16", "float32")
CONVOLUTIONS = re.compile(r"conv|gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)
# What the builder's compiler (Myelin) made of many nodes in one; TensorRT-RTX makes a whole network one of these. What
# goes in says nothing about the types inside.
COMPILED = re.compile(r"myelin|foreignnode", re.IGNORECASE)
# A weight's quantisation that went into its convolution.
QUANTISED = re.compile(r"QuantizeLinear|QuantLinear")

# What the names of kernels say of the operands, the surest first. xmma kernels name the pairs (C, D) and (A or B,
# accumulator): `f32f32_tf32f32_f32`, `i8f16_i8i32_f32`. TF32 shows nowhere else.
PAIRS = re.compile(r"_(?:tf32|bf16|f32|f16|i8|e4m3|e5m2){2}_(tf32|bf16|f32|f16|i8|e4m3|e5m2)(?:f32|f16|i32)_")
PAIR_TYPES = {
    "tf32": "tf32",
    "bf16": "bfloat16",
    "f32": "float32",
    "f16": "float16",
    "i8": "int8",
    "e4m3": "float8",
    "e5m2": "float8",
}
KERNELS = (
    ("int8", re.compile(r"int8|i8816|i16832|imma|icudnn|igemm|_i8(?:i8|i32|f16|f32)")),
    ("float8", re.compile(r"fp8|e4m3|e5m2")),
    ("bfloat16", re.compile(r"bf16")),
    ("tf32", re.compile(r"tf32")),
    ("float16", re.compile(r"fp16|f16|h1688|h884|h16816|hmma|hcudnn|hgemm")),
    # Products of 16x8x8 on tensor cores whose operands were not said to be halves.
    ("tf32", re.compile(r"s1688")),
    ("float32", re.compile(r"fp32|f32|scudnn|sgemm|ffma")),
)


def kernel_type(tactic: str) -> str:
    """The type of a kernel's operands by its name, or "" where the name does not say."""
    pair = PAIRS.search(tactic)
    if pair:
        return PAIR_TYPES[pair[1]]
    return next((kind for kind, words in KERNELS if words.search(tactic)), "")


def read_layers(text: str, profile: int = 0) -> list[BuiltLayer]:
    """The layers of one optimisation profile in the inspector's JSON, of TensorRT 8.6 to 11.

    Raises TensorRTError for an engine that was built without detailed profiling verbosity, and for what is no JSON.
    """
    try:
        layers = json.loads(text, strict=False)["Layers"]  # a name may hold the separator of the metadata as it is
        names = [layer if isinstance(layer, str) else layer["Name"] for layer in layers]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise TensorRTError(f"the engine inspector's answer cannot be read ({error!r}): {text[:80]!r}") from error
    if any(isinstance(layer, str) for layer in layers):
        raise TensorRTError("the engine knows only the names of its layers; build it with DETAILED verbosity")
    if any(map(PROFILE.search, names)):  # all profiles are listed, one after the other
        layers = [layer for layer in layers if _profile_of(layer["Name"]) == profile]
    return [
        BuiltLayer(
            own_name(layer["Name"]),
            f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".strip(),
            arithmetic(layer),
            onnx_nodes(layer),
        )
        for layer in layers
    ]


def _profile_of(name: str) -> int:
    found = PROFILE.search(name)
    return int(found[1]) if found else 0


def arithmetic(layer: Mapping[str, Any]) -> str:
    """What a layer computes in, or "" where nothing tells.

    Three witnesses: the types of what comes in, the kernel's name, and that a quantised weight went into it. A kernel
    that names its operands is believed first, and one that agrees with what comes in first: what else comes in may be
    a skip connection of a narrower type.
    """
    tactic = str(layer.get("TacticName") or "")
    kernel = kernel_type(tactic)
    if PAIRS.search(tactic) or COMPILED.search(f"{layer.get('LayerType')} {layer['Name']}"):
        return kernel
    types = [tensor_type(tensor) for tensor in layer.get("Inputs", [])]
    weights = layer.get("Weights")
    if isinstance(weights, dict) and "Type" in weights:
        types.append(TYPE_WORDS.get(str(weights["Type"]).lower(), ""))
    told = next((kind for kind in NARROWEST if kind in types), "")
    if kernel and (not told or kernel == types[0] or (told, kernel) == ("float32", "tf32")):
        return kernel
    if not told and QUANTISED.search(layer["Name"]) and CONVOLUTIONS.search(str(layer.get("LayerType"))):
        return "int8"
    return told


def tensor_type(tensor: Mapping[str, Any]) -> str:
    """The type of a tensor that the inspector describes, or "" for one that is none of TYPE_WORDS."""
    text = next((str(tensor[key]) for key in ("Datatype", "DataType", "Format/Datatype") if key in tensor), "")
    words = (TYPE_WORDS.get(word) for word in re.findall(r"[a-z0-9]+", text.lower()))
    return next(filter(None, words), "")


def onnx_nodes(layer: Mapping[str, Any]) -> frozenset[str]:
    """The ONNX nodes of a layer: from its metadata, or in versions without from its name, `conv1 + PWN(relu)`.

    A reformat has those of the layer that it is for.
    """
    metadata = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(layer.get("Metadata", "")))
    return frozenset(metadata) or nodes_in(layer["Name"])


def weighted_layers(layers: Sequence[BuiltLayer], nodes: Sequence[str]) -> dict[str, str]:
    """What each of the ONNX `nodes` (convolutions and matrix products) computes in, in the engine that was built.

    For a node that no layer admits to, a layer that looks like a convolution and that no node claims stands in, under
    its own name; where there is none the type is "": silence is not a pass.
    """

    def looks(layer: BuiltLayer) -> bool:
        return bool(CONVOLUTIONS.search(layer.kind))

    computing = [layer for layer in layers if (layer.arithmetic or looks(layer)) and not REFORMAT.match(layer.name)]
    # Where several layers name a node, that which looks like what it is comes last, and counts, told or not.
    computing.sort(key=lambda layer: (looks(layer), bool(layer.arithmetic)))
    by_node = {node: layer for layer in computing for node in layer.nodes}
    found = {node: by_node[node].arithmetic for node in nodes if node in by_node}
    missing = [node for node in nodes if node not in by_node]
    if missing:
        claimed = {by_node[node].name for node in found}
        strays = [layer for layer in layers if layer.name not in claimed and looks(layer)]
        found |= {layer.name: layer.arithmetic for layer in strays}
        found |= dict.fromkeys(missing[len(strays) :], "")
    return found


def merged(by_size: Mapping[int, Mapping[str, str]]) -> dict[str, str]:
    """The audits of several batch sizes in one: a layer stands there once, or once for each size where they differ."""
    names = dict.fromkeys(name for found in by_size.values() for name in found)
    layers: dict[str, str] = {}
    for name in names:
        kinds = {size: found[name] for size, found in by_size.items() if name in found}
        if len(set(kinds.values())) == 1:
            layers[name] = next(iter(kinds.values()))
        else:
            layers |= {f"{name} at batch {size}": kind for size, kind in kinds.items()}
    return layers


def weighted_nodes(graph: Path) -> tuple[str, ...]:
    """The names of a graph's convolutions and matrix products that carry weights."""
    import onnx

    from trtgate.graphs.weighted import weighted_nodes as nodes_of

    return tuple(node.name for node in nodes_of(onnx.load(graph, load_external_data=False)))
