"""How often a search names the right version, by how much processes differ: python tests/studies/search.py [TIMES]

Simulated with the gate's own rule, as in tests/test_bisection.py: 12 versions, a change of 5 % at each of the 11 places
TIMES times (30), a delta of 2 %, 6 processes a side of 15 rounds.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.test_bisection import LAST, raced, run, step_at
from trtgate.verdict.bisection import Kind


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    rng = np.random.default_rng(1)
    # What processes differ by, and what their rounds do.
    for spread, noise in ((0.004, 0.003), (0.01, 0.01), (0.015, 0.03), (0.025, 0.03)):
        counts: collections.Counter[str] = collections.Counter()
        lengths = []
        for first_bad in [*range(1, LAST + 1)] * times:
            answer, races = run(step_at(first_bad), raced(rng, spread, noise))
            named = answer.kind in {Kind.FOUND, Kind.BETWEEN}
            counts[("right" if answer.bad == first_bad else "WRONG") if named else answer.kind.value] += 1
            lengths.append(len(races))
        print(f"{spread:.1%}: {dict(counts)}, {np.mean(lengths):.1f} races, at most {max(lengths)}", flush=True)


if __name__ == "__main__":
    main()
