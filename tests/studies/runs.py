"""Whole runs, saved and compared, as a user would: how often the exit status is right, and how long each takes.

    python tests/studies/runs.py [--same N] [--slowed N] [--slow ENGINE=SHARE] [--out DIR] [-- PYTEST ARGUMENTS]

Saves one run as the baseline, then compares N runs of the same stack with it, and N in which one engine is slower by
that share (by tests/studies/slowed/). Prints status, seconds and closing lines of each, and a count of the statuses.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SLOWED = Path(__file__).resolve().parent / "slowed"


def run(out: Path, name: str, arguments: list[str], slow: str = "") -> dict[str, Any]:
    """One `pytest bench/`; its log goes to a file of that name."""
    environment = {**os.environ, "SLOWED": slow}
    if slow:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SLOWED), os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "pytest", "bench/", f"--benchmark-storage={out / 'saved'}", *arguments]
    started = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        status = subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=False).returncode
    seconds = round(time.monotonic() - started, 1)
    print(f"{name}: status {status}, {seconds} s", flush=True)
    return {"run": name, "slow": slow, "status": status, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--same", type=int, default=20)
    parser.add_argument("--slowed", type=int, default=20)
    parser.add_argument("--slow", default="openvino-int8=0.1")
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = sys.argv[1:]
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, more = parser.parse_args(arguments[:cut]), arguments[cut + 1 :]
    options.out.mkdir(parents=True, exist_ok=True)
    out = options.out.resolve()
    results = [run(out, "plain", more), run(out, "baseline", [*more, "--benchmark-save=before"])]
    for index in range(max(options.same, options.slowed)):
        if index < options.same:
            results.append(run(out, f"same-{index}", [*more, "--benchmark-compare=before"]))
        if index < options.slowed:
            results.append(run(out, f"slowed-{index}", [*more, "--benchmark-compare=before"], options.slow))
        (out / "runs.json").write_text(json.dumps(results, indent=1))
    for kind in ("same", "slowed"):
        print(kind, dict(Counter(each["status"] for each in results if each["run"].startswith(kind))))


if __name__ == "__main__":
    main()
