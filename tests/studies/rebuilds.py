"""How often builds of one version are said to answer otherwise: python tests/studies/rebuilds.py [RUNS]

Three builds a side answer 240 photos, each with noise of its own; the new side's has the old one's times a factor.
Printed is the share of runs in which the new builds lie beyond what building the old version anew changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.ab.answers import agreements_of
from trtgate.verdict.agreement import compare_logits

PHOTOS, CLASSES, BUILDS = 240, 20, 3


def beyond(rng: np.random.Generator, noise: float, factor: float) -> bool:
    base = rng.standard_normal((PHOTOS, CLASSES)).astype(np.float32)

    def build(scale: float) -> np.ndarray:
        return base + np.float32(scale) * rng.standard_normal(base.shape).astype(np.float32)

    sides = {"old": [build(noise) for _ in range(BUILDS)], "new": [build(noise * factor) for _ in range(BUILDS)]}
    _, alike = agreements_of(sides, None, compare_logits)
    assert alike is not None
    return not (alike.answers and alike.logits)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    rng = np.random.default_rng(0)
    for factor in (1.0, 1.5, 2.0):
        for noise in (0.003, 0.01, 0.05, 0.2):
            share = np.mean([beyond(rng, noise, factor) for _ in range(runs)])
            print(f"noise {noise}, of the new side {factor} times that: {share:.1%}", flush=True)


if __name__ == "__main__":
    main()
