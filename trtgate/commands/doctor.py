"""Is this machine fit to gate on? What is installed, what is missing, and what would disturb a measurement."""

from __future__ import annotations

import argparse
import enum
import itertools
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rich.table
from rich.text import Text

from trtgate.engines import DEFAULT_ENGINES, DEVICES, all_specs, available, running_here
from trtgate.kinds import CLOCK_MOVED, OTHERS_ON_CPU, Availability, Device, EngineSpec
from trtgate.measure.monitor import OTHERS_DISTURB, THROTTLING, CpuMonitor
from trtgate.nvml import Gpu, Reading, current_gpu
from trtgate.options import choose_device, with_required
from trtgate.report import markdown
from trtgate.report.terminal import WIDTH, drawn
from trtgate.stack import cpu_quota, cuda_needs, quota_note, stack, usable_threads
from trtgate.verdict.policy import EXIT_INVALID

# How long the machine is watched. Long enough for a clock to come up and, if it will, to go down again.
WATCH_SECONDS = 2.0
# Degrees below the point where the GPU slows itself down.
HOT = 5.0
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


class State(enum.Enum):
    """What a finding means for a gate."""

    OK = "ok"
    NOTE = "note"
    UNFIT = "UNFIT"
    MISSING = "MISSING"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `fix` is a command or an advice, empty where nothing is to be done."""

    name: str
    state: State
    text: str
    fix: str = ""


@dataclass(frozen=True)
class Examination:
    """All engines with their availability, and all findings."""

    engines: tuple[tuple[EngineSpec, Availability], ...]
    findings: tuple[Finding, ...]

    @property
    def status(self) -> int:
        """An exit status: 0 for a machine that is fit, 7 (INVALID) for one that is not, 2 where what is required is
        missing."""
        states = {finding.state for finding in self.findings}
        return 2 if State.MISSING in states else EXIT_INVALID if State.UNFIT in states else 0


def examine(device: Device, required: Sequence[str], gpu: Gpu | None) -> Examination:
    """Look at everything; the GPU is put under load for a moment."""
    engines = tuple((spec, available(spec, device)) for spec in all_specs())
    findings = [*missing_engines(engines, required), *broken_engines(engines, device)]
    if gpu is None:
        findings += [others_on_cpu(watch_cpu()), governor(GOVERNOR), quota(cpu_quota(), usable_threads())]
    else:
        others = gpu.other_processes()
        readings, busy = watch_gpu(gpu)
        findings += cuda_findings(gpu.identity(), cuda_needs())
        findings += gpu_findings(gpu, others, readings, busy)
    return Examination(engines, tuple(findings))


def missing_engines(engines: Sequence[tuple[EngineSpec, Availability]], required: Sequence[str]) -> list[Finding]:
    """A finding for each engine that must be there and is not.

    Requiring a backend does not require what its installed version has no more, nor what runs on another kind of
    processor, unless all of it does.
    """
    wanted = {spec for name in required for spec in running_here(each for each in engines if each[0].backend == name)}
    return [
        Finding(spec.id, State.MISSING, f"required, but {found.reason}", found.fix)
        for spec, found in engines
        if not found.ok and (spec.id in required or (spec in wanted and not found.obsolete))
    ]


def broken_engines(engines: Sequence[tuple[EngineSpec, Availability]], device: Device) -> list[Finding]:
    """A finding for each backend of a run that is installed and cannot be imported: the run would end with 7."""
    found = {spec.backend: each for spec, each in engines if each.broken and spec.id in DEFAULT_ENGINES[device]}
    return [Finding(name, State.UNFIT, each.reason, each.fix) for name, each in found.items()]


def quota(cores: float | None, threads: int) -> Finding:
    """What a CPU quota of the control group means."""
    note = quota_note(cores, threads)
    if cores is None or note is None:
        return Finding("CPU quota", State.OK, "none")
    return Finding("CPU quota", State.UNFIT if cores < 1 else State.NOTE, note, "raise it, or pin whole cores (cpuset)")


def watch_cpu() -> float:
    """Cores' worth that other processes use on the cores that this one may run on."""
    monitor = CpuMonitor()
    monitor.start()
    time.sleep(WATCH_SECONDS)
    monitor.stop()
    return monitor.others()


def others_on_cpu(cores: float) -> Finding:
    """Whether somebody else computes here."""
    text = f"other processes use {cores:.1f} of the cores"
    if cores > OTHERS_ON_CPU:
        return Finding("other processes", State.UNFIT, text, "stop them, or run on cores of their own (taskset)")
    return Finding("other processes", State.OK, text)


def governor(path: Path) -> Finding:
    """Whether the CPU's clock is left to guess at the load."""
    try:
        name = path.read_text().strip()
    except OSError:
        return Finding("CPU clock", State.OK, "the machine does not tell (a virtual one seldom does)")
    if name == "performance":
        return Finding("CPU clock", State.OK, "governor performance")
    return Finding("CPU clock", State.NOTE, f"governor {name}", "sudo cpupower frequency-set -g performance")


def watch_gpu(gpu: Gpu) -> tuple[list[Reading], int]:
    """Readings while the control work runs, and the share in percent of the GPU that another process used meanwhile.

    The copy, not the matrix product: that draws more power than any classifier, and runs into the cap on its own.
    """
    from trtgate.measure.controls import control_arms

    readings = []
    _, seen = gpu.used_by_others(0)
    with control_arms("cuda") as (_multiply, copy):
        copy.block(500)  # clocks up
        start = time.monotonic()
        while time.monotonic() - start < WATCH_SECONDS:
            copy.block(100)
            readings.append(gpu.read())
    busy, _ = gpu.used_by_others(seen)
    return readings, busy


# The oldest driver that runs each major version of CUDA (NVIDIA, CUDA compatibility).
DRIVERS = {12: 525, 13: 580}


def cuda_findings(gpu: Mapping[str, Any], needs: Mapping[str, str]) -> list[Finding]:
    """Whether the driver is new enough for the CUDA of each package, and whether they all mean the same one.

    `gpu` has `driver` and `driver_cuda`; `needs` maps packages to the CUDA that they were made for, "12.9" or "13".
    TensorRT with too old a driver only says "factory function returned nullptr".
    """
    majors = {name: int(version.partition(".")[0]) for name, version in needs.items()}
    driver, speaks = gpu["driver"], int(str(gpu["driver_cuda"]).partition(".")[0])
    findings = [
        Finding(
            "CUDA",
            State.UNFIT,
            f"{name} was made for CUDA {needs[name]}; the driver ({driver}) knows CUDA up to {gpu['driver_cuda']}",
            f"a driver from {DRIVERS.get(major, 'a newer branch')} on, or "
            + (f"the packages of CUDA {speaks}: pip install -r requirements-gpu-cu{speaks}.txt"
               if speaks in DRIVERS else "an older package"),
        )
        for name, major in majors.items()
        if major > speaks
    ]  # fmt: skip
    bindings = next((major for name, major in majors.items() if name.startswith("cuda-")), None)
    runtimes = {name: major for name, major in majors.items() if name.startswith("tensorrt")}
    for name, major in runtimes.items():
        if bindings is not None and major != bindings:
            text = f"{name} was made for CUDA {major}, cuda-python for CUDA {bindings}"
            findings.append(Finding("CUDA", State.NOTE, text, f"pip install -r requirements-gpu-cu{major}.txt"))
    if not findings:
        told = ", ".join(f"{name} {version}" for name, version in needs.items()) or "nothing needs any"
        findings.append(Finding("CUDA", State.OK, f"driver {driver} knows {gpu['driver_cuda']}; made for: {told}"))
    return findings


def gpu_findings(gpu: Gpu, others: tuple[int, ...] | None, readings: Sequence[Reading], busy: int) -> list[Finding]:
    """What the settings and the readings under load say."""
    settings = gpu.settings()
    return [
        _clock(readings, settings["sm_mhz_max"]),
        _throttling(readings),
        _temperature(readings, gpu.slowdown_celsius()),
        _others_on_gpu(others, busy),
        _compute_mode(settings["compute_mode"]),
        _persistence(settings["persistence"]),
        _mig(settings["mig"]),
    ]


def _clock(readings: Sequence[Reading], highest: float | None) -> Finding:
    clocks = [reading.sm_mhz for reading in readings if reading.sm_mhz]
    if not clocks:
        return Finding(
            "SM clock", State.NOTE, "the GPU does not tell its clock: a change of it will look like one of yours"
        )
    text = f"{min(clocks):.0f} to {max(clocks):.0f} MHz under load, {highest or 0:.0f} at most"
    if max(clocks) > (1 + CLOCK_MOVED) * min(clocks):
        return Finding("SM clock", State.UNFIT, text, f"lock it: sudo nvidia-smi -lgc {min(clocks):.0f}")
    pinned = any("applications_clocks_setting" in reading.reasons for reading in readings)
    return Finding(
        "SM clock", State.OK, f"{text}, {'held by a setting' if pinned else 'steady, not known to be locked'}"
    )


def _throttling(readings: Sequence[Reading]) -> Finding:
    seen = frozenset[str]().union(*(reading.reasons for reading in readings))
    if seen & THROTTLING:
        return Finding("throttling", State.UNFIT, ", ".join(sorted(seen & THROTTLING)), "cool it, or check its power")
    if "sw_power_cap" in seen:
        return Finding("throttling", State.NOTE, "held down by its power cap", "lock a clock that it can hold")
    return Finding("throttling", State.OK, "none under load")


def _temperature(readings: Sequence[Reading], limit: float | None) -> Finding:
    degrees = max((reading.celsius for reading in readings if reading.celsius is not None), default=None)
    if degrees is None:
        return Finding("temperature", State.OK, "not told")
    text = f"{degrees:.0f} C" + (f", slows down at {limit:.0f} C" if limit else "")
    if limit and degrees > limit - HOT:
        return Finding("temperature", State.UNFIT, text, "cool it")
    return Finding("temperature", State.OK, text)


def _others_on_gpu(others: tuple[int, ...] | None, busy: int) -> Finding:
    if busy > OTHERS_DISTURB:
        return Finding("other processes", State.UNFIT, f"another process uses {busy} % of the GPU", "stop it")
    if others:
        names = ", ".join(map(str, others))
        return Finding("other processes", State.UNFIT, f"processes {names} hold the GPU", "stop them")
    return Finding("other processes", State.OK, "none" if others is not None else "not told")


def _compute_mode(mode: int | None) -> Finding:
    if mode:  # NVML: 0 is shared, every other number for one process or none
        text = "the GPU takes one process alone, and engines are built and raced in processes beside each other"
        return Finding("compute mode", State.UNFIT, text, "sudo nvidia-smi -c 0")
    return Finding("compute mode", State.OK, "shared" if mode == 0 else "not told")


def _persistence(on: bool | None) -> Finding:
    if on is False:
        text = "off: the driver is loaded anew for every process"
        return Finding("persistence mode", State.NOTE, text, "sudo nvidia-smi -pm 1")
    return Finding("persistence mode", State.OK, "on" if on else "not told")


def _mig(on: bool | None) -> Finding:
    if on:
        return Finding("MIG", State.NOTE, "a slice shares its clock, its power and its memory with its neighbours")
    return Finding("MIG", State.OK, "off" if on is False else "not told")


def add(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="what is installed, and whether this machine is fit to gate on")
    parser.add_argument("--device", choices=DEVICES, help="default: cuda where PyTorch sees a GPU")
    parser.add_argument("--require", action="append", default=[], metavar="ENGINE", help="engine or backend; repeats")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    with_required([], options.require, device)  # refuses names that are none
    examination = examine(device, options.require, current_gpu() if device == "cuda" else None)
    lines = doctor_lines(stack(device=device), examination)
    for line in lines:
        print(line)
    if examination.status:
        markdown.publish(markdown.doctor_markdown(lines))
    return examination.status


def doctor_lines(stack: Mapping[str, Any], examination: Examination) -> list[str]:
    """What the doctor found: the stack, the engines, the machine, the conclusion."""
    engines = _wrapping("engine", "available", "fix")
    for found, group in itertools.groupby(examination.engines, key=lambda each: each[1]):
        names = "\n".join(spec.id for spec, _ in group)
        engines.add_row(names, Text("yes", "green") if found.ok else Text(found.reason), Text(found.fix))
    findings = _wrapping("what", "state", "found", "fix")
    for finding in examination.findings:
        style = {State.OK: "green", State.NOTE: "yellow"}.get(finding.state, "bold red")
        findings.add_row(finding.name, Text(finding.state.value, style), Text(finding.text), Text(finding.fix))
    known = [f"{name} {value}" for name, value in stack.items() if value not in (None, [], "")]
    return [
        "\n".join(textwrap.wrap(", ".join(known), WIDTH)),
        "",
        drawn(engines, colour=sys.stdout.isatty()),
        "",
        drawn(findings, colour=sys.stdout.isatty()),
        "",
        "this machine is NOT fit to gate on: see UNFIT or MISSING above"
        if examination.status
        else "this machine is fit to gate on",
    ]


def _wrapping(*names: str) -> rich.table.Table:
    """A table of sentences, which may be wrapped."""
    table = rich.table.Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    return table
