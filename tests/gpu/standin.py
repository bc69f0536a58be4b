"""The whole way of TensorRT with a stand-in in its place: python tests/gpu/standin.py FOLDER

Prepare with `--prepare FOLDER` on a machine that reaches the package index: that fetches the API of TensorRT 10.13 and
11.4, and what a GPU machine without an index lacks (PyCUDA's source archive and some wheels, for --python). Then, where
the GPU is, it builds PyCUDA if need be and runs, with real buffers, streams and graph capture but PyTorch's kernels in
the engine's place:

- `pytest bench/ --require tensorrt` with the stand-in of either version: status 0
- `ab --rebuilds 3` of 10.13 against 11.4: 0; against one that answers wrong: 1; against one that is 3 % slower: 1

Statuses, seconds and logs go to --out (by default $OUT, or FOLDER/out); status 0 if all are as they should be.
Without a GPU the same runs on the CPU, with a tiny model and a stand-in CUDA: no time means anything there, and the
slower side is a hundred times as slow. It is no TensorRT, and no number of it says anything about TensorRT.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch

from tests.tensorrt_api.host_device import write_packages
from tests.tensorrt_api.standin import VIOLATIONS_FILE, Flaws, write_package

VERSIONS = {"10.13": "tensorrt-cu12-bindings==10.13.0.35", "11.4": "tensorrt-cu13-bindings==11.4.0.106"}
# What such a machine may lack; without what these need in turn that is there already.
WHEELS = ("nvidia-ml-py", "pytest-benchmark", "py-cpuinfo", "pytools", "mako", "siphash24",
          "platformdirs", "markupsafe", "typing-extensions", "filelock", "psutil", "rich", "markdown-it-py", "mdurl",
          "pygments", "setuptools", "wheel")  # fmt: skip
EXPECTATIONS = """
[default]
agreement = 0.80
cosine = 0.90
sqnr_db = 10.0
delta = {delta}
absolute_floor_us = {floor}
"""


def prepare(folder: Path, python: str) -> None:
    """Fetch what the run needs and cannot make by itself."""
    from tests.tensorrt_api.fetch import api

    folder.mkdir(parents=True, exist_ok=True)
    for version, package in VERSIONS.items():
        (folder / f"{version}.json").write_text(json.dumps(api(package)))
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder / "packages")]
    platforms = [f"--platform=manylinux_2_{n}_x86_64" for n in (28, 27, 17, 12)] + ["--platform=manylinux2014_x86_64"]
    subprocess.run(
        [*download, "--only-binary=:all:", f"--python-version={python}", *platforms, *WHEELS], check=True, cwd=folder
    )
    # Its own build asks for what is there already (setuptools, numpy).
    subprocess.run([*download, "--no-binary=pycuda", "--no-build-isolation", "pycuda"], check=True, cwd=folder)


def install(folder: Path, base: Path) -> None:
    """What is missing here, from the prepared folder into `base`; PyCUDA is compiled, in about two minutes."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(base)]
    wanted = {"pynvml": "nvidia-ml-py", "pytools": "pytools",
              "pytest_benchmark": "pytest-benchmark", "cpuinfo": "py-cpuinfo", "mako": "mako",
              "markupsafe": "markupsafe", "siphash24": "siphash24", "platformdirs": "platformdirs",
              "filelock": "filelock", "psutil": "psutil", "rich": "rich", "markdown_it": "markdown-it-py",
              "mdurl": "mdurl", "pygments": "pygments", "setuptools": "setuptools", "wheel": "wheel"}  # fmt: skip
    missing = [name for module, name in wanted.items() if importlib.util.find_spec(module) is None]
    packages = str(folder / "packages")
    if missing:
        subprocess.run([*pip, "--find-links", packages, *missing], check=True)
    if importlib.util.find_spec("pycuda") is None:
        environment = {**os.environ, "PYTHONPATH": str(base), "MAKEFLAGS": f"-j{os.cpu_count()}"}
        subprocess.run([*pip, "--find-links", packages, "--no-build-isolation", "pycuda"], check=True, env=environment)


def environment(folder: Path, name: str, base: Path, api: Path, flaws: Flaws) -> Path:
    """The packages' folder of a virtual environment that has a stand-in and sees everything that this Python sees."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / name)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / name / "lib" / version / "site-packages"
    seen = [str(base), *dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])]
    (site / "everything.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in seen))
    write_package(site, json.loads(api.read_text()), flaws)
    return site


class Runs:
    """The commands, what they ended with, and what they should have."""

    def __init__(self, out: Path, extra: Mapping[str, str]) -> None:
        self._out, self._extra = out, extra
        self.results: list[dict[str, Any]] = []
        self._violations = out / "violations.txt"
        self._violations.write_text("")

    def run(self, name: str, wanted: int, command: Sequence[str], paths: Sequence[Path]) -> None:
        python_path = os.pathsep.join(map(str, [*paths, *filter(None, [os.environ.get("PYTHONPATH")])]))
        start = time.monotonic()
        with (self._out / f"{name}.log").open("w") as log:
            log.write("A stand-in ran here, no TensorRT: nothing below says anything about TensorRT.\n")
            log.flush()
            status = subprocess.run(
                list(command),
                cwd=ROOT,
                env={**os.environ, **self._extra, "PYTHONPATH": python_path, VIOLATIONS_FILE: str(self._violations)},
                stdout=log,
                stderr=subprocess.STDOUT,
                check=False,
            ).returncode
        seconds = round(time.monotonic() - start, 1)
        self.results.append({"run": name, "status": status, "wanted": wanted, "seconds": seconds})
        print(
            f"{'ok  ' if status == wanted else 'FAIL'} {name}: status {status}, wanted {wanted}, {seconds} s",
            flush=True,
        )

    def finish(self) -> int:
        violations = self._violations.read_text().splitlines()
        print(f"{'FAIL' if violations else 'ok  '} violations: {violations or 'none'}")
        summary = {"stand_in": True, "device": device_name(), "runs": self.results, "violations": violations}
        (self._out / "standin.json").write_text(json.dumps(summary, indent=1) + "\n")
        return 1 if violations or any(each["status"] != each["wanted"] for each in self.results) else 0


def device_name() -> str:
    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU, with a stand-in CUDA"


def everything(folder: Path, out: Path, weights: Path | None) -> int:
    """All runs."""
    gpu = torch.cuda.is_available()
    out.mkdir(parents=True, exist_ok=True)
    work = out.resolve() / "work"
    base = work / "base"
    base.mkdir(parents=True, exist_ok=True)
    if gpu:
        start = time.monotonic()
        install(folder, base)
        print(f"packages installed in {time.monotonic() - start:.0f} s", flush=True)
    else:
        write_packages(base)
    kinds = {
        "old": ("10.13", Flaws()),
        "new": ("11.4", Flaws()),
        "wrong": ("11.4", Flaws(wrong=True)),
        "slower": ("11.4", Flaws(slower=0.03 if gpu else 100.0)),
    }
    sites = {
        name: environment(work, name, base, folder / f"{version}.json", flaws)
        for name, (version, flaws) in kinds.items()
    }
    expectations = work / "expectations.toml"
    expectations.write_text(EXPECTATIONS.format(delta=0.015 if gpu else 1.0, floor=2 if gpu else 20000))
    common = ["--device", "cuda", "--plan-cache", str(work / "cache"), "--expectations", str(expectations)]
    common += ["--model", "resnet50" if gpu else "small"]
    if weights is not None:
        common += ["--weights", f"resnet50={weights}"]
    host = [] if gpu else ["-p", "tests.tensorrt_api.host_device"]
    command = [sys.executable, "-m", "trtgate" if gpu else "tests.tensorrt_api.host_device"]
    runs = Runs(out, {} if gpu else {"OMP_NUM_THREADS": "1"})
    sizes = ["--batch-size", "1", "--batch-size", "32" if gpu else "4"]
    for side in ("old", "new"):
        bench = [sys.executable, "-m", "pytest", "bench/", "-p", "no:cacheprovider", *host, *common, *sizes]
        runs.run(
            f"bench-{kinds[side][0]}",
            0,
            [*bench, "--engine", "pytorch-fp32", "--require", "tensorrt", "--streams", "2"],
            [sites[side], base],
        )
    for side, wanted, rebuilds in (("new", 0, "3"), ("wrong", 1, "1"), ("slower", 1, "1")):
        pythons = [f"--{kind}={work / name / 'bin' / 'python'}" for kind, name in (("old", "old"), ("new", side))]
        ab = [*command, "ab", *pythons, "--engine", "tensorrt-fp16", "--batch-size", "8" if gpu else "1"]
        report = ["--rebuilds", rebuilds, "--json", str(out / f"ab-{side}.json")]
        runs.run(f"ab-{side}", wanted, [*ab, *common, *report], [base])
    return runs.finish()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--python", default="3.12", help="of the GPU machine, for --prepare")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--weights", type=Path, help="of ResNet-50")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if options.prepare:
        prepare(folder, options.python)
        return 0
    out = options.out or (Path(os.environ["OUT"]) if os.environ.get("OUT") else folder / "out")
    return everything(folder, out, options.weights)


if __name__ == "__main__":
    sys.exit(main())
