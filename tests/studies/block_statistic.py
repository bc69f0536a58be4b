"""Which number should stand for a block, and into how many parts should a round cut it?

    python tests/studies/block_statistic.py [--races N] [--load] [--model M] [--engine E]

Races an engine against itself, its rounds cut into one, two or four parts in turns, then judges the same raw times by
every block statistic: the width of the interval, how many of the A/A races pass at delta 5 %, and how many are found
when one arm is multiplied by 1.10 (delta 5 %) or 1.05 (delta 2.5 %). --load keeps another process computing meanwhile.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dataclasses import replace

from trtgate.commands.selftest import SAME, slowed_arm, trial_of
from trtgate.engines import parse_spec
from trtgate.measure.race import SCHEDULES, Race, run_race
from trtgate.options import add_options, read_settings
from trtgate.progress import console_progress
from trtgate.verdict import Outcome
from trtgate.verdict.paired import decide_paired, interval
from trtgate.verdict.shape import STATISTICS
from trtgate.workbench import Workbench

PARTS = (1, 2, 4)


def row(parts: int, statistic: str, races: list[Race]) -> str:
    """One line of the table."""
    widths, outcomes = [], {name: [] for name in ("same", "10 %", "5 %")}
    for race in races:
        old, new = (replace(race, statistic=statistic).round_latencies(arm) for arm in ("old", "new"))
        _, low, high = interval(np.log(new / old))
        widths.append(high - low)
        outcomes["same"].append(decide_paired(old, new, delta=0.05).outcome)
        outcomes["10 %"].append(decide_paired(old, 1.10 * new, delta=0.05).outcome)
        outcomes["5 %"].append(decide_paired(old, 1.05 * new, delta=0.025).outcome)
    cells = [
        str(parts),
        statistic,
        f"{np.median(widths):.1%}",
        str(outcomes["same"].count(Outcome.REGRESSED)),
        str(outcomes["same"].count(Outcome.PASS)),
        str(outcomes["10 %"].count(Outcome.REGRESSED)),
        str(outcomes["5 %"].count(Outcome.REGRESSED)),
        str((outcomes["10 %"] + outcomes["5 %"]).count(Outcome.PASS)),
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser.add_argument)
    parser.add_argument("--races", type=int, default=14)
    parser.add_argument("--load", action="store_true")
    options = parser.parse_args()
    options.model = options.model or ["efficientnet_lite0"]
    options.engine = options.engine or ["onnxruntime-int8"]
    settings = read_settings(lambda name: getattr(options, name))
    progress = console_progress()
    burner = [sys.executable, "-c", "while True: sum(i * i for i in range(10_000))"]
    with Workbench(settings.models[0], settings, progress) as bench:
        engine, batch = bench.engine(parse_spec(options.engine[0])), bench.batch(settings.batch_sizes[0])
        arms = [slowed_arm(name, engine, batch, SAME.waits(0.0)) for name in ("old", "new")]
        schedule = trial_of(SCHEDULES[settings.device])
        races: dict[int, list[Race]] = {parts: [] for parts in PARTS}
        load = subprocess.Popen(burner) if options.load else None
        try:
            with progress.step("racing") as count:
                for index in range(options.races):
                    for parts in PARTS:
                        races[parts].append(run_race(arms, replace(schedule, passes=parts, rounds=15)))
                    count(index + 1, options.races)
        finally:
            if load is not None:
                load.kill()
    print(f"{options.races} races a row, {'loaded' if options.load else 'quiet'}")
    print("| parts | statistic | width | false alarms | A/A passed | 10 % found | 5 % found | slowed passed |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for parts in PARTS:
        for statistic in STATISTICS:
            print(row(parts, statistic, races[parts]))


if __name__ == "__main__":
    main()
