"""What several test files share: one plan cache, EfficientNet-Lite0 on the bench, ResNet-50's graphs."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import hypothesis
import pytest
import torch

from trtgate.engines import parse_spec
from trtgate.graphs import export, half, quantize
from trtgate.images import sample_crops
from trtgate.measure.race import SCHEDULES
from trtgate.models import torchvision
from trtgate.models.base import Model, Preprocessing, Weights
from trtgate.settings import Settings
from trtgate.workbench import Workbench

from .faults.table import Fault

# How loud the machine is must not decide a property.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")
# What tests print is not for the summary of the job that runs them.
os.environ.pop("GITHUB_STEP_SUMMARY", None)


def keep_to_a_core(worker: str) -> None:
    """Of tests that run side by side (xdist) each process has a core, so that their threads do not wait for another's.

    The runs that tests make are not distributed, and are not told that they were.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    torch.set_num_threads(1)


if WORKER := os.environ.pop("PYTEST_XDIST_WORKER", ""):
    keep_to_a_core(WORKER)


def pytest_collection_finish() -> None:
    """Where tests run: xdist's own process only hands them out."""
    # pytester drops what a run in this process imported first, and compiled modules cannot be loaded twice.
    import onnxruntime  # noqa: F401

    # Every run that pytester makes collects garbage several times at its end, through a million objects of PyTorch's.
    gc.collect()
    gc.freeze()


ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("pytorch-fp32", "onnxruntime-fp32", "onnxruntime-int8", "openvino-fp32", "openvino-int8")


@pytest.fixture(scope="session")
def plan_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all that run these tests side by side, as a runner's jobs share one."""
    if not hasattr(request.config, "workerinput"):
        return tmp_path_factory.mktemp("plans")
    shared = tmp_path_factory.getbasetemp().parent / "plans"
    shared.mkdir(mode=0o700, exist_ok=True)
    return shared


@pytest.fixture(scope="session")
def lite0(plan_cache: Path) -> Iterator[Workbench]:
    settings = Settings(engines=tuple(map(parse_spec, ENGINES)), plan_cache=plan_cache)
    with Workbench("efficientnet_lite0", settings) as bench:
        yield bench


@pytest.fixture
def few_photos(tmp_path: Path) -> Path:
    """A folder of eight of the photos: enough to answer on, where the answers are not what is under test."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for photo in sorted((ROOT / "data" / "evaluation").glob("*.jpg"))[:8]:
        (folder / photo.name).write_bytes(photo.read_bytes())
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def full_disk(small_disk: Path) -> Path:
    """A file system on which there is room for names, and for nothing in them."""
    fill(small_disk)
    return small_disk


def fill(disk: Path) -> None:
    """Leave no room on a small disk."""
    with contextlib.suppress(OSError), (disk / "full").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """What the test's own marker promises."""
    marker = request.node.get_closest_marker("fault")
    return Fault(**marker.kwargs)


@pytest.fixture
def short_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Races on the CPU with a fifth of the time: what is printed and saved is under test, not how sure it is."""
    usual = SCHEDULES["cpu"]
    short = replace(usual, block_seconds=usual.block_seconds / 5, warm_up_seconds=usual.warm_up_seconds / 5)
    monkeypatch.setitem(SCHEDULES, "cpu", short)  # type: ignore[arg-type]  # a Mapping for everybody else


def untrained(name: str) -> Model:
    """A torchvision classifier with seeded weights."""
    module = torchvision.architecture(name, torchvision.recipes(name)[0]).module.eval()
    return Model(name, module, Preprocessing(), Weights("untrained", "", ""))


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """The file, made by the first of the processes that want it."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = path.with_suffix(".tmp")
            make(made)
            made.rename(path)
    return path


@pytest.fixture(scope="session")
def resnet50(plan_cache: Path) -> Path:
    """ResNet-50's FP32 graph; where things stand in it does not depend on its weights."""
    folder = plan_cache.with_name(f"{plan_cache.name}-resnet50")
    folder.mkdir(exist_ok=True)
    return made_once(folder / "fp32.onnx", lambda path: export.export(untrained("resnet50"), path))


@pytest.fixture(scope="session")
def resnet50_int8(resnet50: Path) -> Path:
    """Its symmetric INT8 graph, as TensorRT gets it."""

    def make(path: Path) -> None:
        photos = sample_crops("calibration", Preprocessing()).first(2)
        ranges = quantize.measure_ranges(resnet50, photos, "minmax")
        quantize.quantize(resnet50, path, "symmetric", ranges, sample=photos[0])

    return made_once(resnet50.with_name("int8.onnx"), make)


@pytest.fixture(scope="session")
def resnet50_int8_fp16(resnet50_int8: Path) -> Path:
    """The same with FP16 where nothing is quantised."""
    return made_once(resnet50_int8.with_name("int8-fp16.onnx"), lambda path: half.convert(resnet50_int8, path))


@pytest.fixture(scope="session")
def resnet50_fp16(resnet50: Path) -> Path:
    """Its FP16 graph."""
    return made_once(resnet50.with_name("fp16.onnx"), lambda path: half.convert(resnet50, path))
