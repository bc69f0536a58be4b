"""Models and where their weights come from."""

from __future__ import annotations

import hashlib
import pickle
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models as torchvision_models

from trtgate import models
from trtgate.errors import UserError
from trtgate.files import file_digest
from trtgate.models import image_classes, load_model

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
    assert model.weights.digest == models.state_digest(state())


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    torch.save({key: value.half() for key, value in state().items()}, tmp_path / "half.pth")
    model = load_model(NAME, tmp_path / "half.pth")
    assert {parameter.dtype for parameter in model.module.parameters()} == {torch.float32}


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("code from a weights file was run",))


@pytest.mark.parametrize("case", ["missing", "suffix", "garbage", "pickle", "not a state", "architecture"])
def test_wrong_weights_are_an_error_that_names_the_file(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / ("weights.bin" if case == "suffix" else "weights.pth")
    if case in {"suffix", "garbage"}:
        path.write_bytes(b"garbage")
    if case == "pickle":
        path.write_bytes(pickle.dumps({"a": Bomb()}))
    if case == "not a state":
        torch.save({"epoch": 3}, path)
    if case == "architecture":
        torch.save({"conv.weight": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=path.name):
        load_model(NAME, path)
    assert "code from" not in capsys.readouterr().out


def test_an_unknown_model_is_an_error() -> None:
    with pytest.raises(UserError, match="resnet5000"):
        load_model("resnet5000")


def test_without_network_the_weights_are_seeded_and_say_so() -> None:
    first, again = load_model(NAME), load_model(NAME)
    assert not first.weights.trained
    assert first.weights.digest == again.weights.digest


def test_a_network_that_never_answers_costs_a_bounded_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "DOWNLOAD_STALL_S", 0.2)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(60))
    assert load_model(NAME).weights.source == "untrained"


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
    assert model.weights.digest == models.state_digest(state())


def test_damaged_pretrained_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache_pretrained(tmp_path, monkeypatch)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=path.name):
        load_model(NAME)


def test_a_copy_of_published_weights_gets_their_preprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(state(), tmp_path / "mine.pth")
    digest = file_digest(tmp_path / "mine.pth")
    newer = torchvision_models.ResNet50_Weights.IMAGENET1K_V2
    real = newer.value
    url = f"https://example.invalid/resnet50-{digest[:8]}.pth"
    monkeypatch.setattr(newer, "_value_", real.__class__(url, real.transforms, {}))
    assert models._torchvision_preprocessing("resnet50", tmp_path / "mine.pth").resize == 232
    assert models._torchvision_preprocessing("resnet50", None).resize == 256
