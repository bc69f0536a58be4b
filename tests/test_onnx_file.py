"""Networks of the user's own: what a file takes and gives, and a whole run on files of each kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from trtgate.compare import compare_records
from trtgate.engines import available, backend, parse_spec
from trtgate.engines.base import BuildRequest
from trtgate.engines.onnxruntime import OnnxRuntimeEngine
from trtgate.expectations import read_expectations
from trtgate.fields import DAMAGED
from trtgate.kinds import EngineUnavailable, UserError
from trtgate.models.model_file import read_models, shape_name
from trtgate.models.onnx_file import REFERENCES, describe, digest_of, first_line
from trtgate.options import OPTIONS, read_settings
from trtgate.records import EngineRecord, from_json, to_json
from trtgate.samples import ArrayFolder, constant
from trtgate.settings import Settings
from trtgate.signature import Signature, TensorSpec
from trtgate.verdict.outcome import Outcome, Reason
from trtgate.workbench import Workbench

from . import networks

CPU = ("onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8")


def settings_of(tmp_path: Path, *arguments: str) -> Settings:
    """Settings as a command line gives them, with a plan cache in the folder unless they name one."""
    import argparse

    parser = argparse.ArgumentParser()
    for flag, keywords in OPTIONS:
        parser.add_argument(flag, **keywords)
    given = parser.parse_args(["--plan-cache", str(tmp_path / "plans"), "--device", "cpu", *arguments])
    return read_settings(lambda name: getattr(given, name))


# What a file takes and gives.


def test_what_comes_out_is_learnt_by_running_it(tmp_path: Path) -> None:
    path = networks.save(networks.heads(), tmp_path / "heads.onnx")
    found = describe(path, {"x": (1, 3, 32, 48)}, {})
    assert [str(each) for each in found.signature.inputs] == ["x float32[batch,3,32,48]"]
    assert [str(each) for each in found.signature.outputs] == [
        "map float32[batch,1,32,48]",
        "boxes float32[batch,6,32,48]",
    ]
    assert (found.own, found.signature.separable) == ("fp32", True)


def test_a_length_that_is_given_once_holds_for_its_symbol(tmp_path: Path) -> None:
    path = networks.save(networks.text(), tmp_path / "text.onnx")
    found = describe(path, {"input_ids": (1, 7)}, {})
    assert [each.shape for each in found.signature.inputs] == [("batch", 7), ("batch", 7)]
    assert found.limits == {"input_ids": 11}


def test_states_and_scalars_are_no_batch(tmp_path: Path) -> None:
    found = describe(networks.save(networks.recurrent(), tmp_path / "voice.onnx"), {}, {"rate": 16})
    assert not found.signature.batched
    assert [each.shape for each in found.signature.inputs] == [(1, 16), (1, 4), ()]
    assert [each.shape for each in found.signature.outputs] == [(), (1, 4)]


def test_what_a_detector_did_not_find_at_the_trial_it_may_find_later(tmp_path: Path) -> None:
    path = networks.save(networks.suppressing(), tmp_path / "nms.onnx")
    assert describe(path, {}, {}).signature.outputs[0].shape == (-1, 3)
    (tmp_path / "real").mkdir()
    for index in range(3):
        np.savez(tmp_path / "real" / f"{index}.npz", x=np.linspace(index, 4, 20, dtype=np.float32)[None])
    arguments = ["--model", str(path), "--images", str(tmp_path / "real"), "--engine", "onnxruntime-fp32"]
    settings = settings_of(tmp_path, *arguments)
    with Workbench("nms.onnx", settings) as bench:
        [first, *_] = bench.outputs(bench.reference)
        assert bench.signature.outputs[0].fits(first["chosen"].shape, 1)
        assert len(first["chosen"]) > 0


def test_a_network_that_does_not_repeat_itself_is_not_judged(tmp_path: Path) -> None:
    path = networks.save(networks.random_noise(), tmp_path / "noise.onnx")
    assert describe(path, {}, {}).unsteady == ("y",)
    settings = settings_of(tmp_path, "--model", str(path), "--engine", "onnxruntime-fp32")
    with Workbench("noise.onnx", settings) as bench:
        assert "noise.onnx does not repeat itself: y differs" in bench.unsteady
    again = describe(networks.save(networks.classifier(), tmp_path / "net.onnx"), {}, {})
    assert again.unsteady == ()


def test_a_batch_of_one_that_is_written_into_the_graph(tmp_path: Path) -> None:
    model = networks.network(
        [helper.make_node("Reshape", ["x", "one"], ["y"])],
        {"x": (networks.FLOAT, ["N", 4])},
        {"y": (networks.FLOAT, None)},
        {"one": np.array([1, 4])},
    )
    path = networks.save(model, tmp_path / "one.onnx")
    assert not describe(path, {}, {}).signature.batched
    settings = settings_of(tmp_path, f"--model={path}", "--batch-size=1", "--batch-size=4", "--batch-size=8")
    assert settings.sizes_of("one.onnx") == (1,)
    [(what, why)] = settings.dropped("one.onnx").items()
    assert what == "one.onnx at batch 4, 8"
    assert "ONNX Runtime cannot run it in batches (" in why
    path = networks.save(networks.classifier(), tmp_path / "net.onnx")
    assert settings_of(tmp_path, f"--model={path}", "--batch-size=4").dropped("net.onnx") == {}
    # What a plan takes to load is measured at the first of them.
    assert settings_of(tmp_path, f"--model={path}", "--batch-size=4", "--batch-size=1").batch_sizes == (1, 4)


def test_a_file_that_is_changed_while_a_run_is_on_is_not_taken_for_what_it_was(tmp_path: Path) -> None:
    """Its graph would stand in the cache for the weights that it had, and be raced as those whenever they come back."""
    path = networks.save(networks.classifier(), tmp_path / "net.onnx")
    settings = settings_of(tmp_path, f"--model={path}")
    first = path.read_bytes()
    networks.save(networks.classifier(7), path)
    with (
        Workbench("net.onnx", settings) as bench,
        pytest.raises(UserError, match=r"net.onnx was changed while this run"),
    ):
        bench.graphs.of("fp32")
    path.write_bytes(first)
    with Workbench("net.onnx", settings) as bench:
        assert onnx.load(bench.graphs.of("fp32").path).graph.output[0].type.tensor_type.shape.dim[1].dim_value == 5


def test_weights_beside_the_file_belong_to_it(tmp_path: Path) -> None:
    path = networks.save(
        networks.heads(),
        tmp_path / "heads.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    shape = {"x": (1, 3, 16, 16)}
    found = describe(path, shape, {})
    (tmp_path / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[::-1])
    assert describe(path, shape, {}).digest != found.digest
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(UserError, match=r"weights\.bin does not exist"):
        describe(path, shape, {})


def test_weights_beside_the_file_of_nodes_and_branches_belong_to_it(tmp_path: Path) -> None:
    def outside(name: str, file: str) -> onnx.TensorProto:
        tensor = onnx.numpy_helper.from_array(networks.random(8), name)
        (tmp_path / file).write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=file)
        return tensor

    model = networks.branching()
    [branch] = [node for node in model.graph.node if node.op_type == "If"]
    branch.attribute[0].g.initializer.append(outside("inner", "branch.bin"))
    model.graph.node.append(helper.make_node("Constant", [], ["k"], value=outside("k", "node.bin")))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    seen = {digest_of(path)}
    for file in ("branch.bin", "node.bin"):
        (tmp_path / file).write_bytes(bytes(32))
        seen.add(digest_of(path))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ({}, "the size of x is not known; give it, such as --shape x=1x3x640x640"),
        ({"y": (1, 3, 8, 8)}, "has no input y; it has x"),
        ({"x": (3, 8, 8)}, "give 4 axes"),
        ({"x": (1, 4, 8, 8)}, r"only \? can be chosen"),
    ],
)
def test_a_shape_that_does_not_fit(shape: Any, sentence: str, tmp_path: Path) -> None:
    path = networks.save(networks.heads(), tmp_path / "heads.onnx")
    with pytest.raises(UserError, match=sentence):
        describe(path, shape, {})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no network|is no ONNX file"),
        (b"no protobuf at all", "is no ONNX file, or is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (None, "does not exist"),
    ],
)
def test_what_is_no_onnx_file(content: bytes | None, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        describe(path, {}, {})


def test_a_file_that_does_not_run_is_one_sentence(tmp_path: Path) -> None:
    model = networks.network(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": (networks.FLOAT, [1, 4])},
        {"y": (networks.FLOAT, None)},
        {"w": networks.random(5, 2)},
    )
    with pytest.raises(UserError, match="ONNX Runtime cannot run it") as told:
        describe(networks.save(model, tmp_path / "wrong.onnx"), {}, {})
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shape", "x=1x3"], "--shape x=1x3 is for an ONNX file"),
        (["--model", "{}", "--shape", "x:1x3"], "give INPUT=1x3x640x640"),
        (["--model", "{}", "--shape", "x=1x3x8x8", "--batch-size", "0"], "give a number from 1 on"),
        (
            ["--model", "{}", "--shape", "x=1x3x8x8", "--weights", "heads.onnx@1x3x8x8=a.pth"],
            "is described by a file; it has its own",
        ),
        (["--model", "squeezenet1_1", "--batch-size", "999999999"], "give a number from 1 on, up to 65536"),
        (["--model", "{}", "--shape", "x=1x3x99x99", "--batch-size", "50000"], "of more than 2 GB then"),
        (["--model", "nowhere.onnx"], "does not exist"),
        (["--model", "nowhere.toml"], "cannot be read"),
        (["--model", "~nobody.here/net.onnx"], "net.onnx does not exist"),
        (["--model", "squeezenet1_1", "--weights", "squeezenet1_1=~nobody.here/a.pth"], "a.pth does not exist"),
    ],
)
def test_wrong_options_are_told_before_anything_runs(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    path = networks.save(networks.heads(), tmp_path / "heads.onnx")
    with pytest.raises(UserError, match=sentence):
        settings_of(tmp_path, *(each.format(path) for each in arguments))


@pytest.mark.parametrize("option", ["--images", "--calibration-images", "--plan-cache", "--expectations"])
def test_an_empty_path_is_not_the_working_directory(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        settings_of(tmp_path, option, "")
    assert f"argument {option}: it names nothing; give a path, or leave the option out" in capsys.readouterr().err


def test_each_shape_is_a_model_and_names_do_not_clash(tmp_path: Path) -> None:
    path = networks.save(networks.heads(), tmp_path / "a" / "heads.onnx")
    settings = settings_of(tmp_path, "--model", str(path), "--shape", "x=1x3x8x8", "--shape", "x=1x3x16x8")
    assert settings.models == ("heads.onnx@1x3x8x8", "heads.onnx@1x3x16x8")
    assert settings.engines[0].id == "onnxruntime-fp32"
    assert not any(spec.backend == "pytorch" for spec in settings.engines)
    other = networks.save(networks.classifier(), tmp_path / "b" / "net.onnx")
    again = networks.save(networks.classifier(), tmp_path / "c" / "net.onnx")
    toml = tmp_path / "resnet50.toml"
    toml.write_text('model = "mobilenet_v3_small"\n')
    assert shape_name({"/model/in put:0": (1, 8), "mask": (1, 8)}) == "_model_in_put:0=1x8,mask=1x8"
    with pytest.raises(UserError, match="two models are called resnet50"):
        settings_of(tmp_path, "--model", "resnet50", "--model", str(toml))
    with pytest.raises(UserError, match=r"its name must have from 1 to 100 characters; give it a TOML file"):
        settings_of(tmp_path, "--model", str(networks.save(networks.classifier(), tmp_path / f"{'n' * 96}.onnx")))
    with pytest.raises(UserError, match=r"two models are called net\.onnx"):
        read_models([str(other), str(again)], [])


def test_a_file_in_the_working_directory_is_no_second_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks.save(networks.classifier(), tmp_path / "net.onnx")
    monkeypatch.chdir(tmp_path)
    assert settings_of(tmp_path, "--model", "net.onnx", "--model", "resnet50").models == ("resnet50", "net.onnx")


# From a file to its engines.


@pytest.mark.parametrize(
    ("model", "options"),
    [
        pytest.param(networks.heads(), ["--shape", "x=1x3x32x32"], id="heads"),
        pytest.param(networks.text(), ["--shape", "input_ids=1x7"], id="text"),
        pytest.param(networks.recurrent(), [], id="recurrent"),
        pytest.param(networks.branching(), [], id="branching"),
        pytest.param(networks.finding(), [], id="finding"),
        pytest.param(networks.classifier(), ["--batch-size", "1", "--batch-size", "3"], id="classifier"),
    ],
)
def test_every_engine_gives_the_references_answers_or_says_why_not(
    model: onnx.ModelProto, options: list[str], tmp_path: Path
) -> None:
    path = networks.save(model, tmp_path / "net.onnx")
    chosen = [word for engine in CPU for word in ("--engine", engine)]
    settings = settings_of(tmp_path, "--model", str(path), *options, *chosen)
    [name] = settings.models
    with Workbench(name, settings) as bench:
        samples = bench.samples("evaluation")
        assert "made from the signature" in samples.doubt
        answered, said = [], []
        for spec in settings.engines:
            try:
                bench.engine(spec)
            except EngineUnavailable as error:
                said.append(str(error))
                continue
            found = bench.task.compare(bench.outputs(bench.reference), bench.outputs(spec), samples)
            [verdict] = bench.task.decide(found, settings.expectations.of(name, spec.id))
            assert verdict.outcome is Outcome.PASS, (spec.id, verdict)
            answered.append(spec.id)
        assert {"onnxruntime-fp32", "openvino-fp32"} <= set(answered)
        assert not any("\n" in sentence for sentence in said)


def test_a_batch_norm_does_not_keep_a_convolution_from_int8(tmp_path: Path) -> None:
    path = networks.save(networks.heads(), tmp_path / "heads.onnx")
    settings = settings_of(tmp_path, "--model", str(path), "--shape", "x=1x3x32x32", "--engine", "onnxruntime-int8")
    with Workbench(settings.models[0], settings) as bench:
        # A convolution that writes an output writes it in float.
        assert bench.engine(parse_spec("onnxruntime-int8")).audit().histogram == {"float32": 1, "int8": 2}


def test_outputs_that_are_read_inside_can_be_int8(tmp_path: Path) -> None:
    """They are no inputs of what reads them that nobody measured, nor rounded for it."""
    path = networks.save(networks.embedding(), tmp_path / "embedding.onnx")
    specs = [parse_spec(engine) for engine in ("onnxruntime-int8", "openvino-int8")]
    settings = settings_of(tmp_path, "--model", str(path), *(f"--engine={spec.id}" for spec in specs))
    with Workbench("embedding.onnx", settings) as bench:
        for spec in specs:
            assert bench.engine(spec).audit().histogram == {"int8": 3}
            found = bench.task.compare(bench.outputs(bench.reference), bench.outputs(spec), bench.samples("evaluation"))
            [verdict] = bench.task.decide(found, settings.expectations.of("embedding.onnx", spec.id))
            assert verdict.outcome is Outcome.PASS, verdict
        graph = onnx.load(bench.graphs.of("int8-symmetric").path).graph
        assert [each.name for each in graph.output] == ["embedding", "features", "scores"]
        makers = {name: node.op_type for node in graph.node for name in node.output}
        assert makers["embedding"] == makers["features"] == "Identity"


def test_branches_and_biases_of_one_row_can_be_int8(tmp_path: Path) -> None:
    path = networks.save(networks.branching(), tmp_path / "net.onnx")
    settings = settings_of(tmp_path, "--model", str(path), "--engine", "onnxruntime-int8")
    with Workbench("net.onnx", settings) as bench:
        for kind in ("int8-symmetric", "int8-asymmetric"):
            graph = onnx.load(bench.graphs.of(kind).path)  # type: ignore[arg-type]  # one of the kinds
            assert sum(node.op_type == "QuantizeLinear" for node in graph.graph.node) >= 2


def test_a_file_that_is_quantised_is_taken_as_it_is(tmp_path: Path) -> None:
    path = networks.save(networks.classifier(), tmp_path / "net.onnx")
    settings = settings_of(tmp_path, "--model", str(path), "--engine", "onnxruntime-int8")
    with Workbench("net.onnx", settings) as bench:
        int8 = bench.graphs.of("int8-asymmetric").path.read_bytes()
    (tmp_path / "int8.onnx").write_bytes(int8)
    settings = settings_of(tmp_path, "--model", str(tmp_path / "int8.onnx"), *(f"--engine={engine}" for engine in CPU))
    with Workbench("int8.onnx", settings) as bench:
        assert bench.file is not None
        assert bench.file.own == "int8"
        assert "quantised already" in str(bench.available(parse_spec("openvino-fp32")))
        assert bench.graphs.of("int8-asymmetric").digest == bench.graphs.of("fp32").digest
        assert bench.engine(parse_spec("onnxruntime-int8")).audit().histogram == {"int8": 2}


def test_on_a_gpu_the_reference_is_still_the_cpu(tmp_path: Path) -> None:
    path = networks.save(networks.classifier(), tmp_path / "net.onnx")
    file = describe(path, {}, {})
    spec = REFERENCES["cuda"]
    assert available(spec, "cuda").ok
    request = BuildRequest(None, path, (1,), 1, "cuda", file.signature)
    backend("onnxruntime").build(spec, request, tmp_path / "plan.onnx")
    with backend("onnxruntime").load(spec, request, tmp_path / "plan.onnx") as engine:
        assert engine.infer(file.signature.blank(1))["scores"].shape == (1, 5)


@pytest.mark.parametrize("sequence", [False, True])
def test_outputs_that_are_no_numbers_are_left_out_and_told(sequence: bool, tmp_path: Path) -> None:
    """BF16 and a sequence, before the output that is compared: engines must give that one still."""
    model = networks.network(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("Cast", ["y"], ["half"], to=onnx.TensorProto.BFLOAT16),
            *([helper.make_node("SplitToSequence", ["y"], ["parts"], axis=1)] if sequence else []),
        ],
        {"x": (networks.FLOAT, ["N", 4])},
        {"half": (onnx.TensorProto.BFLOAT16, None), "y": (networks.FLOAT, None)},
        {"w": networks.random(4, 4)},
    )
    if sequence:
        model.graph.output.insert(0, helper.make_tensor_sequence_value_info("parts", networks.FLOAT, None))
    path = networks.save(model, tmp_path / "net.onnx")
    engine = parse_spec("openvino-fp32")
    settings = settings_of(tmp_path, "--model", str(path), f"--engine={engine.id}")
    with Workbench("net.onnx", settings) as bench:
        assert bench.signature.output_names == ["y"]
        left_out = "parts, half" if sequence else "half"
        assert bench.not_compared == f"not compared: {left_out}, no tensors of numbers that numpy has"
        if not sequence:  # which OpenVINO does not have
            assert bench.outputs(engine)[0]["y"] == pytest.approx(bench.outputs(bench.reference)[0]["y"], rel=1e-4)


# Samples.


@pytest.mark.parametrize("value", [0.5, -1, 300, 1e30, 2**70, "7", None, {"a": 1}, [[1], [2, 3]]])
def test_a_value_that_a_type_does_not_have_fits_no_input(value: Any) -> None:
    with pytest.raises(UserError, match="the value of input rate does not fit rate uint8"):
        constant(TensorSpec("rate", "uint8", ()), value)
    assert constant(TensorSpec("rate", "uint8", (1, 2)), 7.0).tolist() == [[7, 7]]
    with pytest.raises(UserError, match="does not fit"):
        constant(TensorSpec("scale", "float16", ()), 1e6)


@pytest.mark.parametrize("wrong", [0, 2])
def test_a_sample_that_the_reference_cannot_be_run_on_is_named(wrong: int, tmp_path: Path) -> None:
    """The first one is tried when an engine is loaded, others are met later."""
    path = networks.save(networks.text(), tmp_path / "text.onnx")
    for index in range(3):
        ids = np.full((1, 7), 99 if index == wrong else 1)
        np.savez(tmp_path / f"{index}.npz", input_ids=ids, attention_mask=np.ones(7, np.int64))
    arguments = ["--model", str(path), "--shape", "input_ids=1x7", "--images", str(tmp_path)]
    settings = settings_of(tmp_path, *arguments, "--engine", "onnxruntime-fp32")
    with Workbench(settings.models[0], settings) as bench:
        with pytest.raises(UserError, match=r"cannot run text\.onnx.*; give samples that it takes") as told:
            bench.outputs(bench.reference)
        assert "Gather" in str(told.value)
        assert wrong == 0 or "on the sample 2.npz" in str(told.value)


def test_what_onnx_runtime_says_is_told_without_its_sources() -> None:
    place = "/onnxruntime_src/onnxruntime/core/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, bool)"
    said = f"[ONNXRuntimeError] : 1 : FAIL : Load model from a.onnx failed:{place} Unsupported model IR version: 99\n"
    assert first_line(said) == "Load model from a.onnx failed:Unsupported model IR version: 99"
    assert str(UserError("--model a\nb.onnx is none")) == "--model a b.onnx is none"


def test_numbers_that_the_network_cannot_be_given_are_told(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("x", "float32", ("batch", 2)), TensorSpec("ids", "int32", ("batch", 2))))
    ids, x = np.ones((1, 2), np.int64), np.ones((1, 2))
    for name, wrong in (("x", {"x": x * 1e300, "ids": ids}), ("ids", {"x": x, "ids": ids << 40})):
        np.savez(tmp_path / "0.npz", **wrong)
        with pytest.raises(UserError, match=rf"0\.npz has {name} with numbers that .*32 does not have"):
            ArrayFolder(tmp_path, signature, {})
    np.savez(tmp_path / "0.npz", x=x * np.inf, ids=ids)
    (tmp_path / "._0.npz").write_bytes(b"what macOS leaves beside a file")
    assert ArrayFolder(tmp_path, signature, {}).names == ("0.npz",)


def test_samples_from_a_folder_of_arrays(tmp_path: Path) -> None:
    path = networks.save(networks.text(), tmp_path / "text.onnx")
    folder = tmp_path / "samples"
    folder.mkdir()
    for index in range(3):
        ids = np.full((1, 7), index, np.int32)
        np.savez(folder / f"{index}.npz", input_ids=ids, attention_mask=np.ones(7, np.int64), note="x")
    arguments = ["--model", str(path), "--shape", "input_ids=1x7", "--images", str(folder)]
    settings = settings_of(tmp_path, *arguments, "--engine", "onnxruntime-fp32")
    with Workbench(settings.models[0], settings) as bench:
        samples = bench.samples("evaluation")
        assert (samples.names, samples.doubt) == (("0.npz", "1.npz", "2.npz"), "")
        assert samples[2]["input_ids"].dtype == np.int64
        assert samples[2]["attention_mask"].shape == (1, 7)
        assert len(bench.outputs(bench.reference)) == 3
    np.savez(folder / "3.npz", input_ids=np.zeros((1, 9), np.int64), attention_mask=np.ones(9, np.int64))
    wrong = pytest.raises(UserError, match=r"3\.npz has input_ids of shape")
    with Workbench(settings.models[0], settings) as bench, wrong:
        bench.samples("evaluation")


# Against another stack.


def test_a_run_that_is_kept_asks_the_reference_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but its answers tells of a library that was replaced under the same version."""
    path = networks.save(networks.classifier(), tmp_path / "net.onnx")
    settings = settings_of(tmp_path, "--model", str(path), "--engine", "onnxruntime-fp32")

    def first_answer(**changed: Any) -> float:
        with Workbench("net.onnx", replace(settings, **changed)) as bench:
            return float(next(iter(bench.outputs(bench.reference)[0].values())).ravel()[0])

    sound = first_answer()
    infer = OnnxRuntimeEngine.infer
    monkeypatch.setattr(
        OnnxRuntimeEngine, "infer", lambda self, inputs: {key: 1.5 * each for key, each in infer(self, inputs).items()}
    )
    assert first_answer() == sound, "a run that nothing rests on takes what is there"
    assert first_answer(processes=2) == pytest.approx(1.5 * sound)
    monkeypatch.undo()
    assert first_answer(rebuild=True) == sound


def kept(model: onnx.ModelProto, folder: Path, reference: Path) -> dict[str, Any]:
    """The summary of a network's answers, as a record keeps it, against those of another file."""
    import onnxruntime

    settings = settings_of(folder, "--model", str(reference), "--shape", "x=1x3x32x32", "--engine=onnxruntime-fp32")
    with Workbench(settings.models[0], settings) as bench:
        samples = bench.samples("evaluation")
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        got = [
            {name: array[0] for name, array in zip(("map", "boxes"), session.run(None, dict(samples[i])), strict=True)}
            for i in range(len(samples))
        ]
        found = bench.task.compare(bench.outputs(bench.reference), got, samples)
        return json.loads(json.dumps(bench.task.summary(found)))  # type: ignore[no-any-return]


def test_a_spoilt_channel_is_found_and_its_output_named(tmp_path: Path) -> None:
    from trtgate.expectations import Expectation
    from trtgate.tasks.against import decide_scores, require_scores

    reference = networks.save(networks.heads(), tmp_path / "heads.onnx")
    good, bad = (kept(networks.heads(spoilt=spoilt), tmp_path, reference) for spoilt in (False, True))
    for each in (good, bad):
        require_scores(each)
    for expectation in (Expectation({"sqnr_db": 60.0}), Expectation({"sqnr_db": 10.0})):
        assert decide_scores(good, good, expectation).outcome is Outcome.PASS
        verdict = decide_scores(good, bad, expectation)
        assert verdict.outcome is Outcome.REGRESSED
        assert "boxes" in verdict.message
        assert "boxes, 2 along axis 0 of a sample" in verdict.message
        assert "map" not in verdict.message


def test_a_saved_session_keeps_what_finds_it(tmp_path: Path) -> None:
    reference = networks.save(networks.heads(), tmp_path / "heads.onnx")
    good, bad = (kept(networks.heads(spoilt=spoilt), tmp_path, reference) for spoilt in (False, True))
    key = ("heads.onnx@1x3x32x32", "onnxruntime-int8", 1)
    rounds = tuple(1e-3 * (1 + 0.001 * index) for index in range(15))

    def record(scores: dict[str, Any]) -> EngineRecord:
        series = {"latency": rounds, "reference_latency": rounds}
        made = EngineRecord(*key, "onnx", series, reference="onnxruntime-fp32", scores=scores)
        return from_json(json.loads(json.dumps(to_json(made))))

    for new, outcome in ((good, Outcome.PASS), (bad, Outcome.REGRESSED)):
        [found] = compare_records(
            {key: [record(good)]}, {key: [record(new)]}, read_expectations(), "sessions", {}
        ).engines
        change = found.change("answers")
        assert change is not None
        assert change.verdict.outcome is outcome
    assert "boxes, 2 along axis 0 of a sample" in change.verdict.message
    for spoil in ({"scores": 3}, {"n": 0}, {"kept": {"powers": {"boxes": {"axes": [{"n": 3, "base64": "!"}]}}}}):
        with pytest.raises(DAMAGED):
            record({**good, **spoil})


@pytest.mark.parametrize("wrong", ["negated", "rounded", "same"])
def test_a_runtime_that_changes_reference_and_engine_alike(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade of the runtime that the reference is run by: each side's answers agree with its own reference's."""
    import onnxruntime

    path = networks.save(networks.heads(), tmp_path / "heads.onnx")
    specs = [parse_spec("onnxruntime-fp32"), parse_spec("onnxruntime-int8")]
    rounds = tuple(1e-3 * (1 + 0.001 * index) for index in range(15))

    def side(folder: Path) -> dict[Any, list[EngineRecord]]:
        arguments = ["--model", str(path), "--shape", "x=1x3x32x32", *(f"--engine={spec.id}" for spec in specs)]
        settings = settings_of(folder, *arguments)
        found = {}
        with Workbench(settings.models[0], settings) as bench:
            samples, reference = bench.samples("evaluation"), bench.outputs(bench.reference)
            facts = {"onnxruntime-fp32": bench.task.own(reference, samples)}
            compared = bench.task.compare(reference, bench.outputs(specs[1]), samples)
            facts["onnxruntime-int8"] = {"scores": bench.task.summary(compared)}
            for spec in specs:
                key = (bench.name, spec.id, 1)
                series = {"latency": rounds, "reference_latency": rounds, "typical": rounds}
                made = EngineRecord(
                    *key, "onnx", series, digests=bench.digests(spec), reference=specs[0].id, **facts[spec.id]
                )
                found[key] = [from_json(json.loads(json.dumps(to_json(made))))]
        return found

    old = side(tmp_path / "old")
    run = onnxruntime.InferenceSession.run
    factors = {"negated": -1, "rounded": np.float32(1 + 1e-6), "same": 1}

    def changed(self: Any, *arguments: Any) -> list[Any]:
        found = run(self, *arguments)
        # Calibration asks for more, and is to find the same ranges.
        return [np.asarray(each * factors[wrong], each.dtype) for each in found] if len(found) == 2 else found

    monkeypatch.setattr(onnxruntime.InferenceSession, "run", changed)
    report = compare_records(old, side(tmp_path / "new"), read_expectations(), "sessions", {})
    reference, engine = (each.change("answers") for each in report.engines)
    assert reference is not None
    assert engine is not None
    assert engine.verdict.outcome is Outcome.PASS
    if wrong == "negated":
        assert reference.verdict.outcome is Outcome.REGRESSED
        assert "the reference's own answers are others: SQNR of map is" in reference.verdict.message
        assert "SQNR of boxes is" in reference.verdict.message
    else:
        assert reference.verdict.outcome is Outcome.PASS, reference.verdict
        assert reference.verdict.reason is (Reason.SAME_ANSWERS if wrong == "same" else Reason.ANSWERS_KEPT)
