"""`python -m trtgate sessions`: several runs of the suite, each a fresh process, under one name."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtgate.baseline import NUMBERED, require_save_name, saved_in
from trtgate.commands.common import (
    MISTAKE,
    STORAGE,
    positive,
)
from trtgate.kinds import UserError
from trtgate.processes import SIGNALLED, ending, run_command
from trtgate.report import markdown


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "sessions",
        help="record N fresh sessions under one name",
        usage="python -m trtgate sessions N --save NAME [-- PYTEST ARGUMENTS]",
    )
    parser.add_argument("count", type=positive, metavar="N")
    parser.add_argument("--save", required=True, metavar="NAME", help="name for --benchmark-compare and `compare`")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """Each session is a process of its own, since what differs between processes belongs to the spread."""
    if not Path("bench").is_dir():
        raise UserError("sessions runs bench/ of a checkout of trtgate; change to that folder")
    require_save_name(options.save, "--save ")
    try:
        added = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    except ValueError as error:
        raise UserError(f"PYTEST_ADDOPTS cannot be read ({error}); mend or unset it") from error
    storage = _storage([*added, *options.pytest_arguments])
    worst = 0
    for number in range(1, options.count + 1):
        print(f"session {number} of {options.count}", flush=True)
        command = [sys.executable, "-m", "pytest", "bench/", f"--benchmark-save={options.save}"]
        environment = dict(os.environ)
        if number < options.count:
            environment.pop(markdown.SUMMARY_VARIABLE, None)  # one table of many alike is enough
        before = _saved(storage, options.save)
        status = run_command([*command, *options.pytest_arguments], environment)
        if status not in {0, 6}:
            ended = ending(status).removeprefix("exit ")
            print(f"trtgate: session {number} ended with {ended}; no more are run", file=sys.stderr)
            return status if status >= 0 else SIGNALLED - status
        # pytest itself answers some options (--version) before anybody could refuse them, and calls that a success.
        if _saved(storage, options.save) <= before:
            print(
                f"trtgate: session {number} saved nothing as {options.save} in {storage}; leave options out that run no"
                " test or save elsewhere",
                file=sys.stderr,
            )
            return MISTAKE
        worst = max(worst, status)
    return worst


def _storage(arguments: Sequence[str]) -> Path:
    """Where pytest-benchmark will save, by pytest's own arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--benchmark-storage", nargs="?")
    given = parser.parse_known_args(arguments)[0].benchmark_storage
    return Path(given.removeprefix("file://")) if given else STORAGE


def _saved(storage: Path, name: str) -> set[Path]:
    """The sessions of a name."""
    return {path for path in saved_in(storage) if (match := NUMBERED.fullmatch(path.name)) and match[2] == name}
