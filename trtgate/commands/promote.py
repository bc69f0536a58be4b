"""`python -m trtgate promote`: sound sessions become the baseline of runs to come."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from trtgate.baseline import find_named, promote
from trtgate.commands.common import (
    STORAGE,
)


def add(commands: Any) -> None:
    parser = commands.add_parser("promote", help="make sound sessions the baseline of runs to come")
    parser.add_argument("sessions", help="name, number, file or folder of the sessions")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder, as baselines/l4/trt10")
    parser.add_argument("--storage", type=Path, default=STORAGE, metavar="DIR", help="pytest-benchmark's storage")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    for path in promote(find_named(options.storage, options.sessions), options.to):
        print(f"wrote {path}")
    return 0
