"""How long many saved sessions take to be compared, and how much memory: python tests/studies/many_sessions.py [N] [M]

N sessions against N (200) of M engines (40), each of 8 processes with 4 rounds of 39 iterations, answers to 240 crops
and 60 layers, as `pytest bench/ --benchmark-save` writes them. `compare` runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trtgate.records import SCHEMA, EngineRecord, pack, to_json
from trtgate.stack import stack
from trtgate.verdict.answers import answers_of

PROCESSES, ROUNDS, ITERATIONS, PHOTOS, LAYERS = 8, 32, 39, 240, 60


def record(engine: str, rng: np.random.Generator) -> EngineRecord:
    """An engine's record with everything that a whole run keeps."""
    process = np.exp(rng.normal(0, 0.004, PROCESSES)).repeat(ROUNDS // PROCESSES + 1)[:ROUNDS]
    blocks = [1e-3 * each * np.exp(np.abs(rng.normal(0, 0.01, ITERATIONS))) for each in process]
    reference = [4e-3 * each for each in process]
    logits = rng.standard_normal((PHOTOS, 1000)).astype(np.float32)
    counts = [int(each) for each in np.diff(np.linspace(0, ROUNDS, PROCESSES + 1).astype(int))]
    return EngineRecord(
        "resnet50",
        engine,
        1,
        "file",
        {
            "latency": tuple(float(np.min(block)) for block in blocks),
            "typical": tuple(float(np.median(block)) for block in blocks),
            "reference_latency": tuple(reference),
            "host_memory": tuple(1e8 * (1 + 0.01 * rng.random(PROCESSES))),
            "cold_start": tuple(0.5 + 0.01 * rng.random(PROCESSES)),
            "build_seconds": (3.0 + float(rng.random()),),
            "plan_bytes": (25e6,),
        },
        iterations={"latency": pack(blocks)},
        digests={"weights": "0" * 64, "evaluation photos": "1" * 64},
        limits={"delta": 0.05},
        readings={"clock_mhz": 1980.0},
        controls={"control-matmul": 1e-3, "control-copy": 1e-3},
        agreement={"n": PHOTOS, "top1": 238, "top5": 240, "cosine": 0.999, "sqnr_db": 40.0, "finite": True},
        answers=answers_of([f"photo{i}" for i in range(PHOTOS)], logits, logits, np.arange(PHOTOS) // 6).to_json(),
        layer_times={f"layer{i}": {"ms": 0.01, "type": "int8", "nodes": [f"conv{i}"]} for i in range(LAYERS)},
        processes=tuple(counts),
    )


def write(folder: Path, name: str, count: int, engines: int, template: EngineRecord, rng: np.random.Generator) -> None:
    """Sessions under one name, all with the template's answers."""
    here = stack()
    for number in range(1, count + 1):
        records = []
        for index in range(engines):
            scale = float(np.exp(rng.normal(0, 0.004)))
            series = {key: tuple(scale * each for each in values) for key, values in template.series.items()}
            rounds = [scale * np.array([1.0, 1.001, 1.01]) * each for each in template.series["latency"]]
            iterations = {"latency": pack([np.repeat(each, ITERATIONS // 3) for each in rounds])}
            series["latency"] = tuple(float(each[0]) for each in rounds)
            series["typical"] = tuple(float(each[1]) for each in rounds)
            records.append(replace(template, model=f"model{index}", series=series, iterations=iterations))
        document = {
            "machine_info": {"trtgate": here},
            "benchmarks": [{"extra_info": {"trtgate": to_json(each)}} for each in records],
            "datetime": "2026-01-01",
            "trtgate": {"schema": SCHEMA, "skipped": {}, "unfit": [], "partial": []},
        }
        (folder / f"{number:04}_{name}.json").write_text(json.dumps(document))


def main() -> int:
    count, engines = (
        int(sys.argv[index]) if len(sys.argv) > index else default for index, default in ((1, 200), (2, 40))
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / ".benchmarks" / "Linux"
        folder.mkdir(parents=True)
        template = record("onnxruntime-int8", rng)
        for name in ("before", "after"):
            write(folder, name, count, engines, template, rng)
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{count} against {count} sessions of {engines} engines, {size / 2**20:.0f} MB", flush=True)
        command = [sys.executable, "-m", "trtgate", "compare", "before", "after", "--json", "verdict.json"]
        start = time.monotonic()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
        seconds, used = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime
        print(f"status {run.returncode}, {seconds:.1f} s ({cpu:.1f} s of CPU), {used.ru_maxrss / 2**10:.0f} MB at most")
        print("\n".join(run.stdout.splitlines()[-3:]), run.stderr[-1000:])
    return 0 if run.returncode in {0, 1, 6, 7} else 1


if __name__ == "__main__":
    sys.exit(main())
