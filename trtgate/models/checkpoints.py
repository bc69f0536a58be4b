"""Weights files as people have them. The content decides what a file is, and no code in it is ever run."""

from __future__ import annotations

import logging
import re
import struct
import warnings
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from trtgate.files import require_no_pipe
from trtgate.kinds import UserError, printable

log = logging.getLogger(__name__)

State = Mapping[str, torch.Tensor]

# A safetensors file begins with the length of its JSON header, which the format limits to this.
SAFETENSORS_HEADER_LIMIT = 100_000_000
# What the parts of a checkpoint that hold weights are called, the likeliest first.
WRAPPERS = ("state_dict", "model_state_dict", "model", "model_state", "net", "network", "module", "weights", "params")
# Components that wrapping a module puts into its names: DataParallel, torch.compile.
WRAPPED = frozenset({"module", "_orig_mod"})
# What averaging and profiling leave among the weights.
BOOKKEEPING = frozenset({"n_averaged", "total_ops", "total_params"})
SAVE = "save the state_dict alone: torch.save(model.state_dict(), FILE)"


class _Inert:
    """What a checkpoint holds besides weights, read as nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def _inert_dict(*_: Any) -> OrderedDict[Any, Any]:
    return OrderedDict()


# Types that training scripts save beside the weights (arguments, paths, scores). PyTorch's safe reader stops at them,
# so each is given to it as something that does nothing: neither imported nor called.
INERT = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "typing.Any",
    "builtins.dict",
    "builtins.list",
    "builtins.int",
    "builtins.float",
    *(f"datetime.{name}" for name in ("date", "datetime", "time", "timedelta", "timezone")),
    *(
        f"{module}.{name}"
        for module in ("pathlib", "pathlib._local")
        for name in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
    ),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"numpy.dtypes.{name}DType" for name in ("Float32", "Float64", "Int32", "Int64", "Bool")),
    *(
        f"omegaconf.{name}"
        for name in (
            "dictconfig.DictConfig",
            "listconfig.ListConfig",
            "base.ContainerMetadata",
            "base.Metadata",
            *(f"nodes.{kind}Node" for kind in ("Any", "Integer", "Float", "Boolean", "String", "Path")),
        )
    ),
)
INERT_DICTS = (
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "fvcore.common.config.CfgNode",
)


def read_weights(path: Path) -> State:
    """The state dict of a weights file: safetensors, or a PyTorch checkpoint read without running any pickled code.

    Raises UserError when the file is missing, unreadable, of another kind, or holds no state dict.
    """
    start = _first_bytes(path)
    if _is_safetensors(start):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"--weights: {path} is damaged ({_first_line(error)}); copy it again") from error
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        _refuse_other_kinds(path, start)
    try:
        inert = [*((_Inert, name) for name in INERT), *((_inert_dict, name) for name in INERT_DICTS)]
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():  # type: ignore[arg-type]  # pairs
            warnings.simplefilter("ignore")  # about old formats, which either can be read or cannot
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a bad file; all are the user's to fix
        _refuse(path, error)
    return _weights_in(path, content)


def require_readable(path: Path) -> None:
    """Raises UserError when the file is missing, empty, a folder, or may not be read."""
    _first_bytes(path)


def _first_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UserError(f"--weights: {path} is a folder; give the weights file in it")
        require_no_pipe(path)
        with path.open("rb") as file:
            start = file.read(1024)
    except FileNotFoundError as error:
        raise UserError(f"--weights: {path} does not exist; give MODEL=PATH of a weights file") from error
    except (OSError, ValueError) as error:
        raise UserError(f"--weights: {path} cannot be read ({_first_line(error)}); check the path") from error
    if not start:
        raise UserError(f"--weights: {path} is empty; copy it again")
    return start


def _is_safetensors(start: bytes) -> bool:
    if len(start) < 9:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return length <= SAFETENSORS_HEADER_LIMIT and start[8:9] == b"{"


def _refuse_other_kinds(path: Path, start: bytes) -> NoReturn:
    text = start.lstrip()[:64].lower()
    if text.startswith(b"version https://git-lfs"):
        raise UserError(f"--weights: {path} is a pointer of Git LFS, not the file; run git lfs pull")
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"--weights: {path} is a web page; download the weights file itself")
    if start.startswith((b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"7z\xbc\xaf")) or start[257:262] == b"ustar":
        raise UserError(f"--weights: {path} is an archive; unpack it and give the weights file in it")
    raise UserError(f"--weights: {path} is neither safetensors nor a PyTorch checkpoint; {SAVE}")


def _refuse(path: Path, error: Exception) -> NoReturn:
    """Say what torch.load could not read, without its advice to read it unsafely."""
    text = printable(str(error))
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        raise UserError(
            f"--weights: {path} holds a pickled {found[1]}, and a pickle can run code, so it is not read; {SAVE}"
        ) from error
    if "TorchScript" in text:
        raise UserError(f"--weights: {path} is a TorchScript program, not weights; {SAVE}") from error
    if isinstance(error, MemoryError):
        raise UserError(f"--weights: {path} does not fit into memory") from error
    reason = "" if "weights_only" in text or not text.strip() else f" ({_first_line(error)})"
    raise UserError(
        f"--weights: {path} is damaged or no PyTorch checkpoint{reason}; copy it again, or {SAVE}"
    ) from error


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = printable(text).strip().splitlines()
    return lines[0].partition(". ")[0][:160].rstrip(".") if lines else type(error).__name__


def _weights_in(path: Path, content: Any) -> State:
    """The state dict in what a checkpoint holds, at most two wrappers deep."""
    for _ in range(3):
        if not isinstance(content, Mapping):
            break
        inside = {key: value for key, value in content.items() if isinstance(value, Mapping) and _holds_weights(value)}
        if not inside:
            if not _holds_weights(content):
                break
            return _tensors(content)
        names = [name for name in WRAPPERS if name in inside] or list(inside)
        if len(names) > 1 or len(inside) > 1:
            log.warning(
                "%s: the weights are those under %r; it also holds %s", path, names[0], sorted(map(str, inside))
            )
        content = inside[names[0]]
    if isinstance(content, Mapping) and any(isinstance(value, torch.Tensor) for value in content.values()):
        raise UserError(f"--weights: {path} names its tensors by numbers, not by modules; {SAVE}")
    raise UserError(f"--weights: {path} does not hold a state_dict; {SAVE}")


def _holds_weights(mapping: Mapping[Any, Any], wraps: int = 1) -> bool:
    """Whether it is, or `wraps` that many times, tensors under names. An optimizer's are under numbers."""
    return any(
        isinstance(key, str)
        and (
            isinstance(value, torch.Tensor)
            or (wraps > 0 and isinstance(value, Mapping) and _holds_weights(value, wraps - 1))
        )
        for key, value in mapping.items()
    )


def _tensors(mapping: Mapping[Any, Any]) -> State:
    """What is under names; the versions of the modules beside it, as torch keeps them, if they are ones."""
    named = [(key, value) for key, value in mapping.items() if isinstance(key, str) and isinstance(value, torch.Tensor)]
    state = OrderedDict(named)
    metadata = getattr(mapping, "_metadata", None)
    if isinstance(metadata, Mapping) and all(
        isinstance(name, str) and isinstance(each, Mapping) and isinstance(each.get("version"), int | None)
        for name, each in metadata.items()
    ):
        state._metadata = metadata  # type: ignore[attr-defined]
    return state


def fit_names(state: State, wanted: Collection[str]) -> State:
    """The state under the names that a module wants: without the prefixes of whatever it was wrapped in.

    Weights that were beside the module in its wrapper are left out; those that the module has no place for stay.
    """
    prefix = _common_prefix(state, wanted)

    def inside(name: str) -> str:
        name = name.removeprefix(prefix)
        return name if name in wanted else _unwrapped(name)

    fitted = OrderedDict(
        (inside(name), value)
        for name, value in state.items()
        if name.startswith(prefix) and name.rpartition(".")[2] not in BOOKKEEPING
    )
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:  # the versions of the modules, by name without the last dot
        fitted._metadata = {  # type: ignore[attr-defined]
            inside(f"{name}.").rstrip("."): value for name, value in metadata.items() if f"{name}.".startswith(prefix)
        }
    return fitted


# DenseNet's published files are older than the rule that a module's name holds no dot.
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


def _unwrapped(name: str) -> str:
    return _DENSENET.sub(r"\1\2", ".".join(part for part in name.split(".") if part not in WRAPPED))


def _common_prefix(names: Collection[str], wanted: Collection[str]) -> str:
    """What stands before most of the wanted names: of several the least besides wrappers, with all of its wrappers."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for index in range(len(parts)):
            if _unwrapped(".".join(parts[index:])) in wanted:
                counts[".".join(parts[:index]) + "." if index else ""] += 1

    def order(prefix: str) -> tuple[int, int, int]:
        return -counts[prefix], len(_unwrapped(prefix)), -len(prefix)

    return min(counts, key=order, default="")
