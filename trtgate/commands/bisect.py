"""`python -m trtgate bisect`: which released version, or which container image, changed an engine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.version import Version

from trtgate.commands.common import (
    add_outputs,
    percent,
    require_own_outputs,
    require_raced,
    settings_of,
    several,
    show,
)
from trtgate.files import named_path
from trtgate.kinds import UserError
from trtgate.measure.containers import is_image
from trtgate.options import OPTIONS, add_options
from trtgate.progress import Progress, console_progress
from trtgate.report.bisections import bisection_page
from trtgate.search.environments import Environments, require_requirements
from trtgate.search.images import find_images
from trtgate.search.journal import bisection_to_json, journal_of
from trtgate.search.laboratory import Installed
from trtgate.search.question import ANSWERS, BUILD, MEASURED, ON_A_GPU, Versions, ask, search
from trtgate.search.releases import Release, find_releases, require_package, require_version

# What says which releases of a package are searched, of which it needs the first three, and how to install them.
PACKAGE_OPTIONS = ("package", "good", "bad", "index_url", "extra_index_url", "requirements", "python")


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "bisect",
        help="which released version of a package, or which container image, changed an engine",
        description="Races released versions of a package, or container images, against a good one until two "
        "neighbours show which one changed an engine. Ends with 0 for an answer, 6 where it cannot be told, 2 for a "
        "mistake.",
        conflict_handler="resolve",  # --images takes more here than elsewhere
    )
    parser.add_argument("--package", metavar="NAME", help="as pip knows it: onnxruntime, tensorrt-cu12")
    parser.add_argument("--good", metavar="VERSION", help="the older end: it is as it should be")
    parser.add_argument("--bad", metavar="VERSION", help="the newer end: it is not")
    parser.add_argument(
        "--metric",
        default="latency",
        help=f"{', '.join((*MEASURED, ANSWERS, BUILD))}; on a GPU also {', '.join(ON_A_GPU)} (default latency)",
    )
    parser.add_argument(
        "--delta", type=percent, help="what counts as a change (default: the metric's in expectations.toml; answers 0)"
    )
    parser.add_argument(
        "--processes",
        type=several,
        metavar="N",
        help="a side of a race (default: as `ab`); twice as many if it is open",
    )
    parser.add_argument(
        "--index-url", type=_address, metavar="URL", help="where pip looks, instead of what it is configured for"
    )
    parser.add_argument(
        "--extra-index-url", type=_address, action="append", default=[], metavar="URL", help="and there; repeats"
    )
    parser.add_argument(
        "--requirements", type=Path, metavar="FILE", help="what is installed along, as pip's -r takes it"
    )
    parser.add_argument("--python", type=Path, help="makes the environments (default: this one)")
    parser.add_argument(
        "--environments",
        type=named_path,
        default=Path(".trtgate-environments"),
        metavar="DIR",
        help="where environments and unfinished searches are kept (default .trtgate-environments)",
    )
    parser.add_argument("--afresh", action="store_true", help="do not go on with an earlier search")
    add_options(parser.add_argument)
    parser.add_argument(
        "--images",
        nargs="+",
        action="extend",
        default=[],
        metavar="IMAGE",
        help="container images instead of a package, with their tags, the good one first and the bad one last; and, as "
        "everywhere, a folder of evaluation photos",
    )
    add_outputs(parser)
    parser.set_defaults(run=_run)


def _address(text: str) -> str:
    """An empty one, as of a variable that is not set, would have pip look elsewhere and say nothing."""
    if not text:
        raise argparse.ArgumentTypeError("it names nothing; give an address, or leave the option out")
    return text


def _run(options: argparse.Namespace) -> int:
    require_own_outputs(options)
    require_raced(options)
    images = _container_images(options)
    wanted = None if images else _wanted_releases(options)
    options.batch_size = options.batch_size or [1]
    settings, progress = settings_of(options), console_progress()
    question = ask(settings, wanted[0] if wanted else None, options.engine, options.metric, options.delta)
    releases: Sequence[Release]
    versions: Versions
    if wanted:
        releases, versions = _releases(options, *wanted, progress)
    else:
        versions = find_images(images, settings.device, options.environments, progress)
        releases = versions.releases
    journal = journal_of(question, (str(releases[0]), str(releases[-1])), versions, settings, options.processes)
    stored = journal.read(progress)
    journal.write(stored)  # where that cannot be, nothing is raced in vain
    known = [] if options.afresh else stored
    if known:
        races = f"{len(known)} race{'s' * (len(known) > 1)}"
        progress.say(f"going on with {races} of an earlier search ({journal.path}; --afresh begins anew)")
    laboratory = Installed(question, versions, settings, progress, options.processes)
    found = search(question, releases, laboratory, known, journal.write)
    page = bisection_page(found, versions.sides(found.names), *_asked(options))
    return show(options, page, found.status, bisection_to_json(found))


def _asked(options: argparse.Namespace) -> list[list[str]]:
    """What was given of the options that `ab` has too, and the question does not hold; the model's is the first."""
    found = []
    for flag, keywords in OPTIONS:
        name = flag.removeprefix("--").replace("-", "_")
        value = getattr(options, name)
        if value and value != keywords.get("default") and name not in {"engine", "batch_size", "device"}:
            values = value if isinstance(value, list) else [value]
            found += [[flag] if each is True else [flag, str(each)] for each in values]
    return [*found, ["--processes", str(options.processes)]] if options.processes else found


def _container_images(options: argparse.Namespace) -> list[str]:
    """The images of --images, which keeps the folder of photos as other commands have it; none for a package.

    Raises UserError for too few of them, and for what belongs to a package.
    """
    images = [word for word in options.images if is_image(word)]
    folders = [word for word in options.images if word not in images]
    strange = [word for word in folders if images and not Path(word).exists()] or folders[1:]
    if strange:
        raise UserError(f"--images {strange[0]} is no image: give each with its tag, and one folder of photos at most")
    options.images = Path(folders[0]) if folders else None
    if not images:
        return []
    given = [f"--{name.replace('_', '-')}" for name in PACKAGE_OPTIONS if getattr(options, name)]
    if given:
        raise UserError(f"{', '.join(given)}: a search among --images installs nothing; leave out one or the other")
    if len(images) < 2:
        raise UserError(
            f"--images {images[0]} is one image; give two at least, the good one first and the bad one last"
        )
    return images


def _wanted_releases(options: argparse.Namespace) -> tuple[str, Version, Version]:
    """The package and both ends. Raises UserError for what is none, or missing."""
    missing = [f"--{name}" for name in PACKAGE_OPTIONS[:3] if not getattr(options, name)]
    if missing:
        raise UserError(f"bisect needs {' and '.join(missing)}, or container images (--images IMAGE IMAGE ...)")
    require_requirements(options.requirements)
    good, bad = require_version("--good", options.good), require_version("--bad", options.bad)
    return require_package(options.package), good, bad


def _releases(
    options: argparse.Namespace, package: str, good: Version, bad: Version, progress: Progress
) -> tuple[Sequence[Release], Environments]:
    """The releases of a package, and where they are installed."""
    urls = [("--index-url", options.index_url)] if options.index_url else []
    urls += [("--extra-index-url", url) for url in options.extra_index_url]
    index = tuple(word for pair in urls for word in pair)
    python = options.python or Path(sys.executable)
    releases = find_releases(python, package, good, bad, index)
    return releases, Environments(options.environments, python, package, index, options.requirements, progress)
