"""What a network is run on."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trtgate.signature import Tensors


class Samples(Protocol):
    """Inputs in a fixed order, each a batch of one that is made when it is asked for.

    `digest` stands for all of them; `labels` is int64[N], class indices, or None where nobody said what they show;
    `clusters` is int64[N], the photo that each is a crop of, or None where each stands for itself; `classes` are the
    names of the classes where the samples give them.
    """

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def digest(self) -> str: ...
    @property
    def labels(self) -> npt.NDArray[np.int64] | None: ...
    @property
    def clusters(self) -> npt.NDArray[np.int64] | None: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Tensors: ...
    def first(self, n: int) -> Any:
        """The first n as samples of their own."""
