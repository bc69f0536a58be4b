"""How often a place of a batch is called wrong where none is, and found where one is.

    python tests/studies/places.py [--draws N]

Answers of an INT8 engine are drawn (a detector's boxes, logits, maps): they are off in the smallest batch, and off
otherwise in a larger one; anew in each batch, or once more otherwise at the tail of it, as the end of a tile may be.
Prints how many of the draws were REGRESSED.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.test_places import FAULTS, KINDS, answered
from trtgate.tasks.places import decide_places
from trtgate.verdict.outcome import Outcome

SHAPES = ((64, 32), (32, 32), (8, 32), (16, 8), (64, 2))
ROUNDED = (("alike", False, 0), ("anew", True, 0), ("tail of 1", False, 1), ("tail of 8", False, 8))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    draws = parser.parse_args().draws
    print("| task | samples | places | rounded | fault | REGRESSED |")
    print("| --- | ---: | ---: | --- | --- | ---: |")
    for kind in KINDS:
        for n, size in SHAPES:
            for words, anew, tail in ROUNDED:
                for fault in FAULTS if words == "alike" else ("sound",):
                    found = sum(
                        decide_places(
                            *answered(kind, n, size, FAULTS[fault], seed, anew=anew, tail=min(tail, size - 1))
                        ).outcome
                        is Outcome.REGRESSED
                        for seed in range(draws)
                    )
                    print(f"| {kind} | {n} | {size} | {words} | {fault} | {found} of {draws} |", flush=True)


if __name__ == "__main__":
    main()
