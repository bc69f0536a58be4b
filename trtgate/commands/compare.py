"""`python -m trtgate compare`: a verdict on saved sessions, without running anything."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trtgate.baseline import saved_sessions
from trtgate.commands.common import (
    STORAGE,
    add_outputs,
    photos,
    require_own_outputs,
    show,
)
from trtgate.compare import compare_sessions, samples_of
from trtgate.compared import report_to_json
from trtgate.expectations import DEFAULT_PATH, read_expectations
from trtgate.records import SessionRecord
from trtgate.report.pages import comparison_page, comparison_verdicts
from trtgate.verdict.policy import exit_status


def add(commands: Any) -> None:
    parser = commands.add_parser("compare", help="decide on saved sessions without running anything")
    parser.add_argument("old", help="name, number, file or folder of the baseline's sessions")
    parser.add_argument("new", help="name, number, file or folder of the new sessions")
    parser.add_argument("--storage", type=Path, default=STORAGE, metavar="DIR", help="pytest-benchmark's storage")
    parser.add_argument("--expectations", type=Path, default=DEFAULT_PATH, metavar="FILE")
    add_outputs(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    require_own_outputs(options)
    old, new = (saved_sessions(options.storage, name) for name in (options.old, options.new))
    expectations = read_expectations(options.expectations)
    expectations.require_models(_models_of([*old, *new]))
    report = compare_sessions(old, new, expectations)
    # Charts, which every iteration goes into, are HTML's alone.
    samples = samples_of(old, new) if options.html else None
    status = exit_status(verdict.outcome for verdict in report.verdicts())
    page = comparison_page(report, samples, photos(options))
    return show(options, page, status, report_to_json(report), comparison_verdicts(report))


def _models_of(sessions: Sequence[SessionRecord]) -> set[str]:
    """The models that sessions know of."""
    return {name for each in sessions for name in (*each.limits, *each.own, *(key[0] for key in each.engines))}
