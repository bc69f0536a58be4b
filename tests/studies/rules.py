"""What a user would pick instead, at equal measuring time: false alarms and misses of five rules on the same machine.

    python tests/studies/rules.py [--sides N] [--pairs N] [--device D] [--model M] [--engine E] [--slow SHARE]
                                  [--busy] [--out F]

Sides are measured one after the other, each like a run of its own, by this gate (N fresh processes of a few rounds)
and, for the other rules, by one fresh process that times as many iterations in one go. Every process times the engine
twice over: as it is, and slowed by `--slow` (a wait after each inference, within what is timed). A pair is a side and a
later one, first those next to each other: unchanged against unchanged, unchanged against slowed. A side that is open
for the gate against the one before gets N more processes, as in a run. `--busy` keeps one core busy all along.

The rules: pytest-benchmark's own `--benchmark-compare-fail=median:5%` and `min:5%`; Welch's t-test on the iterations,
one sided at 1 %; nvbench_compare's rule (the means differ by more than the smaller relative standard deviation); this
gate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.studies.drawn import compared
from trtgate.engines.base import Engine
from trtgate.expectations import Expectations, read_expectations
from trtgate.kinds import Block, Device
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import Arm, run_race
from trtgate.measure.spread import PROCESSES, schedule_for
from trtgate.records import EngineRecord, Key, from_json, from_race, joined, to_json
from trtgate.verdict.policy import exit_status

Floats = npt.NDArray[np.float64]
NAMES = ("unchanged", "slowed")


def percentage_rule(field: Callable[[Floats], float], limit: float = 5.0) -> Callable[[Floats, Floats], bool]:
    """pytest-benchmark's own check of one field of its statistics."""
    from pytest_benchmark.utils import PercentageRegressionCheck

    check = PercentageRegressionCheck("value", limit)
    return lambda old, new: bool(check.fails({"value": field(new)}, {"value": field(old)}))


def t_test(old: Floats, new: Floats) -> bool:
    from scipy import stats

    return bool(stats.ttest_ind(new, old, equal_var=False, alternative="greater").pvalue < 0.01)


def nvbench(old: Floats, new: Floats) -> bool:
    noise = min(float(np.std(each) / np.mean(each)) for each in (old, new))
    return float(np.mean(new) / np.mean(old)) - 1 > noise


RULES: Mapping[str, Callable[[Floats, Floats], bool]] = {
    "pytest-benchmark median:5%": percentage_rule(lambda times: float(np.median(times))),
    "pytest-benchmark min:5%": percentage_rule(lambda times: float(np.min(times))),
    "t-test on iterations": t_test,
    "nvbench_compare": nvbench,
}


def arms(engine: Engine, batch: Any, share: float) -> tuple[Arm, ...]:
    """The engine as it is and slowed, in the same way but for the waits."""
    engine.slowed_block(batch, [0.0] * 20)
    wait = share * float(np.median(engine.slowed_block(batch, [0.0] * 20).seconds))

    def arm(name: str, seconds: float) -> Arm:
        def block(n: int) -> Block:
            return engine.slowed_block(batch, [seconds] * n)

        return Arm(name, block)

    return arm(NAMES[0], 0.0), arm(NAMES[1], wait)


def child(task: Mapping[str, Any]) -> dict[str, Any]:
    """What one fresh process measures: rounds for the gate, or `iterations` in one go."""
    from trtgate.measure.worker import Worker

    worker = Worker(cast(Any, None))
    device: Device = task["job"]["device"]
    worker.controls(device)
    worker.open(**task["job"])
    engine = worker._engines[task["job"]["engine"]]
    size = task["job"]["batch_sizes"][0]
    worker.bind(task["samples"], size)
    plain, slowed = arms(engine, worker.batch, task["share"])
    if task["iterations"]:
        return {arm.name: arm.block(task["iterations"]).seconds.tolist() for arm in (plain, slowed)}
    before, *after = worker._controls.values()
    race = run_race(
        [before, plain, slowed, *after],
        schedule_for(device, task["processes"]),
        monitor=monitor_for(device, [os.getpid()])(),
    )
    return {name: to_json(replace(from_race(race, task["job"]["model"], name, name, size, ""))) for name in NAMES}


def measured(task: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", json.dumps(task)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextlib.contextmanager
def busy_core(wanted: bool) -> Iterator[None]:
    """Another process that never rests."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Side:
    """What was measured as if by one run."""

    def __init__(self, task: Mapping[str, Any], count: int) -> None:
        self._task, self.count = task, count
        self._processes: list[dict[str, EngineRecord]] = []
        self.seconds = {"gate": 0.0, "others": 0.0}
        self.grow()
        iterations = sum(sum(map(len, each.samples()[0].blocks["latency"])) for each in self._of(NAMES[0], count))
        start = time.monotonic()
        found = measured({**task, "iterations": iterations})
        self.seconds["others"] = time.monotonic() - start
        self.times = {name: np.array(values) for name, values in found.items()}

    def grow(self) -> None:
        start = time.monotonic()
        for _ in range(self.count):
            found = measured({**self._task, "iterations": 0, "processes": self.count})
            self._processes.append({name: from_json(values) for name, values in found.items()})
        self.seconds["gate"] += time.monotonic() - start

    def _of(self, name: str, count: int) -> list[EngineRecord]:
        return [each[name] for each in self._processes[:count]]

    def record(self, name: str, count: int) -> Mapping[Key, EngineRecord]:
        """The first `count` processes as a record of one engine, disturbed if too many of them were."""
        some = self._of(name, count)
        whole = [each for each in some if each.rounds]
        bad = [each for each in some if each.disturbed or not each.complete]
        found = replace(joined(whole) if whole else some[0], engine="engine", model="model")
        if len(bad) > max(1.0, 0.2 * count):
            found = replace(found, disturbed=bad[0].disturbed or "too many rounds were disturbed")
        return {found.key: found}

    @property
    def grown(self) -> int:
        return len(self._processes)


def decided(old: Side, new: Side, name: str, expectations: Expectations, *, may_grow: bool) -> int:
    """The gate's exit status."""
    baseline = old.record(NAMES[0], old.count)
    report, open_ = compared(baseline, new.record(name, new.count), expectations)
    if open_:
        if may_grow and new.grown == new.count:
            new.grow()
        report, _ = compared(baseline, new.record(name, new.grown), expectations)
    return exit_status(verdict.outcome for verdict in report.verdicts())


def table(counts: Mapping[tuple[str, str], Counter[str]], pairs: int) -> list[str]:
    lines = [f"| rule | false alarms of {pairs} | misses of {pairs} | not decided |", "| --- | ---: | ---: | ---: |"]
    for rule in (*RULES, "this gate"):
        same, slow = (counts[(rule, name)] for name in NAMES)
        lines.append(f"| {rule} | {same['red']} | {slow['green']} | {same['open']} and {slow['open']} |")
    return lines


def study(options: argparse.Namespace, task: Mapping[str, Any], count: int) -> dict[str, Any]:
    expectations = read_expectations()
    counts: dict[tuple[str, str], Counter[str]] = {
        (rule, name): Counter() for rule in (*RULES, "this gate") for name in NAMES
    }
    statuses: dict[str, Counter[int]] = {name: Counter() for name in NAMES}
    ratios: list[dict[str, float]] = []
    sides: list[Side] = []
    for index in range(options.sides):
        sides.append(Side(task, count))
        if index:
            found = [decided(*sides[-2:], name, expectations, may_grow=True) for name in NAMES]
            print(f"side {index}: gate ends with {found}", flush=True)
    lags = [(old, old + lag) for lag in range(1, options.sides) for old in range(options.sides - lag)]
    pairs = [(sides[old], sides[new]) for old, new in lags[: options.pairs]]
    for old, new in pairs:
        for name in NAMES:
            for rule, fails in RULES.items():
                red = fails(old.times[NAMES[0]], new.times[name])
                counts[(rule, name)]["red" if red else "green"] += 1
            status = decided(old, new, name, expectations, may_grow=False)
            statuses[name][status] += 1
            counts[("this gate", name)][{0: "green", 1: "red"}.get(status, "open")] += 1
        ratios.append({f.__name__: float(f(new.times[NAMES[0]]) / f(old.times[NAMES[0]])) for f in (np.median, np.min)})
    seconds = {kind: float(np.median([each.seconds[kind] for each in sides])) for kind in ("gate", "others")}
    return {
        "table": table(counts, len(pairs)),
        "statuses": {name: dict(found) for name, found in statuses.items()},
        "seconds of a side": seconds,
        "sides that grew": sum(each.grown > count for each in sides),
        "ratios of one side to another, unchanged": ratios,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--engine", default="onnxruntime-int8")
    parser.add_argument("--slow", type=float, default=0.07)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(child(json.loads(options.child))))
        return
    import torch

    from trtgate.engines import parse_spec
    from trtgate.settings import Settings
    from trtgate.signature import save_tensors
    from trtgate.workbench import Workbench

    settings = Settings(models=(options.model,), device=options.device, engines=(parse_spec(options.engine),))
    with (
        tempfile.TemporaryDirectory() as made,
        Workbench(options.model, settings) as bench,
    ):
        folder = Path(made)
        spec = parse_spec(options.engine)
        bench.plan(spec)
        torch.save(bench.model, folder / "model.pt")
        samples = folder / "samples"
        save_tensors(samples, [bench.batch(1)])
        job = {**bench.job(spec, 0, None, samples), "anew": False, "module": str(folder / "model.pt")}
        task = {"job": job, "samples": str(samples), "share": options.slow}
        with busy_core(options.busy):
            found = study(options, task, PROCESSES[options.device])
    print(json.dumps({key: value for key, value in found.items() if key != "table"}))
    print("\n".join(found["table"]))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
