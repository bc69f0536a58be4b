"""Photos that a report can show, as whoever makes it has them at hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trtgate.samples import Frame


@dataclass(frozen=True)
class Photos:
    """Samples at hand: their names, those of the classes (empty: unknown), and a small JPEG of each as it is seen
    through a frame, b"" where it cannot be read. `imagenet` says that nobody named the classes: published weights have
    ImageNet's."""

    names: Sequence[str]
    classes: Sequence[str]
    thumbnail: Callable[[int, Frame | None], bytes]
    imagenet: bool = False
