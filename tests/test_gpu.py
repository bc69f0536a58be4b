"""The GPU lane as far as a CPU can prove it: fusing, telemetry, the doctor, what is asked of a GPU and what is said.

What only a GPU can prove is in tests/gpu/check_gpu.py.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.torch_version import TorchVersion

from trtgate import cuda, judge, nvml, options
from trtgate.__main__ import main
from trtgate.child import run_in_child
from trtgate.commands import doctor
from trtgate.commands.doctor import State, cuda_findings, gpu_findings
from trtgate.engines import DEFAULT_ENGINES, available, parse_spec
from trtgate.engines.fusing import fuse
from trtgate.engines.inductor import CACHE_VARIABLE, load_functions
from trtgate.kinds import REFERENCE, Availability, Device, EngineRefused, EngineUnavailable, UserError
from trtgate.measure import monitor as telemetry
from trtgate.measure.monitor import GpuMonitor
from trtgate.measure.race import Arm, Block, Schedule, block_length, run_race
from trtgate.nvml import Gpu, Reading
from trtgate.records import EngineRecord
from trtgate.report.pages import gpu_table, run_notes
from trtgate.report.terminal import table_text
from trtgate.stack import stack, usable_threads

from . import child_work, inductor_work
from .conftest import untrained

# Fusing.


@pytest.fixture
def cudnn_on_cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What cuDNN's fused calls compute, in plain operations that a CPU has; counts the calls."""
    calls = {"relu": 0, "add_relu": 0}

    def conv_relu(x: Any, weight: Any, bias: Any, *where: Any) -> Any:
        calls["relu"] += 1
        return F.relu(F.conv2d(x, weight, bias, *where))

    def conv_add_relu(x: Any, weight: Any, z: Any, alpha: float, bias: Any, *where: Any) -> Any:
        calls["add_relu"] += 1
        return F.relu(F.conv2d(x, weight, bias, *where) + alpha * z)

    monkeypatch.setattr(torch, "cudnn_convolution_relu", conv_relu)
    monkeypatch.setattr(torch, "cudnn_convolution_add_relu", conv_add_relu)
    return calls


# Channels in groups, residuals, and branches that are concatenated.
@pytest.mark.parametrize(
    ("name", "relu", "add_relu"), [("resnet18", 9, 8), ("shufflenet_v2_x0_5", 37, 0), ("squeezenet1_1", 26, 0)]
)
def test_a_fused_model_answers_the_same(name: str, relu: int, add_relu: int, cudnn_on_cpu: dict[str, int]) -> None:
    module = untrained(name).module.requires_grad_(False)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = module(images)
        answer = fuse(module)(images)
        torch.testing.assert_close(answer, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        torch.testing.assert_close(module(images), wanted, rtol=0, atol=0)  # the original is untouched
    assert cudnn_on_cpu == {"relu": relu, "add_relu": add_relu}


class Undecided(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.sum() > 0 else -images


def test_what_cannot_be_traced_is_unavailable_with_the_reason() -> None:
    with pytest.raises(EngineUnavailable, match="cannot be traced"):
        fuse(Undecided())


# A crash in a process of its own.


def test_a_child_works_and_shows_its_progress() -> None:
    steps: list[tuple[int, int]] = []
    assert run_in_child("counting", child_work.count, 3, progress=lambda *step: steps.append(step)) != os.getpid()
    assert steps == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.slow
def test_compiled_functions_outlive_their_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights and another number of threads make no difference to them: the module is an argument."""
    path = tmp_path / "plan.zip"
    run_in_child("compiling", inductor_work.save, path)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    with torch._inductor.config.patch(inductor_work.QUICK):
        [(size, function)] = load_functions(path).items()
    module = inductor_work.Small().eval()
    images = torch.randn(size, 3, inductor_work.CROP, inductor_work.CROP)
    assert torch.get_num_threads() > 1 or usable_threads() == 1
    with torch.inference_mode():
        module.scale.mul_(3.0)
        torch.testing.assert_close(function(module, images), module(images))


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (child_work.crash, EngineUnavailable, r"compiling crashed its own process \(SIGABRT\)"),
        (child_work.fail, RuntimeError, r"(?s)compiling failed.*no kernel for this layer"),
        (child_work.refuse, EngineRefused, r"^the runtime could not build it:\n  Error Code 10: .* node conv1$"),
        (child_work.hang, EngineUnavailable, "compiling took longer than 1 s"),
    ],
)
def test_what_happens_in_a_child_is_told(function: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run_in_child("compiling", function, timeout=1 if function is child_work.hang else 60)


# Telemetry.


class FakeNvml:
    """The part of pynvml that is used, answering from `state`; what is not in it is not supported."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1, 2, 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, **state: Any) -> None:
        self.state: dict[str, Any] = {
            "nvmlDeviceGetClockInfo": {1: 1980, 2: 3201},
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
            "nvmlDeviceGetPowerUsage": 250_000,
            "nvmlDeviceGetTemperature": {0: 45},
            "nvmlDeviceGetTemperatureThreshold": {1: 90},
            "nvmlDeviceGetComputeRunningProcesses": [SimpleNamespace(pid=os.getpid())],
            "nvmlDeviceGetProcessUtilization": [],
            "nvmlDeviceGetName": "NVIDIA T4",
            "nvmlDeviceGetMaxClockInfo": {1: 1980},
            "nvmlDeviceGetPersistenceMode": 1,
            "nvmlDeviceGetMigMode": [0, 0],
            "nvmlDeviceGetCudaComputeCapability": (7, 5),
            **state,
        }

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13020

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvmlDevice"):
            raise AttributeError(name)

        def ask(handle: str, *arguments: Any) -> Any:
            assert handle == "handle"
            if name not in self.state:
                raise self.NVMLError("not supported")
            value = self.state[name]
            return value[arguments[0]] if isinstance(value, dict) else value

        return ask


def gpu_with(**state: Any) -> tuple[Gpu, dict[str, Any]]:
    library = FakeNvml(**state)
    return Gpu(library, "handle"), library.state


def test_what_a_gpu_does_not_tell_is_none() -> None:
    library = FakeNvml()
    library.state.clear()
    gpu = Gpu(library, "handle")
    assert gpu.read() == Reading(None, None, None, None, frozenset())
    assert gpu.identity()["gpu"] is None
    assert gpu.other_processes() is None
    assert gpu.used_by_others(7) == (0, 7)
    assert set(gpu.settings().values()) == {None}


def test_a_reading_names_why_the_clock_is_what_it_is() -> None:
    gpu, _ = gpu_with(nvmlDeviceGetCurrentClocksThrottleReasons=0x4 | 0x40)
    assert gpu.read() == Reading(1980, 3201, 250.0, 45, frozenset({"sw_power_cap", "hw_thermal_slowdown"}))
    assert gpu.identity()["driver_cuda"] == "13.2"
    assert gpu.identity()["compute_capability"] == "7.5"


def race_on(state: dict[str, Any], gpu: Gpu, happens: dict[int, dict[str, Any]]) -> Any:
    """A race of ten rounds; `happens` changes the state before the block of that number."""
    blocks = iter(range(10**6))

    def block(n: int) -> Block:
        state.update(happens.get(next(blocks), {}))
        return Block(np.full(n, 1e-3))

    schedule = Schedule(rounds=10, block_seconds=0.01, warm_up_seconds=0.0, lead_in_iterations=1)
    return run_race([Arm("a", block)], schedule, monitor=GpuMonitor(gpu))


@pytest.mark.parametrize("bit", [0x8, 0x20, 0x40, 0x80])
def test_a_throttled_round_is_dropped_and_redone(bit: int) -> None:
    gpu, state = gpu_with()
    calm = {"nvmlDeviceGetCurrentClocksThrottleReasons": 0}
    race = race_on(state, gpu, {10: {"nvmlDeviceGetCurrentClocksThrottleReasons": bit}, 14: calm})
    assert (race.rounds, len(race.dropped), race.complete) == (10, 1, True)
    assert "throttled" in race.dropped[0]
    told = {"clock_mhz": 1980.0, "memory_mhz": 3201.0, "watts": 250.0, "celsius": 45.0}
    assert race.readings == {**told, "others_cores": race.readings["others_cores"]}


def test_a_gpu_that_keeps_throttling_ends_the_race() -> None:
    gpu, state = gpu_with(nvmlDeviceGetCurrentClocksThrottleReasons=0x8)
    assert not race_on(state, gpu, {}).complete


def test_a_power_cap_is_noted_and_no_reason_to_stop() -> None:
    gpu, state = gpu_with(nvmlDeviceGetCurrentClocksThrottleReasons=0x4)
    race = race_on(state, gpu, {20: {"nvmlDeviceGetClockInfo": {1: 1500, 2: 3201}}})
    assert race.complete
    assert not race.dropped
    assert any("power cap" in note for note in race.notes)
    assert any("between 1500 and 1980 MHz" in note for note in race.notes)


def sample(pid: int, at: int, share: int) -> SimpleNamespace:
    return SimpleNamespace(pid=pid, timeStamp=at, smUtil=share)


def test_a_round_in_which_another_process_computed_is_dropped() -> None:
    ours = sample(os.getpid(), 5, 90)
    gpu, state = gpu_with(nvmlDeviceGetProcessUtilization=[ours])
    busy = {"nvmlDeviceGetProcessUtilization": [sample(os.getpid(), 9, 60), sample(4711, 9, 30)]}
    race = race_on(state, gpu, {10: busy})
    assert len(race.dropped) == 1, "the same sample must not count twice"
    assert "30 %" in race.dropped[0]


def test_workers_of_this_process_are_nobody_else() -> None:
    running = [SimpleNamespace(pid=pid) for pid in (7, 8, 4711)]
    gpu, _ = gpu_with(
        nvmlDeviceGetComputeRunningProcesses=running,
        nvmlDeviceGetProcessUtilization=[sample(7, 9, 90), sample(8, 9, 80), sample(4711, 9, 3)],
    )
    assert gpu.other_processes([7, 8]) == (4711,)
    assert gpu.used_by_others(0, [7, 8]) == (3, 9)


def test_in_a_container_nobody_is_called_another() -> None:
    foreign = [SimpleNamespace(pid=4711)]
    gpu, _ = gpu_with(
        nvmlDeviceGetComputeRunningProcesses=foreign, nvmlDeviceGetProcessUtilization=[sample(4711, 9, 90)]
    )
    assert gpu.other_processes() == ()
    assert gpu.used_by_others(0) == (0, 9)


def test_monitors_follow_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = gpu_with()
    monkeypatch.setattr(telemetry, "current_gpu", lambda: gpu)
    assert isinstance(telemetry.monitor_for("cuda")(), GpuMonitor)
    assert isinstance(telemetry.monitor_for("cpu")(), telemetry.CpuMonitor)


def test_the_stack_has_a_gpu_only_where_it_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, _ = gpu_with()
    monkeypatch.setattr("trtgate.stack.current_gpu", lambda: gpu)
    assert stack(2, "cuda")["gpu"] == "NVIDIA T4"
    assert "gpu" not in stack(2, "cpu")


# The doctor.


def findings(readings: list[Reading], others: Any = (), busy: int = 0, **state: Any) -> dict[str, Any]:
    gpu, _ = gpu_with(**state)
    return {finding.name: finding for finding in gpu_findings(gpu, others, readings, busy)}


CALM = Reading(1980, 3201, 250.0, 45, frozenset())


def test_a_calm_gpu_is_fit() -> None:
    assert {finding.state for finding in findings([CALM, CALM]).values()} == {State.OK}


@pytest.mark.parametrize(
    ("name", "state", "readings", "more"),
    [
        ("SM clock", State.UNFIT, [CALM, replace(CALM, sm_mhz=1500)], {}),
        ("SM clock", State.NOTE, [replace(CALM, sm_mhz=None)], {}),
        ("throttling", State.UNFIT, [replace(CALM, reasons=frozenset({"hw_thermal_slowdown"}))], {}),
        ("throttling", State.NOTE, [replace(CALM, reasons=frozenset({"sw_power_cap"}))], {}),
        ("temperature", State.UNFIT, [replace(CALM, celsius=88)], {}),
        ("other processes", State.UNFIT, [CALM], {"busy": 40}),
        ("other processes", State.UNFIT, [CALM], {"others": (4711,)}),
        ("compute mode", State.UNFIT, [CALM], {"nvmlDeviceGetComputeMode": 3}),
        ("compute mode", State.OK, [CALM], {"nvmlDeviceGetComputeMode": 0}),
        ("persistence mode", State.NOTE, [CALM], {"nvmlDeviceGetPersistenceMode": 0}),
        ("MIG", State.NOTE, [CALM], {"nvmlDeviceGetMigMode": [1, 1]}),
    ],
)
def test_what_would_disturb_a_gate_is_found(
    name: str, state: State, readings: list[Reading], more: dict[str, Any]
) -> None:
    found = findings(readings, **more)
    assert found[name].state is state
    assert {each.state for each in found.values() if each.name != name} == {State.OK}


def test_the_doctor_on_a_cpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "watch_cpu", lambda: 0.0)
    assert main(["doctor", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "onnxruntime-int8" in text
    assert "is fit to gate on" in text
    assert max(map(len, text.splitlines())) <= 100
    monkeypatch.setattr(doctor, "watch_cpu", lambda: 1.0)
    assert main(["doctor", "--device", "cpu"]) == 7
    assert "NOT fit" in capsys.readouterr().out


def test_what_is_required_and_missing_is_no_outcome(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "watch_cpu", lambda: 0.0)
    assert main(["doctor", "--device", "cpu", "--require", "tensorrt"]) == 2
    assert re.search(r"tensorrt-fp16 +MISSING", capsys.readouterr().out)
    monkeypatch.setattr(doctor, "watch_cpu", lambda: 1.0)
    assert main(["doctor", "--device", "cpu", "--require", "tensorrt"]) == 2
    assert main(["doctor", "--require", "tensorflow"]) == 2


def test_requiring_a_backend_does_not_require_what_it_has_no_more() -> None:
    spec = parse_spec("tensorrt-int8-calibrated")
    gone = Availability(False, "TensorRT 11 has no INT8 calibrator any more", obsolete=True)
    assert doctor.missing_engines([(spec, gone)], ["tensorrt"]) == []
    assert doctor.missing_engines([(spec, gone)], [spec.id])[0].state is State.MISSING


def test_a_runtime_that_is_installed_and_broken_makes_a_machine_unfit() -> None:
    broken = Availability(False, "OpenVINO cannot be imported: libtbb.so.12", broken=True)
    engines = [(parse_spec("openvino-int8"), broken), (parse_spec("openvino-bf16"), broken)]
    [found] = doctor.broken_engines(engines, "cpu")
    assert (found.state, found.text) == (State.UNFIT, broken.reason)
    assert doctor.broken_engines(engines, "cuda") == [], "no run on a GPU asks for it"
    assert doctor.broken_engines([(parse_spec("openvino-int8"), Availability(False, "not installed"))], "cpu") == []


def test_requiring_a_backend_requires_what_runs_here_or_all_of_it() -> None:
    on_cpu = {spec.id for spec in options.with_required([], ["onnxruntime"], "cpu")}
    assert on_cpu == {"pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8"}
    assert "tensorrt-int8" in {spec.id for spec in options.with_required([], ["tensorrt"], "cpu")}
    here, there = Availability(True), Availability(False, "it runs on a GPU only", elsewhere=True)
    some = [(parse_spec("onnxruntime-fp32"), here), (parse_spec("onnxruntime-fp16"), there)]
    assert doctor.missing_engines(some, ["onnxruntime"]) == []
    assert len(doctor.missing_engines(some, ["onnxruntime-fp16"])) == 1
    assert len(doctor.missing_engines([(parse_spec("tensorrt-fp16"), there)], ["tensorrt"])) == 1


def test_a_governor_that_guesses_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "scaling_governor"
    path.write_text("powersave\n")
    assert doctor.governor(path).state is State.NOTE
    path.write_text("performance\n")
    assert doctor.governor(path).state is State.OK


# What is asked of a GPU, and what is said.


def test_a_gpu_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert options.default_device() == "cpu"
    with pytest.raises(UserError, match="--device cuda: PyTorch sees no GPU"):
        options.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert options.default_device() == "cuda"
    monkeypatch.setattr(options, "current_gpu", lambda: None)
    with pytest.raises(UserError, match="nvidia-ml-py"):
        options.choose_device("cuda")


def test_every_default_engine_is_one_and_the_reference_comes_first() -> None:
    for names in DEFAULT_ENGINES.values():
        assert [parse_spec(name).id for name in names] == list(names)
        assert parse_spec(names[0]) == REFERENCE


@pytest.mark.parametrize(
    ("text", "device"),
    [("pytorch-fp16", "cpu"), ("inductor-fp16", "cpu"), ("openvino-int8", "cuda"), ("inductor-fp32", "cuda")],
)
def test_an_engine_says_where_it_runs(text: str, device: Device) -> None:
    found = available(parse_spec(text), device)
    assert not found.ok
    assert found.fix == f"--device {'cuda' if device == 'cpu' else 'cpu'}"


def test_an_older_pytorch_has_what_needs_no_saved_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.9.1+cu130"))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "2.10" in str(available(parse_spec("inductor-fp16"), "cuda"))
    assert available(parse_spec("inductor-fp16-aot"), "cuda").ok


def record(**changes: Any) -> EngineRecord:
    series = {"latency": 1e-3, "reference_latency": 5e-3, "end_to_end": 1.2e-3, "reference_end_to_end": 6e-3}
    rounds = {name: (seconds,) * 15 for name, seconds in series.items()}
    return replace(EngineRecord("resnet50", "pytorch-fp16-graph", 32, "file", rounds), **changes)


def test_numbers_that_are_the_hosts_or_the_links_are_said_to_be() -> None:
    assert judge.gpu_warnings(record(enqueue_seconds=1e-5)) == ()
    [host] = judge.gpu_warnings(record(enqueue_seconds=0.9e-3))
    assert host.startswith("host-bound: handing an inference over takes 0.90 ms of 1.00 ms")
    [link] = judge.gpu_warnings(
        record(enqueue_seconds=1e-5, series={"latency": (1e-3,) * 15, "end_to_end": (2.5e-3,) * 15})
    )
    assert "copies" in link


def test_the_gpu_table_has_both_series_and_throughput() -> None:
    streams = {"streams": 4.0, "images_per_second": 50_000.0, "alone": 26_000.0}
    rows = [record(enqueue_seconds=2e-5, readings={"clock_mhz": 1980.0}), record(throughput=streams)]
    text = table_text(gpu_table(rows))
    assert "1.000  1.200   0.020    32000" in text
    assert "50000" in text
    assert "4 streams" in text
    assert max(map(len, text.splitlines())) <= 100


def test_what_engines_share_is_noted_once() -> None:
    both = [replace(record(), engine=name, warnings=("lock it",)) for name in ("a-fp16", "b-fp16")]
    one = replace(record(), engine="c-fp16", warnings=("odd",), batch=1)
    skipped = {"resnet50 x-fp16": "no GPU", "resnet50 y-fp16": "no GPU"}
    assert run_notes([*both, one], skipped) == [
        "resnet50 batch 32 all engines: lock it",
        "resnet50 batch 1 all engines: odd",
        "resnet50 x-fp16, y-fp16: skipped: no GPU",
    ]


def test_fixed_work_gets_a_small_share_of_a_block() -> None:
    assert block_length(1e-3, Schedule(block_seconds=0.5), 0.1) == 50
    assert block_length(1e-2, Schedule(block_seconds=0.05), 0.1) == 10


def test_there_is_no_gpu_to_be_found_here_or_there_is_one() -> None:
    found = nvml.current_gpu()
    assert found is None or found.identity()["gpu"]


# CUDA of the driver, and of what needs it.


@pytest.mark.parametrize(
    ("driver", "needs", "state", "said"),
    [
        (("580.1", "13.0"), {"torch": "13.0", "tensorrt-cu13": "13", "cuda-python": "13.0"}, State.OK, "made for"),
        (("550.9", "12.4"), {"torch": "12.8", "tensorrt-cu12": "12", "cuda-python": "12.9"}, State.OK, "made for"),
        (
            ("550.9", "12.4"),
            {"tensorrt-cu13": "13"},
            State.UNFIT,
            r"tensorrt-cu13 was made for CUDA 13; the driver \(550.9\).*12.4.*from 580 on.*requirements-gpu-cu12.txt",
        ),
        (("470.1", "11.4"), {"cuda-python": "12.9"}, State.UNFIT, "from 525 on, or an older package"),
        (("580.1", "13.0"), {"tensorrt-cu13": "13", "cuda-python": "12.9"}, State.NOTE, "cuda-python for CUDA 12"),
    ],
)
def test_cuda_of_driver_and_packages(driver: tuple[str, str], needs: dict[str, str], state: State, said: str) -> None:
    findings = cuda_findings({"driver": driver[0], "driver_cuda": driver[1]}, needs)
    assert [finding.state for finding in findings] == [state]
    assert re.search(said, f"{findings[0].text} {findings[0].fix}")


def test_a_mig_slice_is_found_by_its_bus_and_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's UUID of a slice is none that NVML knows as a GPU's."""
    library = FakeNvml(nvmlDeviceGetMigMode=(1, 1), nvmlDeviceGetName="NVIDIA A100")
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda uuid: (_ for _ in ()).throw(library.NVMLError())
    asked: list[str] = []
    library.nvmlDeviceGetHandleByPciBusId = lambda bus: asked.append(bus) or "handle"
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(nvml, "torch_uuid", lambda: "GPU-of-a-slice")
    monkeypatch.setattr(nvml, "cuda_device", lambda: ("0000:17:00.0", "NVIDIA A100 MIG 1g.10gb"))
    nvml.current_gpu.cache_clear()
    gpu = nvml.current_gpu()
    nvml.current_gpu.cache_clear()
    assert gpu is not None
    assert asked == ["0000:17:00.0"]
    assert gpu.identity()["gpu"] == "NVIDIA A100 MIG 1g.10gb"
    # Where PyTorch tells the GPU's own, a plan of the slice must not be taken for one of a larger slice either.
    library.nvmlDeviceGetHandleByUUID = lambda uuid: "handle"
    gpu = nvml.current_gpu()
    nvml.current_gpu.cache_clear()
    assert gpu is not None
    assert gpu.identity()["gpu"] == "NVIDIA A100 MIG 1g.10gb"


def test_pycuda_takes_the_device_that_pytorch_and_nvml_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself it takes what CUDA_DEVICE names, or the next one that gives it a context."""
    package, module = ModuleType("pycuda"), ModuleType("pycuda.driver")
    package.driver = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", module)
    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", ModuleType("pycuda.autoprimaryctx"))
    monkeypatch.setenv("CUDA_DEVICE", "1")
    cuda.driver.cache_clear()
    try:
        assert cuda.driver() is module
    finally:
        cuda.driver.cache_clear()
    assert os.environ["CUDA_DEVICE"] == "0"


def test_turing_has_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, wanted in (((7, 5), False), ((8, 0), True), ((9, 0), True)):
        gpu = Gpu(FakeNvml(nvmlDeviceGetCudaComputeCapability=capability), "handle")
        monkeypatch.setattr(nvml, "current_gpu", lambda gpu=gpu: gpu)
        assert nvml.has_tf32() is wanted


def test_a_jetson_is_named_unsupported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(options, "JETSON", tmp_path)
    with pytest.raises(UserError, match="this is a Jetson, which is not supported"):
        options.choose_device("cuda")
