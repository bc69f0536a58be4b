"""What NVIDIA's management library says of one GPU. Nothing here changes a setting.

Every reading may be missing: drivers, virtual machines and MIG slices each leave some out.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Bits of nvmlClocksEventReasons (NVML API reference), by the names that nvidia-smi prints.
REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


@dataclass(frozen=True)
class Reading:
    """The state of a GPU at one moment; None is what nobody tells."""

    sm_mhz: float | None
    memory_mhz: float | None
    watts: float | None
    celsius: float | None
    reasons: frozenset[str]


class Gpu:
    """One GPU through NVML; `name` replaces NVML's own for it."""

    def __init__(self, library: Any, handle: Any, name: str | None = None) -> None:
        self._nvml = library
        self.handle = handle
        self._name = name

    def _ask(self, name: str, *arguments: Any) -> Any:
        """The answer of an NVML device query, or None where this driver or GPU does not give it."""
        try:
            return getattr(self._nvml, name)(self.handle, *arguments)
        except self._nvml.NVMLError:
            return None

    def read(self) -> Reading:
        """Clocks, power, temperature and why the clock is what it is: some 0.1 ms."""
        bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        milliwatts = self._ask("nvmlDeviceGetPowerUsage")
        return Reading(
            self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_SM),
            self._ask("nvmlDeviceGetClockInfo", self._nvml.NVML_CLOCK_MEM),
            None if milliwatts is None else milliwatts / 1e3,
            self._ask("nvmlDeviceGetTemperature", self._nvml.NVML_TEMPERATURE_GPU),
            frozenset(name for bit, name in REASONS.items() if bits & bit),
        )

    def identity(self) -> dict[str, Any]:
        """What makes this GPU and its driver a stack of their own, as JSON values."""
        version = self._nvml.nvmlSystemGetCudaDriverVersion_v2()
        capability = self._ask("nvmlDeviceGetCudaComputeCapability")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        return {
            "gpu": self._name or self._ask("nvmlDeviceGetName"),
            "gpu_uuid": self._ask("nvmlDeviceGetUUID"),
            "compute_capability": ".".join(map(str, capability)) if capability else None,
            "gpu_memory_mib": memory.total >> 20 if memory else None,
            "vbios": self._ask("nvmlDeviceGetVbiosVersion"),
            "driver": self._nvml.nvmlSystemGetDriverVersion(),
            "driver_cuda": f"{version // 1_000}.{version % 1_000 // 10}",
        }

    def memory_used(self) -> int | None:
        """Bytes of device memory that this process holds, by the driver: weights, context, kernels, workspaces; None
        where nobody tells."""
        found = self._ask("nvmlDeviceGetComputeRunningProcesses") or []
        return next((process.usedGpuMemory for process in found if process.pid == os.getpid()), None)

    def other_processes(self, workers: Sequence[int] = ()) -> tuple[int, ...] | None:
        """Ids of compute processes that are neither this one nor one of `workers`, or None where nobody tells.

        In a container the ids may be of another namespace; ours then are among those listed, whichever.
        """
        found = self._ask("nvmlDeviceGetComputeRunningProcesses")
        if found is None:
            return None
        ids, ours = [process.pid for process in found], {os.getpid(), *workers}
        return tuple(pid for pid in ids if pid not in ours) if ours & set(ids) else tuple(ids[len(workers) or 1 :])

    def used_by_others(self, since: int, workers: Sequence[int] = ()) -> tuple[int, int]:
        """The largest share in percent of the multiprocessors that a process which is neither this one nor one of
        `workers` used after `since`, a time stamp that an earlier call returned (0 at first), and the newest one."""
        samples = self._ask("nvmlDeviceGetProcessUtilization", since) or []
        ours = {os.getpid(), *workers}
        others = [sample.smUtil for sample in samples if sample.pid not in ours and sample.timeStamp > since]
        known = any(sample.pid in ours for sample in samples)
        newest = max([since, *(sample.timeStamp for sample in samples)])
        return (max(others, default=0) if known else 0), newest

    def slowdown_celsius(self) -> float | None:
        """The temperature at which the GPU slows itself down."""
        found: float | None = self._ask(
            "nvmlDeviceGetTemperatureThreshold", self._nvml.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN
        )
        return found

    def settings(self) -> dict[str, Any]:
        """How the GPU is set up: persistence, MIG, compute mode, clock and power limits; JSON values."""
        mig = self._ask("nvmlDeviceGetMigMode")
        limit = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        return {
            "persistence": _flag(self._ask("nvmlDeviceGetPersistenceMode")),
            "mig": _flag(mig[0]) if mig else None,
            "compute_mode": self._ask("nvmlDeviceGetComputeMode"),
            "power_limit_watts": None if limit is None else limit / 1e3,
            "sm_mhz_max": self._ask("nvmlDeviceGetMaxClockInfo", self._nvml.NVML_CLOCK_SM),
            "sm_mhz_applications": self._ask("nvmlDeviceGetApplicationsClock", self._nvml.NVML_CLOCK_SM),
        }


def _flag(value: int | None) -> bool | None:
    return None if value is None else bool(value)


def torch_uuid() -> str | None:
    """The UUID of the GPU that CUDA calls device 0, by PyTorch; CUDA_VISIBLE_DEVICES moves it, NVML does not follow."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def cuda_device() -> tuple[str, str] | None:
    """The PCI bus id and CUDA's own name of its device 0, by PyTorch or else by PyCUDA."""
    try:
        import torch
    except ImportError:
        pass
    else:
        if torch.cuda.is_available():
            found: Any = torch.cuda.get_device_properties(0)  # the stubs lack its PCI address
            return f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0", found.name
    try:
        from pycuda import driver
    except ImportError:
        return None
    driver.init()
    device = driver.Device(0)
    return device.pci_bus_id(), device.name()


@functools.cache
def current_gpu() -> Gpu | None:
    """The GPU that a run on `--device cuda` uses, or None without NVML or without a GPU.

    CUDA tells a MIG slice's own UUID, which NVML knows under another form: there the PCI bus id finds the GPU that it
    is a slice of. However it was found, a slice keeps CUDA's name, which says which slice it is: a plan of one is no
    plan of a larger one.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        wanted, gpu = torch_uuid(), None
        if wanted is not None:
            with contextlib.suppress(pynvml.NVMLError):
                gpu = Gpu(pynvml, pynvml.nvmlDeviceGetHandleByUUID(wanted))
        if gpu is not None and not gpu.settings()["mig"]:
            return gpu
        found = cuda_device()
        if found is None:
            return gpu
        bus_id, name = found
        gpu = gpu or Gpu(pynvml, pynvml.nvmlDeviceGetHandleByPciBusId(bus_id))
        return Gpu(pynvml, gpu.handle, name) if gpu.settings()["mig"] else gpu
    except pynvml.NVMLError:
        return None


def has_tf32() -> bool:
    """Whether the GPU computes in TF32 and BF16: those from Ampere on do. Where nobody tells, it is taken to."""
    gpu = current_gpu()
    capability = gpu.identity()["compute_capability"] if gpu is not None else None
    return capability is None or int(capability.partition(".")[0]) >= 8
