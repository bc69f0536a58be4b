"""Which of several processes met the machine in one state, as the fixed work tells that is raced along with engines.

A neighbour on the machine makes fixed work longer. But a virtual machine may also have states that are neither quiet
nor loud, as if its cores were now next to each other, where threads hand over quickly, now on two dies, with twice the
bandwidth (seen on an EPYC: copies half as long, small networks 30 to 40 % longer, for minutes). Processes of two states
are no sample of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

Work = Mapping[str, float]

# Of the processes, in percent: what is quiet.
QUIETEST = 10.0
# How much longer or shorter fixed work takes in one state. A process in which it took longer than that in the quietest
# ones of the run met a neighbour: on a virtual machine one that no counter shows, and that slows some engines by half
# (an AMX unit shared with a thread next door). A matrix product differs by 1 to 3 % from process to process. A copy of
# 64 MB differs by 6 %, and up and down by 10 % within minutes, of which engines follow a third at most (an EPYC);
# between two states it is half as long.
ALIKE = 0.15
ALIKE_COPY = 0.25
COPY = "control-copy"


def within(name: str) -> float:
    """How far fixed work of that name may differ in one state, as a log ratio."""
    return math.log1p(ALIKE_COPY if name == COPY else ALIKE)


def in_quiet(work: Sequence[Work]) -> list[int]:
    """The processes whose fixed work, in seconds, took no longer than that of the quietest ones, but for `within`."""
    if not work:
        return []
    # No number between two states.
    quiet = {name: float(np.percentile([each[name] for each in work], QUIETEST, method="lower")) for name in work[0]}
    return [
        index
        for index, each in enumerate(work)
        if all(math.log(each[name] / least) <= within(name) for name, least in quiet.items())
    ]


def in_state(work: Sequence[Work], state: Work) -> list[int]:
    """The processes whose fixed work took as long as in `state`, but for `within`."""
    return [
        index
        for index, each in enumerate(work)
        if all(abs(math.log(each[name] / state[name])) <= within(name) for name in each.keys() & state.keys())
    ]


def in_right(work: Sequence[Work], like: Work | None = None) -> list[int]:
    """The processes that met the machine as they should: in the state of `like`, or in the quiet one."""
    return in_state(work, like) if like else in_quiet(work)


def enough_in_one(work: Sequence[Work], wanted: int, like: Work | None = None) -> list[int]:
    """`wanted` processes or more that met one state: the right one, the quiet one, or the one that most met. None where
    no state has as many."""
    found = in_right(work, like)
    if len(found) < wanted:
        found = in_quiet(work)
    if len(found) < wanted:
        found = max((in_state(work, each) for each in work), key=len, default=[])
    return found if len(found) >= wanted else []
