"""What the harness adds: the latency that the suite reports against a bare loop around the same call.

    python tests/studies/harness.py [--device D] [--model M] [--engine E] ...

On a CPU the bare loop calls ONNX Runtime's session itself and reads the clock around each call. On a GPU it enqueues a
block of inferences between a single pair of events. Both loops are arms of one race, so the noise of the machine
cancels; printed is the ratio suite / bare with its 99 % interval, and on a GPU what the host spends on each timed
iteration besides handing the inference over.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.engines import parse_spec
from trtgate.engines.base import Engine
from trtgate.engines.gpu import GpuEngine, time_between_events
from trtgate.engines.onnxruntime import OnnxRuntimeEngine
from trtgate.kinds import Block
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import SCHEDULES, Arm, run_race
from trtgate.options import add_options, read_settings
from trtgate.progress import console_progress
from trtgate.signature import Tensors
from trtgate.stack import stack
from trtgate.verdict.paired import interval
from trtgate.workbench import Workbench

EMPTY_ITERATIONS = 2000


def bare_loop(engine: Engine, batch: Tensors) -> Arm:
    """The engine's own session or stream in a plain loop: another one would lie elsewhere in memory."""

    def on_cpu(n: int) -> Block:
        assert isinstance(engine, OnnxRuntimeEngine)
        session = engine._session
        times = []
        for _ in range(n):
            start = time.perf_counter()
            session.run(["logits"], batch)
            times.append(time.perf_counter() - start)
        return Block(np.array(times))

    def on_gpu(n: int) -> Block:
        assert isinstance(engine, GpuEngine)
        with engine.ready(batch) as lane:
            start, end = lane.new_event(), lane.new_event()
            start.record(lane.stream)
            for _ in range(n):
                lane.run()
            end.record(lane.stream)
            lane.synchronize()
            return Block(np.full(n, lane.milliseconds(start, end) / 1e3 / n))

    return Arm("bare loop", on_gpu if isinstance(engine, GpuEngine) else on_cpu)


def host_seconds_per_iteration(engine: GpuEngine, batch: Tensors) -> float:
    """What a timed iteration costs the host when there is nothing between its events."""
    with engine.ready(batch) as lane:
        time_between_events(lane, lambda: None, EMPTY_ITERATIONS)  # makes the events
        start = time.perf_counter()
        time_between_events(lane, lambda: None, EMPTY_ITERATIONS)
        return (time.perf_counter() - start) / EMPTY_ITERATIONS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser.add_argument)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    settings = read_settings(lambda name: getattr(options, name))
    on_gpu = settings.device == "cuda"
    engines = options.engine or (["pytorch-fp16-graph"] if on_gpu else ["onnxruntime-fp32", "onnxruntime-int8"])
    facts = stack(settings.threads, settings.device)
    print(facts.get("gpu") or facts["cpu"], "driver", facts.get("driver"), "torch", facts["torch"])
    schedule = replace(SCHEDULES[settings.device], rounds=options.rounds)
    for name in settings.models:
        with Workbench(name, settings, console_progress()) as bench:
            for text, size in ((text, size) for text in engines for size in settings.batch_sizes):
                engine, batch = bench.engine(parse_spec(text)), bench.batch(size)
                arms = [Arm("suite", lambda n, engine=engine, batch=batch: engine.block(n, batch))]
                race = run_race([*arms, bare_loop(engine, batch)], schedule, monitor=monitor_for(settings.device)())
                logs = np.log(race.round_latencies("suite") / race.round_latencies("bare loop"))
                ratio, low, high = map(float, np.exp(interval(logs)))
                print(
                    f"{name} {text} batch {size}: suite {race.latency('suite') * 1e3:.4f} ms, bare loop "
                    f"{race.latency('bare loop') * 1e3:.4f} ms, ratio {ratio:.4f} [{low:.4f}, {high:.4f}]"
                )
                if isinstance(engine, GpuEngine):
                    print(f"  host: {host_seconds_per_iteration(engine, batch) * 1e6:.2f} us per timed iteration")


if __name__ == "__main__":
    main()
