"""The command line: `python -m trtgate COMMAND`, with `ADD` below as the list of commands."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.version import Version

from trtgate.ab import PROCESSES, REBUILDS, run_ab
from trtgate.ab import report_to_json as ab_to_json
from trtgate.baseline import find_named, promote, saved_sessions
from trtgate.bisect import ANSWERS, BUILD, MEASURED, ON_A_GPU, Versions, ask, search
from trtgate.classify import add_classify
from trtgate.compare import compare_sessions, report_to_json, samples_of
from trtgate.console import CLOSED, steady_streams
from trtgate.containers import choose_side, find_images, is_image
from trtgate.doctor import examine
from trtgate.engines import DEVICES, available, parse_spec
from trtgate.engines.base import Device, EngineRefused
from trtgate.environments import Environments, require_requirements
from trtgate.errors import UserError, printable
from trtgate.expectations import DEFAULT_PATH, Expectation, read_expectations, require_own, write_delta
from trtgate.exports import EXPORTS, numbers_of, runners_in
from trtgate.fleet import read_fleet
from trtgate.journal import bisection_to_json, journal_of
from trtgate.laboratory import Installed
from trtgate.nvml import current_gpu
from trtgate.options import add_options, choose_device, default_device, read_settings, with_required
from trtgate.outputs import require_outputs, write_output
from trtgate.plan_commands import add_plans
from trtgate.processes import Terminated, orderly_endings, run_command
from trtgate.progress import Progress, console_progress
from trtgate.race import SCHEDULES, Schedule
from trtgate.records import SessionRecord, read_session
from trtgate.releases import Release, find_releases, require_package, require_version
from trtgate.remote import SIDES, WorkerError
from trtgate.report import github, html, markdown, terminal
from trtgate.report.bisections import bisection_page
from trtgate.report.gallery import Photos
from trtgate.report.page import Page
from trtgate.report.pages import ab_page, comparison_page, comparison_verdicts, fleet_page
from trtgate.report.terminal import doctor_lines, print_table, selftest_lines, sensitivity_table
from trtgate.report.trends import trend_page
from trtgate.selftest import HALF, STALL, run_selftest, slowed, summary
from trtgate.sensitivity import sensitivities
from trtgate.stack import stack
from trtgate.telemetry import monitor_for
from trtgate.thumbnails import shipped_photos
from trtgate.trend import trend, trend_to_json
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.policy import EXIT_INCONCLUSIVE, EXIT_REGRESSED, GOOD, exit_status
from trtgate.workbench import Settings, Workbench

# The exit status where nothing was decided.
MISTAKE = 2
# What a shell adds to the number of the signal that ended a command.
SIGNALLED = 128
STORAGE = Path(".benchmarks")
# What says which releases of a package `bisect` searches, of which it needs the first three, and how to install them.
PACKAGE_OPTIONS = ("package", "good", "bad", "index_url", "extra_index_url", "requirements", "python")
# Fast, so that noise shows, and there wherever the device is.
SELFTEST_ENGINE: dict[Device, str] = {"cpu": "onnxruntime-int8", "cuda": "pytorch-fp16-graph"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the return value is the exit status."""
    if sys.stdout is None:  # `>&-`
        print(f"trtgate: {CLOSED}", file=sys.stderr)
        return MISTAKE
    with steady_streams() as out:
        return out.status(_main(arguments), MISTAKE)


def _main(arguments: Sequence[str] | None) -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("trtgate").setLevel(logging.INFO)
    parser = argparse.ArgumentParser(prog="python -m trtgate", description="Gates inference engines.")
    commands = parser.add_subparsers(dest="command", required=True)
    for add in ADD:
        add(commands)
    given = list(sys.argv[1:] if arguments is None else arguments)
    # What follows `--` is pytest's. argparse's own treatment of it differs between Python versions.
    cut = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:cut])
    options.pytest_arguments = given[cut + 1 :]
    if options.pytest_arguments and options.command != "sessions":
        parser.error("only sessions hands arguments after -- on to pytest")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with orderly_endings():
            return run(options)
    except (UserError, WorkerError, EngineRefused) as error:
        print(f"trtgate: {printable(str(error))}", file=sys.stderr)
        return MISTAKE
    except Terminated as signalled:
        print(f"trtgate: ended by {signalled}", file=sys.stderr)
        return SIGNALLED + signalled.number
    except KeyboardInterrupt:
        print("trtgate: interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT


def _settings(options: argparse.Namespace) -> Settings:
    return read_settings(lambda name: getattr(options, name))


def _percent(text: str) -> float:
    """`5%` or `0.05`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give 5% or 0.05") from error
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must lie between 0 and 100%")
    return value


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1 on")
    return int(text)


def _add_doctor(commands: Any) -> None:
    parser = commands.add_parser("doctor", help="what is installed, and whether this machine is fit to gate on")
    parser.add_argument("--device", choices=DEVICES, help="default: cuda where PyTorch sees a GPU")
    parser.add_argument("--require", action="append", default=[], metavar="ENGINE", help="engine or backend; repeats")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    device = choose_device(options.device)
    with_required([], options.require, device)  # refuses names that are none
    examination = examine(device, options.require, current_gpu() if device == "cuda" else None)
    lines = doctor_lines(stack(device=device), examination)
    for line in lines:
        print(line)
    if examination.status:
        markdown.publish(markdown.doctor_markdown(lines))
    return examination.status


def _add_sensitivity(commands: Any) -> None:
    parser = commands.add_parser("sensitivity", help="which layers cost an INT8 engine its agreement")
    add_options(parser.add_argument)
    parser.add_argument(
        "--depth", type=int, default=2, help="group layers by this many parts of their name; 0: each one (default 2)"
    )
    parser.set_defaults(run=_sensitivity)


def _sensitivity(options: argparse.Namespace) -> int:
    settings = _settings(options)
    specs = [spec for spec in settings.engines if spec.precision == "int8"]
    if not specs:
        raise UserError("sensitivity needs an INT8 engine; give --engine onnxruntime-int8 or --engine openvino-int8")
    progress = console_progress()
    for name in settings.models:
        with Workbench(name, settings, progress) as bench:
            for spec in specs:
                rows = list(sensitivities(bench, spec, options.depth, progress))
                print(f"{name} {spec.id}: quantising one group at a time, the most harmful first")
                print_table(sensitivity_table(rows))
    return 0


def _add_selftest(commands: Any) -> None:
    parser = commands.add_parser("selftest", help="how often the gate is wrong on this machine")
    add_options(parser.add_argument)
    parser.add_argument(
        "--races", type=_positive, default=60, help="A/A races (default 60); two thirds as many of each slowdown"
    )
    parser.add_argument("--slowdown", type=_percent, default=0.10, help="of the slowed arm (default 10%%)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round of every race")
    parser.add_argument("--write", action="store_true", help="write the smallest delta to expectations.toml")
    parser.set_defaults(run=_selftest)


def _selftest(options: argparse.Namespace) -> int:
    _require_outputs(options)
    if not options.model:
        options.model = ["efficientnet_lite0"]
    if not options.engine:
        options.engine = [SELFTEST_ENGINE[options.device or default_device()]]
    settings = _settings(options)
    if options.write:
        require_own(settings.expectations.path)
    # The last one: the reference is always among the engines, and comes first.
    spec = parse_spec(options.engine[-1])
    availability = available(spec, settings.device)
    if not availability.ok:
        raise UserError(f"--engine {spec.id}: {availability}")
    name = settings.models[0]
    expectation = settings.expectations.of(name, spec.id)
    # A slowdown equal to delta would be found half of the time by any rule: its median is on the line.
    delta = min(expectation.number("delta"), options.slowdown / 2)
    progress = console_progress()
    with Workbench(name, settings, progress) as bench:
        result = run_selftest(
            bench.engine(spec),
            bench.batch(settings.batch_sizes[0]),
            model=name,
            size=settings.batch_sizes[0],
            races=(options.races, max(1, options.races * 2 // 3)),
            slowdowns=(slowed(options.slowdown), HALF, STALL),
            expectation=Expectation({**expectation.values, "delta": delta}),
            schedule=SCHEDULES[settings.device],
            monitor=monitor_for(settings.device),
            progress=progress,
        )
    for line in selftest_lines(result):
        print(line)
    verdict = result.status()
    print(verdict)
    written = _written("--json", options.json, lambda: json.dumps(summary(result), indent=1))
    smallest, path = result.smallest_delta, settings.expectations.path
    if verdict.outcome not in GOOD or smallest >= options.slowdown:
        if options.write:
            why = verdict.message if verdict.outcome not in GOOD else f"{smallest:.1%} is no less than the slowdown"
            print(f"trtgate: --write refused, {path} is as it was: {why}", file=sys.stderr)
        status = exit_status([verdict.outcome])
        return status or (MISTAKE if not written else EXIT_INCONCLUSIVE if options.write else 0)
    if options.write:
        write_delta(path, name, spec.id, smallest)
        print(f"wrote delta = {smallest:g} for {name} {spec.id} to {path}")
    else:
        print(f"--write puts delta = {smallest:g} for {name} {spec.id} into {path}")
    return 0 if written else MISTAKE


def _require_outputs(options: argparse.Namespace) -> None:
    require_outputs({f"--{name}": getattr(options, name, None) for name in ("json", "markdown", "html")})


def _add_sessions(commands: Any) -> None:
    parser = commands.add_parser(
        "sessions",
        help="record N fresh sessions under one name",
        usage="python -m trtgate sessions N --save NAME [-- PYTEST ARGUMENTS]",
    )
    parser.add_argument("count", type=_positive, metavar="N")
    parser.add_argument("--save", required=True, metavar="NAME", help="name for --benchmark-compare and `compare`")
    parser.set_defaults(run=_sessions)


def _sessions(options: argparse.Namespace) -> int:
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


def _add_ab(commands: Any) -> None:
    parser = commands.add_parser("ab", help="race two environments against each other on this machine")
    for side in SIDES:
        text = f"python of the {side} environment, or a container image with its tag"
        parser.add_argument(f"--{side}", required=True, metavar="PYTHON|IMAGE", help=text)
    add_options(parser.add_argument)
    parser.add_argument("--rounds", type=_positive, metavar="R", help=f"default {Schedule.rounds}")
    parser.add_argument(
        "--rebuilds",
        type=_positive,
        metavar="K",
        help=f"builds a side; default {REBUILDS} where kernels are chosen by timing them",
    )
    text = f"a side; default {PROCESSES['cpu']}, on a GPU {PROCESSES['cuda']}"
    parser.add_argument("--processes", type=_positive, metavar="N", help=text)
    _add_outputs(parser)
    parser.set_defaults(run=_ab)


def _ab(options: argparse.Namespace) -> int:
    _require_outputs(options)
    settings = _settings(options)
    sides = {side: choose_side(f"--{side}", getattr(options, side), settings.device) for side in SIDES}
    report = run_ab(
        sides,
        settings,
        options.engine,
        rounds=options.rounds,
        rebuilds=options.rebuilds,
        processes=options.processes,
        progress=console_progress(),
    )
    status = exit_status(verdict.outcome for verdict in report.report.verdicts())
    named = comparison_verdicts(report.report)
    return _show(options, ab_page(report, _photos(options)), status, ab_to_json(report), named)


def _add_bisect(commands: Any) -> None:
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
        "--delta", type=_percent, help="what counts as a change (default: the metric's in expectations.toml; answers 0)"
    )
    parser.add_argument(
        "--processes",
        type=_positive,
        metavar="N",
        help="a side of a race (default: as `ab`); twice as many if it is open",
    )
    parser.add_argument("--index-url", metavar="URL", help="where pip looks, instead of what it is configured for")
    parser.add_argument("--extra-index-url", action="append", default=[], metavar="URL", help="and there; repeats")
    parser.add_argument(
        "--requirements", type=Path, metavar="FILE", help="what is installed along, as pip's -r takes it"
    )
    parser.add_argument("--python", type=Path, help="makes the environments (default: this one)")
    parser.add_argument(
        "--environments",
        type=Path,
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
    _add_outputs(parser)
    parser.set_defaults(run=_bisect)


def _bisect(options: argparse.Namespace) -> int:
    _require_outputs(options)
    images = _container_images(options)
    wanted = None if images else _wanted_releases(options)
    options.batch_size = options.batch_size or [1]
    settings, progress = _settings(options), console_progress()
    question = ask(settings, wanted[0] if wanted else None, options.engine, options.metric, options.delta)
    releases: Sequence[Release]
    versions: Versions
    if wanted:
        releases, versions = _releases(options, *wanted, progress)
    else:
        versions = find_images(images, settings.device, options.environments, progress)
        releases = versions.releases
    journal = journal_of(question, (str(releases[0]), str(releases[-1])), versions, settings)
    known = [] if options.afresh else journal.read(progress)
    if known:
        races = f"{len(known)} race{'s' * (len(known) > 1)}"
        progress.say(f"going on with {races} of an earlier search ({journal.path}; --afresh begins anew)")
    laboratory = Installed(question, versions, settings, progress, options.processes)
    found = search(question, releases, laboratory, known, journal.write)
    page = bisection_page(found, versions.sides(found.names))
    return _show(options, page, found.status, bisection_to_json(found))


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


def _show(
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
    print(terminal.render(page, colour=sys.stdout.isatty()))
    text = markdown.render(page)
    if publish:
        markdown.publish(text)
    for line in github.annotate(named):
        print(line)
    written = [
        _written("--json", options.json if document is not None else None, lambda: json.dumps(document, indent=1)),
        _written("--markdown", options.markdown, lambda: f"{text}\n"),
        _written("--html", options.html, lambda: html.render(page)),
    ]
    return status if all(written) or status == EXIT_REGRESSED else MISTAKE


def _written(option: str, path: Path | None, make: Callable[[], str]) -> bool:
    """Whether an option's file is written, if there is one; told where it could not be."""
    try:
        write_output(option, path, make() if path else "")
    except UserError as error:
        print(f"trtgate: {error}", file=sys.stderr)
        return False
    return True


def _photos(options: argparse.Namespace) -> Mapping[str, Photos]:
    """Photos for the report that shows some."""
    return shipped_photos() if options.html else {}


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--html", type=Path, metavar="FILE", help="the report with charts, one file")


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser("compare", help="decide on saved sessions without running anything")
    parser.add_argument("old", help="name, number, file or folder of the baseline's sessions")
    parser.add_argument("new", help="name, number, file or folder of the new sessions")
    parser.add_argument("--storage", type=Path, default=STORAGE, metavar="DIR", help="pytest-benchmark's storage")
    parser.add_argument("--expectations", type=Path, default=DEFAULT_PATH, metavar="FILE")
    _add_outputs(parser)
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    _require_outputs(options)
    old, new = (saved_sessions(options.storage, name) for name in (options.old, options.new))
    report = compare_sessions(old, new, read_expectations(options.expectations))
    # Charts, which every iteration goes into, are HTML's alone.
    samples = samples_of(old, new) if options.html else None
    status = exit_status(verdict.outcome for verdict in report.verdicts())
    page = comparison_page(report, samples, _photos(options))
    return _show(options, page, status, report_to_json(report), comparison_verdicts(report))


def _add_promote(commands: Any) -> None:
    parser = commands.add_parser("promote", help="make sound sessions the baseline of runs to come")
    parser.add_argument("sessions", help="name, number, file or folder of the sessions")
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="a new folder, as baselines/l4/trt10")
    parser.add_argument("--storage", type=Path, default=STORAGE, metavar="DIR", help="pytest-benchmark's storage")
    parser.set_defaults(run=_promote)


def _promote(options: argparse.Namespace) -> int:
    for path in promote(find_named(options.storage, options.sessions), options.to):
        print(f"wrote {path}")
    return 0


def _add_report(commands: Any) -> None:
    parser = commands.add_parser("report", help="many runners' sessions in one table, or many sessions over time")
    parser.add_argument(
        "sessions",
        nargs="+",
        help="a folder with a sub-folder for each runner, or names, numbers, files and folders of sessions",
    )
    parser.add_argument("--trend", action="store_true", help="over time, also for a folder of folders")
    parser.add_argument("--storage", type=Path, default=STORAGE, metavar="DIR", help="pytest-benchmark's storage")
    _add_outputs(parser)
    parser.add_argument("--json-as", choices=EXPORTS, help="write only --json, all numbers, as that service loads them")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    """A trend decides nothing, a fleet on all that its runners did."""
    _require_outputs(options)
    folder = Path(options.sessions[0])
    of_runners = len(options.sessions) == 1 and folder.is_dir() and any(each.is_dir() for each in folder.iterdir())
    if options.json_as:
        return _export(options, folder if of_runners else None)
    if of_runners and not options.trend:
        if options.json:
            raise UserError(
                "--json is for a trend; the runners' own verdict.json have what a fleet's report is made of"
            )
        fleet = read_fleet(folder)
        return _show(options, fleet_page(fleet), exit_status(verdict.outcome for verdict in fleet.verdicts()))
    found = trend(_sessions_of(options))
    page = trend_page(found)
    status = _show(options, page, 0, trend_to_json(found), publish=False)
    if any(series.steps for series in found.series):
        markdown.publish(markdown.render(replace(page, sections=())))  # one line is enough, of every night
    return status


def _sessions_of(options: argparse.Namespace) -> list[SessionRecord]:
    files = dict.fromkeys(path for name in options.sessions for path in find_named(options.storage, name))
    return [read_session(path) for path in files]


def _export(options: argparse.Namespace, runners: Path | None) -> int:
    """All numbers for a dashboard, which decides nothing."""
    if not options.json or options.html or options.markdown or options.trend:
        raise UserError("--json-as needs --json FILE, and writes nothing else; drop --html, --markdown and --trend")
    numbers = numbers_of({"": _sessions_of(options)} if runners is None else runners_in(runners))
    write_output("--json", options.json, json.dumps(EXPORTS[options.json_as](numbers), indent=1, allow_nan=False))
    print(f"wrote {len(numbers)} numbers to {options.json}")
    return 0


ADD = (
    _add_doctor,
    _add_sensitivity,
    _add_selftest,
    _add_sessions,
    _add_compare,
    _add_ab,
    _add_bisect,
    _add_promote,
    _add_report,
    add_classify,
    add_plans,
)

if __name__ == "__main__":
    sys.exit(main())
