"""The command line: `python -m trtgate COMMAND`, with `COMMANDS` below as the list of them."""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from trtgate.runtimes import broken_runtime, importing

with importing():
    from trtgate.commands.common import MISTAKE
    from trtgate.console import CLOSED, steady_streams
    from trtgate.files import path_mistake
    from trtgate.kinds import EngineRefused, EngineUnavailable, UserError, printable
    from trtgate.measure.remote import WorkerError
    from trtgate.processes import SIGNALLED, Terminated, orderly_endings
    from trtgate.verdict.policy import EXIT_INVALID

COMMANDS = (
    *("doctor", "sensitivity", "selftest", "sessions", "compare", "ab", "bisect", "promote", "report", "classify"),
    "plans",
)


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
    given = list(sys.argv[1:] if arguments is None else arguments)
    # Only what is asked for is imported: PyTorch takes seconds, and who reads saved sessions has no use for it.
    with importing():
        for name in set(given[:1]).intersection(COMMANDS) or COMMANDS:
            command_of(name).add(commands)
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
    except Exception as error:
        status, sentence = MISTAKE, path_mistake(error) if isinstance(error, OSError) else None
        if (told := broken_runtime(error)) is not None:
            status, sentence = EXIT_INVALID, str(told)
        elif isinstance(error, EngineUnavailable):
            sentence = str(error)
        if sentence is None:  # a mistake of this program's own; 1, which Python would end with, says REGRESSED
            traceback.print_exc()
            return EXIT_INVALID
        print(f"trtgate: {printable(sentence)}", file=sys.stderr)
        return status
    except Terminated as signalled:
        print(f"trtgate: ended by {signalled}", file=sys.stderr)
        return SIGNALLED + signalled.number
    except KeyboardInterrupt:
        print("trtgate: interrupted", file=sys.stderr)
        return SIGNALLED + signal.SIGINT


def command_of(name: str) -> Any:
    """A command's module, whose `add` declares it."""
    return importlib.import_module(f"trtgate.commands.{name}")


if __name__ == "__main__":
    sys.exit(main())
