"""What the harness adds: the latency that the suite reports against a bare loop around the same call.

    python tests/studies/harness.py [--model M] [--engine E] ...

The bare loop calls ONNX Runtime's session itself and reads the clock around each call. Both are arms of
one race, so the noise of the machine cancels; printed is the ratio suite / bare with its 99 % interval.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.engines import parse_spec
from trtgate.engines.base import Batch, Block, Engine
from trtgate.engines.onnxruntime import OnnxRuntimeEngine
from trtgate.options import add_options, read_settings
from trtgate.progress import console_progress
from trtgate.race import Arm, Schedule, run_race
from trtgate.verdict.paired import interval
from trtgate.workbench import Workbench, engine_arm


def bare_loop(engine: Engine, batch: Batch) -> Arm:
    """The engine's own ONNX Runtime session in a plain loop: another session would lie elsewhere in memory."""
    assert isinstance(engine, OnnxRuntimeEngine)
    session = engine._session

    def block(n: int) -> Block:
        times = []
        for _ in range(n):
            start = time.perf_counter()
            session.run(["logits"], {"input": batch})
            times.append(time.perf_counter() - start)
        return Block(np.array(times))

    return Arm("bare loop", block)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser.add_argument)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    options.engine = options.engine or ["onnxruntime-fp32", "onnxruntime-int8"]
    settings = read_settings(lambda name: getattr(options, name))
    for name in settings.models:
        with Workbench(name, settings, console_progress()) as bench:
            for text in options.engine:
                spec = parse_spec(text)
                engine, batch = bench.engine(spec), bench.batch(settings.batch_sizes[0])
                arms = [engine_arm(engine, batch, "suite"), bare_loop(engine, batch)]
                race = run_race(arms, Schedule(rounds=options.rounds))
                logs = np.log(race.round_latencies("suite") / race.round_latencies("bare loop"))
                ratio, low, high = map(float, np.exp(interval(logs)))
                print(
                    f"{name} {text}: suite {race.latency('suite') * 1e3:.3f} ms, bare loop "
                    f"{race.latency('bare loop') * 1e3:.3f} ms, ratio {ratio:.4f} [{low:.4f}, {high:.4f}]"
                )


if __name__ == "__main__":
    main()
