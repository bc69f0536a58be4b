"""A side's workers in containers of an image that is on this machine, by docker or podman; the images of a search.

A container shares nothing with its driver but this code, the folders of the run and a folder of its own, in which a
Unix socket lies. It has no network.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trtgate.files import scratch_folder
from trtgate.kinds import Device, UserError
from trtgate.measure.remote import Place, Running, start_process
from trtgate.processes import end_group, last_words
from trtgate.protocol import Frames, ProtocolError
from trtgate.shipped import PACKAGE, import_root
from trtgate.stack import TENSORRT_CHOICE

ENGINES = ("docker", "podman")


# What is called like this and is no file here is an image: NAME:TAG or NAME@sha256:DIGEST.
IMAGE = re.compile(r"[A-Za-z0-9][\w./:-]*(:[\w.-]{1,128}|@sha256:[0-9a-f]{64})")


# All GPUs, in the words of each.
GPUS = {"docker": ("--gpus", "all"), "podman": ("--device", "nvidia.com/gpu=all")}
# What says which of them is meant, and which runtime: without it a worker would run on another GPU than is watched.
CHOICES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", TENSORRT_CHOICE)


# For what is asked of the engine besides starting workers.
ENGINE_SECONDS = 60.0


LOOK_SECONDS = 0.2


def is_image(text: str) -> bool:
    """Whether a word names an image: with its tag or digest, and no file or command that is here."""
    return not Path(text).exists() and shutil.which(text) is None and IMAGE.fullmatch(text) is not None


def choose_side(option: str, text: str, device: Device) -> Path | Place:
    """The side that an option names: the python of an environment, or an image with its tag.

    Raises UserError for an image where no container engine is installed or answers, and for one that is not here.
    """
    if not is_image(text):
        return Path(text)
    engine = _choose_engine(f"{option} {text}", "give the python of an environment")
    digest = _digest(engine, text)
    if digest is None:
        raise UserError(f"{option} {text} is no image on this machine; run {engine} pull {text}")
    return Image(text, engine, digest, device)


def _choose_engine(given: str, instead: str) -> str:
    """The first one that answers. Raises UserError, with what may be done `instead`, where none does."""
    installed = [name for name in ENGINES if shutil.which(name)]
    if not installed:
        raise UserError(
            f"{given} is no file, and an image needs docker or podman, neither of which is installed; install one, "
            f"or {instead}"
        )
    said = {name: _ask(name, "ps", "--quiet") for name in installed}
    engine = next((name for name, done in said.items() if done.returncode == 0), None)
    if engine is None:
        why = "; ".join(f"{name} does not answer: {last_words(done.stderr)}" for name, done in said.items())
        raise UserError(f"{given} is an image, and {why}; start it, or {instead}")
    return engine


def _digest(engine: str, name: str) -> str | None:
    """Of an image that is here."""
    found = _ask(engine, "image", "inspect", "--format", "{{.Id}}", name)
    return None if found.returncode else found.stdout.strip()


def _ask(engine: str, *arguments: str, within: float | None = ENGINE_SECONDS) -> subprocess.CompletedProcess[str]:
    """What an engine answers; one that hangs has failed."""
    command = [engine, *arguments]
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=within
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


@dataclass(frozen=True)
class Image:
    """An image, the engine that runs it, and its digest."""

    name: str
    engine: str
    digest: str
    device: Device

    def __str__(self) -> str:
        return self.name

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"image": f"{self.name} ({self.digest.removeprefix('sha256:')[:12]})"}

    def start(self, side: str, imports: Sequence[str], folders: Sequence[Path], log: IO[bytes]) -> Running:
        """As `Place.start`."""
        return _Contained(self, imports, folders, log)

    def command(self, name: str, writable: Sequence[Path], worker: Sequence[str]) -> list[str]:
        """Runs `worker` in a container of that name. Folders are where they are outside, so that a path means the same
        on both sides, and what the worker writes there belongs to whoever started it. The image is named by its
        digest: a tag may move while it is raced."""
        root = import_root()
        shared = [f"{folder.resolve()}:{folder.resolve()}" for folder in writable]
        shared += [f"{folder}:{folder}:ro" for folder in (root, PACKAGE)]
        user = ["--user", f"{os.getuid()}:{os.getgid()}"]
        if self.engine == "podman":
            # A user's own podman has a user of its own inside, unless told; root's has not, and refuses the word.
            user = ["--security-opt", "label=disable", *(["--userns", "keep-id"] if os.getuid() else [])]
        return [
            *(self.engine, "run", "--rm", "--name", name, "--network", "none", *user),
            *(GPUS[self.engine] if self.device == "cuda" else ()),
            *(each for volume in dict.fromkeys(shared) for each in ("--volume", volume)),
            *("--env", f"PYTHONPATH={root}", "--env", "PYTHONDONTWRITEBYTECODE=1"),
            *(each for name in CHOICES if name in os.environ for each in ("--env", name)),
            *("--entrypoint", "python3", self.digest, "-m", "trtgate.measure.worker", *worker),
        ]


class _Contained:
    """A worker in a container: `process` is the engine's client, which lives as long."""

    def __init__(self, image: Image, imports: Sequence[str], folders: Sequence[Path], log: IO[bytes]) -> None:
        self._engine = image.engine
        self._name = f"trtgate-{uuid.uuid4().hex[:12]}"
        self._held = contextlib.ExitStack()
        folder = self._held.enter_context(scratch_folder())
        path = folder / "worker"
        self._frames: Frames | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(path))
            self._listener.listen(1)
            command = image.command(self._name, [folder, *folders], [str(path), *imports])
            self.process = start_process(command, log)
        except BaseException:
            self._forget()
            raise
        self.pid = self.process.pid

    def connect(self, timeout: float) -> Frames:
        deadline = time.monotonic() + timeout
        while not select.select([self._listener], [], [], LOOK_SECONDS)[0]:
            if self.process.poll() is not None:
                raise ProtocolError("it ended")
            if time.monotonic() > deadline:
                raise ProtocolError("it did not answer in time")
        self._frames = Frames.over(self._listener.accept()[0])
        # Its process in the container is another one out here, where its use of the processor is looked at.
        told = _ask(self._engine, "inspect", "--format", "{{.State.Pid}}", self._name).stdout.strip()
        self.pid = int(told) if told.isdigit() and int(told) else self.process.pid
        return self._frames

    def hang_up(self) -> None:
        if self._frames is not None:
            self._frames.close()
        self._listener.close()

    def end(self) -> None:
        if self.process.poll() is None:
            _ask(self._engine, "kill", self._name)
        end_group(self.process)
        self._forget()

    def _forget(self) -> None:
        self._listener.close()
        self._held.close()
