"""ONNX Runtime on a GPU, as far as a CPU can prove it: what a session is asked for, its graphs, what outlives what.

The session is a stand-in that captures and replays as the CUDA provider does (onnxruntime, cuda_graph.cc): the first
run with a number captures, every later one goes back to the addresses that were bound then, and what was captured is
there until the session goes. A graph that was captured before another shape came reads freed memory, as seen on an
H200 (1.31.1, EfficientNet-Lite0 in FP16).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from trtgate.engines import backend, parse_spec
from trtgate.engines.base import BuildRequest
from trtgate.engines.gpu import CAPTURED, GpuEngine

from . import small_classifier

CpuSession = onnxruntime.InferenceSession
STREAM = 4711
# What was allocated on the device.
ALLOCATED: list[weakref.ref[torch.Tensor]] = []


def all_there() -> bool:
    return all(each() is not None for each in ALLOCATED)


class Binding:
    """Addresses by name, with the shapes of the float32 that lie there."""

    def __init__(self) -> None:
        self.bound: dict[str, tuple[int, tuple[int, ...]]] = {}

    def bind(self, name: str, device: str, index: int, dtype: type, shape: tuple[int, ...], address: int) -> None:
        assert (device, index, dtype) == ("cuda", 0, np.float32)
        self.bound[name] = address, shape

    bind_input = bind_output = bind


def floats(place: tuple[int, tuple[int, ...]]) -> np.ndarray:
    address, shape = place
    return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(address)).reshape(shape)


class CudaSession:
    """The stand-in, of which `last` is the latest; it refuses a CUDA graph when it is made (`refuses`), or captures."""

    refuses = ""
    last: Callable[[], CudaSession]

    def __init__(self, plan: Path, options: Any, providers: list[Any]) -> None:
        [(self.provider, self.options)] = providers
        if self.options["enable_cuda_graph"] and self.refuses == "made":
            raise RuntimeError("This session cannot use\nthe graph capture feature")
        self._inner = CpuSession(plan, options, providers=["CPUExecutionProvider"])
        self.graphs: dict[str, dict[str, Any]] = {}
        CudaSession.last = weakref.ref(self)  # type: ignore[assignment]

    def get_providers(self) -> list[str]:
        return [self.provider]

    def get_outputs(self) -> Any:
        return self._inner.get_outputs()

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        try:
            number = options.get_run_config_entry("gpu_graph_id")
        except RuntimeError:
            number = "0"
        if self.options["enable_cuda_graph"] and self.refuses == "run":
            raise RuntimeError("Concat supports at most 32 inputs during CUDA Graph capture,\nbut got 33 inputs")
        captured = self.graphs.setdefault(number, dict(binding.bound))
        places = captured if self.options.get("enable_cuda_graph") else binding.bound
        floats(places["logits"])[...] = self._inner.run(["logits"], {"input": floats(places["input"])})[0]
        if any(each["input"][1] != self.graphs["0"]["input"][1] for each in self.graphs.values()):
            floats(places["logits"])[...] = np.nan


class Stream:
    cuda_stream = STREAM

    def synchronize(self) -> None:
        """All work is done."""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan on a machine on which PyTorch's GPU is its CPU, and ONNX Runtime's sessions are the stand-in."""
    on_cpu = torch.zeros

    def zeros(*shape: int, device: object = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        made = on_cpu(*shape, dtype=dtype)
        if device is not None:
            ALLOCATED.append(weakref.ref(made))
        return made

    ALLOCATED.clear()
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(onnxruntime, "InferenceSession", CudaSession)
    path = tmp_path / "plan.onnx"
    onnx.save(small_classifier.graph(), path)
    return path


def answers(plan: Path, photos: np.ndarray) -> np.ndarray:
    logits: np.ndarray = CpuSession(plan, providers=["CPUExecutionProvider"]).run(["logits"], {"input": photos})[0]
    return logits


def load(plan: Path, text: str = "onnxruntime-fp16") -> GpuEngine:
    spec = parse_spec(text)
    engine = backend("onnxruntime").load(
        spec, BuildRequest(None, plan, (1, 4), 1, "cuda", small_classifier.signature()), plan
    )
    assert isinstance(engine, GpuEngine)
    return engine


@pytest.mark.parametrize(("text", "nhwc", "tf32"), [("onnxruntime-fp32", None, 0), ("onnxruntime-fp16", 1, 1)])
def test_a_session_runs_as_one_would_deploy_it(text: str, nhwc: int | None, tf32: int, plan: Path) -> None:
    with load(plan, text) as engine:
        engine.infer({"input": small_classifier.photos(4)})
        options = CudaSession.last().options
        assert options["enable_cuda_graph"] == 1
        assert options.get("prefer_nhwc") == nhwc
        assert options["use_tf32"] == tf32
        assert options["user_compute_stream"] == str(STREAM)
        assert engine.facts()["launched_as"] == {"4": CAPTURED}
        assert engine.notes(4) == ()


def test_every_lane_replays_a_graph_that_no_other_shape_spoils(plan: Path) -> None:
    photos = small_classifier.photos(9)
    with load(plan) as engine:
        for some in (photos[:1], photos[1:5], photos[5:6], photos[5:]):
            np.testing.assert_allclose(engine.infer({"input": some})["logits"], answers(plan, some), atol=1e-5)
        engine.drop_lane(1)
        last = photos[8:]
        np.testing.assert_allclose(engine.infer({"input": last})["logits"], answers(plan, last), atol=1e-5)


def test_what_a_graph_uses_outlives_it(plan: Path) -> None:
    engine = load(plan)
    engine.infer({"input": small_classifier.photos(1)})
    gc.collect()
    assert len(ALLOCATED) == 2
    assert all_there()
    ended: list[bool] = []
    weakref.finalize(CudaSession.last(), lambda: ended.append(all_there()))
    engine.close()
    assert ended == [True], "the session goes at once, and before what its graph uses"
    assert all(each() is None for each in ALLOCATED)
    engine.close()


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("made", "This session cannot use the graph capture feature"),
        ("run", "Concat supports at most 32 inputs during CUDA Graph capture, but got 33 inputs"),
    ],
)
def test_what_cannot_be_captured_runs_without_a_graph_and_says_so(
    when: str, said: str, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CudaSession, "refuses", when)
    photos = small_classifier.photos(1)
    with load(plan) as engine:
        wanted = answers(plan, photos)
        np.testing.assert_allclose(engine.infer({"input": photos})["logits"], wanted, atol=1e-5)
        [note] = engine.notes(1)
        assert note == f"without a CUDA graph: {said}"
        assert engine.facts()["launched_as"] == {"1": note}


def test_how_a_plan_runs_is_part_of_its_description(tmp_path: Path) -> None:
    maker, spec = backend("onnxruntime"), parse_spec("onnxruntime-fp16")
    request = BuildRequest(None, None, (1,), 1, "cuda")
    runs = {"enable_cuda_graph": 1, "use_tf32": 1, "prefer_nhwc": 1, "fuse_conv_bias": 1}
    assert maker.build_options(spec, request)["runs_with"] == runs
    assert "runs_with" not in maker.build_options(parse_spec("onnxruntime-int8"), BuildRequest(None, None, (1,), 1))
