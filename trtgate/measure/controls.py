"""A fixed amount of work raced along with the engines.

When the matrix product or the copy changes, the machine has changed (its clock, its power, who else is on it),
whatever the engines say; when only an engine changes, the machine is not to blame. Beside a GPU a loop in Python says
the same of the host: eager PyTorch's 3 ms on an H100 are its, and were 5 ms for minutes with the GPU as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from trtgate.engines.base import time_calls
from trtgate.engines.gpu import time_between_events
from trtgate.engines.pytorch import TorchStream, give_back_memory
from trtgate.kinds import Block, Device
from trtgate.measure.race import CONTROL, HOST_CONTROL, Arm

# 137 GFLOP: 0.2 ms on an H200, 2 ms on a T4.
MATRIX = 4096
# Four times the largest second-level cache of any GPU so far, read and written.
COPIED_BYTES = 256 << 20
# Of a block's time: a matrix product draws all the power there is, and a whole block of it would hold down the clock of
# whoever comes next (seen on an H200: 1980 MHz down to 1560).
SHARE = 0.1


# On a CPU: 57 MFLOP, 1 to 4 ms, and more bytes than most last-level caches hold.
CPU_MATRIX = 304
CPU_COPIED_BYTES = 64 << 20
# On a GPU's host: 0.1 to 0.2 ms of the interpreter, as handing kernels over one by one is.
HOST_LOOPS = 3000


@contextlib.contextmanager
def control_arms(device: Device) -> Iterator[tuple[Arm, ...]]:
    """Arms named `control-matmul` and `control-copy`: on a GPU float16, MATRIX x MATRIX, and COPIED_BYTES within the
    device, and `control-host`, HOST_LOOPS of an interpreter; on a CPU float32, by PyTorch's threads."""
    if device == "cpu":
        yield _cpu_arms()
        return
    lane = TorchStream()
    try:
        yield _arms(lane)
    finally:
        lane.synchronize()
        lane.close()
        give_back_memory()


def _cpu_arms() -> tuple[Arm, ...]:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, CPU_MATRIX, CPU_MATRIX, generator=generator)
    product = torch.empty_like(left)
    source = torch.ones(CPU_COPIED_BYTES // 4)
    target = torch.empty_like(source)

    def arm(name: str, run: Callable[[], object]) -> Arm:
        return Arm(f"{CONTROL}{name}", lambda n: Block(time_calls(run, n)), SHARE)

    return arm("matmul", lambda: torch.mm(left, right, out=product)), arm("copy", lambda: target.copy_(source))


def _arms(lane: TorchStream) -> tuple[Arm, ...]:
    generator = torch.Generator("cuda").manual_seed(0)
    left, right = torch.randn(2, MATRIX, MATRIX, device="cuda", generator=generator).half()
    product = torch.empty_like(left)
    source = torch.ones(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def arm(name: str, run: Callable[[], object]) -> Arm:
        def block(n: int) -> Block:
            with lane.active():
                return Block(time_between_events(lane, run, n))

        return Arm(f"{CONTROL}{name}", block, SHARE)

    multiply = arm("matmul", lambda: torch.mm(left, right, out=product))
    host = Arm(HOST_CONTROL, lambda n: Block(time_calls(_count, n)), SHARE)
    return multiply, arm("copy", lambda: target.copy_(source)), host


def _count() -> int:
    total = 0
    for number in range(HOST_LOOPS):
        total += number
    return total
