"""A package index of a dozen versions of a stand-in: an ONNX Runtime with something planted in it from one version on.

What is planted stands in the environment variable PLANTED, as JSON: `kind`, the minor version that it begins `from`,
and whether times are `made_up`. The wheels are a few kilobytes; all else comes from the Python that runs the tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.version import Version

PACKAGE = "standin"
VARIABLE = "PLANTED"
VERSIONS = tuple(f"1.{minor}" for minor in range(12))
# Not for this Python; not released; and one that asks for what there is not.
FOREIGN, EARLY, UNRESOLVABLE = "1.3.5", "1.4rc1", "1.5.1"

RUNTIME = """
import importlib.util, json, os, sys, time

MINOR = {minor}
planted = json.loads(os.environ.get("{variable}", "{{}}"))
kind = planted.get("kind", "") if MINOR >= planted.get("from", 0) else ""
if kind == "import":
    raise ImportError("libstandin.so.2: cannot open shared object file")

home = {home!r}
spec = importlib.util.spec_from_file_location("onnxruntime", home + "/__init__.py", submodule_search_locations=[home])
real = importlib.util.module_from_spec(spec)
sys.modules["onnxruntime"] = real
spec.loader.exec_module(real)
plain_init, plain_run = real.InferenceSession.__init__, real.InferenceSession.run


def init(self, *arguments, **keywords):
    if kind == "build":
        raise RuntimeError("no kernel for this layer")
    plain_init(self, *arguments, **keywords)
    if kind == "memory":
        self.kept = b"1" * (64 << 20)


def run(self, *arguments, **keywords):
    began = time.perf_counter()
    found = plain_run(self, *arguments, **keywords)
    if kind == "answers":
        for logits in found[0]:
            first, second = logits.argsort()[::-1][:2]
            if int(1e4 * float(logits[first])) % 3 == 0:
                logits[first], logits[second] = logits[second], logits[first]
    until = time.perf_counter()
    until += planted.get("share", 0.1) * (until - began) if kind == "wait" else 0
    while time.perf_counter() < until:
        pass
    return found


real.InferenceSession.__init__, real.InferenceSession.run = init, run

if planted.get("made_up"):
    import numpy as np
    from trtgate.engines import base

    rng = np.random.default_rng(os.getpid())
    level = 1e-3 * (1 + planted.get("share", 0.1) * (kind == "wait")) * float(np.exp(rng.normal(0, 0.003)))
    base.time_calls = lambda call, n: level * np.exp(np.abs(rng.normal(0, 0.003, n)))
"""


def make_index(folder: Path, *more: str) -> str:
    """Write the index, with `more` versions; its address."""
    package = folder / "simple" / PACKAGE
    package.mkdir(parents=True)
    for version in (*VERSIONS, EARLY, UNRESOLVABLE, *more):
        _wheel(package, version)
    _wheel(package, FOREIGN, tag="cp27-cp27m-win32")
    links = "\n".join(f'<a href="{path.name}">{path.name}</a>' for path in sorted(package.glob("*.whl")))
    (package / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")
    return (folder / "simple").as_uri()


def runtime(minor: int) -> str:
    """The stand-in's module of version 1.`minor`."""
    return RUNTIME.format(minor=minor, variable=VARIABLE, home=str(_real()))


def _real() -> Path:
    """The ONNX Runtime of the Python that runs the tests."""
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _wheel(folder: Path, version: str, tag: str = "py3-none-any") -> None:
    """A wheel whose ONNX Runtime hides the real one, which it finds where this Python has it."""
    minor = Version(version).minor
    info = f"{PACKAGE}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: {version}\n"
    if version == UNRESOLVABLE:
        metadata += "Requires-Dist: nowhere-to-be-found\n"
    files = {
        "onnxruntime.py": runtime(minor),
        "standin.pth": f"{_real().parent}\n",
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = "".join(f"{name},sha256={_digest(text)},{len(text)}\n" for name, text in files.items())
    with zipfile.ZipFile(folder / f"{PACKAGE}-{version}-{tag}.whl", "w") as wheel:
        for name, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(name, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")


def planted(kind: str, first_bad: int, **more: Any) -> Mapping[str, str]:
    """The environment in which that is planted from version 1.`first_bad` on."""
    return {VARIABLE: json.dumps({"kind": kind, "from": first_bad, **more})}
