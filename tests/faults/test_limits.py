"""What hangs or crashes while an engine is built, loaded or run."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trtgate.build.cache import PlanCache
from trtgate.build.plan import cached_plan
from trtgate.engines.base import BuildRequest
from trtgate.kinds import EngineSpec, EngineUnavailable
from trtgate.limits import Watch
from trtgate.progress import SILENT

from .table import ROOT, Fault

HANG = """
import ctypes, os, sys, time
from trtgate import limits
limits.GRACE_SECONDS = 1.0
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # as pytest captures it
try:
    with limits.within(0.3, "toy: loading openvino-int8"):
        {hang}
except KeyboardInterrupt:
    sys.exit(2)
"""


@pytest.mark.fault(
    done="an engine that hangs while it is loaded or run, in native code or not",
    said="trtgate: toy: loading openvino-int8 hangs; this is where, and the run ends without a verdict ... most recent",
    status="2",
    kept="what was saved before",
)
@pytest.mark.parametrize("hang", ["ctypes.CDLL(None).sleep(60)", "while True: time.sleep(0.01)"])
def test_what_hangs_is_named_and_ended(hang: str, fault: Fault) -> None:
    command = [sys.executable, "-c", HANG.format(hang=hang)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False, timeout=60)
    fault.check(done.returncode, done.stderr)
    assert 'File "<string>", line' in done.stderr, "where it hangs"


def test_standard_error_that_is_closed() -> None:
    """`2>&-`: no file that is opened later is written to in its place, by children neither."""
    script = (
        "import os, sys; from trtgate import limits; assert os.open(os.devnull, os.O_RDONLY) > 2; "
        "assert os.get_inheritable(2); sys.stderr.write('x')"
    )
    command = f"{shlex.join([sys.executable, '-c', script])} 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run(["bash", "-c", command], env=environment, check=False).returncode == 0


def test_what_is_quick_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, expired = Watch(), []
    monkeypatch.setattr(watch, "_expire", lambda what, _: expired.append(what))
    start = time.process_time()
    for _ in range(2000):
        with watch.within(30.0, "a block"):
            pass
    assert time.process_time() - start < 0.5
    with watch.within(30.0, "a block"), watch.within(0.05, "the inner one"):
        time.sleep(0.3)
    assert expired == ["the inner one"]


RUNTIME = """
import os
class Graph:
    def reshape(self, shape): pass
class Compiled:
    def export_model(self): return b"blob"
class Ready:
    inputs = ()
    def create_infer_request(self): return self
    def infer(self): pass
def Tensor(array, shared_memory): return array
class Core:
    def read_model(self, path): return Graph()
    def compile_model(self, *_):
        {build}
        return Compiled()
    def import_model(self, *_):
        {load}
"""
GOOD = "return Ready()"
FAULTS = {
    "build": {"build": "os.abort()", "load": ""},
    "load": {"build": "", "load": "os.kill(os.getpid(), 11)"},
    "raise": {"build": "raise RuntimeError('no kernel for this layer')", "load": ""},
}


@pytest.mark.parametrize(
    ("what", "error"),
    [
        pytest.param(
            "build",
            EngineUnavailable,
            marks=pytest.mark.fault(
                done="an engine whose build crashes (SIGABRT)",
                said="building openvino-fp32 crashed its own process (SIGABRT)",
                status="-",
                kept="every other engine; nothing of the half plan",
            ),
        ),
        pytest.param(
            "load",
            EngineUnavailable,
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a new plan that crashes when it is loaded (SIGSEGV)",
                    said="building openvino-fp32 crashed its own process (SIGSEGV)",
                    status="-",
                    kept="every other engine; the plan is not kept",
                ),
            ],
        ),
        pytest.param(
            "raise",
            RuntimeError,
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="an engine whose build raises",
                    said="building openvino-fp32 failed: ... RuntimeError: no kernel for this layer",
                    status="-",
                    kept="every other engine; nothing of the half plan",
                ),
            ],
        ),
    ],
)
def test_a_build_that_fails(
    what: str, error: type[Exception], fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text(
        RUNTIME.format(**{name: code or "pass" for name, code in FAULTS[what].items()})
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    cache, request = PlanCache(tmp_path / "cache"), BuildRequest(None, tmp_path / "graph.onnx", (1,), 1)
    with pytest.raises(error) as told:
        cached_plan(cache, "toy", EngineSpec("openvino", "fp32"), request, {}, SILENT)
    fault.says(str(told.value))
    assert not cache.entries()
    assert not list(tmp_path.rglob("*.building-*"))


@pytest.mark.fault(
    done="a plan of the cache that crashes when it is loaded, after an upgrade of what is under it",
    said="loading openvino-fp32 crashed its own process (SIGSEGV)",
    status="-",
    kept="every other engine; the plan, for the stack that it runs on",
)
def test_a_cached_plan_that_crashes(fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "openvino.py"
    runtime.write_text(RUNTIME.format(build="pass", load=GOOD))
    monkeypatch.syspath_prepend(str(tmp_path))
    cache, spec = PlanCache(tmp_path / "cache"), EngineSpec("openvino", "fp32")
    request = BuildRequest(None, tmp_path / "graph.onnx", (1,), 1)
    assert cached_plan(cache, "toy", spec, request, {}, SILENT)
    runtime.write_text(RUNTIME.format(build="pass", load="os.kill(os.getpid(), 11)"))
    assert cached_plan(cache, "toy", spec, request, {}, SILENT), "on this stack it ran: it is not tried each time"
    monkeypatch.setattr("trtgate.build.plan.stack_key", lambda device: "0" * 64)
    for _ in range(2):
        with pytest.raises(EngineUnavailable) as told:
            cached_plan(cache, "toy", spec, request, {}, SILENT)
        fault.says(str(told.value))
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cached_plan(cache, "toy", spec, request, {}, SILENT)
