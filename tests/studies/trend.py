"""How often a trend tells of a step that is none, and how soon of one that is there, on the noise of simulation.py.

    python tests/studies/trend.py [--trials N]

A false step is counted once however many nights tell of it: each night of a series the whole history is looked at
again, as the nightly report does. A step is found when one of the five nights from it on tells of it, within two
sessions of where it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from simulation import LOADED, QUIET, SHARED, Noise, student

from trtgate.trend import SIDE, change_points

NIGHTS = 60
WITHIN = 5
NEAR = 2
HISTORIES = (10, 20, 40)


def false_steps(noise: Noise, trials: int, seed: int = 1) -> float:
    """Steps told in 100 nights of a series in which nothing changed."""
    rng = np.random.default_rng(seed)
    told = 0
    for _ in range(trials):
        values = np.exp(noise.session * student(rng, NIGHTS))
        seen: list[int] = []
        for night in range(2 * SIDE, NIGHTS + 1):
            seen += [at for at in change_points(values[:night].tolist()) if all(abs(at - b) > NEAR for b in seen)]
        told += len(seen)
    return 100 * told / (NIGHTS * trials)


def found_steps(noise: Noise, step: float, history: int, trials: int, seed: int = 2) -> float:
    """Share of steps (0.03 is 3 %) after so many sessions that are told within five."""
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(trials):
        values = np.exp(noise.session * student(rng, history + WITHIN))
        values[history:] *= 1 + step
        found += any(
            abs(at - history) <= NEAR
            for night in range(SIDE, WITHIN + 1)
            for at in change_points(values[: history + night].tolist())
        )
    return found / trials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=400)
    trials = parser.parse_args().trials
    print(f"| noise | false steps in 100 nights | {' | '.join(f'3 % found, {n} before' for n in HISTORIES)} |")
    print(f"| --- | ---: |{' ---: |' * len(HISTORIES)}")
    for noise in (QUIET, SHARED, LOADED):
        found = " | ".join(f"{found_steps(noise, 0.03, history, trials):.1%}" for history in HISTORIES)
        print(f"| {noise.name} | {false_steps(noise, trials // 2):.2f} | {found} |", flush=True)


if __name__ == "__main__":
    main()
