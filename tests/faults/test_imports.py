"""A backend that is installed and cannot be imported, after an upgrade that broke it (1 where a baseline has it)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trtgate.engines.base import not_imported

from .table import ROOT, Fault

SAY = """
from trtgate.engines import available
from trtgate.engines.base import EngineSpec
for text in ("openvino-int8", "openvino-fp32", "onnxruntime-int8"):
    print(text, available(EngineSpec.parse(text), "cpu"))
"""
ASK = f"""
import sys
import pytest
from trtgate.engines import probe
probe.IMPORT_SECONDS = 2.0
command = "-q -p no:cacheprovider -k test_plan --model=efficientnet_lite0 --engine=openvino-int8 --engine=openvino-fp32"
status = pytest.main(["bench/", *command.split()])
{SAY}
sys.exit(status)
"""


def ask(folder: Path, runtime: str, *command: str, **environment: str) -> tuple[int, str]:
    """What is said of the engines where OpenVINO does that when it is imported."""
    log = folder / "log"
    (folder / "openvino.py").write_text(f"open({str(log)!r}, 'a').write('x')\n{runtime}\n")
    path = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        command or [sys.executable, "-c", ASK],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(
            "raise ImportError('libopenvino.so.2642: cannot open')",
            marks=pytest.mark.fault(
                done="a backend that is installed, and whose import fails (ImportError)",
                said="INVALID (broken): OpenVINO cannot be imported: libopenvino.so.2642: cannot open (fix: ...)",
                status="7",
                kept="every other engine",
            ),
            id="ImportError",
        ),
        pytest.param(
            "raise OSError('libtbb.so.12: cannot open')",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend whose library is missing (OSError at import)",
                    said="INVALID (broken): openvino cannot be imported: OSError: libtbb.so.12: cannot open (fix: ...)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="OSError",
        ),
        pytest.param(
            "raise RuntimeError('CPU dispatcher\\n tracer already exists')",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that raises RuntimeError at import",
                    said="openvino cannot be imported: RuntimeError: CPU dispatcher tracer already exists (fix: ...)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="RuntimeError",
        ),
        pytest.param(
            "raise SystemExit(3)",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that leaves the process at import",
                    said="INVALID (broken): openvino cannot be imported: SystemExit: 3 (fix: ...)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="SystemExit",
        ),
        pytest.param(
            "import os; os.kill(os.getpid(), 11)",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that crashes at import (SIGSEGV)",
                    said="INVALID (broken): openvino is broken: importing it crashed its process (SIGSEGV) (fix: ...)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="SIGSEGV",
        ),
        pytest.param(
            "import os; os._exit(0)",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that ends the process at import with status 0",
                    said="INVALID (broken): ... importing it crashed its process (exit status 0) (fix: ...)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="exit",
        ),
        pytest.param(
            "import time; time.sleep(60)",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that hangs at import",
                    said="INVALID (broken): openvino is broken: importing it took longer than ... s (fix: ...)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="hang",
        ),
    ],
)
def test_an_import_that_fails(runtime: str, fault: Fault, tmp_path: Path) -> None:
    status, output = ask(tmp_path, runtime)
    fault.check(status, output)
    first, second, sound = output.splitlines()[-3:]
    assert first.removeprefix("openvino-int8") == second.removeprefix("openvino-fp32")
    assert sound == "onnxruntime-int8 available"
    tries = len((tmp_path / "log").read_text())
    assert tries <= 2, "once in a child; once here, if the child survived it"


CRASHES = """
import os
__version__ = "2026.9.9"
class Graph:
    def reshape(self, shape): pass
class Core:
    def read_model(self, path): return Graph()
    def compile_model(self, *_): os.abort()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "acknowledged",
    [
        pytest.param(
            False,
            marks=pytest.mark.fault(
                done="a backend that is imported, and whose build crashes, without a baseline and without --require",
                said="INVALID (broken): building openvino-fp32 crashed its own process (SIGABRT)",
                status="7",
                kept="every other engine",
            ),
        ),
        pytest.param(
            True,
            marks=pytest.mark.fault(
                done="the same, and `acknowledged_missing` names the engine",
                said="building openvino-fp32 crashed its own process (SIGABRT)",
                status="0",
                kept="every other engine",
            ),
        ),
    ],
)
def test_a_build_that_crashes(acknowledged: bool, fault: Fault, tmp_path: Path, plan_cache: Path) -> None:
    expectations = tmp_path / "expectations.toml"
    expectations.write_text('acknowledged_missing = ["* openvino-*"]\n' if acknowledged else "")
    given = [f"--plan-cache={plan_cache}", f"--expectations={expectations}", "--model=efficientnet_lite0"]
    command = [sys.executable, "-m", "pytest", "bench/", *given, "--engine=openvino-fp32", "-k=test_plan", "-rs"]
    fault.check(*ask(tmp_path, CRASHES, *command))


def test_what_is_not_installed_is_not_broken() -> None:
    broken = ImportError("libcudart.so.13: cannot open shared object file", name="pycuda._driver")
    for error, expected in (
        (ModuleNotFoundError("No module named 'pycuda'", name="pycuda"), False),
        (ModuleNotFoundError("No module named 'pycuda.driver'", name="pycuda.driver"), False),
        (ModuleNotFoundError("No module named 'mako'", name="mako"), True),
        (broken, True),
    ):
        assert not_imported("PyCUDA", error, "fix", "tensorrt", "pycuda.driver").broken is expected


HOMELESS = (
    """
import os, pwd
def nobody(*_):
    raise KeyError("uid not found")
pwd.getpwuid = nobody
del os.environ["HOME"]
print(os.path.expanduser("~"))
"""
    + SAY
)


@pytest.mark.fault(
    done="HOME unset, and no passwd entry",
    said="~ openvino-int8 available openvino-fp32 available onnxruntime-int8 available",
    status="0",
    kept="everything; nothing in the temporary directory",
)
def test_without_a_home(fault: Fault, tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOMELESS]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=120
    )
    fault.check(done.returncode, done.stdout)
    assert [path.name for path in tmp_path.iterdir()] in ([], [".ses"])


NEEDED = "raise ImportError('libcudnn.so.9: cannot open')"
COMMANDS = {
    "compare": ["trtgate", "compare", "old.json", "new.json"],
    "doctor": ["trtgate", "doctor"],
    "bench": ["pytest", "bench/", "--engine=onnxruntime-fp32"],
}


def start(folder: Path, module: str, does: str, *command: str) -> tuple[int, str]:
    """A program that imports that module, which does that."""
    (folder / f"{module}.py").write_text(does + "\n")
    return ask(folder, "", *command)


@pytest.mark.fault(
    done="PyTorch or numpy, which the gate itself needs, raises at import",
    said="INVALID (broken): ... cannot be imported: ...; install it again in a version that fits this machine",
    status="7",
    kept="nothing was begun",
)
@pytest.mark.parametrize(
    ("module", "does", "command"),
    [
        pytest.param("numpy", NEEDED, "compare", id="numpy-compare"),
        pytest.param("numpy", "raise SystemExit(0)", "bench", id="numpy-bench"),
        pytest.param("torch", NEEDED, "doctor", id="torch-doctor"),
        pytest.param("torch", "raise OSError('libc10.so')", "bench", marks=pytest.mark.slow, id="torch-bench"),
        pytest.param("torch", "import numpy.none", "bench", marks=pytest.mark.slow, id="torch-of-another-numpy"),
    ],
)
def test_what_the_gate_needs_cannot_be_imported(
    module: str, does: str, command: str, fault: Fault, tmp_path: Path
) -> None:
    status, output = start(tmp_path, module, does, sys.executable, "-m", *COMMANDS[command])
    fault.check(status, output)
    assert f"INVALID (broken): {module} cannot be imported: " in output
    assert len(output.splitlines()) == 1


@pytest.mark.fault(
    done="PyTorch or numpy, which the gate itself needs, crashes at import",
    said="trtgate: INVALID (broken): ... cannot be imported: it crashed this process (SIG...); install it again",
    status="7",
    kept="nothing was begun",
)
@pytest.mark.parametrize(
    ("module", "does", "command"),
    [
        ("numpy", "import os; os.abort()", "compare"),
        ("torch", "import ctypes; ctypes.string_at(0)", "bench"),
        pytest.param("torch", "import os; os.abort()", "doctor", marks=pytest.mark.slow),
    ],
)
def test_what_the_gate_needs_crashes_at_import(
    module: str, does: str, command: str, fault: Fault, tmp_path: Path
) -> None:
    status, output = start(tmp_path, module, does, sys.executable, "-m", *COMMANDS[command])
    fault.check(status, output)
    assert f"INVALID (broken): {module} cannot be imported: " in output
    assert len(output.splitlines()) == 1


def test_a_crash_of_our_own_at_import_is_no_runtime(tmp_path: Path) -> None:
    program = "import os\nfrom trtgate.runtimes import importing\nwith importing():\n    os.abort()"
    assert start(tmp_path, "onnxruntime", NEEDED, sys.executable, "-c", program) == (-6, "")


def test_an_error_of_our_own_at_import_is_no_runtime(tmp_path: Path) -> None:
    program = "from trtgate.runtimes import importing\nwith importing():\n    raise ImportError('our own')"
    status, output = start(tmp_path, "onnxruntime", NEEDED, sys.executable, "-c", program)
    assert status == 1
    assert "Traceback" in output


@pytest.mark.slow
@pytest.mark.fault(
    done="PyTorch hangs at import",
    said="trtgate: importing torch hangs; this is where, and the run ends without a verdict ... torch.py",
    status="7",
    kept="nothing was begun",
)
@pytest.mark.parametrize("does", ["while True: pass", "import ctypes; ctypes.CDLL(None).sleep(600)"])
def test_what_the_gate_needs_hangs_at_import(does: str, fault: Fault, tmp_path: Path) -> None:
    program = (
        "from trtgate import limits, runtimes; runtimes.IMPORT_SECONDS = 3.0; limits.GRACE_SECONDS = 1.0; "
        "import trtgate.plugin"
    )
    fault.check(*start(tmp_path, "torch", does, sys.executable, "-c", program))


@pytest.mark.slow
def test_what_hangs_with_pythons_lock_held_ends_at_last(tmp_path: Path) -> None:
    program = (
        "from trtgate import limits, runtimes; runtimes.IMPORT_SECONDS = 1.0; limits.GRACE_SECONDS = 1.0; "
        "import trtgate.plugin"
    )
    does = "import ctypes; ctypes.PyDLL(None).sleep(600)"
    status, output = start(tmp_path, "torch", does, sys.executable, "-c", program)
    assert status == -signal.SIGALRM
    assert "torch.py" in output


@pytest.mark.parametrize("module", ["onnxruntime", pytest.param("cv2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("does", [pytest.param(NEEDED, marks=pytest.mark.slow), "import os; os.abort()"])
def test_what_compares_needs_no_runtime(module: str, does: str, tmp_path: Path) -> None:
    status, output = start(tmp_path, module, does, sys.executable, "-m", "trtgate", "compare", "old.json", "new.json")
    assert status == 2
    assert "old.json" in output
    assert len(output.splitlines()) == 1, output


@pytest.mark.slow
@pytest.mark.fault(
    done="OpenCV, which reads the photos, raises at import",
    said="INVALID (broken): cv2 cannot be imported: libcudnn.so.9: cannot open; install it again in a version",
    status="7",
    kept="what needs no photos",
)
def test_a_test_that_needs_what_cannot_be_imported(fault: Fault, tmp_path: Path) -> None:
    fault.check(*start(tmp_path, "cv2", NEEDED, *reading(tmp_path)))


def reading(folder: Path) -> list[str]:
    """A run that reads photos."""
    given = ["--model=efficientnet_lite0", "--engine=pytorch-fp32", "-k=test_latency", f"--plan-cache={folder}/c"]
    return [sys.executable, "-m", "pytest", "bench/", *given]


@pytest.mark.slow
@pytest.mark.fault(
    done="OpenCV, which reads the photos, crashes at import",
    said="INVALID (broken): cv2 is broken: importing it crashed its process (SIGABRT)",
    status="7",
    kept="what needs no photos",
)
def test_a_test_that_needs_what_crashes_at_import(fault: Fault, tmp_path: Path) -> None:
    fault.check(*start(tmp_path, "cv2", "import os; os.abort()", *reading(tmp_path)))


def test_a_graph_is_made_by_what_does_not_crash(tmp_path: Path) -> None:
    program = "from trtgate.engines import probe; probe.require_sound('onnxruntime')"
    status, output = start(tmp_path, "onnxruntime", "import os; os.abort()", sys.executable, "-c", program)
    assert status == 1
    assert "EngineBroken: onnxruntime is broken: importing it crashed its process (SIGABRT)" in output
