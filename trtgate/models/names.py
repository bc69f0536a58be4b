"""The names of models, of which whoever only reads of models need not have PyTorch."""

from __future__ import annotations

from trtgate.models.own import OWN


def is_model(name: str) -> bool:
    """Whether --model takes that name."""
    return name.partition("@")[0].endswith(".onnx") or is_known(name)


def model_names() -> list[str]:
    """All names that --model takes beside files."""
    return [*OWN, *_torchvisions()]


def is_known(name: str) -> bool:
    """Whether somebody here can build it. Torchvision takes seconds to import, and is asked of what is not known."""
    return name in OWN or name == "resnet50" or name in _torchvisions()


def _torchvisions() -> list[str]:
    from trtgate.models import torchvision

    return torchvision.names()
