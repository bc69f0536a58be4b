"""A backend that cannot be imported, after an upgrade that broke it (0 without a baseline and without --require)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .table import ROOT, Fault

ASK = """
import sys
from trtgate.engines import available, probe
from trtgate.engines.base import EngineSpec
probe.IMPORT_SECONDS = 2.0
for text in ("openvino-int8", "openvino-fp32", "onnxruntime-int8"):
    print(text, available(EngineSpec.parse(text), "cpu"))
"""
TELL = "openvino-int8 openvino ... (fix: install it again in a version that fits this machine's driver)"


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
            "raise OSError('libtbb.so.12: cannot open shared object file')",
            marks=pytest.mark.fault(
                done="a backend whose library is missing (OSError at import)",
                said="openvino cannot be imported: OSError: libtbb.so.12: cannot open shared object file (fix: ...)",
                status="0",
                kept="every other engine",
            ),
            id="OSError",
        ),
        pytest.param(
            "raise RuntimeError('CPU dispatcher\\n tracer already exists')",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that raises RuntimeError at import",
                    said="openvino cannot be imported: RuntimeError: CPU dispatcher tracer already exists (fix: ...)",
                    status="0",
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
                    said="openvino cannot be imported: SystemExit: 3 (fix: ...)",
                    status="0",
                    kept="every other engine",
                ),
            ],
            id="SystemExit",
        ),
        pytest.param(
            "import os; os.kill(os.getpid(), 11)",
            marks=pytest.mark.fault(
                done="a backend that crashes at import (SIGSEGV)",
                said="openvino is broken: importing it crashed its process (SIGSEGV) (fix: ...)",
                status="0",
                kept="every other engine",
            ),
            id="SIGSEGV",
        ),
        pytest.param(
            "import os; os._exit(0)",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that ends the process at import with status 0",
                    said="openvino is broken: importing it crashed its process (exit status 0) (fix: ...)",
                    status="0",
                    kept="every other engine",
                ),
            ],
            id="exit",
        ),
        pytest.param(
            "import time; time.sleep(60)",
            marks=pytest.mark.fault(
                done="a backend that hangs at import",
                said="openvino is broken: importing it took longer than ... s (fix: ...)",
                status="0",
                kept="every other engine",
            ),
            id="hang",
        ),
    ],
)
def test_an_import_that_fails(runtime: str, fault: Fault, tmp_path: Path) -> None:
    status, output = ask(tmp_path, runtime)
    fault.check(status, output)
    first, second, sound = output.splitlines()
    assert first.removeprefix("openvino-int8") == second.removeprefix("openvino-fp32")
    assert sound == "onnxruntime-int8 available"
    tries = len((tmp_path / "log").read_text())
    assert tries <= 2, "once in a child; once here, if the child survived it"


HOMELESS = """
import os, pwd
def nobody(*_):
    raise KeyError("uid not found")
pwd.getpwuid = nobody
del os.environ["HOME"]
print(os.path.expanduser("~"))
""" + ASK.replace("2.0", "60.0")


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
