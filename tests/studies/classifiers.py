"""Which of torchvision's classifiers pass the suite untrained: finite answers, the precision asked for, a plan.

    python tests/studies/classifiers.py [--device D] [--engine E] ... [--minutes N] [--logs DIR] [MODEL] ...

Without models all of torchvision's are run, one process each, and each is a line of the table that is printed, with
the sentences of what was skipped; what was said in full goes to DIR. Nothing is downloaded. The FP16 graph, which only
a GPU's engines run, is made and compared with the FP32 graph on the CPU, whatever the device.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENGINES = {
    "cpu": ("onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8"),
    "cuda": ("onnxruntime-fp32", "onnxruntime-fp16", "pytorch-fp16-fused", "pytorch-bf16-graph"),
}

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
# ONNX Runtime's NchwcTransformer, which is for CPUs, crashes on the FP16 graph of a Vision Transformer (1.32).
options = {"providers": ["CPUExecutionProvider"], "disabled_optimizers": ["NchwcTransformer"]}
a, b = (onnxruntime.InferenceSession(f, **options).run(None, {"input": noise})[0] for f in (fp32, fp16))
print(f"{np.abs(a - b).max() / np.abs(a).max():.0e}")
"""


def offline(folder: Path) -> dict[str, str]:
    """An environment in which torch.hub finds nothing and proxies lead nowhere."""
    nowhere = "http://127.0.0.1:9"
    return {**os.environ, "TORCH_HOME": str(folder), "https_proxy": nowhere, "http_proxy": nowhere}


def row(model: str, device: str, engines: Sequence[str], folder: Path, minutes: float, logs: Path | None = None) -> str:
    """One model's line."""
    chosen = ["--device", device, *(word for engine in engines for word in ("--engine", engine))]
    cache = folder / "plans"
    start = time.monotonic()
    command = [
        *(sys.executable, "-m", "pytest", "bench/", "-q", "-p", "no:cacheprovider", "--model", model, *chosen),
        *("-k", "finite or precision or plan", "--plan-cache", str(cache), "-rfEs"),
    ]
    with subprocess.Popen(
        command, cwd=ROOT, env=offline(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        try:
            said, _ = run.communicate(timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            run.terminate()  # it ends what it has started
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.communicate(timeout=60)
            return f"| {model} | not run in {minutes:g} minutes | - | {time.monotonic() - start:.0f} |"
        finally:
            run.kill()
    seconds = time.monotonic() - start
    if logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"{model}.txt").write_text(said)
    counts = re.findall(r"(\d+) (passed|failed|skipped|error)", said)
    failed = re.findall(r"^(?:FAILED|ERROR) \S+::(\S+)", said, re.MULTILINE)
    skipped = dict.fromkeys(re.findall(r"^SKIPPED \[\d+\] \S+ (?:[\w-]+: )?(.*)", said, re.MULTILINE))
    outcome = "; ".join(
        filter(None, [", ".join(f"{count} {what}" for count, what in counts) or "none", *failed, *skipped])
    )
    graphs = [path for path in cache.glob("graphs/*/graph.onnx") if '"kind": "fp32"' in _manifest(path)]
    error = "-"
    if graphs:
        made = subprocess.run(
            [sys.executable, "-c", HALF, str(graphs[0])], cwd=ROOT, capture_output=True, text=True, check=False
        )
        words = made.stdout.strip() or made.stderr.strip()
        error = words.splitlines()[-1][:80] if words else f"ended with status {made.returncode}"
    return f"| {model} | {outcome} | {error} | {seconds:.0f} |"


def _manifest(graph: Path) -> str:
    return graph.with_name("manifest.json").read_text()


def main() -> None:
    """Run the models one after the other and print the table as it grows."""
    from torchvision import models

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--device", choices=ENGINES, default="cpu")
    parser.add_argument("--engine", action="append", default=[])
    parser.add_argument("--minutes", type=float, default=60.0, help="give a model up after so many")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what each run said")
    options = parser.parse_args()
    print("| model | outcome | FP16 graph: largest error | seconds |\n| --- | --- | ---: | ---: |", flush=True)
    for model in options.models or models.list_models(module=models):
        with tempfile.TemporaryDirectory(prefix="trtgate-classifiers-") as folder:
            engines = options.engine or ENGINES[options.device]
            print(row(model, options.device, engines, Path(folder), options.minutes, options.logs), flush=True)


if __name__ == "__main__":
    main()
