"""What several commands share: their options, and how a report is shown and written.

Commands that only read what was saved have this too: nothing here imports PyTorch or OpenCV until it is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtgate.kinds import UserError
from trtgate.outputs import require_outputs, write_output
from trtgate.report import github, html, markdown, terminal
from trtgate.report.page import Headline, Page, failed
from trtgate.report.photos import Photos
from trtgate.runtimes import broken_runtime
from trtgate.settings import Settings
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.policy import EXIT_REGRESSED
from trtgate.verdict.processes import ALPHA
from trtgate.verdict.sessions import fewest

if TYPE_CHECKING:
    from trtgate.samples import Samples

# The exit status where nothing was decided.
MISTAKE = 2
STORAGE = Path(".benchmarks")
# A side of a race: a few megabytes of memory each at the least, and the intervals get hardly narrower.
MOST_PROCESSES = 100
# Of those that give a bound.
FEWEST = fewest(ALPHA)


def settings_of(options: argparse.Namespace) -> Settings:
    from trtgate.options import read_settings

    return read_settings(lambda name: getattr(options, name))


def percent(text: str) -> float:
    """`5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give 5% or 0.05") from error
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 0 and 100%")
    return value


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def several(text: str) -> int:
    """Of processes a side: two of one version may differ by more than delta, which would then be the version's."""
    count = positive(text)
    if count < FEWEST:
        raise argparse.ArgumentTypeError(f"{text} a side give no bound; give {FEWEST} at least")
    return count


def require_own_outputs(options: argparse.Namespace) -> None:
    require_outputs({f"--{name}": getattr(options, name, None) for name in ("json", "markdown", "html")})


def require_raced(options: argparse.Namespace) -> None:
    """Raises UserError for options that mean nothing where two sides are raced, each built anew, and for more processes
    than a machine can have."""
    for name in ("processes", "rebuilds"):
        if (getattr(options, name, None) or 0) > MOST_PROCESSES:
            raise UserError(
                f"--{name} {getattr(options, name)}: all processes of a side are there at once, and more than "
                f"{MOST_PROCESSES} tell no more; give fewer"
            )
    if options.streams > 1:
        raise UserError(
            f"--streams {options.streams}: {options.command} races one inference at a time; leave it out, and have "
            "pytest bench/ measure the throughput"
        )
    if options.reuse_timing_cache:
        raise UserError(
            f"--reuse-timing-cache: {options.command} builds each side from scratch, since builders choose kernels "
            "anew; leave it out"
        )


def add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the report with charts, one file")


def show(
    options: argparse.Namespace,
    page: Page,
    status: int,
    document: Any = None,
    named: Sequence[tuple[str, Verdict]] = (),
    *,
    publish: bool = True,
) -> int:
    """A page on the terminal, in the job's summary where there is one, and in the files that were asked for, of which
    --json holds the `document`. What is `named` is annotated.

    Gives the exit status: `status`, unless a file could not be written and nothing regressed.
    """
    files: dict[str, tuple[Path | None, Callable[[], str]]] = {
        "--json": (options.json if document is not None else None, lambda: json.dumps(document, indent=1)),
        "--markdown": (options.markdown, lambda: f"{markdown.render(page)}\n"),
        "--html": (options.html, lambda: html.render(page)),
    }
    lost: list[str] = []
    try:
        lost = [option for option, file in files.items() if not is_written(option, *file)]
        if lost and status != EXIT_REGRESSED:
            # Whoever reads any of it has to know that this does not end as it was decided.
            status, page = MISTAKE, _unwritten(page, lost)
            for option in files.keys() - {"--json", *lost}:
                is_written(option, *files[option])
    finally:  # whatever becomes of the files
        print(github.quoted(terminal.render(page, colour=sys.stdout.isatty())))
        if publish:
            markdown.publish(markdown.render(page))
        for line in github.annotate(named):
            print(line)
    return status


def _unwritten(page: Page, lost: Sequence[str]) -> Page:
    """The page of what was decided, where that is no pass since files of these options could not be written."""
    found = page.headline
    decided = f"{found.decided}; {', '.join(lost)} could not be written"
    if failed(found.outcome):
        return replace(page, headline=replace(found, decided=decided))
    return replace(page, headline=Headline(None, decided, found.why, "make room there, then run it again"))


def is_written(option: str, path: Path | None, make: Callable[[], str]) -> bool:
    """Whether an option's file is written, if there is one; told where it could not be."""
    try:
        write_output(option, path, make() if path else "")
    except UserError as error:
        print(f"trtgate: {error}", file=sys.stderr)
        return False
    return True


def photos(options: argparse.Namespace, own: Sequence[Samples] = ()) -> Mapping[str, Photos]:
    """Photos for the report that shows some: the shipped ones, and a run's `own`; none, which is told, where what they
    are read with is broken."""
    if not options.html:
        return {}
    try:
        from trtgate.thumbnails import own_photos, shipped_photos
    except Exception as error:  # a runtime's own: what was decided is told without pictures
        print(f"trtgate: --html shows no photos ({broken_runtime(error) or error})", file=sys.stderr)
        return {}
    found = dict(shipped_photos())
    for each in own:
        found |= own_photos(each)
    return found
