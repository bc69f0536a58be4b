"""Progress while pytest captures what is printed."""

from __future__ import annotations

import contextlib

import pytest

from trtgate.progress import SILENT, Progress


def progress_of(config: pytest.Config) -> Progress:
    """Progress on pytest's own terminal, past its capturing."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    capture = config.pluginmanager.get_plugin("capturemanager")
    if reporter is None:
        return SILENT
    writer = config.get_terminal_writer()
    drafted = False

    def show(text: str, *, stays: bool) -> None:
        nonlocal drafted
        with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
            if not drafted:  # the letters of tests that are over stay
                reporter.ensure_newline()
                if writer.width_of_current_line:
                    writer.line()
            if drafted or not stays:
                reporter.rewrite(text, erase=True)
            else:
                writer.write(text)
            if stays:
                writer.line()
            drafted = not stays

    def draft(text: str) -> None:
        show(text, stays=False)

    return Progress(lambda text: show(text, stays=True), draft if reporter.isatty else None)
