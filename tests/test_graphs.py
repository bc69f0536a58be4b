"""Graphs: the export against PyTorch, FP16, and where Q/DQ stands on ResNet-50's real graph."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from trtgate.engines import backend, parse_spec
from trtgate.engines.base import BuildRequest
from trtgate.graphs import export, half, quantize
from trtgate.graphs.quantize import matching_nodes, needs_reduced_range
from trtgate.graphs.weighted import weighted_nodes
from trtgate.images import sample_crops
from trtgate.kinds import REFERENCE, GraphKind, UserError
from trtgate.models.base import Model, Preprocessing, Weights
from trtgate.verdict.agreement import compare_logits
from trtgate.workbench import Workbench

from . import networks
from .conftest import untrained


class Edges:
    """Who makes and who reads each tensor of a graph."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in graph.graph.node}
        self.producers = {output: node for node in graph.graph.node for output in node.output}
        self.initializers = {value.name: value for value in graph.graph.initializer}

    def source(self, tensor: str) -> tuple[str, bool]:
        """The node behind a tensor, looking through Q/DQ, and whether there was any."""
        node = self.producers.get(tensor)
        if node is not None and node.op_type == "DequantizeLinear":
            quantize_node = self.producers[node.input[0]]
            assert quantize_node.op_type == "QuantizeLinear"
            return self.source(quantize_node.input[0])[0], True
        return (node.name if node is not None else tensor), False


def test_nodes_are_named_by_their_modules(resnet50: Path) -> None:
    nodes = [node for node in onnx.load(resnet50).graph.node if node.op_type in {"Conv", "Gemm"}]
    names = [node.name for node in nodes]
    assert len(names) == 54
    assert names[0] == "conv1"
    assert names[-1] == "fc"
    assert all(re.fullmatch(r"conv1|fc|layer[1-4]\.\d\.(conv[123]|downsample\.0)", name) for name in names)


def test_every_convolution_reads_quantised_activations_and_weights(resnet50_int8: Path) -> None:
    symmetric = onnx.load(resnet50_int8)
    edges = Edges(symmetric)
    weighted = [node for node in symmetric.graph.node if node.op_type in {"Conv", "Gemm"}]
    assert len(weighted) == 54
    for node in weighted:
        assert edges.source(node.input[0])[1], f"the input of {node.name} has no Q/DQ"
        weight = edges.producers[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        values, scales = (edges.initializers[name] for name in weight.input[:2])
        assert values.data_type == onnx.TensorProto.INT8
        assert len(scales.dims) == 1, f"the weights of {node.name} are not quantised per channel"
        assert len(node.input) < 3 or node.input[2] in edges.initializers, f"the bias of {node.name} is quantised"


def test_at_a_residual_add_only_the_skip_is_quantised(resnet50_int8: Path) -> None:
    symmetric = onnx.load(resnet50_int8)
    edges = Edges(symmetric)
    blocks: dict[str, tuple[str, str]] = {}
    for node in symmetric.graph.node:
        if node.op_type != "Add":
            continue
        sources = [edges.source(name) for name in node.input]
        [main] = [name for name, quantised in sources if not quantised]
        [skip] = [name for name, quantised in sources if quantised]
        blocks[main.removesuffix(".conv3")] = (main, skip)
    assert len(blocks) == 16
    for block, (main, skip) in blocks.items():
        assert main == f"{block}.conv3"
        if block.endswith(".0"):
            assert skip == f"{block}.downsample.0"
        else:
            assert edges.nodes[skip].op_type == "Relu"


def test_the_constant_of_a_hard_swish_stays_in_float() -> None:
    """It is no residual addition: Q/DQ there would stand between a convolution and its activation."""
    make = onnx.helper.make_node
    three = onnx.numpy_helper.from_array(np.array(3, np.float32))
    nodes = [
        make("Conv", ["image", "w"], ["made"], "conv", pads=[1, 1, 1, 1]),
        make("Constant", [], ["three"], "three", value=three),
        make("Add", ["made", "three"], ["moved"], "hard swish"),
        make("Add", ["made", "six"], ["shifted"], "shift"),
        make("Mul", ["moved", "shifted"], ["active"], "mul"),
        make("Conv", ["active", "w"], ["again"], "conv2", pads=[1, 1, 1, 1]),
        make("Add", ["again", "image"], ["out"], "residual"),
    ]
    sides: tuple[int, list[Any]] = (onnx.TensorProto.FLOAT, ["N", 3, 8, 8])
    weights = {"w": networks.random(3, 3, 3, 3), "six": np.float32(6)}
    graph = networks.network(nodes, {"image": sides}, {"out": sides}, weights)
    assert quantize.not_quantized(graph) == ["hard swish", "shift"]


def test_nothing_is_rounded_between_a_convolution_and_its_activation(resnet50_int8: Path) -> None:
    symmetric = onnx.load(resnet50_int8)
    edges = Edges(symmetric)
    for node in symmetric.graph.node:
        if node.op_type == "Relu":
            assert edges.producers[node.input[0]].op_type in {"Conv", "Add"}
    assert edges.producers[symmetric.graph.output[0].name].op_type == "Gemm"


def test_pooling_of_the_whole_image_is_quantised_and_maxpool_is_not(resnet50: Path, resnet50_int8: Path) -> None:
    """In the FP32 graph it is GlobalAveragePool, which TensorRT 8.6 can read."""
    kinds = [node.op_type for node in onnx.load(resnet50).graph.node]
    assert kinds.count("GlobalAveragePool") == 1
    assert "ReduceMean" not in kinds
    symmetric = onnx.load(resnet50_int8)
    edges = Edges(symmetric)
    quantised = {
        node.op_type: edges.source(node.input[0])[1]
        for node in symmetric.graph.node
        if node.op_type in {"MaxPool", "GlobalAveragePool"}
    }
    assert quantised == {"MaxPool": False, "GlobalAveragePool": True}


def test_what_int8_leaves_is_fp16_scales_and_all(lite0: Workbench) -> None:
    graph = onnx.load(lite0.graphs.of("int8-symmetric-fp16").path)
    types = {value.data_type for value in graph.graph.initializer}
    assert types == {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.INT64}
    assert [node.op_type for node in graph.graph.node].count("Cast") == 2


def test_zero_points_are_zero_and_activations_int8(resnet50_int8: Path) -> None:
    symmetric = onnx.load(resnet50_int8)
    edges = Edges(symmetric)
    for node in symmetric.graph.node:
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            zero = onnx.numpy_helper.to_array(edges.initializers[node.input[2]])
            assert zero.dtype == "int8"
            assert not zero.any()


def test_asymmetric_is_uint8_with_integer_biases(lite0: Workbench) -> None:
    graph = onnx.load(lite0.graphs.of("int8-asymmetric").path)
    edges = Edges(graph)
    quantizers = [node for node in graph.graph.node if node.op_type == "QuantizeLinear"]
    assert {edges.initializers[node.input[2]].data_type for node in quantizers} == {onnx.TensorProto.UINT8}
    for node in graph.graph.node:
        if node.op_type == "Conv":
            assert edges.initializers[edges.producers[node.input[2]].input[0]].data_type == onnx.TensorProto.INT32


def test_a_name_that_no_node_has_is_an_error(resnet50: Path) -> None:
    graph = onnx.load(resnet50)
    assert matching_nodes(graph, ("layer4.2.*", "conv1")) == [f"layer4.2.conv{i}" for i in (1, 2, 3)] + ["conv1"]
    with pytest.raises(UserError, match="layer5"):
        matching_nodes(graph, ("layer5.*",))


def test_weights_are_narrowed_only_where_integers_would_overflow() -> None:
    assert needs_reduced_range(frozenset({"avx2"}))
    assert needs_reduced_range(frozenset({"avx2", "avx512f"}))
    assert not needs_reduced_range(frozenset({"avx2", "avx512f", "avx512_vnni"}))
    assert not needs_reduced_range(frozenset({"avx2", "avx_vnni"}))
    assert not needs_reduced_range(frozenset({"asimddp"}))


def test_fp16_computes_in_half_behind_float_inputs_and_outputs(resnet50_fp16: Path) -> None:
    graph = onnx.load(resnet50_fp16).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    weights = {value.data_type for value in graph.initializer if len(value.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}
    # One cast at either end and none in between, where each would be a pass over memory.
    assert [node.op_type for node in graph.node].count("Cast") == 2
    smallest = min(
        float(np.abs(values[values != 0]).min(initial=1.0))
        for values in map(onnx.numpy_helper.to_array, graph.initializer)
        if values.dtype == np.float16
    )
    assert smallest >= half.SMALLEST


@pytest.mark.parametrize("kind", ["fp16", "int8-symmetric", "int8-symmetric-fp16"])
def test_the_graphs_that_a_gpu_gets_answer_like_pytorch(kind: GraphKind, lite0: Workbench) -> None:
    # On the CPU, by the runtime that runs both as they are: the very graphs, without a GPU.
    import openvino

    photos = lite0.samples("evaluation").first(48)
    compiled = openvino.Core().compile_model(lite0.graphs.of(kind).path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    logits = np.concatenate([compiled(batch)[0] for batch in photos.batches(1)])
    reference = np.concatenate([lite0.engine(REFERENCE).infer(batch)["logits"] for batch in photos.batches(8)])
    agreement = compare_logits(reference, logits)
    assert agreement.top1 >= {"fp16": 47, "int8-symmetric": 40, "int8-symmetric-fp16": 40}[kind]
    assert agreement.sqnr_db >= {"fp16": 40.0, "int8-symmetric": 10.0, "int8-symmetric-fp16": 10.0}[kind]


def depthwise_and_dense(path: Path) -> Path:
    """A graph that has a convolution of either kind, and a classifier."""
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["input", "dense"], ["a"], "dense", pads=[1, 1, 1, 1]),
        make("Conv", ["a", "deep"], ["b"], "deep", pads=[1, 1, 1, 1], group=8),
        make("GlobalAveragePool", ["b"], ["c"], "pool"),
        make("Flatten", ["c"], ["d"], "flat"),
        make("Gemm", ["d", "head"], ["out"], "head"),
    ]
    weights = {
        "dense": networks.random(8, 3, 3, 3),
        "deep": networks.random(8, 1, 3, 3),
        "head": networks.random(8, 10),
    }
    image: tuple[int, list[Any]] = (onnx.TensorProto.FLOAT, ["N", 3, 32, 32])
    out: tuple[int, list[Any]] = (onnx.TensorProto.FLOAT, ["N", 10])
    return networks.save(networks.network(nodes, {"input": image}, {"out": out}, weights), path)


@pytest.mark.parametrize("kind", ["symmetric", "asymmetric"])
def test_narrowed_weights_cannot_overflow_and_depthwise_ones_keep_their_bits(
    kind: quantize.Kind, tmp_path: Path
) -> None:
    fp32 = depthwise_and_dense(tmp_path / "fp32.onnx")
    photos = sample_crops("calibration", Preprocessing(resize=36, crop=32)).first(4)
    ranges = quantize.measure_ranges(fp32, photos, "minmax")
    for reduce_range, dense_bits in ((True, 64), (False, 127)):
        path = tmp_path / "int8.onnx"
        quantize.quantize(fp32, path, kind, ranges, sample=photos[0], reduce_range=reduce_range)
        graph = onnx.load(path)
        edges = Edges(graph)
        largest: dict[bool, list[int]] = {True: [], False: []}
        for node in graph.graph.node:
            if node.op_type in {"Conv", "Gemm"}:
                values = onnx.numpy_helper.to_array(edges.initializers[edges.producers[node.input[1]].input[0]])
                depthwise = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
                largest[depthwise].append(int(np.abs(values.astype(int)).max()))
        assert largest[True] == [127]
        assert len(largest[False]) == 2
        assert all(dense_bits - 1 <= each <= dense_bits for each in largest[False])


def test_a_graph_that_differs_from_pytorch_is_refused(lite0: Workbench, tmp_path: Path) -> None:
    graph = onnx.load(lite0.graphs.of("fp32").path)
    weight = next(value for value in graph.graph.initializer if value.name == "_fc.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0] += 0.1
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(graph, tmp_path / "wrong.onnx")
    with pytest.raises(export.ExportError, match="differs from PyTorch"):
        export.compare_with_pytorch(lite0.model, tmp_path / "wrong.onnx")


def test_entropy_clips_what_min_max_keeps(lite0: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "QUANTIZED", ("Gemm", "ReduceMean"))  # the search takes half a second a tensor
    photos = lite0.samples("calibration").first(4)
    minmax, entropy = (
        quantize.measure_ranges(lite0.graphs.of("fp32").path, photos, method) for method in ("minmax", "entropy")
    )
    assert minmax.keys() == entropy.keys()
    narrower = [name for name in minmax if entropy[name][1] < 0.999 * minmax[name][1]]
    # With as many bins as levels, ONNX Runtime's default, there would be none.
    assert len(narrower) > len(minmax) / 2


def test_ranges_do_not_depend_on_the_chunks(lite0: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = lite0.samples("calibration").first(5)
    chunked = quantize.measure_ranges(lite0.graphs.of("fp32").path, photos, "minmax")
    monkeypatch.setattr(quantize, "CHUNK", 100)
    assert quantize.measure_ranges(lite0.graphs.of("fp32").path, photos, "minmax") == chunked


class Attention(torch.nn.Module):
    """A small transformer: patches, a LayerNorm, attention, a residual stream, a mask made while running."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 16, 8, 8)
        self.norm = torch.nn.LayerNorm(16)
        self.qkv = torch.nn.Linear(16, 48)
        self.proj = torch.nn.Linear(16, 16)
        self.head = torch.nn.Linear(16, 10)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        x = self.patches(photos).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        mask = x.new_zeros((x.shape[0], 16, 16))
        mask[:, :8, 8:] = -100.0
        x = x + self.proj(torch.softmax(q @ k.transpose(1, 2) / 4 + mask, -1) @ v)
        logits: torch.Tensor = self.head(x.mean(1))
        return logits


@pytest.fixture(scope="module")
def attention() -> Model:
    torch.manual_seed(0)
    module = Attention().eval().requires_grad_(False)
    return Model("attention", module, Preprocessing(resize=36, crop=32), Weights("untrained", "", ""), 10)


@pytest.fixture(scope="module")
def attention_graph(attention: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attention") / "fp32.onnx"
    export.export(attention, path)
    return path


def test_of_attention_only_what_carries_weights_is_int8(
    attention: Model, attention_graph: Path, tmp_path: Path
) -> None:
    photos = sample_crops("calibration", attention.preprocessing).first(8)
    ranges = quantize.measure_ranges(attention_graph, photos, "minmax")
    reference = attention.module(torch.from_numpy(next(photos.batches(8))["input"])).numpy()
    assert len(weighted_nodes(onnx.load(attention_graph))) == 4
    kinds: tuple[tuple[quantize.Kind, str], ...] = (("symmetric", "openvino-int8"), ("asymmetric", "onnxruntime-int8"))
    for kind, text in kinds:
        graph, spec = tmp_path / f"{kind}.onnx", parse_spec(text)
        quantize.quantize(attention_graph, graph, kind, ranges, sample=photos[0], reduce_range=True)
        request = BuildRequest(None, graph, (1,), 1, signature=attention.signature)
        maker = backend(spec.backend)
        maker.build(spec, request, tmp_path / "plan")
        with maker.load(spec, request, tmp_path / "plan") as engine:
            # The convolution too, though a LayerNorm, which wants float, is what reads it.
            assert engine.audit().histogram == {"int8": 4}
            logits = np.concatenate([engine.infer(batch)["logits"] for batch in photos.batches(1)])
        assert compare_logits(reference, logits).sqnr_db > 20


class Fire(torch.nn.Module):
    """What only ONNX Runtime needs Q/DQ behind: activations of two kinds, read by a Concat."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(3, 8, 3)
        self.last = torch.nn.Conv2d(16, 10, 1)

    def forward(self, photos: torch.Tensor) -> torch.Tensor:
        both = torch.cat([torch.relu(self.left(photos)), torch.nn.functional.relu6(self.right(photos))], 1)
        return self.last(both).mean((2, 3))  # type: ignore[no-any-return]


def test_a_convolution_before_a_concat_is_int8_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Fire().eval().requires_grad_(False)
    model = Model("fire", module, Preprocessing(resize=36, crop=32), Weights("untrained", "", ""), 10)
    export.export(model, tmp_path / "fp32.onnx")
    photos = sample_crops("calibration", model.preprocessing).first(8)
    ranges = quantize.measure_ranges(tmp_path / "fp32.onnx", photos, "minmax")
    fp32, int8 = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    quantize.quantize(fp32, int8, "asymmetric", ranges, sample=photos[0], reduce_range=True)
    spec, request = parse_spec("onnxruntime-int8"), BuildRequest(None, int8, (1,), 1, signature=model.signature)
    backend("onnxruntime").build(spec, request, tmp_path / "plan")
    with backend("onnxruntime").load(spec, request, tmp_path / "plan") as engine:
        assert engine.audit().histogram == {"int8": 3}
        logits = np.concatenate([engine.infer(batch)["logits"] for batch in photos.batches(1)])
    reference = module(torch.from_numpy(next(photos.batches(8))["input"])).numpy()
    assert compare_logits(reference, logits).sqnr_db > 20


def test_a_normalisation_behind_a_pooling_is_no_layer_in_float(tmp_path: Path) -> None:
    # As DenseNet's transitions are: ONNX Runtime writes it as a convolution, which is none that could be INT8.
    module = torch.nn.Sequential(
        *(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 1), torch.nn.AvgPool2d(2, 2)),
        *(torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 10, 1)),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
    )
    model = Model(
        "dense",
        module.eval().requires_grad_(False),
        Preprocessing(resize=36, crop=32),
        Weights("untrained", "", ""),
        10,
    )
    graphs = {"fp32": tmp_path / "fp32.onnx", "int8": tmp_path / "int8.onnx"}
    export.export(model, graphs["fp32"])
    photos = sample_crops("calibration", model.preprocessing).first(8)
    ranges = quantize.measure_ranges(graphs["fp32"], photos, "minmax")
    quantize.quantize(graphs["fp32"], graphs["int8"], "asymmetric", ranges, sample=photos[0], reduce_range=True)
    for precision, kind in (("fp32", "float32"), ("int8", "int8")):
        spec = parse_spec(f"onnxruntime-{precision}")
        request, plan = BuildRequest(None, graphs[precision], (1,), 1, signature=model.signature), tmp_path / precision
        backend("onnxruntime").build(spec, request, plan)
        with backend("onnxruntime").load(spec, request, plan) as engine:
            assert engine.audit().layers == dict.fromkeys(["0", "2", "6"], kind)


def test_a_mask_made_while_running_becomes_fp16_too(attention: Model, attention_graph: Path, tmp_path: Path) -> None:
    import onnxruntime

    assert "ConstantOfShape" in {node.op_type for node in onnx.load(attention_graph).graph.node}
    half.convert(attention_graph, tmp_path / "fp16.onnx")
    noise = np.random.default_rng(0).standard_normal((2, 3, 32, 32), np.float32)
    session = onnxruntime.InferenceSession(tmp_path / "fp16.onnx", providers=["CPUExecutionProvider"])
    expected = attention.module(torch.from_numpy(noise)).numpy()
    assert np.abs(session.run(None, {"input": noise})[0] - expected).max() < 1e-2 * np.abs(expected).max()
    assert {value.data_type for value in onnx.load(tmp_path / "fp16.onnx").graph.initializer if value.dims} <= {
        onnx.TensorProto.FLOAT16,
        onnx.TensorProto.INT64,
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_any_torchvision_classifier_can_be_exported_and_quantised(name: str, tmp_path: Path) -> None:
    model = untrained(name)
    export.export(model, tmp_path / "fp32.onnx")
    photos = sample_crops("calibration", Preprocessing()).first(2)
    ranges = quantize.measure_ranges(tmp_path / "fp32.onnx", photos, "minmax")
    for kind in ("symmetric", "asymmetric"):
        quantize.quantize(tmp_path / "fp32.onnx", tmp_path / "int8.onnx", kind, ranges, sample=photos[0])
    # ONNX Runtime computes every convolution in integers, whatever follows it.
    spec, request = parse_spec("onnxruntime-int8"), BuildRequest(None, tmp_path / "int8.onnx", (1,), 1)
    backend("onnxruntime").build(spec, request, tmp_path / "plan")
    with backend("onnxruntime").load(spec, request, tmp_path / "plan") as engine:
        assert engine.audit().histogram.keys() == {"int8"}
