"""One page, three media: what they say is what was decided, whoever named the things in it."""

from __future__ import annotations

import dataclasses
import html as html_lib
import json
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtgate.__main__ import main
from trtgate.baseline import saved_sessions
from trtgate.compare import samples_of
from trtgate.report import github, html, markdown, terminal
from trtgate.report.bisections import bisection_page
from trtgate.report.page import (
    Axis,
    Bar,
    Bars,
    Cell,
    Column,
    Headline,
    Line,
    Notes,
    Page,
    Plot,
    Room,
    Section,
    Table,
    cells,
)
from trtgate.report.pages import ab_page, comparison_page, engine_notes, fleet_page, run_page
from trtgate.report.svg import WIDTH, bars_svg, plot_svg
from trtgate.report.terminal import table_text
from trtgate.report.words import amount_text
from trtgate.thumbnails import shipped_photos
from trtgate.verdict.answers import SHARE, Answers, answers_of, shares_of
from trtgate.verdict.outcome import Outcome, Reason, Verdict

from . import scenes
from .saved import save

GOLDENS = Path(__file__).resolve().parent / "goldens"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def a_run() -> Page:
    records = scenes.measured()
    verdicts = [verdict for record in records for verdict in record.verdicts]
    return run_page(records, verdicts, scenes.GPU_STACK, skipped=scenes.SKIPPED, facts=scenes.FACTS)


def a_comparison() -> Page:
    report = scenes.compared()
    storage = Path(".benchmarks")
    return comparison_page(report, samples_of(*(saved_sessions(storage, name) for name in ("before", "after"))))


PAGES: dict[str, Callable[[], Page]] = {
    "run": a_run,
    "compare": a_comparison,
    "ab": lambda: ab_page(scenes.raced()),
    "fleet": lambda: fleet_page(scenes.fleet()),
    "bisect": lambda: bisection_page(
        scenes.searched(), {f"1.2{minor}.0": f"/e/{minor}" for minor in range(5)}, ["--model", "efficientnet_lite0"]
    ),
}


# With drawings, which HTML alone has.
DRAWN = {**PAGES, "drawn": lambda: run_page(scenes.drawn(), [], scenes.GPU_STACK)}


def lines(text: str) -> Counter[str]:
    return Counter(line.rstrip() for line in text.splitlines() if line.strip("` "))


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_a_page_is_lost(name: str) -> None:
    page = PAGES[name]()
    for medium, text in (("txt", terminal.render(page)), ("md", markdown.render(page))):
        lost = lines((GOLDENS / f"{name}.{medium}").read_text()) - lines(text)
        assert not lost, f"{medium}: {list(lost)}\n{text}"


# HTML.


class Document(HTMLParser):
    """What a browser would find: every tag closed in its order, texts, links, and the numbers behind cells."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})
    # Of SVG, which the template closes by themselves.
    EMPTY = frozenset({"path", "rect", "circle", "line", "image"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.values: list[float] = []
        self.links: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} has a handler of its own"
            if name == "data-value":
                self.values.append(float(value or ""))
            if name in {"src", "href", "xlink:href", "action", "srcset"}:
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.EMPTY, f"<{tag}/>"
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open[-1] == tag, f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("name", DRAWN)
def test_the_document_is_whole_and_asks_for_nothing(name: str) -> None:
    page = DRAWN[name]()
    text = html.render(page)
    document = Document(text)
    assert all(link.startswith("data:image/jpeg;base64,") for link in document.links)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text
    assert len(document.ids) == len(set(document.ids)) == 2 * document.tags["svg"]
    assert document.tags["svg"] > 0 or name == "fleet"
    for title, _ in terminal.sections(page):
        assert any(title in each for each in document.texts)


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON document."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield float(value)


def answers_in(value: Any) -> Iterator[Any]:
    """All packed answers in a JSON document."""
    if isinstance(value, dict):
        if "logits" in value:
            yield value
        for each in value.values():
            yield from answers_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from answers_in(each)


def test_every_number_of_the_comparison_is_that_of_the_json() -> None:
    scenes.before_and_after()
    arguments = ["--expectations", "expectations.toml", "--json", "out.json", "--html", "out.html"]
    Path("expectations.toml").write_text("[default]\nspeedup = 2.0\n")
    assert main(["compare", "before", "after", *arguments]) == 1
    known = set(numbers(json.loads(Path("out.json").read_text())))
    # A change is drawn from 0 on, and the JSON has it as a ratio; a layer and a share stand in its sentences.
    # What is better when it is higher is drawn the other way round.
    known |= {value - 1 for value in known} | {1 - value for value in known} | {0.0}
    answers = Document(Path("out.html").read_text())
    records = [json.loads(path.read_text()) for path in Path(".benchmarks").glob("**/*.json")]
    known |= set(numbers(records))
    kept = [Answers.from_json(each) for record in records for each in answers_in(record)]
    known |= {float(share) for each in kept if each.shares is not None for share in each.shares[:, 0] / SHARE}
    assert set(answers.values) <= known
    assert len(answers.values) > 40


def test_a_table_is_sorted_by_the_numbers_behind_its_text() -> None:
    text = html.render(a_run())
    [latency] = {record.latency for record in scenes.measured() if record.engine == "tensorrt-fp16"}
    assert f'<td data-value="{latency}">1.004</td>' in text
    assert text.count("<button type") == text.count("<th scope")


def test_a_column_of_verdicts_is_sorted_by_how_bad_they_are() -> None:
    cells = [
        Cell(each.value, each) for each in (Outcome.PASS, Outcome.INVALID, Outcome.REGRESSED, Outcome.INCONCLUSIVE)
    ]
    table = Table((Column("verdict", text=True),), tuple((each,) for each in cells))
    text = html.render(Page("", Headline(None, ""), (Section("", (table,)),)))
    ranks = {name: int(rank) for rank, name in re.findall(r'data-rank="(\d)"><b class="(\w+)">', text)}
    assert sorted(ranks, key=ranks.__getitem__) == ["REGRESSED", "INVALID", "INCONCLUSIVE", "PASS"]


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="there is no node to run the page's script")
@pytest.mark.parametrize("times", [1, 2])
def test_a_column_is_sorted_with_what_is_missing_last(times: int) -> None:
    """The page's own script, on a table that is just what the script asks of one."""
    script = re.search(r"(?s)<script>(.*?)</script>", html.render(a_run()))
    assert script is not None
    columns: list[list[tuple[str, float | None]]] = [
        [("+10.0%", 0.1), ("-", None), ("-3.0%", -0.03), ("reference", None), ("+9.0%", 0.09)],
        [("1.10.0", None), ("1.9.0", None), ("", None), ("1.22.0", None), ("1.2.0", None)],
        [("PASS", 3), ("-", None), ("REGRESSED", 0), ("not gated", None), ("INCONCLUSIVE", 2)],
    ]
    found = []
    for column, kind in zip(columns, ("value", "value", "rank"), strict=True):
        rows = [{"textContent": text, "dataset": {} if value is None else {kind: value}} for text, value in column]
        table = f"""
            const rows = {json.dumps(rows)}.map(cell => ({{cells: [cell]}})), marks = {{}};
            const body = {{rows, append: (...some) => {{ body.rows = some; }}}};
            const head = {{cellIndex: 0, closest: () => ({{tBodies: [body], querySelectorAll: () => []}}),
                getAttribute: name => marks[name], setAttribute: (name, to) => {{ marks[name] = to; }}}};
            let click;
            const button = {{parentElement: head, addEventListener: (_, act) => {{ click = act; }}}};
            globalThis.document = {{querySelectorAll: () => [button]}};
            globalThis.addEventListener = () => {{}};
            {script[1].replace('"use strict";', "")}
            {"click();" * times}
            console.log(JSON.stringify(body.rows.map(row => row.cells[0].textContent)));
        """
        done = subprocess.run([str(NODE), "-e", table], capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    wanted = [
        ["-3.0%", "+9.0%", "+10.0%"],
        ["1.2.0", "1.9.0", "1.10.0", "1.22.0"],
        ["REGRESSED", "INCONCLUSIVE", "PASS"],
    ]
    if times == 2:
        wanted = [each[::-1] for each in wanted]
    assert found == [[*wanted[0], "reference", "-"], [*wanted[1], ""], [*wanted[2], "not gated", "-"]]


def test_labelled_accuracy_is_sorted_by_its_numbers() -> None:
    facts = {
        ("resnet50", engine): {
            "agreement": {**scenes.agreement(60), "n": photos},
            "accuracy": {
                "n": photos,
                "engine_top1": top1,
                "reference_top1": 54,
                "engine_top5": 60,
                "reference_top5": 60,
            },
        }
        for engine, top1, photos in (("tensorrt-fp16", 60, 60), ("tensorrt-int8", 102, 120))
    }
    text = html.render(run_page(scenes.measured(), [], scenes.GPU_STACK, facts=facts))
    assert '<td data-value="1.0">100.0% (+10.0)</td>' in text
    assert '<td data-value="0.85">85.0% (+40.0)</td>' in text
    assert '<td data-value="1.0">60/60</td>' in text
    assert '<td data-value="0.5">60/120</td>' in text


def test_a_page_explains_its_own_words() -> None:
    for make in (a_run, a_comparison, PAGES["ab"]):
        assert "tail: mean of the slowest 5 % of all iterations" in html.render(make())
    compared = html.render(a_comparison())
    assert "delta: by how much it may get worse" in compared
    assert all(f">{bound} +" in compared for bound in ("at least", "estimate", "at most"))
    # Of a file of the user's own it is not PyTorch.
    [record] = scenes.measured()[1:2]
    own = html_lib.unescape(
        html.render(run_page([dataclasses.replace(record, reference="onnxruntime-fp32")], [], scenes.GPU_STACK))
    )
    assert "the reference itself (onnxruntime-fp32)" in own
    assert "PyTorch" not in own


def test_what_is_within_its_limit_twice_is_said_once() -> None:
    [comparison, *_] = scenes.compared().engines
    twice = dataclasses.replace(comparison, changes=(*comparison.changes, *comparison.changes))
    [line] = [line for line in engine_notes(twice) if "within their limits" in line]
    assert line.count("plan bytes") == 1
    assert amount_text("cycles", 8.023e6) == "8.023 million"


def test_a_fleet_that_compares_nothing_is_not_told_to_stay_with_an_old_stack() -> None:
    headline = fleet_page(scenes.fleet()).headline
    assert headline.outcome is Outcome.REGRESSED
    assert headline.next == "mend that first: a run that did not pass can be no baseline"


def test_a_run_without_an_engine_met_no_floors() -> None:
    for text in (html.render(run_page([], [], scenes.GPU_STACK)), markdown.render(run_page([], [], scenes.GPU_STACK))):
        assert "no engine was measured; no baseline, so no upgrade was judged" in text
        assert "floors met" not in text
        assert "--benchmark-save=before" not in text
    answers = run_page([], [scenes.MET], scenes.GPU_STACK).headline
    assert answers.decided == "no engine was measured, floors met; no baseline, so no upgrade was judged"
    assert answers.next.startswith("run with --benchmark-save=before")
    nothing = dataclasses.replace(scenes.compared(), engines=(), missing={})
    decided = run_page([], [], scenes.GPU_STACK, report=nothing).headline.decided
    assert decided == "against the baseline: nothing was decided; no engine was measured"


# Names that others chose.

MARKUP = "<img src=x onerror=alert(1)>[red]a|b`c`&amp;![d](http://e.example)*f* __g__ ~h~"


def hostile(value: Any, added: str = MARKUP) -> Any:
    """The same page with markup, or what else is added, in every text that is not the report's own."""
    if isinstance(value, str):
        return f"{value}{added}"
    if isinstance(value, tuple):
        return tuple(hostile(each, added) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fixed = {"style", "form"}
        found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **{k: v if k in fixed else hostile(v, added) for k, v in found.items()})
    return value


@pytest.mark.parametrize("name", DRAWN)
def test_markup_in_any_text_of_a_page_is_text(name: str) -> None:
    page = hostile(DRAWN[name]())
    text = html.render(page)
    document = Document(text)
    assert document.tags["img"] == 0
    assert MARKUP in "".join(document.texts)
    assert "<img" not in text
    shown = terminal.render(page, width=10_000)
    assert MARKUP in shown
    assert terminal.render(page, width=10_000, colour=True).count("[red]") == shown.count("[red]")
    outside, fenced = "", False
    for line in markdown.render(page).splitlines():
        fenced ^= line.startswith("```")
        outside += "" if fenced else f"{line}\n"
    assert "<img" not in outside
    assert not re.search(r"(?<!\\)`c|\]\(http|(?<!\\)\*f|(?<!\\)_g|(?<!\\)~h|g_|h~", outside)


def test_markup_that_appears_when_control_characters_go_is_text() -> None:
    text = "a]\x1b[m(http://e.example)"
    lines = Notes(("``\x1b[m`", "# a title <img src=x>"))
    page = Page(text, Headline(None, text), (Section("", (lines, Table((Column(text),), (cells(text),)))),))
    shown = markdown.render(page)
    assert "](http" not in shown
    assert "````\n```\n# a title <img src=x>\n````" in shown


@pytest.mark.parametrize("name", PAGES)
def test_no_text_of_a_page_repaints_a_terminal(name: str) -> None:
    page = hostile(PAGES[name](), "\x1b[2J\x1b]0;owned\x07\r\u202e\u2067")
    titles = "".join(title for title, _ in terminal.sections(page))
    assert not re.search(r"[\x1b\x07\r\u202e\u2067]", terminal.render(page) + titles)


def test_markup_in_files_names_and_paths_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    name = "<img src=x onerror=alert(1)>"
    for first, session in ((1, "before"), (11, "after")):
        for number in range(first, first + 5):
            stack = {**scenes.STACK, "cpu": name, "node": name, "onnxruntime": f"{name}{session}"}
            layers = {name: {"ms": 1.0 + first, "type": name}}
            save(number, session, changes=stack, engines=(name,), layer_times=layers, warnings=(name,))
    Path("<b>").mkdir()
    Path(".benchmarks").rename("<b>/.benchmarks")
    arguments = ["--storage", "<b>/.benchmarks", "--html", "<b>/out.html", "--markdown", "out.md"]
    main(["compare", "before", "after", *arguments])
    document = Document(Path("<b>/out.html").read_text())
    assert document.tags["img"] == 0
    assert "".join(document.texts).count(name) > 3
    fenced = re.sub(r"(?s)```.*?```", "", Path("out.md").read_text())
    assert "<img" not in fenced
    assert name in capsys.readouterr().out


def test_a_path_that_is_no_utf_8_ends_no_report() -> None:
    for number in range(1, 6):
        save(number, "before", changes=scenes.STACK)
        save(10 + number, "after", changes={**scenes.STACK, "threads": 2})
    kept = os.fsdecode(b"kept\xff")
    Path(".benchmarks").rename(kept)
    outputs = ["--html", "out.html", "--markdown", "out.md", "--json", "out.json"]
    assert main(["compare", "before", "after", "--storage", kept, *outputs]) == 7
    assert all(
        "kept?/Linux/0011_after.json threads" in Path(f"out.{each}").read_text() for each in ("html", "md", "json")
    )


def test_no_text_of_a_document_turns_a_line_round_or_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = hostile(DRAWN["drawn"](), "\x1b[2J\x07\u202e\udcff")
    for text in (html.render(page), markdown.render(page)):
        assert text.encode()
        assert not re.search(r"[\x1b\x07\u202e]", text)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary"))
    markdown.publish(markdown.render(page))


def test_bars_that_are_left_out_are_told() -> None:
    [record] = scenes.measured()[1:2]
    records = [dataclasses.replace(record, engine=f"engine-{number}") for number in range(30)]
    assert "The 6 slowest are left out." in html.render(run_page(records, [], scenes.GPU_STACK))
    assert "left out" not in html.render(run_page(records[:24], [], scenes.GPU_STACK))


# Thumbnails.


def test_photos_at_hand_are_shown_where_the_answers_differ() -> None:
    digest, photos = next(iter(shipped_photos().items()))
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 1, (len(photos.names), 1000)).astype(np.float32)
    other = reference.copy()
    other[7, (reference[7].argmax() + 1) % 1000] = 9.0
    found = answers_of(photos.names, reference, other)
    assert found.photos == digest
    [record] = scenes.measured()[1:2]
    record = dataclasses.replace(record, answers=found.to_json())
    text = html.render(run_page([record], [], scenes.GPU_STACK, photos={digest: photos}))
    document = Document(text)
    assert document.tags["img"] == 1
    assert f'alt="{photos.names[7]}"' in text
    best, share = int(other[7].argmax()), float(shares_of(other[7:8]).max())
    assert f"{photos.classes[best]} {share:.1%}" in html_lib.unescape(text)
    assert len(text) < 60_000


def test_answers_that_differ_are_told_with_their_confidence_and_the_references() -> None:
    logits = np.log(np.array([[0.6, 0.25, 0.15, 0.0], [0.9, 0.1, 0.0, 0.0]], np.float32) + 1e-9)
    turned = np.log(np.array([[0.3, 0.55, 0.08, 0.07], [0.9, 0.1, 0.0, 0.0]], np.float32) + 1e-9)
    reference, engine = scenes.measured()[:2]
    records = [
        dataclasses.replace(record, answers=answers_of(("a", "b"), logits, own).to_json())
        for record, own in ((reference, logits), (engine, turned))
    ]
    said = html_lib.unescape(html.render(run_page(records, [], scenes.GPU_STACK)))
    assert "class 0 60.0%, class 1 25.0%, class 2 15.0%" in said
    assert "class 1 55.0%, class 0 30.0%" in said
    assert "class 2 8.0%" not in said
    kept = {name: value for name, value in records[1].answers.items() if name != "shares"}
    older = html_lib.unescape(
        html.render(run_page([dataclasses.replace(records[1], answers=kept)], [], scenes.GPU_STACK))
    )
    assert "class 1" in older
    assert "55.0%" not in older


# GitHub.


def test_what_regressed_is_annotated_in_a_job_of_githubs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes.before_and_after()
    main(["compare", "before", "after"])
    assert "::error" not in capsys.readouterr().out
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(["compare", "before", "after"]) == 1
    found = commands(capsys.readouterr().out)
    assert found[0].startswith(
        "::error title=trtgate%3A resnet50 onnxruntime-int8 batch 1::REGRESSED (slower): slower by"
    )
    assert "+20.0%25" in found[0]
    assert len(found) == 2


def commands(out: str) -> list[str]:
    """The lines that GitHub's runner obeys."""
    found, ends = [], ""
    for line in map(str.strip, out.splitlines()):
        if ends:
            ends = "" if line == ends else ends
        elif line.startswith("::stop-commands::"):
            ends = f"::{line.removeprefix('::stop-commands::')}::"
        elif line.startswith("::"):
            found.append(line)
    return found


def test_no_line_of_a_record_is_a_command_to_githubs_runner(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = dataclasses.replace(scenes.BELOW, message="slow\n::warning::mine")
    save(1, "t4", changes=scenes.STACK, verdicts=(said,), model="::error::mine")
    Path("fleet").mkdir()
    Path(".benchmarks/Linux").rename("fleet/::debug::mine")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert main(["report", "fleet"]) == 1
    out = capsys.readouterr().out
    assert "::warning::mine" in out
    assert commands(out) == []


def test_an_annotation_is_one_line_whatever_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    bad = Verdict(Outcome.INVALID, Reason.DISTURBED, "a\r\x1b[2J::set-output name=x::y")
    [line] = github.annotate([("a,b:c\n::d", bad), ("a,b:c\n::d", bad), ("fine", scenes.MET)])
    assert line == "::warning title=trtgate%3A a%2Cb%3Ac%0A%3A%3Ad::INVALID (disturbed): a%0A::set-output name=x::y"


@pytest.mark.parametrize("name", ["onnxruntime-int8", "a_network_of_my_own_with_a_long_name onnxruntime-int8 batch 32"])
def test_no_number_of_a_chart_stands_on_its_label(name: str) -> None:
    bars = (Bar(name, 0.1, "+12.5% [+8.3%,+17.4%]", 0.0, 0.2), Bar("other", 0.1, "+0.1%"))
    drawn = bars_svg(Bars("latency", "all engines", Axis("change"), bars), "c1")
    texts = re.findall(r'<text (?:class="value" )?x="([\d.]+)" y="([\d.]+)">([^<]+)', drawn)
    lines: dict[str, int] = {}
    for _, y, text in texts:
        lines[y] = lines.get(y, 0) + len(text)
    assert max(lines.values()) <= 52


@pytest.mark.parametrize("sessions", [(8, 9, 10, 11), (0, 1, 2), (5,)])
def test_an_axis_names_the_sessions_that_its_lines_have(sessions: tuple[int, ...]) -> None:
    names = tuple(f"night {index}" for index in range(12))
    line = Line("late", tuple((float(index), 0.01 * index) for index in sessions))
    drawn = plot_svg(Plot("t", "a", Axis("session", names=names), Axis("change", "change"), (line,)), "p1")
    found = re.findall(r'<text x="(-?[\d.]+)"[^>]*>(night \d+)<', drawn)
    assert [name for _, name in found][:: max(1, len(found) - 1)] == [
        names[at] for at in sessions[:: max(1, len(sessions) - 1)]
    ]
    assert all(0 <= float(x) <= WIDTH for x, _ in found)


@pytest.mark.parametrize("name", PAGES)
def test_no_number_is_lost_beside_texts_of_any_length(name: str) -> None:
    tables = [part for section in PAGES[name]().sections for part in section.parts if isinstance(part, Table)]
    for table in (each for each in tables if each.room is Room.TERMINAL):
        rows = tuple(
            tuple(
                Cell(f"{cell.text} and so on, and so on, and so on") if column.text else cell
                for cell, column in zip(row, table.columns, strict=True)
            )
            for row in table.rows
        )
        shown = table_text(dataclasses.replace(table, rows=rows))
        numbers = [index for index, each in enumerate(table.columns) if not each.text and each.room is Room.TERMINAL]
        assert [row[index].text for row in rows for index in numbers if row[index].text not in shown] == []
        assert max(map(len, shown.splitlines())) <= terminal.WIDTH


def test_names_of_models_stand_apart_where_a_table_would_be_too_wide() -> None:
    columns = (Column("model", text=True), Column("engine", text=True), Column("change"))
    rows = tuple(
        cells(model, "onnxruntime-int8", "+1.2% [-0.1%,+2.4%]") for model in ("efficientnet_lite0", "resnet50")
    )
    wide = table_text(Table(columns, rows), width=60).splitlines()
    assert [line.split()[0] for line in wide] == ["model", "efficientnet_lite0", "resnet50"]
    narrow = table_text(Table(columns, rows), width=50).splitlines()
    assert narrow[1:] == [
        "efficientnet_lite0",
        "  onnxruntime-int8 +1.2% [-0.1%,+2.4%]",
        "resnet50",
        "  onnxruntime-int8 +1.2% [-0.1%,+2.4%]",
    ]
