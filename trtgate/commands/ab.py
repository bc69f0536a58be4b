"""`python -m trtgate ab`: two environments, or two container images, raced against each other."""

from __future__ import annotations

import argparse
import contextlib
import json
from dataclasses import replace
from typing import Any

from trtgate.ab.results import AbReport
from trtgate.ab.results import report_to_json as ab_to_json
from trtgate.ab.run import PROCESSES, REBUILDS, run_ab
from trtgate.commands.common import (
    FEWEST,
    add_outputs,
    photos,
    positive,
    require_own_outputs,
    require_raced,
    settings_of,
    several,
    show,
)
from trtgate.engines import parse_spec
from trtgate.files import write_whole
from trtgate.measure.containers import choose_side
from trtgate.measure.remote import SIDES
from trtgate.options import add_options
from trtgate.progress import console_progress
from trtgate.report.pages import ab_page, comparison_verdicts
from trtgate.verdict.paired import LOOKS
from trtgate.verdict.policy import exit_status


def add(commands: Any) -> None:
    parser = commands.add_parser("ab", help="race two environments against each other on this machine")
    for side in SIDES:
        text = f"python of the {side} environment, or a container image with its tag"
        parser.add_argument(f"--{side}", required=True, metavar="PYTHON|IMAGE", help=text)
    add_options(parser.add_argument)
    parser.add_argument("--rounds", type=positive, metavar="R", help=f"at most; default {max(LOOKS)}")
    parser.add_argument(
        "--rebuilds",
        type=positive,
        metavar="K",
        help=f"builds a side; default {REBUILDS} where kernels are chosen by timing them",
    )
    text = f"a side, {FEWEST} or more; default {PROCESSES['cpu']}, on a GPU {PROCESSES['cuda']}"
    parser.add_argument("--processes", type=several, metavar="N", help=text)
    add_outputs(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    require_own_outputs(options)
    require_raced(options)
    settings = settings_of(options)
    if options.engine:  # and not the reference of an ONNX file beside them, which one side may lack
        settings = replace(settings, engines=tuple(map(parse_spec, dict.fromkeys(options.engine))))
    sides = {side: choose_side(f"--{side}", getattr(options, side), settings.device) for side in SIDES}

    def tell(report: AbReport) -> int:
        status = exit_status(verdict.outcome for verdict in report.report.verdicts())
        named = comparison_verdicts(report.report)
        return show(options, ab_page(report, photos(options, report.given)), status, ab_to_json(report), named)

    so_far: list[AbReport] = []

    def keep(report: AbReport) -> None:
        so_far[:] = [report]
        if options.json:  # for when this process is killed; what cannot be written is told in the end
            with contextlib.suppress(OSError):
                write_whole(options.json, json.dumps(ab_to_json(report), indent=1).encode())

    try:
        report = run_ab(
            sides,
            settings,
            options.engine,
            rounds=options.rounds,
            rebuilds=options.rebuilds,
            processes=options.processes,
            progress=console_progress(),
            keep=keep,
        )
    except BaseException:  # Ctrl-C, or whatever else ends it early
        for report in so_far:
            tell(report)
        raise
    return tell(report)
