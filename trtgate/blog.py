"""The protocol of the blog post that this project began with, as it was, beside an honest one.

There: PyTorch at 3.94 ms, a TensorRT engine at 2.73 ms, INT8 with entropy calibration at 0.39 ms, "over 10x". The
baseline was eager FP32 with cuDNN disabled: 5 warm-ups, then 10 iterations, each timed by the host's clock with a
synchronisation. The engines ran 1,000 iterations with copies. So the quotient of the two is in part the price of
launching a few hundred kernels one by one without cuDNN, which nobody would deploy.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from trtgate.engines.base import Engine, time_calls
from trtgate.engines.pytorch import arithmetic, as_torch
from trtgate.kinds import Device, Seconds
from trtgate.models.base import Model
from trtgate.signature import Tensors

WARM_UP = 5
BASELINE_ITERATIONS = 10
ENGINE_ITERATIONS = 1_000


@dataclass(frozen=True)
class BlogRow:
    """One engine by both protocols: seconds, and the speedups that each protocol claims."""

    model: str
    engine: str
    batch: int
    baseline: float
    seconds: float
    honest_seconds: float
    honest_speedup: float

    @property
    def speedup(self) -> float:
        return self.baseline / self.seconds


def baseline_seconds(model: Model, batch: Tensors, device: Device) -> Seconds:
    """Host seconds, float64[10], of eager FP32 without cuDNN, synchronised after each; images are on the device."""
    module = model.module.to(device)
    images = [each.to(device) for each in as_torch(model.signature, batch)]
    synchronize = torch.cuda.synchronize if device == "cuda" else _nothing
    found = []
    try:
        with torch.inference_mode(), arithmetic(tf32=False, cudnn=False):
            for _ in range(WARM_UP):
                module(*images)
            synchronize()
            for _ in range(BASELINE_ITERATIONS):
                start = time.perf_counter()
                module(*images)
                synchronize()
                found.append(time.perf_counter() - start)
    finally:
        model.module.to("cpu")
    return np.array(found)


def engine_seconds(engine: Engine, batch: Tensors) -> Seconds:
    """Host seconds, float64[ENGINE_ITERATIONS], of an engine's inferences with both copies."""
    call = engine.bind(batch)
    time_calls(call, WARM_UP)
    return time_calls(call, ENGINE_ITERATIONS)


def _nothing() -> None:
    return None
