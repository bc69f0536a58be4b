"""Layers of one engine on two stacks: matched by their ONNX nodes, whatever the builder calls and fuses them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trtgate.engines.tensorrt.inspect import kernel_type, read_layers
from trtgate.layers import LayerChange, aligned_layers, changed_layers


def layers(*given: tuple[Any, ...]) -> dict[str, dict[str, Any]]:
    """(name, ms, type) or (name, ms, type, nodes) each."""
    return {name: {"ms": ms, "type": kind, "nodes": list(*nodes)} for name, ms, kind, *nodes in given}


def by_name(old: Any, new: Any) -> dict[str, LayerChange]:
    return {each.name: each for each in aligned_layers(old, new)}


def test_other_names_and_other_fusions_are_the_same_nodes() -> None:
    old = layers(("conv1 + relu1", 1.0, "float16"), ("conv2", 0.5, "float16"), ("add + relu2", 0.2, "float16"))
    new = layers(
        ("__myl_Conv_0", 0.8, "int8", ["conv1"]),
        ("__myl_Relu_1", 0.3, "float16", ["relu1"]),
        ("conv2 + add + relu2", 0.6, "float16"),
    )
    found = by_name(old, new)
    assert found["conv1 + relu1"].new_ms == pytest.approx(1.1)
    assert found["conv1 + relu1"].new_type == "float16/int8"
    assert found["conv2 | add + relu2"].old_ms == pytest.approx(0.7)
    assert found["conv2 | add + relu2"].new_ms == pytest.approx(0.6)
    assert len(found) == 2


def test_a_profiles_suffix_is_no_other_layer() -> None:
    old, new = layers(("conv1 + relu1 [profile 1]", 1.0, "float16")), layers(("conv1 + relu1", 1.5, "float16"))
    [change] = changed_layers(old, new)
    assert str(change) == "conv1 + relu1: 1.0000 -> 1.5000 ms (+0.5000)"


def test_reformats_count_with_their_layer_and_are_told() -> None:
    old = layers(("conv1", 1.0, "float32"), ("conv2", 1.0, "float32"))
    new = layers(
        ("Reformatting CopyNode for Input Tensor 0 to conv1", 0.25, "float32"),
        ("conv1", 0.5, "float16"),
        ("conv2", 1.0, "float16"),
        ("Reformatting CopyNode for Output Tensor 0 to conv2", 0.125, "float16"),
    )
    lines = [str(each) for each in changed_layers(old, new)]
    assert lines == [
        "conv1: 1.0000 -> 0.7500 ms (-0.2500, of which reformats 0.0000 -> 0.2500), float32 -> float16",
        "conv2: 1.0000 -> 1.1250 ms (+0.1250, of which reformats 0.0000 -> 0.1250), float32 -> float16",
    ]


def test_numbers_that_mean_another_node_in_another_graph_match_nothing() -> None:
    """Two exports count differently: there the order decides, and a pooling may be part of a convolution."""
    old = layers(
        ("Conv_0 + Relu_1", 1.0, "float16"),
        ("MaxPool_2", 0.2, "float16"),
        ("Conv_9", 0.5, "float16"),
        ("Gemm_20", 0.1, "float16"),
    )
    new = layers(
        ("QuantizeLinear_2", 0.1, "float32"),
        ("conv1.weight + QuantizeLinear_7 + Conv_9 + MaxPool_12", 0.9, "int8"),
        ("conv2.weight + QuantizeLinear_20 + Conv_22", 0.25, "int8"),
        ("Gemm_90", 0.1, "int8"),
    )
    found = by_name(old, new)
    assert found["Conv_0 + Relu_1 | MaxPool_2"].new_ms == pytest.approx(1.0)
    assert found["Conv_0 + Relu_1 | MaxPool_2"].new_reformat == pytest.approx(0.1)
    assert (found["Conv_9"].old_ms, found["Conv_9"].new_ms) == (0.5, 0.25)
    assert found["Gemm_20"].new_type == "int8"
    assert len(found) == 3


def test_nothing_gets_lost() -> None:
    old = layers(("conv1", 1.0, "a"), ("gone", 0.5, "a"), ("Reformatting CopyNode for Input Tensor 0 to x", 0.1, "a"))
    new = layers(("conv1", 2.0, "a"), ("softmax", 0.25, "a"))
    changes = aligned_layers(old, new)
    assert sum(each.old_ms or 0 for each in changes) == pytest.approx(1.6)
    assert sum(each.new_ms or 0 for each in changes) == pytest.approx(2.25)
    assert any(each.new_ms is None and each.name == "gone" for each in changes)
    assert changed_layers({}, new) == ()


# What the kernels' names say.


@pytest.mark.parametrize(
    ("tactic", "kind"),
    [
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize256x64x32", "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc_tilesize128x128x8", "float32"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize256x64x32", "float16"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f16_i8i32_f32_nchw_vect_c_32kcrs", "int8"),
        ("sm70_xmma_fprop_conv1x1_i8f32_f32_f32_nchw_vect_c_4kcrs_vect_c_4", "int8"),
        ("ampere_scudnn_128x64_relu_medium_nn_v1", "float32"),
        ("ampere_h1688cudnn_128x128_ldg8_relu_exp_interior_nhwc_tn_v1", "float16"),
        ("turing_fp16_s1688cudnn_fp16_256x64_ldg8_relu", "float16"),
        ("cutlass_80_tensorop_s1688gemm_128x128_16x4", "tf32"),
        ("ampere_fp32_icudnn_int8x4_128x64_relu_medium_nn_v1", "int8"),
        ("__myl_FcAddMulRsqrt", ""),
    ],
)
def test_a_kernels_name_tells_its_type(tactic: str, kind: str) -> None:
    assert kernel_type(tactic) == kind


DYNAMIC = "N/A due to dynamic shapes"


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        ({"Inputs": [{"Format/Datatype": DYNAMIC}], "TacticName": "x_f16f16_f16f32_f32_y"}, "float16"),
        ({"Inputs": [{"Format/Datatype": "Row major linear FP32"}], "TacticName": "x_f32f32_tf32f32_f32_y"}, "tf32"),
        ({"Inputs": [{"Format/Datatype": DYNAMIC}], "Weights": {"Type": "Int8"}}, "int8"),
        ({"Inputs": [{"Format/Datatype": DYNAMIC}], "Name": "w + w_QuantizeLinear + conv1 + pool"}, "int8"),
        ({"Inputs": [{"Format/Datatype": DYNAMIC}]}, ""),
    ],
)
def test_every_witness_of_a_type_is_heard(layer: dict[str, Any], kind: str) -> None:
    described = {"Name": "conv1", "LayerType": "ConvActPool", **layer}
    assert [each.arithmetic for each in read_layers(json.dumps({"Layers": [described]}))] == [kind]


def test_each_profile_has_its_own_layers() -> None:
    text = json.dumps(
        {
            "Layers": [
                {"Name": name, "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": kind}]}
                for name, kind in (("conv1", "FP16"), ("conv1 [profile 1]", "FP32"))
            ]
        }
    )
    assert [(each.name, each.arithmetic) for each in read_layers(text, 0)] == [("conv1", "float16")]
    assert [(each.name, each.arithmetic) for each in read_layers(text, 1)] == [("conv1", "float32")]
