"""`python -m trtgate report`: many runners in one table, many sessions over time, or numbers for dashboards."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from trtgate.baseline import find_named
from trtgate.commands.common import (
    STORAGE,
    add_outputs,
    require_own_outputs,
    show,
)
from trtgate.exports import EXPORTS, not_told, numbers_of, runners_in
from trtgate.fleet import OUTCOME, comparison_of, read_fleet
from trtgate.kinds import UserError, printable
from trtgate.outputs import write_output
from trtgate.records import SessionRecord, read_session
from trtgate.report import github, markdown
from trtgate.report.pages import fleet_page
from trtgate.report.trends import trend_page
from trtgate.trend import trend, trend_to_json
from trtgate.verdict.policy import exit_status, worst


def add(commands: Any) -> None:
    parser = commands.add_parser("report", help="many runners' sessions in one table, or many sessions over time")
    parser.add_argument(
        "sessions",
        nargs="+",
        help="a folder with a sub-folder for each runner, or names, numbers, files and folders of sessions",
    )
    parser.add_argument("--trend", action="store_true", help="over time, also for a folder of folders")
    parser.add_argument("--storage", type=Path, default=STORAGE, metavar="DIR", help="pytest-benchmark's storage")
    add_outputs(parser)
    parser.add_argument("--json-as", choices=EXPORTS, help="write only --json, all numbers, as that service loads them")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    """A trend decides nothing, a fleet on all that its runners did."""
    require_own_outputs(options)
    folder = Path(options.sessions[0])
    alone = len(options.sessions) == 1 and os.path.isdir(options.sessions[0])
    of_runners = alone and any(each.is_dir() for each in folder.iterdir())
    if options.json_as:
        return _export(options, folder if of_runners else None)
    if of_runners and not options.trend:
        if options.json:
            raise UserError(
                "--json is for a trend; the runners' own verdict.json have what a fleet's report is made of"
            )
        fleet = read_fleet(folder)
        return show(options, fleet_page(fleet), exit_status(verdict.outcome for verdict in fleet.verdicts()))
    found = trend(_sessions_of(options))
    page = trend_page(found)
    status = show(options, page, 0, trend_to_json(found), publish=False)
    for name in filter(os.path.isdir, options.sessions):
        for verdict in sorted(Path(name).rglob(OUTCOME)):
            told = printable(_told(verdict))
            said = f"trtgate: {told}; this is a trend and decides nothing; for that, name the folder above"
            print(github.quoted(said))
    if any(series.steps for series in found.series):
        markdown.publish(markdown.render(replace(page, sections=())))  # one line is enough, of every night
    return status


def _told(verdict: Path) -> str:
    """What a comparison that lies among the sessions came to."""
    try:
        report = comparison_of(verdict)
    except UserError as error:
        return str(error)
    return f"{verdict} says {worst(report.verdicts()).outcome.value}"


def _sessions_of(options: argparse.Namespace) -> list[SessionRecord]:
    files = dict.fromkeys(path for name in options.sessions for path in find_named(options.storage, name))
    return [read_session(path) for path in files]


def _export(options: argparse.Namespace, runners: Path | None) -> int:
    """All numbers for a dashboard, which decides nothing."""
    if not options.json or options.html or options.markdown or options.trend:
        raise UserError("--json-as needs --json FILE, and writes nothing else; drop --html, --markdown and --trend")
    sessions = {"": _sessions_of(options)} if runners is None else runners_in(runners)
    numbers = numbers_of(sessions)
    write_output("--json", options.json, json.dumps(EXPORTS[options.json_as](numbers), indent=1, allow_nan=False))
    for line in not_told(sessions):
        print(github.quoted(f"trtgate: {printable(line)}"))
    print(f"wrote {len(numbers)} numbers to {options.json}")
    return 0
