"""An environment for each version of a package: made when it is first needed, kept, and used again.

By uv where that is installed, else by venv and pip. pip reads its own configuration, which uv does not, so what uv
cannot install is left to pip before it counts as not to be installed.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trtgate.files import locked, require_no_pipe, write_synced
from trtgate.kinds import UserError
from trtgate.processes import die_with_parent, end_group, last_words, signals_wait
from trtgate.progress import Progress

# What requirements-worker.txt lists, which a test holds to this: an installed trtgate has no such file.
WORKER: tuple[str, ...] = ("numpy>=1.26", "onnx>=1.15", "psutil>=5.9", "filelock>=3.12", "typing_extensions>=4.6")
# In an environment: its python, and where it is whole what it was made of.
PYTHON = Path("bin", "python")
READY = "trtgate-ready.json"
# Of pip, where an index is gone that has just listed the versions: that is no version's doing.
NO_VERSIONS, NO_ANSWER = "(from versions: none)", "Max retries exceeded"
# For another search that makes the same one: TensorRT and its libraries have gigabytes.
LOCK_SECONDS = 3600.0


# In a file of requirements another one, or one of constraints.
NESTED = re.compile(r"""\s*(?:-[rc]|--(?:requirement|constraint)\b)[\s=]*(?:"([^"]+)"|'([^']+)'|(\S+))""")


def require_requirements(path: Path | None) -> list[str]:
    """What stands in a file of --requirements, and in those that it names. Raises UserError for one that cannot be
    read."""
    texts: dict[Path, str] = {}
    files = [] if path is None else [path]
    while files:
        try:
            require_no_pipe(each := files.pop())
            texts[each] = each.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "not UTF-8"
            raise UserError(
                f"--requirements {each} cannot be read ({why}); name a file as pip's -r takes it"
            ) from error
        named = [
            "".join(filter(None, found.groups())) for found in map(NESTED.match, texts[each].splitlines()) if found
        ]
        # Beside the file that names it; an address, or one with a variable, is pip's.
        nested = [
            Path(os.path.normpath(each.parent / name)) for name in named if "://" not in name and "${" not in name
        ]
        files += [file for file in nested if file not in {*texts, *files}]
    return list(texts.values())


class NotInstallable(Exception):
    """A version cannot be installed; the message is the installer's. `what` are the words for it."""

    what = "cannot be installed"


@dataclass(frozen=True)
class Environments:
    """The environments of one package: in a folder, made with `python`, from the index that pip's options name.

    `requirements` is a file of what is installed along.
    """

    folder: Path
    python: Path
    package: str
    index: tuple[str, ...]
    requirements: Path | None
    progress: Progress

    @functools.cached_property
    def made_of(self) -> dict[str, str]:
        """All but the version that an environment depends on."""
        told = subprocess.run([str(self.python), "-VV"], capture_output=True, text=True, check=False)
        return {
            "python": f"{self.python.resolve()} {told.stdout.strip()}",
            "requirements": "\n".join([*WORKER, *require_requirements(self.requirements)]),
            # An address may hold a password.
            "index": hashlib.sha256("\n".join(self.index).encode()).hexdigest(),
        }

    def sides(self, versions: Iterable[str]) -> dict[str, str]:
        """The pythons of those versions of which there is an environment."""
        homes = {version: self._home(self._made_of(version)) for version in versions}
        return {version: str(home / PYTHON) for version, home in homes.items() if _is_whole(home)}

    def get(self, version: str) -> Path:
        """The python of that version's environment. Raises NotInstallable, and UserError for a folder that cannot be
        used."""
        made_of = self._made_of(version)
        home = self._home(made_of)

        def waiting() -> None:
            self.progress.say(f"waiting for another search that installs {self.package} {version}")

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(home.with_name(f"{home.name}.lock"), LOCK_SECONDS, waiting) as lock:
                if not _is_whole(home):
                    with self.progress.step(f"installing {self.package} {version}"):
                        self._make(home, f"{self.package}==={version}", lock)  # == takes 1.0+cpu for 1.0
                    write_synced(home / READY, json.dumps(made_of, indent=1).encode())
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(f"--environments {self.folder} cannot be used ({why}); name a writable folder") from error
        return home / PYTHON

    def _made_of(self, version: str) -> dict[str, str]:
        return {"package": self.package, "version": version, **self.made_of}

    def _home(self, made_of: Mapping[str, str]) -> Path:
        name = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
        return (self.folder / f"{self.package}-{made_of['version']}-{name}").absolute()

    def _make(self, home: Path, wanted: str, lock: int) -> None:
        python = str(home / PYTHON)
        more = ["-r", str(self.requirements)] if self.requirements else []
        what = [*self.index, *more, *WORKER, wanted]
        uv = shutil.which("uv")
        said = ""
        if uv:
            said = self._run(
                home,
                lock,
                [uv, "venv", "--quiet", "--python", str(self.python), str(home)],
                [uv, "pip", "install", "--quiet", "--python", python, *what],
            )
        if not uv or said:
            said = self._run(
                home,
                lock,
                [str(self.python), "-m", "venv", "--without-pip", str(home)],
                [str(self.python), "-m", "pip", "--python", python, "install", "--quiet", "--no-input", *what],
            )
        if said:
            shutil.rmtree(home, ignore_errors=True)
            if (full := os.strerror(errno.ENOSPC)) in said:
                raise OSError(errno.ENOSPC, full)
            if f"{wanted} {NO_VERSIONS}" in said or NO_ANSWER in said:
                raise UserError(
                    f"pip listed {wanted} and does not get it now ({said}); check the network, the index and "
                    "--requirements, and run it again, which goes on from here"
                )
            raise NotInstallable(said)

    def _run(self, home: Path, lock: int, *commands: Sequence[str]) -> str:
        """Run commands in a folder that is made anew; what the first one that failed said, or ""."""
        shutil.rmtree(home, ignore_errors=True)
        for command in commands:
            with (
                signals_wait() as let_through,
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    start_new_session=True,
                    # pip works in a process of its own, which it ends when it is interrupted, and not when it is killed
                    preexec_fn=functools.partial(die_with_parent, signal.SIGINT),  # noqa: PLW1509
                    pass_fds=(lock,),  # if this process is killed, nobody makes it anew while the installer goes on
                ) as process,
            ):
                try:
                    let_through()
                    told, complained = process.communicate()
                except BaseException:
                    end_group(process)  # pip installs in a process of its own, which would go on
                    raise
            if process.returncode:
                return last_words(complained or told)
        return ""


def _is_whole(home: Path) -> bool:
    """Whether an environment was made to the end, and its python is still there."""
    return (home / READY).is_file() and (home / PYTHON).exists()
