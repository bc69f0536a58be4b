"""How many sessions a side tell a change of delta: python tests/studies/sessions_needed.py [--trials N]

By simulation of the session rule, seeded. A session's latency varies by `spread` (standard deviation of its logarithm,
normal). Printed is the smallest number a side with which a gate of SERIES series passes an unchanged stack in 95 % of
cases (each series then in 99.94 %), and a series that is slower by delta + 2 points is REGRESSED in 95 %.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.verdict import Outcome
from trtgate.verdict.sessions import decide_sessions

SPREADS = (0.002, 0.005, 0.01, 0.02, 0.03)
DELTAS = (0.02, 0.03, 0.05, 0.10)
NUMBERS = (5, 6, 7, 8, 10, 12, 15, 20, 30)
WANTED = 0.95
SERIES = 88


def share(n: int, spread: float, delta: float, slower: float, outcome: Outcome, trials: int) -> float:
    """How often n sessions a side come to that verdict."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(trials):
        old, new = np.exp(rng.normal(0, spread, (2, n)))
        found += decide_sessions(old, new * (1 + slower), delta=delta).outcome is outcome
    return found / trials


def needed(spread: float, delta: float, trials: int) -> str:
    for n in NUMBERS:
        passed = share(n, spread, delta, 0.0, Outcome.PASS, trials)
        if (
            passed >= WANTED ** (1 / SERIES)
            and share(n, spread, delta, delta + 0.02, Outcome.REGRESSED, trials) >= WANTED
        ):
            return str(n)
    return f"> {NUMBERS[-1]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4000)
    options = parser.parse_args()
    print("| sessions differ by | " + " | ".join(f"delta {delta:.0%}" for delta in DELTAS) + " |")
    print("| ---: |" + " ---: |" * len(DELTAS))
    for spread in SPREADS:
        cells = [needed(spread, delta, options.trials) for delta in DELTAS]
        print(f"| {spread:.1%} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
