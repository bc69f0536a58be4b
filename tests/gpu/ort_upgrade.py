"""An upgrade of onnxruntime-gpu, gated for real on a GPU: python tests/gpu/ort_upgrade.py FOLDER [STEP ...]

`--prepare FOLDER --old VERSION --new VERSION`, on a machine that reaches the package index, fetches the two wheels for
--python and cuts them into parts of 55 MB. On the GPU machine FOLDER holds, for `old` and `new`, a folder of what pip
installs (`old/onnxruntime`), a wheel (`old.whl`) or its parts (`old.part-*`). PyTorch, onnx and the rest are this
Python's own; NVIDIA's libraries are PyTorch's. STEPs, all by default, each in its own log:

- `bench-old`, `bench-new`: `pytest bench/ --require onnxruntime` of both models at batch 1 and 32: status 0
- `ab`: old against new; any verdict is one
- `aa`: new against itself: status 0

Logs and JSON go to --out (by default $OUT, or FOLDER/out), with `ort_upgrade.json` of statuses, seconds and medians.
Status 0 if all are as they should be.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("old", "new")
STEPS = ("bench-old", "bench-new", "ab", "aa")
ENGINES = ("onnxruntime-fp32", "onnxruntime-fp16")
MODELS = ("resnet50", "efficientnet_lite0")
PART_BYTES = 55 << 20
# A comparison that came to a verdict.
OUTCOMES = (0, 1, 6, 7)


def prepare(folder: Path, versions: dict[str, str], python: str) -> None:
    """Fetch both wheels and cut them into parts."""
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (34, 28, 27)]
    for side, version in versions.items():
        with tempfile.TemporaryDirectory() as scratch:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            more = [f"--python-version={python}", *platforms, f"--dest={scratch}", f"onnxruntime-gpu=={version}"]
            subprocess.run([*download, *more], check=True)
            [wheel] = Path(scratch).glob("*.whl")
            content = wheel.read_bytes()
        parts = range(0, len(content), PART_BYTES)
        for number, start in enumerate(parts):
            (folder / f"{side}.part-{number:02}").write_bytes(content[start : start + PART_BYTES])
        print(f"{side}: {wheel.name}, {len(content) / 2**20:.0f} MB in {len(parts)} parts")


def packages(folder: Path, side: str, work: Path) -> Path:
    """The folder that holds a side's `onnxruntime`, unpacked if need be. Raises SystemExit where there is none."""
    if (folder / side / "onnxruntime").is_dir():
        return folder / side
    parts = [*folder.glob(f"{side}.whl")] or sorted(folder.glob(f"{side}.part-*"))
    if not parts:
        sys.exit(f"{folder} has no {side}, {side}.whl or {side}.part-*; prepare it with --prepare")
    target = work / f"{side}-packages"
    if not target.exists():
        with tempfile.TemporaryFile() as whole:
            for part in parts:
                whole.write(part.read_bytes())
            with zipfile.ZipFile(whole) as wheel:
                wheel.extractall(target)
    return target


def environment(work: Path, side: str, found: Path) -> Path:
    """The Python of a virtual environment with a side's packages before everything that this Python sees."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", str(work / side)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = work / side / "lib" / version / "site-packages"
    for each in found.iterdir():
        (site / each.name).symlink_to(each.resolve())
    seen = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "everything.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    return work / side / "bin" / "python"


def check_version(python: Path) -> str:
    """What that environment imports; it must offer CUDA. Raises SystemExit otherwise."""
    code = "import torch, onnxruntime as o; print(o.__version__, *o.get_available_providers())"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    words = told.stdout.split()
    if told.returncode or "CUDAExecutionProvider" not in words:
        sys.exit(f"{python}: no onnxruntime with CUDA: {told.stdout} {told.stderr}")
    return words[0]


def run(out: Path, name: str, wanted: Sequence[int], command: Sequence[str]) -> dict[str, Any]:
    start = time.monotonic()
    with (out / f"{name}.log").open("w") as log:
        status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    seconds = round(time.monotonic() - start, 1)
    mark = "ok  " if status in wanted else "FAIL"
    print(f"{mark} {name}: status {status}, wanted {' or '.join(map(str, wanted))}, {seconds} s", flush=True)
    return {"run": name, "status": status, "wanted": list(wanted), "seconds": seconds}


def medians(path: Path) -> dict[str, float]:
    """Milliseconds by engine and batch, from a bench's JSON; empty without one."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    records = [each["extra_info"]["trtgate"] for each in document["benchmarks"] if "trtgate" in each["extra_info"]]
    found = {}
    for record in records:
        rounds = sorted(record["series"].get("latency", ()))
        if rounds:
            name = f"{record['model']} {record['engine']} batch {record['batch']}"
            found[name] = round(1e3 * rounds[len(rounds) // 2], 4)
    return found


def everything(folder: Path, out: Path, steps: Sequence[str], options: argparse.Namespace) -> int:
    """The steps that were asked for."""
    out.mkdir(parents=True, exist_ok=True)
    work = (options.work or folder / "work").resolve()
    work.mkdir(parents=True, exist_ok=True)
    pythons = {side: environment(work, side, packages(folder, side, work)) for side in SIDES}
    versions = {side: check_version(python) for side, python in pythons.items()}
    print(f"old {versions['old']}, new {versions['new']}", flush=True)
    common = ["--device=cuda", f"--plan-cache={work / 'cache'}", "--batch-size=1", "--batch-size=32"]
    common += [f"--engine={engine}" for engine in ENGINES] + [f"--model={model}" for model in options.model or MODELS]
    if options.weights is not None:
        common.append(f"--weights=resnet50={options.weights.resolve()}")
    results = []
    for step in steps:
        kind, _, side = step.partition("-")
        if kind == "bench":
            report = out / f"{step}.json"
            bench = ["-m", "pytest", "bench/", "-p", "no:cacheprovider", "--engine=pytorch-fp32", *common]
            command = [*bench, "--require=onnxruntime", f"--benchmark-json={report}"]
            results.append({**run(out, step, (0,), [str(pythons[side]), *command]), "p50_ms": medians(report)})
        else:
            old = pythons["old" if kind == "ab" else "new"]
            command = ["-m", "trtgate", "ab", f"--old={old}", f"--new={pythons['new']}", *common]
            report_to = [f"--json={out / f'{step}.json'}", f"--markdown={out / f'{step}.md'}"]
            wanted = OUTCOMES if kind == "ab" else (0,)
            results.append(run(out, step, wanted, [str(pythons["new"]), *command, *report_to]))
    for each in results:
        for name, milliseconds in each.get("p50_ms", {}).items():
            print(f"{each['run']}: {name}: {milliseconds} ms")
    (out / "ort_upgrade.json").write_text(json.dumps({"versions": versions, "runs": results}, indent=1) + "\n")
    return 0 if all(each["status"] in each["wanted"] for each in results) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--old", metavar="VERSION", help="for --prepare")
    parser.add_argument("--new", metavar="VERSION", help="for --prepare")
    parser.add_argument("--python", default="3.12", help="of the GPU machine, for --prepare")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, help="environments and plans, kept between calls; default FOLDER/work")
    parser.add_argument("--weights", type=Path, help="of ResNet-50")
    parser.add_argument("--model", action="append", help="default both")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.prepare:
        if not options.old or not options.new:
            parser.error("--prepare needs --old and --new")
        prepare(folder, {"old": options.old, "new": options.new}, options.python)
        return 0
    steps = options.steps or STEPS
    if not set(steps) <= set(STEPS):
        parser.error(f"the steps are {', '.join(STEPS)}")
    out = options.out or (Path(os.environ["OUT"]) if os.environ.get("OUT") else folder / "out")
    return everything(folder, out.resolve(), steps, options)


if __name__ == "__main__":
    sys.exit(main())
