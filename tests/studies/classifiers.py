"""Which of torchvision's classifiers pass the suite untrained: finite answers, the precision asked for, a plan.

    python tests/studies/classifiers.py [--engine E] ... [MODEL] ...

Without models all of torchvision's are run, one process each, and each is a line of the table that is printed.
Nothing is downloaded. The FP16 graph, which only a GPU runs, is made and compared with the FP32 graph on the CPU.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8")
LIMIT_SECONDS = 3600

HALF = """
import sys, warnings
from pathlib import Path
import numpy as np, onnx, onnxruntime
from trtgate.graphs import half
warnings.simplefilter("ignore")
fp32, fp16 = Path(sys.argv[1]), Path(sys.argv[1]).with_name("half.onnx")
half.convert(fp32, fp16)
size = onnx.load(fp32, load_external_data=False).graph.input[0].type.tensor_type.shape.dim[2].dim_value
noise = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
a, b = (onnxruntime.InferenceSession(f, providers=["CPUExecutionProvider"]).run(None, {"input": noise})[0]
        for f in (fp32, fp16))
print(f"{np.abs(a - b).max() / np.abs(a).max():.0e}")
"""


def offline(folder: Path) -> dict[str, str]:
    """An environment in which torch.hub finds nothing and proxies lead nowhere."""
    nowhere = "http://127.0.0.1:9"
    return {**os.environ, "TORCH_HOME": str(folder), "https_proxy": nowhere, "http_proxy": nowhere}


def row(model: str, engines: list[str], folder: Path) -> str:
    """One model's line."""
    chosen = [word for engine in engines for word in ("--engine", engine)]
    cache = folder / "plans"
    start = time.monotonic()
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "bench/", "-q", "-p", "no:cacheprovider", "--model", model, *chosen),
            *("-k", "finite or precision or plan", "--plan-cache", str(cache), "-rfEs"),
        ],
        cwd=ROOT,
        env=offline(folder),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    seconds = time.monotonic() - start
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", run.stdout)
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", run.stdout, re.MULTILINE)
    outcome = ", ".join(f"{count} {what}" for count, what in counts) or "none"
    graphs = [path for path in cache.glob("graphs/*/graph.onnx") if '"kind": "fp32"' in _manifest(path)]
    error = "-"
    if graphs:
        made = subprocess.run(
            [sys.executable, "-c", HALF, str(graphs[0])], cwd=ROOT, capture_output=True, text=True, check=False
        )
        error = made.stdout.strip() or made.stderr.strip().splitlines()[-1][:80]
    return f"| {model} | {outcome}{': ' + ', '.join(failed) if failed else ''} | {error} | {seconds:.0f} |"


def _manifest(graph: Path) -> str:
    return graph.with_name("manifest.json").read_text()


def main() -> None:
    """Run the models one after the other and print the table as it grows."""
    from torchvision import models

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--engine", action="append", default=[])
    options = parser.parse_args()
    print("| model | outcome | FP16 graph: largest error | seconds |\n| --- | --- | ---: | ---: |", flush=True)
    for model in options.models or models.list_models(module=models):
        with tempfile.TemporaryDirectory(prefix="trtgate-classifiers-") as folder:
            print(row(model, options.engine or list(ENGINES), Path(folder)), flush=True)


if __name__ == "__main__":
    main()
