"""Comparisons drawn from the processes of saved runs: many more than could be run one by one.

    python tests/studies/drawn.py SAME [SLOWED] [--count N] [--draws N] [--expectations FILE]

SAME is a saved session with many processes of one stack (`pytest bench/ --processes 32 --benchmark-save=same`), SLOWED
one with fewer in which an engine is slower (tests/studies/slowed/). Each draw takes N processes of SAME as the baseline
and N others, or N of SLOWED, as the new side, in the order in which they ran; what is open gets N more, as in a run.
Prints how often each exit status came out, which engines were REGRESSED, and which metrics were open.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.compare import Report, compare_records
from trtgate.expectations import DEFAULT_PATH, Expectations, read_expectations
from trtgate.records import EngineRecord, Key, pack, read_session
from trtgate.verdict.outcome import Outcome
from trtgate.verdict.policy import GOOD, exit_status, more_may_decide
from trtgate.verdict.sessions import LOOKS


def some_of(record: EngineRecord, chosen: Sequence[int]) -> EngineRecord:
    """A record as if only these processes had run."""
    samples = [record.samples()[index] for index in chosen]
    return replace(
        record,
        series={name: tuple(np.concatenate([each.series[name] for each in samples])) for name in record.series},
        iterations={name: pack([b for each in samples for b in each.blocks[name]]) for name in record.iterations},
        processes=tuple(record.processes[index] for index in chosen),
        controls_by_process={
            name: tuple(each[index] for index in chosen) for name, each in record.controls_by_process.items()
        },
        agreement={},
        answers={},
        verdicts=(),
    )


def compared(
    old: Mapping[Key, EngineRecord], new: Mapping[Key, EngineRecord], expectations: Expectations
) -> tuple[Report, set[Key]]:
    """The report, and the engines that more processes may decide."""
    sides = ({key: [record] for key, record in side.items()} for side in (old, new))
    report = compare_records(*sides, expectations, "sessions", {})
    family = sum(len(each.changes) for each in report.engines)
    open_ = {each.key for each in report.engines for verdict in each.verdicts if more_may_decide(verdict, family)}
    return report, open_


def draw(
    rng: np.random.Generator,
    same: Mapping[Key, EngineRecord],
    other: Mapping[Key, EngineRecord] | None,
    count: int,
    expectations: Expectations,
) -> tuple[Report, bool]:
    """One comparison, and whether it took the second look."""
    total = len(next(iter(same.values())).processes)
    order = rng.permutation(total)
    first = sorted(order[:count])
    more = order[count:] if other is None else rng.permutation(len(next(iter(other.values())).processes))
    source = same if other is None else other
    old = {key: some_of(record, first) for key, record in same.items()}
    new = {key: some_of(record, sorted(more[:count])) for key, record in source.items()}
    report, open_ = compared(old, new, expectations)
    if open_:
        new |= {key: some_of(source[key], sorted(more[: LOOKS * count])) for key in open_}
        report, _ = compared(old, new, expectations)
    return report, bool(open_)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("same", type=Path)
    parser.add_argument("slowed", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--expectations", type=Path, default=DEFAULT_PATH)
    options = parser.parse_args()
    expectations = read_expectations(options.expectations)
    same = read_session(options.same).engines
    slowed = read_session(options.slowed).engines if options.slowed else None
    for name, other in (("same", None), ("slowed", slowed)):
        if name == "slowed" and slowed is None:
            continue
        rng = np.random.default_rng(0)
        statuses: Counter[int] = Counter()
        regressed: Counter[str] = Counter()
        left: Counter[str] = Counter()
        second = 0
        for _ in range(options.draws):
            report, grew = draw(rng, same, other, options.count, expectations)
            second += grew
            statuses[exit_status(verdict.outcome for verdict in report.verdicts())] += 1
            for each in report.engines:
                for change in each.changes:
                    found = change.verdict
                    if change.gated and found.outcome is Outcome.REGRESSED:
                        regressed[f"{each.key[0]} {each.key[1]}: {change.metric}"] += 1
                    elif change.gated and found.outcome not in GOOD:
                        left[f"{each.key[0]} {each.key[1]}: {change.metric}"] += 1
        print(f"{name}: exit statuses {dict(statuses)}, {second} of {options.draws} took a second look")
        print(f"  REGRESSED {dict(regressed)}")
        print(f"  open {dict(left)}")


if __name__ == "__main__":
    main()
