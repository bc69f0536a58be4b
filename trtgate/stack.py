"""The stack under test: hardware and software, read without importing any backend's runtime."""

from __future__ import annotations

import contextlib
import functools
import importlib.machinery
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import psutil

from trtgate.kinds import Device
from trtgate.nvml import current_gpu

# Distribution names whose version makes the stack, in the order they are printed. One runtime can come in several
# distributions (CPU and GPU wheels of ONNX Runtime, TensorRT by CUDA version); the first on the path counts, of several
# in one folder the first of these.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "openvino": ("openvino",),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-rtx", "tensorrt-rtx-cu13-bindings"),
    "triton": ("triton",),
    "pycuda": ("pycuda",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python-headless", "opencv-python"),
}

# What is imported of a runtime, where that is not its name.
MODULES = {"opencv": "cv2"}

# Names the module to use where TensorRT and TensorRT-RTX are both installed.
TENSORRT_CHOICE = "TRTGATE_TENSORRT"

# Fields that change from run to run and explain nothing.
NOISE = frozenset({"node"})


def steady(stack: Mapping[str, Any]) -> dict[str, Any]:
    """A stack without its noise: what two sessions of one stack have in common."""
    return {name: value for name, value in stack.items() if name not in NOISE}


# The instruction sets that decide which kernels a CPU backend picks.
INSTRUCTION_SETS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)


def version_of(runtime: str) -> str | None:
    """The installed version of one of DISTRIBUTIONS, or None; of TensorRT and TensorRT-RTX that which is used.

    One that is installed by none of those names, as nightly builds are, has that of whatever brings its module: without
    one all of them would share their plans.
    """
    found = installed_of(DISTRIBUTIONS[runtime]) or installed_of(
        _bringing(MODULES.get(runtime, runtime), tuple(sys.path))
    )
    if runtime == "tensorrt":
        plain, rtx = ([each for each in found if ("rtx" in (each.name or "")) is kind] for kind in (False, True))
        choice = os.environ.get(TENSORRT_CHOICE)
        found = (plain or rtx) if not choice else plain if choice == "tensorrt" else rtx
    return min(found, key=_place).version if found else None


@functools.cache
def _bringing(module: str, path: tuple[str, ...]) -> tuple[str, ...]:
    """The distributions on the path that a module is installed by, which takes a second to find out."""
    if importlib.machinery.PathFinder.find_spec(module, path) is None:
        return ()
    return tuple(filter(None, dict.fromkeys(metadata.packages_distributions().get(module, ()))))


def installed_of(distributions: Iterable[str]) -> list[metadata.Distribution]:
    """Those distributions that are installed."""
    found = []
    for name in distributions:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(metadata.distribution(name))
    return found


def _place(found: metadata.Distribution) -> int:
    """How late on the path of imports a distribution lies: of one runtime in two folders the first is imported, as in
    an environment that sees the system's packages."""
    folder = os.path.realpath(str(found.locate_file("")))
    places = [os.path.realpath(each) for each in sys.path]
    return places.index(folder) if folder in places else len(places)


def cuda_of_tensorrt() -> list[str]:
    """The packages that say which CUDA the installed TensorRT is of: one version is made for several, each with kernels
    of its own."""
    return [each.name for each in installed_of(name for name in DISTRIBUTIONS["tensorrt"] if "-cu" in name)]


@functools.cache
def cpu_model() -> str:
    """The CPU's marketing name; on Arm, where Linux gives none, the machine's architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return re.sub(r"\s+", " ", value).strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def cpu_features() -> frozenset[str]:
    """Those of INSTRUCTION_SETS that the kernel reports for this CPU."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    found: set[str] = set()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            found.update(value.split())
            break
    return frozenset(found & set(INSTRUCTION_SETS))


GROUPS, GROUPS_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def cpu_quota(groups: Path = GROUPS, root: Path = GROUPS_ROOT) -> float | None:
    """CPUs' worth of time that the control groups of this process leave it, the least of all; None without a limit.

    Version 2 tells quota and period in `cpu.max`, version 1 in two files of its cpu controller.
    """
    return min(filter(None, map(_quota_in, _control_groups("cpu", groups, root))), default=None)


def memory_left(groups: Path = GROUPS, root: Path = GROUPS_ROOT) -> int:
    """Bytes of memory that are free on this machine, or that a control group of this process allows if that is less."""
    limits = filter(None, map(_memory_in, _control_groups("memory", groups, root)))
    return min([int(psutil.virtual_memory().available), *limits])


def _control_groups(controller: str, groups: Path, root: Path) -> Iterator[Path]:
    """The folders of this process's control groups that may limit what a controller is about, those above them too.

    In a container the path may be the host's, and the container's own group be at the root.
    """
    try:
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        names = (controllers, controller, "cpu,cpuacct") if controllers else (".", "unified")
        here = PurePosixPath(path.lstrip("/"))
        for mount in (root / name for name in names):
            yield from {mount / here, *(mount / above for above in here.parents), mount}


def _memory_in(folder: Path) -> int | None:
    """Bytes that one control group allows: version 2 has them in `memory.max`, version 1 in the other file."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            return int((folder / name).read_text())
    return None


def _quota_in(folder: Path) -> float | None:
    """CPUs' worth of time that one control group allows."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            words = " ".join((folder / name).read_text() for name in names).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max"
            continue
        if quota > 0 and period > 0:
            return quota / period
    return None


@functools.cache
def usable_threads() -> int:
    """Physical cores that this process may keep busy: one thread each, for every backend alike.

    A quota of the control group counts in whole cores: with a thread more, all of them would be halted in every period.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads_for(allowed, psutil.cpu_count(logical=False), cpu_quota())


def threads_for(allowed: int, physical: int | None, quota: float | None) -> int:
    """Threads for so many CPUs that may be used, physical cores, and CPUs' worth of time."""
    return max(1, min(allowed, physical or allowed, allowed if quota is None else int(quota)))


def quota_note(quota: float | None, threads: int) -> str | None:
    """What a quota does to a measurement, in words; None without one."""
    if quota is None:
        return None
    halted = "; less than one core is halted in every period, inside iterations" if quota < 1 else ""
    return (
        f"a CPU quota of {quota:g} cores (cgroup) limits this process to {threads} thread{'s' * (threads > 1)}{halted}"
    )


def cuda_facts() -> dict[str, Any]:
    """The GPU, its driver, and the CUDA libraries that PyTorch brings, as plain JSON values; empty without a GPU."""
    gpu = current_gpu()
    if gpu is None:
        return {}
    facts = gpu.identity()
    try:
        import torch
    except ImportError:
        return facts
    return {**facts, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def cuda_needs() -> dict[str, str]:
    """Which CUDA each installed package was made for, "12.9" or "13", by the package's name."""
    found = {}
    try:
        import torch
    except ImportError:
        pass
    else:
        if torch.version.cuda:
            found["torch"] = torch.version.cuda
    # A package that was removed in part has no name.
    names = filter(None, (each.metadata["Name"] for each in metadata.distributions()))
    installed = {name.lower().replace("_", "-") for name in names}
    for name in sorted(installed):
        major = re.fullmatch(r"tensorrt(?:-rtx|-lean)?-cu(\d\d)", name)
        if major:
            found[name] = major[1]
    for name in ("cuda-bindings", "cuda-python"):
        if name in installed:
            found[name] = ".".join(metadata.version(name).split(".")[:2])
            break
    if "tensorrt" in installed and metadata.version("tensorrt").startswith("8."):
        found["tensorrt"] = "12"
    return found


def stack(threads: int | None = None, device: Device = "cpu") -> dict[str, Any]:
    """The fingerprint of this machine and its software, as plain JSON values; a GPU counts where it does the work."""
    return {
        **(cuda_facts() if device == "cuda" else {}),
        "device": device,
        "cpu": cpu_model(),
        "cpu_features": sorted(cpu_features()),
        "threads": threads or usable_threads(),
        "cpu_quota": cpu_quota(),
        "logical_cpus": os.cpu_count(),
        "node": platform.node(),
        "kernel": platform.release(),
        "system": platform.system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{runtime: version_of(runtime) for runtime in DISTRIBUTIONS},
    }


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`field: old -> new` for every leaf that differs, in the order of the names; digests are shortened."""
    changes = []
    for name in sorted({*old, *new}):
        before, after = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changes += changed_fields(before, after, f"{prefix}{name}.")
        elif before != after:
            changes.append(f"{prefix}{name}: {_short(before)} -> {_short(after)}")
    return changes


def _short(value: Any) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text
