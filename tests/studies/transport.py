"""What a Unix socket costs a worker's request against two pipes: python tests/studies/transport.py

A process at the other end answers what a block of a race is answered with. Both ways take turns, there and back again,
and the medians of many requests are printed, with their difference as a share of a block of 1 ms.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.protocol import Frames, ProtocolError

ROUNDS, REQUESTS = 200, 50
ASKED = {"do": "block", "with": {"arm": "onnxruntime-int8", "n": 5, "lead_in": 0}}
ANSWERED = {"answer": {"seconds": [1.0123456789e-3] * 5, "end_to_end": None}}


def serve(frames: Frames) -> None:
    try:
        while True:
            frames.receive()
            frames.send(ANSWERED)
    except ProtocolError:
        os._exit(0)


def by_pipes() -> Frames:
    there, back = os.pipe(), os.pipe()
    if os.fork() == 0:
        os.close(there[1])
        os.close(back[0])
        serve(Frames(there[0], back[1]))
    os.close(there[0])
    os.close(back[1])
    return Frames(back[0], there[1])


def by_socket() -> Frames:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    if os.fork() == 0:
        ours.close()
        serve(Frames.over(theirs))
    theirs.close()
    return Frames.over(ours)


def seconds(frames: Frames) -> float:
    found = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        frames.send(ASKED)
        frames.receive(10.0)
        found.append(time.perf_counter() - began)
    return float(np.median(found))


def main() -> None:
    ways = {"pipes": by_pipes(), "socket": by_socket()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for index in range(ROUNDS):
        for name in list(ways) if index % 2 == 0 else list(ways)[::-1]:
            times[name].append(seconds(ways[name]))
    for name, some in times.items():
        print(f"{name}: {np.median(some) * 1e6:.1f} us a request")
    more = np.array(times["socket"]) - np.array(times["pipes"])
    low, middle, high = np.percentile(more, [25, 50, 75]) * 1e6
    print(f"socket over pipes: {middle:+.2f} us [{low:+.2f}, {high:+.2f}], {middle / 1e3:+.2%} of a block of 1 ms")


if __name__ == "__main__":
    main()
