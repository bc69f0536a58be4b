"""Options with which nothing would be decided or saved, refused before anything runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trtgate.kinds import UserError


def _require_writable_json(path: object) -> None:
    # pytest-benchmark's own option: it overwrites what is there, after everything has been measured; before 5.3 it
    # has opened the file by now.
    if isinstance(path, Path) and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise UserError(
            f"--benchmark-json {path} cannot be written; name a file in a folder that is there and writable"
        )


def _refuse_xdist(config: pytest.Config) -> None:
    distributed = config.getoption("dist", "no") != "no" or config.getoption("numprocesses", None)
    if (distributed or os.environ.get("PYTEST_XDIST_WORKER")) and not _races_nothing(config):
        raise UserError("xdist (-n) races engines against each other and measures nothing; run without -n")


def _races_nothing(config: pytest.Config) -> bool:
    """Whether all that is asked for are this checkout's own tests."""
    tests = (config.rootpath / "tests").resolve()
    asked = (config.invocation_params.dir / each.partition("::")[0] for each in config.args)
    return all(path.resolve().is_relative_to(tests) for path in asked)


# Options with which pytest runs no test, or pytest-benchmark measures nothing, and ends with status 0.
NOTHING_DECIDED = {
    "benchmark_disable": "--benchmark-disable",
    "benchmark_skip": "--benchmark-skip",
    "collectonly": "--collect-only",
    "cacheshow": "--cache-show",
    "showfixtures": "--fixtures",
    "show_fixtures_per_test": "--fixtures-per-test",
    "markers": "--markers",
    "setupplan": "--setup-plan",  # which implies the next one
    "setuponly": "--setup-only",
}


# Options with which a run is to be saved.
SAVING = {
    "benchmark_save": "--benchmark-save",
    "benchmark_autosave": "--benchmark-autosave",
    "benchmark_json": "--benchmark-json",
}


def saving(config: pytest.Config) -> str:
    """The option with which this run is to be saved; "" for none."""
    return next((flag for option, flag in SAVING.items() if config.getoption(option, None)), "")


def _refuse_what_decides_nothing(config: pytest.Config, asked: str) -> None:
    """Raises UserError for an option with which no session can come of what was `asked` for, if anything was."""
    for option, flag in NOTHING_DECIDED.items() if asked else ():
        enabled = option == "benchmark_disable" and config.getoption("benchmark_enable")
        if config.getoption(option, False) and not enabled:
            what = "decide" if asked == "--benchmark-compare" else "save"
            raise UserError(f"{asked} with {flag} would {what} nothing; drop {flag}")
