"""Does a slowdown hide from the gate that leaves the fastest calls alone? Six kinds of it, on a real engine.

    python tests/studies/slowdowns.py [--races N] [--same N] [--model M] [--engine E] [--device D] [--json FILE]

Races an engine against itself (`--same` times) and against itself slowed in each of six ways (`--races` times each), in
turns, decided by the limits of expectations.toml and prints what each came to.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.commands.selftest import Slowdown, run_selftest, selftest_lines, summary
from trtgate.engines import parse_spec
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import SCHEDULES
from trtgate.options import add_options, read_settings
from trtgate.progress import console_progress
from trtgate.workbench import Workbench

SLOWDOWNS = (
    Slowdown("every second call +40 %", 0.5, 0.4),
    Slowdown("60 % of the calls +20 %", 0.6, 0.2),
    Slowdown("90 % of the calls +50 %", 0.9, 0.5),
    Slowdown("45 % of the calls x2", 0.45, 1.0),
    Slowdown("2 % of the calls x2", 0.02, 1.0),
    Slowdown("8 % of the calls x3", 0.08, 2.0),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=40)
    parser.add_argument("--same", type=int, default=60)
    parser.add_argument("--json", type=Path)
    add_options(parser.add_argument)
    options = parser.parse_args()
    options.model = options.model or ["efficientnet_lite0"]
    options.engine = options.engine or ["onnxruntime-int8"]
    settings = read_settings(lambda name: getattr(options, name))
    name, spec = settings.models[0], parse_spec(options.engine[-1])
    with Workbench(name, settings) as bench:
        result = run_selftest(
            bench.engine(spec),
            bench.batch(settings.batch_sizes[0]),
            model=name,
            size=settings.batch_sizes[0],
            races=(options.same, options.races),
            slowdowns=SLOWDOWNS,
            expectation=settings.expectations.of(name, spec.id),
            schedule=SCHEDULES[settings.device],
            monitor=monitor_for(settings.device),
            progress=console_progress(),
        )
    for line in selftest_lines(result):
        print(line)
    if options.json:
        options.json.write_text(json.dumps(summary(result)))


if __name__ == "__main__":
    main()
