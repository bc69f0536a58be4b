"""Prints the API of TensorRT's bindings as JSON: `python dump.py BINDINGS.so`. Run in a process of its own.

Every class with its methods' signatures and properties as pybind11 documents them, every enumeration's members, and the
functions of the module.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from elf import shared_library

# The functions whose addresses some version's bindings take when they are loaded.
SYMBOLS = [
    *(f"create{name}_INTERNAL" for name in ("InferBuilder", "InferRefitter", "InferRuntime")),
    *(f"create{name}_INTERNAL" for name in ("NvOnnxParser", "NvOnnxParserRefitter")),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins"),
    "_ZN11nvuffparser15createUffParserEv",
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    "_ZN14nvcaffeparser117createCaffeParserEv",
    "_ZN14nvcaffeparser123shutdownProtobufLibraryEv",
]
LIBRARIES = re.compile(rb"\0(lib(?:nv|tensorrt)[a-z_]+\.so\.\d+)(?=\0)")


def load(path: Path) -> ModuleType:
    """The bindings, over empty libraries of the names that they ask for."""
    names = {match.decode() for match in LIBRARIES.findall(path.read_bytes())}
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(sorted(names)):
            stub = Path(folder) / name
            stub.write_bytes(shared_library(name, [] if index else SYMBOLS))
            ctypes.CDLL(str(stub), mode=ctypes.RTLD_GLOBAL)
        name = path.name.partition(".")[0]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def split(text: str) -> list[str]:
    """At the commas that stand in no bracket."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{<") - (character in ")]}>")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def signatures(name: str, doc: str) -> list[dict[str, Any]]:
    """The overloads of a method from its docstring; an argument is [name, type, whether it may be left out]."""
    found = []
    for line in doc.splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\)(?: -> (.*))?$", line)
        if match and match[1] != "*args, **kwargs":
            arguments = []
            for part in split(match[1]):
                typed, _, default = part.replace("->", "\0").partition(" = ")
                argument, _, kind = typed.partition(":")
                arguments.append([argument.strip(), kind.replace("\0", "->").strip(), bool(default)])
            found.append({"arguments": arguments, "returns": (match[2] or "None").strip()})
    return found


def describe(cls: type) -> dict[str, Any]:
    """One class."""
    described: dict[str, Any] = {"methods": {}, "properties": {}, "members": None, "nested": {}}
    described["bases"] = [base.__name__ for base in cls.__mro__[1:] if base.__module__ == cls.__module__]
    if "__members__" in dir(cls):
        described["members"] = {name: int(value) for name, value in cls.__members__.items()}  # type: ignore[attr-defined]
        return described
    for name, member in vars(cls).items():
        if inspect.isclass(member):
            described["nested"][name] = describe(member)
        elif isinstance(member, property):
            kind = re.search(r"-> (.*)", (member.fget.__doc__ if member.fget else "") or "")
            described["properties"][name] = {"type": kind[1] if kind else "", "writable": member.fset is not None}
        elif callable(member) and (name == "__init__" or not name.startswith("_")):
            described["methods"][name] = signatures(name, member.__doc__ or "")
    return described


def main() -> None:
    path = Path(sys.argv[1])
    module = load(path)
    version = re.search(r'__version__ = "([^"]+)"', (path.parent / "__init__.py").read_text())
    classes = {name: describe(value) for name, value in vars(module).items() if inspect.isclass(value)}
    functions = {
        name: signatures(name, value.__doc__ or "") for name, value in vars(module).items() if inspect.isbuiltin(value)
    }
    described = {"module": module.__name__, "classes": classes, "functions": functions}
    print(json.dumps({"version": version[1] if version else "", **described}))


def read_api(path: Path) -> dict[str, Any]:
    """What `main` prints, by running it: bindings of two versions cannot be loaded by one process."""
    run = subprocess.run([sys.executable, __file__, str(path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


if __name__ == "__main__":
    main()
