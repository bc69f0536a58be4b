"""Is an A/B run to be trusted? The same environment on both sides, and one slowed by a known share.

    python tests/studies/ab.py --old PYTHON --new PYTHON [--runs N] [--slowdown 10%] [--model M] [--engine E]

Runs `trtgate ab` with `--new` on both sides N times, which must pass, and then N times against the same environment
whose every inference is followed by a busy wait, which must be found. `--old` is the environment for a last run of old
against new with both models, FP32 and INT8: what the upgrade did.
"""

from __future__ import annotations

import argparse
import collections
import os
import stat
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.ab.results import AbReport
from trtgate.ab.run import run_ab
from trtgate.options import add_options, read_settings
from trtgate.progress import SILENT
from trtgate.report.pages import ab_page
from trtgate.report.terminal import render
from trtgate.settings import Settings

SLOW = """
import time
import onnxruntime

plain = onnxruntime.InferenceSession.run

def run(self, *arguments, **keywords):
    start = time.perf_counter()
    result = plain(self, *arguments, **keywords)
    end = time.perf_counter()
    until = end + {share} * (end - start)
    while time.perf_counter() < until:
        pass
    return result

onnxruntime.InferenceSession.run = run
"""


def slowed(python: Path, share: float, folder: Path) -> Path:
    """A python whose ONNX Runtime waits after every inference for that share of its time."""
    (folder / "sitecustomize.py").write_text(SLOW.format(share=share))
    script = folder / "python"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH{os.pathsep}{folder}" exec {python} "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IEXEC)
    return script


def run(old: Path, new: Path, settings: Settings, asked: list[str]) -> tuple[AbReport, float]:
    """One run and the seconds it took."""
    start = time.monotonic()
    report = run_ab({"old": old, "new": new}, settings, asked, rounds=None, rebuilds=None, progress=SILENT)
    return report, time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser.add_argument)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--new", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--slowdown", default="10%")
    options = parser.parse_args()
    options.model = options.model or ["efficientnet_lite0"]
    options.engine = options.engine or ["onnxruntime-int8"]
    settings = read_settings(lambda name: getattr(options, name))
    share = float(options.slowdown.rstrip("%")) / 100
    with tempfile.TemporaryDirectory() as folder:
        for name, new in (("same", options.new), (f"slowed by {share:.0%}", slowed(options.new, share, Path(folder)))):
            outcomes: collections.Counter[str] = collections.Counter()
            seconds = []
            for index in range(options.runs):
                report, took = run(options.new, new, settings, options.engine)
                seconds.append(took)
                for result in report.results:
                    verdict = result.comparison.verdict
                    outcomes[verdict.outcome.value] += 1
                    print(f"{name} {index + 1}: {verdict.outcome.value}: {verdict.message}", flush=True)
            print(f"{name}: {dict(outcomes)} in {sum(seconds):.0f} s", flush=True)
    options.model, options.engine = [], ["onnxruntime-fp32", "onnxruntime-int8"]
    settings = read_settings(lambda name: getattr(options, name))
    for _ in range(2):  # the second time with plans cached
        report, took = run(options.old, options.new, settings, options.engine)
        print(f"old against new, both models, FP32 and INT8: {took:.0f} s")
    print(render(ab_page(report)))


if __name__ == "__main__":
    main()
