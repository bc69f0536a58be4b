"""Options with which nothing would be decided or saved, refused before anything runs."""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.utils import get_machine_id

from trtgate.kinds import UserError


def _require_writable_json(path: object) -> None:
    # pytest-benchmark's own option: it overwrites what is there, after everything has been measured; before 5.3 it
    # has opened the file by now.
    if isinstance(path, Path) and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise UserError(
            f"--benchmark-json {path} cannot be written; name a file in a folder that is there and writable"
        )


def _own_outputs(config: pytest.Config) -> dict[str, Path]:
    """The files that pytest itself writes, making their folders, by the option."""
    logs = config.pluginmanager.hasplugin("logging")
    given = {
        "--log-file": (config.getoption("log_file", None) or config.getini("log_file")) if logs else None,
        "--junit-xml": os.path.expanduser(os.path.expandvars(config.getoption("xmlpath", None) or "")),
    }
    return {option: Path(path) for option, path in given.items() if path}


def _require_writable_outputs(config: pytest.Config) -> None:
    """Raises UserError for a file that pytest cannot write, which it tells as an error of its own, or in the end."""
    for option, path in _own_outputs(config).items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            there = path.exists()
            if path.is_char_device() or path.is_fifo():
                continue  # whoever reads it would see its end
            path.open("a").close()
            if not there:
                path.unlink()  # nobody takes it for what a run wrote that is refused yet
        except OSError as error:
            raise UserError(f"{option} {path} cannot be written ({error.strerror}); name another one") from error


def storage_of(config: pytest.Config) -> Path:
    """The folder that sessions are saved in."""
    return Path(str(config.getoption("benchmark_storage")).removeprefix("file://"))


def _require_storage(config: pytest.Config) -> None:
    """Raises UserError for a storage that no session can be saved in, as its name tells or the system."""
    if not (config.getoption("benchmark_save", None) or config.getoption("benchmark_autosave", None)):
        return
    storage = storage_of(config)
    above = next(each for each in (storage.absolute(), *storage.absolute().parents) if os.path.lexists(each))
    try:
        tempfile.TemporaryFile(dir=above).close()
    except OSError as error:
        raise UserError(
            f"--benchmark-storage: no session can be saved in {storage} ({error.strerror}); name a folder that can be "
            "written"
        ) from error


def _refuse_timer(arguments: Sequence[str]) -> None:
    """Raises UserError for a timer that is none, which pytest-benchmark imports as the options are parsed: what that
    raises nobody tells in a sentence."""
    option = "--benchmark-timer"
    given = [after for each, after in itertools.pairwise(arguments) if each == option]
    given += [each.partition("=")[2] for each in arguments if each.startswith(f"{option}=")]
    for name in given:
        module, _, attribute = name.rpartition(".")
        try:
            getattr(importlib.import_module(module or "time"), attribute)
        except Exception as error:
            told = (
                f"{option}={name} names no timer ({type(error).__name__}: {error}); leave it out, it times nothing here"
            )
            raise UserError(told) from error


def _refuse_xdist(config: pytest.Config) -> None:
    distributed = config.getoption("dist", "no") != "no" or config.getoption("numprocesses", None)
    if (distributed or os.environ.get("PYTEST_XDIST_WORKER")) and not _races_nothing(config):
        raise UserError("xdist (-n) races engines against each other and measures nothing; run without -n")


def _races_nothing(config: pytest.Config) -> bool:
    """Whether all that is asked for are this checkout's own tests."""
    tests = (config.rootpath / "tests").resolve()
    asked = (config.invocation_params.dir / each.partition("::")[0] for each in config.args)
    return all(path.resolve().is_relative_to(tests) for path in asked)


# Options with which pytest runs no test, or pytest-benchmark measures nothing, and ends with status 0. One --version
# among several options is answered from pytest 9 on before it knows of any plugin.
NOTHING_DECIDED = {
    "help": "--help",
    "version": "--version",
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

# Plugins of pytest's without which tests of bench/ are not found, cannot be skipped, or have not what they ask for.
NEEDED = ("python", "funcmanage", "skipping", "fixtures.engines")

# Options with which bench/ cannot run, or ends with a status that says nothing of its verdicts, and what to do.
SPOILING = {
    "noconftest": "--noconftest leaves out the conftest.py that bench/ has its engines from; drop it",
    "stepwise": "--stepwise ends a run as if it had been interrupted, with no verdict's status; give -x instead",
    "stepwise_skip": "--stepwise-skip ends a run as if it had been interrupted, with no verdict's status; drop it",
    "stepwise_reset": "--stepwise-reset ends a run as if it had been interrupted, with no verdict's status; drop it",
    "max_warnings": "--max-warnings ends with status 6, which says INCONCLUSIVE here; drop it",
    "benchmark_cprofile_dump": "--benchmark-cprofile-dump would profile the replay of what was measured, no engine; "
    "drop it",
    "benchmark_compare_fail": "--benchmark-compare-fail would decide beside trtgate, on what is not interleaved; drop "
    "it, and set limits in expectations.toml",
}
# How benchmarks are grouped, beside param:NAME.
GROUPINGS = ("group", "name", "func", "fullname", "fullfunc", "param")


def _refuse_what_spoils(config: pytest.Config) -> None:
    """Raises UserError for an option with which what is measured could not be judged or shown in the end."""
    if _races_nothing(config):
        return
    for option, told in SPOILING.items():
        given = config.getoption(option, None)
        if given not in (None, []) and given is not False:
            raise UserError(told)
    if sys.flags.optimize and config.getoption("assertmode", "plain") == "plain":  # -p no:assertion has no such option
        raise UserError(
            "python -O (PYTHONOPTIMIZE) leaves out what bench/ asserts; run without it, or --assert=rewrite"
        )
    for name in NEEDED:
        if config.pluginmanager.is_blocked(name):
            raise UserError(f"-p no:{name} leaves out what bench/ is run with; drop it")
    storage = str(config.getoption("benchmark_storage"))
    if "://" in storage.removeprefix("file://"):
        raise UserError(f"--benchmark-storage={storage}: sessions are files here; name a folder")
    for grouping in str(config.getoption("benchmark_group_by", "group")).split(","):
        if grouping not in GROUPINGS and not grouping.startswith("param:"):
            raise UserError(f"--benchmark-group-by={grouping}: give {', '.join(GROUPINGS)} or param:NAME")
    if config.getoption("benchmark_histogram", None):
        try:
            importlib.import_module("pytest_benchmark.histogram")
        except ImportError as error:
            raise UserError(
                "--benchmark-histogram needs pygal, which is not installed; run pip install pygal pygaljs, or give "
                "--html, which has charts"
            ) from error


def _refuse_what_lacks(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Raises UserError for collected tests that lack a fixture, or a parameter that benchmarks are grouped by."""
    if _races_nothing(config):
        return
    for item in items:
        info: Any = getattr(item, "_fixtureinfo", None)
        for name in info.names_closure if info is not None else ():
            if name not in info.name2fixturedefs and name != "request" and name not in _params_of(item):
                raise UserError(
                    f"{item.nodeid}: nothing defines its fixture {name}; run the whole checkout, without --confcutdir"
                    " and -c"
                )
    grouped = str(config.getoption("benchmark_group_by", "group")).split(",")
    wanted = [each.removeprefix("param:") for each in grouped if each.startswith("param:")]
    benchmarks = [_params_of(item) for item in items if "benchmark" in getattr(item, "fixturenames", ())]
    for name in wanted if benchmarks else ():
        if not all(name in params for params in benchmarks):
            shared = sorted(set.intersection(*map(set, benchmarks)))
            there = f"they have {', '.join(shared)}" if shared else "they share none"
            raise UserError(f"--benchmark-group-by=param:{name}: not every benchmark has that parameter; {there}")


def _params_of(item: pytest.Item) -> dict[str, object]:
    """The parameters of a test's case, by name."""
    given = getattr(item, "callspec", None)
    return dict(given.params) if given is not None else {}


def _refuse_overwritten_baseline(config: pytest.Config, baseline: Sequence[Path]) -> None:
    """Raises UserError where something of a run would be written over a file of its baseline, or where it would be
    saved under the name or in the folder that it is compared with: that names all of them, and one that regressed makes
    it useless."""
    outputs = {"--benchmark-json": config.getoption("benchmark_json", None), **_own_outputs(config)}
    for option, path in outputs.items():
        if path and path.exists() and any(path.samefile(each) for each in baseline):
            raise UserError(f"{option} {path} is the baseline itself, which would be lost; name another file")
    name, compared = config.getoption("benchmark_save", None), config.getoption("benchmark_compare", None)
    option = "--benchmark-save" if name else "--benchmark-autosave" if config.getoption("benchmark_autosave") else ""
    folder = storage_of(config) / get_machine_id()  # type: ignore[no-untyped-call]
    if option and isinstance(compared, str) and folder.resolve().is_relative_to(Path(compared).resolve()):
        raise UserError(
            f"{option} would add this run to its own baseline, the folder {compared}; compare with one session of it, "
            "or give another --benchmark-storage"
        )
    if name and name == compared:
        raise UserError(
            f"--benchmark-save={name} would add this run to its own baseline; save it under another name, such as "
            f"{'after' if name != 'after' else 'new'}"
        )


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
