"""The installed TensorRT: which it is, what its version can do, what it logs, and what a plan's header says."""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trtgate.kinds import EngineRefused, UserError
from trtgate.stack import TENSORRT_CHOICE

if TYPE_CHECKING:
    import tensorrt

    trt = tensorrt
else:

    class _Lazy:
        """The installed TensorRT, imported when the first of its names is used."""

        def __getattr__(self, name: str) -> Any:
            return getattr(installed(), name)

    trt = _Lazy()

log = logging.getLogger(__name__)

# In the order of preference: TensorRT, TensorRT-RTX, and RTX where only its bindings and libraries are installed.
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
# How a plan begins. Integers are little-endian; its version is a byte each for major, minor, patch and build.
PLAN_TAGS = {b"ftrt": "TensorRT", b"vtrt": "TensorRT-RTX"}
SERIALISATION_AT = slice(8, 12)
SIZE_AT = slice(16, 24)
VERSION_AT = slice(24, 28)
# Of what was logged in the message of an error.
SHOWN_PROBLEMS = 8


def candidates() -> tuple[str, ...]:
    """The modules that may be TensorRT here: all, or the one that TRTGATE_TENSORRT names. Raises UserError for a name
    that is none of MODULES."""
    choice = os.environ.get(TENSORRT_CHOICE)
    if choice and choice not in MODULES:
        raise UserError(f"{TENSORRT_CHOICE}={choice} is not a TensorRT; give one of {', '.join(MODULES)}")
    return (choice,) if choice else MODULES


@functools.cache
def installed() -> ModuleType:
    """The installed TensorRT, or the one that TRTGATE_TENSORRT names.

    Raises ImportError saying why each candidate could not be imported, ModuleNotFoundError where none is installed, and
    UserError for a name that is none of MODULES.
    """
    reasons = []
    broken = False
    for name in candidates():
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {error}")
            broken |= not isinstance(error, ModuleNotFoundError) or error.name != name
            continue
        if hasattr(module, "Builder"):
            return module
        reasons.append(f"{name}: an empty package of that name is installed")
    raise ImportError("; ".join(reasons)) if broken else ModuleNotFoundError("; ".join(reasons), name=name)


@dataclass(frozen=True)
class Features:
    """What the installed version can do, read off its attributes.

    `profile_sharing`: two contexts on one profile must be asked for when the plan is built. `user_allocation` and
    `kernel_specialization` are TensorRT-RTX's: without the first it may allocate while it runs, and cannot be captured;
    unless the second is eager it runs generic kernels first, and a captured graph would keep them.
    """

    strongly_typed: bool
    explicit_batch: bool
    calibrator: bool
    progress_monitor: bool
    compute_capability: bool
    profile_sharing: bool
    user_allocation: bool
    kernel_specialization: bool

    @classmethod
    def of(cls, module: Any) -> Features:
        """The features of a TensorRT module."""
        flags = module.NetworkDefinitionCreationFlag
        return cls(
            strongly_typed=hasattr(flags, "STRONGLY_TYPED"),
            explicit_batch=hasattr(flags, "EXPLICIT_BATCH"),
            calibrator=hasattr(module, "IInt8EntropyCalibrator2"),
            progress_monitor=hasattr(module, "IProgressMonitor"),
            compute_capability=hasattr(module.IBuilderConfig, "set_compute_capability"),
            profile_sharing=hasattr(module.PreviewFeature, "PROFILE_SHARING_0806"),
            user_allocation=hasattr(module.BuilderFlag, "REQUIRE_USER_ALLOCATION"),
            kernel_specialization=hasattr(module, "DynamicShapesKernelSpecializationStrategy"),
        )


# What TensorRT calls the types that its inputs and outputs may have.
TYPES = {
    "float32": "FLOAT",
    "float16": "HALF",
    "int32": "INT32",
    "int64": "INT64",
    "int8": "INT8",
    "uint8": "UINT8",
    "bool": "BOOL",
}


def data_type(dtype: str) -> Any:
    """TensorRT's member for numpy's name of a type, or None where the installed version has no such inputs."""
    return getattr(trt.DataType, TYPES.get(dtype, ""), None)


class TensorRTError(EngineRefused):
    """TensorRT refused; the message holds everything that it logged about it."""


@functools.cache
def logger_class() -> type[Any]:
    """An ILogger that keeps errors in `problems`, and warnings apart in `warnings`."""

    class Log(trt.ILogger):
        """Keeps what TensorRT says: warnings and errors for a message, all of it for the log."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.problems: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            levels = trt.ILogger.Severity
            if severity in (levels.ERROR, levels.INTERNAL_ERROR):
                self.problems.append(msg)
            if severity == levels.WARNING:
                self.warnings.append(msg)
            log.log(logging.WARNING if severity == levels.WARNING else logging.DEBUG, "TensorRT: %s", msg)

        def forget(self) -> None:
            """Begin anew: what is said from now on is about something else."""
            self.problems.clear()
            self.warnings.clear()

    return Log


@functools.cache
def process_logger() -> Any:
    """The one logger of this process, which is never given up; NVIDIA's plugins are registered with it.

    As long as anything is left of what was made with a first logger, TensorRT keeps that one for what has no logger of
    its own, and warns of every other; its plugin library keeps it for good. Neither keeps it alive.
    """
    logger = logger_class()()
    # Some ONNX operators are plugins: 8.6's InstanceNormalization, RoiAlign, NVIDIA's own for detection.
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(logger, "")
    return logger


def fresh_logger() -> Any:
    """The process's logger, which has forgotten what was said before."""
    logger = process_logger()
    logger.forget()
    return logger


def refusal(what: str, logger: Any, *more: str) -> TensorRTError:
    """The error to raise when a call returned None or False; its reasons are told once.

    A builder logs an error for each kernel that it cannot use, and goes on: the last say why it did not.
    """
    reasons = [*more, *list(dict.fromkeys(logger.problems))[-SHOWN_PROBLEMS:]] or ["TensorRT gave no reason"]
    logger.forget()
    return TensorRTError("\n  ".join([f"{what}:", *reasons]))


def start(make: Callable[[Any], Any], logger: Any) -> Any:
    """`trt.Builder` or `trt.Runtime` with its logger.

    Raises TensorRTError where CUDA does not start for it. The bindings' own error ("factory function returned nullptr")
    says nothing; what was logged before it, as a warning in some versions, does. A runtime may even be made (10.16 and
    11.4, without a driver): it logs errors, and whoever uses or destroys it crashes.
    """
    try:
        made = make(logger)
        if not logger.problems:
            return made
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))  # for good: no reference is ever the last
    except TypeError as error:
        if "nullptr" not in str(error):
            raise
    advice = "the driver may be too old for the CUDA that this TensorRT was built for: python -m trtgate doctor"
    raise refusal(f"TensorRT {installed().__version__} cannot start; {advice}", logger, *logger.warnings)


def plan_version(plan: bytes) -> str:
    """The version of TensorRT or TensorRT-RTX that wrote a plan, from its header: nothing is deserialised.

    Raises TensorRTError for what is no plan.
    """
    if len(plan) < VERSION_AT.stop or plan[:4] not in PLAN_TAGS:
        raise TensorRTError(f"this is no TensorRT plan: it begins with {plan[:4]!r}")
    return ".".join(map(str, plan[VERSION_AT]))


def require_own_plan(plan: bytes) -> str:
    """The version that wrote a plan, which must be the installed one; its build number may differ.

    Raises TensorRTError for what is no plan, not a whole one, or another product's or version's.
    """
    version = plan_version(plan)
    size = int.from_bytes(plan[SIZE_AT], "little")
    if size > len(plan):  # of more than there should be TensorRT itself is the judge: no older plan has been seen here
        raise TensorRTError(f"this TensorRT plan is not whole: {len(plan)} bytes, its header says {size}")
    here = PLAN_TAGS[b"vtrt" if installed().__name__.startswith("tensorrt_rtx") else b"ftrt"]
    wrote, numbers = PLAN_TAGS[plan[:4]], installed().__version__
    if wrote != here or version.split(".")[:3] != re.findall(r"\d+", numbers)[:3]:  # 10.0.0b6 is one, too
        raise TensorRTError(
            f"the plan was written by {wrote} {version}, {here} {numbers} is installed: a plan runs on the version "
            f"that built it (its serialisation version is {int.from_bytes(plan[SERIALISATION_AT], 'little')})"
        )
    return version
