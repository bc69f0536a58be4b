"""Fuzzes every reader for a while: python tests/fuzz.py [SECONDS], ten minutes by default.

The tests marked `fuzz`, again and again with other seeds and many more examples than `make test` tries. Ends with 1 at
the first that fails, with the seed to run it by.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = 1000


def main() -> int:
    until = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 600)
    seed = int(time.time())
    while time.monotonic() < until:
        command = [sys.executable, "-m", "pytest", "tests/", "-m", "fuzz", "-q", "-x", "-p", "no:cacheprovider"]
        run = subprocess.run(
            [*command, f"--hypothesis-seed={seed}"],
            cwd=ROOT,
            env={**os.environ, "FUZZ_EXAMPLES": str(EXAMPLES)},
            check=False,
        )
        if run.returncode:
            print(f"FUZZ_EXAMPLES={EXAMPLES} {' '.join(command[1:])} --hypothesis-seed={seed}", file=sys.stderr)
            return 1
        seed += 1
    print("nothing was found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
