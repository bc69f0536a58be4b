"""`python -m trtgate sessions`: several runs of the suite, each a fresh process, under one name."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from trtgate.commands.common import (
    positive,
)
from trtgate.kinds import UserError
from trtgate.processes import run_command
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
    worst = 0
    for number in range(1, options.count + 1):
        print(f"session {number} of {options.count}", flush=True)
        command = [sys.executable, "-m", "pytest", "bench/", f"--benchmark-save={options.save}"]
        environment = dict(os.environ)
        if number < options.count:
            environment.pop(markdown.SUMMARY_VARIABLE, None)  # one table of many alike is enough
        status = run_command([*command, *options.pytest_arguments], environment)
        if status not in {0, 6}:
            print(f"trtgate: session {number} ended with status {status}; no more are run", file=sys.stderr)
            return status
        worst = max(worst, status)
    return worst
