"""Models and where their weights come from."""

from __future__ import annotations

import argparse
import collections
import hashlib
import pickle
import re
import shutil
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision import models as torchvision_models

from trtgate.engines import parse_spec
from trtgate.files import file_digest
from trtgate.kinds import REFERENCE, UserError
from trtgate.models import torchvision
from trtgate.models.base import DATA, image_classes
from trtgate.models.loading import classes_in, load_model, state_digest
from trtgate.options import check_files
from trtgate.settings import Settings
from trtgate.workbench import Workbench

NAME = "squeezenet1_1"  # the smallest of torchvision's files, 5 MB


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def state(seed: int = 1) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return torchvision_models.get_model(NAME).state_dict()


def test_the_class_table_is_imagenets() -> None:
    classes = image_classes()
    assert len(classes) == 1000
    assert [each.index for each in classes] == list(range(1000))
    assert (classes[281].wnid, classes[281].name) == ("n02123045", "tabby")


def test_efficientnet_lite0_is_trained() -> None:
    model = load_model("efficientnet_lite0")
    assert model.weights.source == "package"
    assert model.preprocessing.interpolation == "bicubic"
    assert not model.module.training


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_weights_from_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path)
    model = load_model(NAME, path)
    assert model.weights.source == "file"
    assert model.weights.digest == state_digest(state())


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in state().items()}, tmp_path / "half.pth")
    model = load_model(NAME, tmp_path / "half.pth")
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("beside", ["number", "float8", "versions", "within itself"])
def test_what_stands_beside_the_weights_keeps_nobody_from_them(beside: str, tmp_path: Path) -> None:
    found: Any = collections.OrderedDict(state())
    if beside == "number":
        found[0] = torch.zeros(1)
    elif beside == "float8":
        found = {key: value.to(torch.float8_e4m3fn) for key, value in found.items()}
    elif beside == "versions":
        found._metadata = {"": {"version": "new"}, 3: None}
    else:
        found = {"state_dict": found}
        found["self"] = found
    torch.save(found, tmp_path / "odd.pth")
    module = load_model(NAME, tmp_path / "odd.pth").module
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("code from a weights file was run",))


WRONG_BYTES = {
    "empty": b"",
    "garbage": b"garbage",
    "a web page": b"<!DOCTYPE html><title>404</title>",
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
    "an archive": b"\x1f\x8b" + bytes(100),
    "safetensors, cut": (1000).to_bytes(8, "little") + b'{"a":',
    "pickle": pickle.dumps({"a": Bomb()}),
}


def with_nan() -> dict[str, torch.Tensor]:
    weights = state()
    weights["features.3.squeeze.weight"][0, 0] = float("nan")
    return weights


def within_itself() -> dict[str, Any]:
    found: dict[str, Any] = {"epoch": 3}
    found["self"] = found
    return found


WRONG_CONTENT = {
    "code beside the weights": lambda: {"state_dict": state(), "extra": Bomb()},
    "the whole module": lambda: torchvision_models.get_model(NAME),
    "not a state": lambda: {"epoch": 3},
    "integer keys": lambda: dict(enumerate(state().values())),
    "architecture": lambda: {"conv.weight": torch.zeros(1)},
    "a name that repaints": lambda: {**state(), "\x1b[31mred\x07": torch.zeros(1)},
    "NaN": with_nan,
    "one class": lambda: torchvision_models.get_model(NAME, num_classes=1).state_dict(),
    "sparse": lambda: {key: value.to_sparse() for key, value in state().items()},
    "whole numbers": lambda: {key: (100 * value).to(torch.int8) for key, value in state().items()},
    "complex": lambda: {key: value.to(torch.complex64) for key, value in state().items()},
    "too large for FP32": lambda: {key: value.double() * 1e300 for key, value in state().items()},
    "within itself": within_itself,
}


@pytest.mark.parametrize("case", ["missing", "folder", "cut", *WRONG_BYTES, *WRONG_CONTENT])
def test_wrong_weights_are_an_error_that_names_the_file(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "weights.pth"
    if case in WRONG_BYTES:
        path.write_bytes(WRONG_BYTES[case])
    elif case == "cut":
        torch.save(state(), path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif case == "folder":
        path.mkdir()
    elif case != "missing":
        torch.save(WRONG_CONTENT[case](), path)
    for read in (load_model, classes_in):  # what the first finds is found before anything runs, too
        with pytest.raises(UserError, match=path.name) as caught:
            read(NAME, path)
        message = str(caught.value)
        assert "weights_only" not in message
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", message)
    assert "code from" not in capsys.readouterr().out


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(UserError, match="resnet5000"):
        load_model("resnet5000")


def test_without_network_the_weights_are_seeded_and_say_so() -> None:
    first, again = load_model(NAME), load_model(NAME)
    assert not first.weights.trained
    assert first.weights.digest == again.weights.digest


def test_a_network_that_never_answers_costs_a_bounded_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision, "DOWNLOAD_STALL_S", 0.2)
    over = threading.Event()

    def silent(*_: Any, **__: Any) -> None:
        over.wait(60)
        raise urllib.error.URLError("no answer")

    monkeypatch.setattr(urllib.request, "urlopen", silent)
    assert load_model(NAME).weights.source == "untrained"
    over.set()  # the thread that asks ends with this test, and not in the middle of another


def cache_pretrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a file in torch.hub's cache and make torchvision's recipe point at its hash."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    draft = folder / "draft.pth"
    torch.save(state(), draft)
    digest = hashlib.sha256(draft.read_bytes()).hexdigest()[:8]
    path = draft.rename(folder / f"{NAME}-{digest}.pth")
    recipe = torchvision_models.get_model_weights(NAME).DEFAULT
    real = recipe.value
    monkeypatch.setattr(recipe, "_value_", real.__class__(f"https://example.invalid/{path.name}", real.transforms, {}))
    return path


def test_pretrained_weights_come_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_pretrained(tmp_path, monkeypatch)
    model = load_model(NAME)
    assert model.weights.source == "torchvision"
    assert model.weights.digest == state_digest(state())


def test_damaged_pretrained_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache_pretrained(tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=path.name):
        load_model(NAME)


def test_a_copy_of_published_weights_gets_their_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision_models.mobilenet_v2().state_dict()
    torch.save(weights, tmp_path / "mine.pth")
    digest = file_digest(tmp_path / "mine.pth")
    newer = torchvision_models.MobileNet_V2_Weights.IMAGENET1K_V2
    real = newer.value
    url = f"https://example.invalid/mobilenet_v2-{digest[:8]}.pth"
    monkeypatch.setattr(newer, "_value_", real.__class__(url, real.transforms, real.meta))
    assert load_model("mobilenet_v2", tmp_path / "mine.pth").preprocessing.resize == 232
    torch.save(weights, tmp_path / "other.pth", pickle_protocol=3)
    assert load_model("mobilenet_v2", tmp_path / "other.pth").preprocessing.resize == 256


CHECKPOINTS = {
    "DataParallel": lambda state: {"epoch": 3, "state_dict": prefixed("module.", state), "best": torch.tensor(57.1)},
    "DataParallel inside": lambda state: {
        re.sub("^features", "features.module", key): value for key, value in state.items()
    },
    "compiled": lambda state: prefixed("module._orig_mod.", state),
    "Lightning": lambda state: {
        "state_dict": {**prefixed("model.", state), "loss.weight": torch.ones(3)},
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
    },
    "reference": lambda state: {
        "model": state,
        "optimizer": {"state": {0: {"momentum": torch.ones(3)}}, "param_groups": []},
        "args": argparse.Namespace(lr=0.1, output=Path("runs")),
        "meters": collections.defaultdict(list, {"loss": [np.float64(0.5)]}),
    },
    "averaged": lambda state: {"model_ema": {**prefixed("module.", state), "n_averaged": torch.tensor(3)}},
    "two deep": lambda state: {"model": {"state_dict": prefixed("backbone.net.", state)}},
}


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_checkpoints_as_training_scripts_save_them(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth.tar"
    torch.save(CHECKPOINTS[kind](state()), path)
    assert load_model(NAME, path).weights.digest == state_digest(state())


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "weights.pth")
    torch.save(state(), tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for name in ("weights.pth", "old.bin"):
        assert load_model(NAME, tmp_path / name).weights.digest == state_digest(state())


def old_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DenseNet's, as in the published files."""
    return {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key): value
        for key, value in weights.items()
        if "num_batches" not in key
    }


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mnasnet0_5"])
def test_networks_are_built_as_torchvision_builds_them_for_published_weights(name: str, tmp_path: Path) -> None:
    options = {"init_weights": False} if name == "googlenet" else {}
    weights = dict(torchvision_models.get_model(name, **options).state_dict())
    if name == "densenet121":
        weights = old_names(weights)
    published = weights
    if name == "mnasnet0_5":  # torchvision reads the version of its layout beside it, which a plain copy loses
        published = torchvision_models.get_model(name).state_dict()
        published.update(weights)
    torch.save(weights, tmp_path / "weights.pth")
    mine = load_model(name, tmp_path / "weights.pth").module
    recipe = torchvision_models.get_model_weights(name).DEFAULT
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(recipe), "get_state_dict", lambda *_, **__: published)
        theirs = torchvision_models.get_model(name, weights=recipe).eval()
    photos = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(mine(photos), theirs(photos))
    assert getattr(mine, "transform_input", None) == getattr(theirs, "transform_input", None)


def test_a_vision_transformer_takes_photos_of_the_size_of_its_positions(tmp_path: Path) -> None:
    # vit_b_32 is the smallest; 384 is not the size of its published weights.
    with torch.device("meta"):
        layout = torchvision_models.vit_b_32(image_size=384).state_dict()
    torch.save({key: torch.zeros(value.shape) for key, value in layout.items()}, tmp_path / "weights.pth")
    model = load_model("vit_b_32", tmp_path / "weights.pth")
    assert (model.preprocessing.crop, model.preprocessing.resize) == (384, 384)
    with torch.inference_mode():
        assert model.module(torch.zeros(1, 3, 384, 384)).shape == (1, 1000)


@pytest.mark.parametrize("head", ["plain", "behind a dropout"])
def test_as_many_classes_as_the_weights_have(head: str, tmp_path: Path) -> None:
    module = torchvision_models.resnet18(num_classes=10)
    if head == "behind a dropout":
        module.fc = torch.nn.Sequential(torch.nn.Dropout(), module.fc)
    torch.save(module.state_dict(), tmp_path / "ten.pth")
    model = load_model("resnet18", tmp_path / "ten.pth")
    photos = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(model.module(photos), module.eval()(photos))
    assert model.classes == classes_in("resnet18", tmp_path / "ten.pth") == 10


def test_untrained_networks_answer_to_their_input() -> None:
    # ViT's last layer starts at zero.
    model = load_model("vit_b_32")
    with torch.inference_mode():
        first, second = model.module(torch.randn(2, 3, 224, 224))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "resnet152"])
def test_untrained_activations_neither_vanish_nor_leave_fp16(name: str) -> None:
    model = load_model(name)
    largest: list[float] = []
    for layer in model.module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: largest.append(float(output.abs().max())))
    with torch.inference_mode():
        first, second = model.module(torch.randn(2, 3, model.preprocessing.crop, model.preprocessing.crop))
    assert 0.1 < min(largest) <= max(largest) < 1000
    assert (first - second).abs().max() > 0.01 * first.abs().max()


def test_untrained_vision_transformers_take_photos_of_their_recipes_size(monkeypatch: pytest.MonkeyPatch) -> None:
    # ViT-H/14 has no weights for the 224 pixels that its builder is made for.
    monkeypatch.setattr(torchvision, "_draw_constant_head", lambda _: None)
    names = [name for name in torchvision.names() if name.startswith("vit_")]
    assert "vit_h_14" in names
    for name in names:
        with torch.device("meta"):
            made = torchvision.architecture(name, torchvision.recipes(name)[0])
            assert made.module(torch.zeros(2, 3, made.preprocessing.crop, made.preprocessing.crop)).shape == (2, 1000)


def test_a_network_too_large_for_a_graph_is_left_out_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trtgate.build.graphs.LARGEST", 4_000_000)
    with Workbench(NAME, Settings(plan_cache=tmp_path)) as bench:
        assert bench.available(REFERENCE).ok  # PyTorch runs the module, which needs no graph
        for text in ("onnxruntime-fp32", "onnxruntime-int8", "openvino-bf16"):
            said = str(bench.available(parse_spec(text)))
            assert said == f"{NAME} has 0.0 GB of weights, and graphs of more than 2 GB are not supported"
        with pytest.raises(UserError, match=r"of weights, and graphs of more than 2 GB"):  # selftest, sensitivity
            bench.graphs.of("fp32")


def test_a_misspelt_model_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match="resnet50"):
        load_model("resnet_50")


def photo_folder(path: Path, *classes: str) -> Path:
    for name in classes or (".",):
        (path / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(next((DATA / "evaluation").glob("*.jpg")), path / name / "a.jpg")
    return path


def test_wrong_files_are_told_before_anything_runs(tmp_path: Path) -> None:
    ten = tmp_path / "ten.pth"
    torch.save(torchvision_models.get_model(NAME, num_classes=10).state_dict(), ten)
    flat, two = photo_folder(tmp_path / "flat"), photo_folder(tmp_path / "two", "cat", "dog")
    check_files(NAME, ten, flat, two)  # nobody asks what calibration photos show
    for sentence, arguments in {
        "--model resnet5000": ("resnet5000", None, None, None),
        "--weights: .*nowhere": (NAME, tmp_path / "nowhere", None, None),
        "--images: .*nowhere": (NAME, None, tmp_path / "nowhere", None),
        "--calibration-images: .*nowhere": (NAME, None, None, tmp_path / "nowhere"),
        "--images: .*2 class folders, the model 10 classes": (NAME, ten, two, None),
        "--images: .*2 class folders, the model 1000 classes": (NAME, None, two, None),
    }.items():
        with pytest.raises(UserError, match=sentence):
            check_files(*arguments)


def test_classes_are_called_after_their_folders(tmp_path: Path) -> None:
    torch.save(torchvision_models.get_model(NAME, num_classes=2).state_dict(), tmp_path / "two.pth")
    for folder, names in (
        (photo_folder(tmp_path / "named", "dog", "cat"), ("cat", "dog")),
        (photo_folder(tmp_path / "flat"), ("class 0", "class 1")),
    ):
        settings = Settings(weights={NAME: tmp_path / "two.pth"}, images=folder, plan_cache=tmp_path / "plans")
        with Workbench(NAME, settings) as bench:
            assert bench.class_names == names
