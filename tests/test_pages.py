"""One page, three media: what they say is what was decided, whoever named the things in it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from trtgate.baseline import saved_sessions
from trtgate.compare import samples_of
from trtgate.report import markdown, terminal
from trtgate.report.page import Page
from trtgate.report.pages import ab_page, comparison_page, fleet_page, run_page

from . import scenes

GOLDENS = Path(__file__).resolve().parent / "goldens"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def a_run() -> Page:
    records = scenes.measured()
    decisions = [decision for record in records for decision in record.decisions]
    return run_page(records, decisions, scenes.GPU_STACK, skipped=scenes.SKIPPED, facts=scenes.FACTS)


def a_comparison() -> Page:
    report = scenes.compared()
    storage = Path(".benchmarks")
    return comparison_page(report, samples_of(*(saved_sessions(storage, name) for name in ("before", "after"))))


PAGES = {
    "run": a_run,
    "compare": a_comparison,
    "ab": lambda: ab_page(scenes.raced()),
    "fleet": lambda: fleet_page(scenes.fleet()),
}


def lines(text: str) -> Counter[str]:
    return Counter(line.rstrip() for line in text.splitlines() if line.strip("` "))


@pytest.mark.parametrize("name", PAGES)
def test_every_line_that_was_printed_before_there_were_pages_still_is(name: str) -> None:
    page = PAGES[name]()
    for medium, text in (("txt", terminal.render(page)), ("md", markdown.render(page))):
        lost = lines((GOLDENS / f"{name}.{medium}").read_text()) - lines(text)
        assert not lost, f"{medium}: {list(lost)}\n{text}"
