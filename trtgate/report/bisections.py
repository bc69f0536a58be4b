"""The page of a search for a version: which one it was, the path to it, and what else changed there."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from trtgate.report.page import Axis, Bar, Bars, Cell, Column, Headline, Notes, Page, Part, Room, Section, Table, cells
from trtgate.report.words import amount_text, fidelity_text, metric_words
from trtgate.search.question import ANSWERS, BUILD, Bisection, Question, Raced
from trtgate.verdict.bisection import Kind, Relation, State
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.outcome import Outcome
from trtgate.verdict.paired import change_text

OUTCOMES = {
    Relation.WORSE: Outcome.REGRESSED,
    Relation.LOST: Outcome.REGRESSED,
    Relation.BETTER: Outcome.IMPROVED,
    Relation.SAME: Outcome.PASS,
    Relation.NO_WORSE: Outcome.PASS,
    Relation.OPEN: Outcome.INCONCLUSIVE,
}
NEXT = {
    Kind.FOUND: "stay with {good}, or see it again by the command that is printed",
    Kind.BETWEEN: "stay with {good}, or see it again by the command that is printed",
    Kind.DRIFT: "search on with a smaller --delta, or with {later}",
    Kind.NOTHING: "ask about another --metric or a smaller --delta, on the machine on which it was seen",
    Kind.OPEN: "a quieter machine, or a larger --delta; then --afresh",
}


def bisection_page(found: Bisection, sides: Mapping[str, str], asked: Sequence[str], *more: Sequence[str]) -> Page:
    """A whole search; `sides` is how `ab` is given the versions that can be raced, `asked` the option that names the
    model, and `more` those that a race depends on, too."""
    command = _command(found, sides, asked, more)
    first: list[Part] = [_path_table(found), *_chart(found), Notes((*_answer_notes(found), *command))]
    noun = found.question.noun
    sections = [Section("", tuple(first)), Section(f"the {noun}s", (_versions_table(found),))]
    return Page(f"which {noun} it was", _headline(found), tuple(sections))


def _headline(found: Bisection) -> Headline:
    answer, question = found.answer, found.question
    good, bad = found.names[answer.good], found.names[answer.bad]
    proof = found.proof
    outcome = {Kind.NOTHING: Outcome.PASS, Kind.OPEN: Outcome.INCONCLUSIVE}.get(answer.kind)
    if outcome is None and answer.how is not None:
        outcome = OUTCOMES[answer.how]
    how, what = _how(question, answer.how), f"{question.engine} of {question.model}"
    tried = found.tried.get(bad)
    if answer.how is Relation.LOST and question.metric != BUILD and tried is not None and tried.state is State.FAILS:
        how = "is not available"  # that it could be built before was not asked
    called, noun, date = question.called, question.noun, found.releases[answer.bad].date
    moved = "" if proof is None or not proof.estimate else f": {_change(proof).text} against {good}"
    decided = {
        Kind.FOUND: f"{called(bad)}{f' ({date})' if date else ''} is the first {noun} in which {what} {how}{moved}",
        Kind.BETWEEN: f"{what} {how} from {called(bad)} on; what is between it and {good} cannot be used",
        Kind.DRIFT: f"no single {noun}: {what} {how} in {called(bad)} against {found.names[0]}, in steps within "
        f"{question.delta:.1%} each",
        Kind.NOTHING: f"{called(good)} and {bad} do not differ in the {metric_words(question.metric)} of {what}",
        Kind.OPEN: f"it cannot be told in which {noun} after {called(good)}, up to {bad}, {what} {how}",
    }[answer.kind]
    why = "" if proof is None else f"{proof.old} against {proof.new}, raced directly: {proof.message}"
    return Headline(outcome, decided, why, NEXT[answer.kind].format(good=good, later=question.later(bad)))


def _how(question: Question, how: Relation | None) -> str:
    """What the newer versions do."""
    if how is Relation.LOST or question.metric == BUILD:
        return "cannot be built, loaded and run"
    if question.metric == ANSWERS:
        return "answers otherwise"
    if how is None:
        return f"differs in its {metric_words(question.metric)}"
    metric = BY_NAME[question.metric]
    changed = metric.words.worse if how is Relation.WORSE else metric.words.better
    if metric.name == "latency":
        return f"is {changed}"
    return f"{'needs' if metric.unit == 'bytes' else 'has a'} {changed} {metric_words(metric.name)}"


def _path_table(found: Bisection) -> Table:
    """The path taken: each race with its verdict and interval."""
    metric = found.question.metric
    columns = (
        Column("old", text=True),
        Column("new", text=True),
        *map(Column, ("processes", "before", "after", "change")),
        Column("the new one is", text=True),
        Column("took\ns"),
        Column("because", text=True, room=Room.SUMMARY),
    )
    rows = [
        cells(
            each.old,
            each.new,
            each.processes,
            Cell(amount_text(metric, each.before), value=each.before),
            Cell(amount_text(metric, each.after), value=each.after),
            _change(each),
            Cell(_relation(found.question, each.relation), OUTCOMES[each.relation]),
            Cell(f"{each.seconds:.0f}", value=each.seconds),
            each.message,
        )
        for each in found.races
    ]
    return Table(columns, tuple(rows), grouped=0)


def _change(each: Raced) -> Cell:
    if not each.estimate:
        return Cell("-")
    text = change_text(float(np.log(each.estimate)))
    if each.low and each.high:
        text += f" [{change_text(float(np.log(each.low)))},{change_text(float(np.log(each.high)))}]"
    return Cell(text, value=each.estimate)


def _chart(found: Bisection) -> list[Bars]:
    """Every race's change with its interval."""
    bars = tuple(
        Bar(
            f"{each.old} -> {each.new}",
            each.estimate - 1,
            _change(each).text,
            each.low - 1 if each.low else None,
            each.high - 1 if each.high else None,
            found.question.delta,
            outcome=OUTCOMES[each.relation],
        )
        for each in found.races
        if each.estimate
    )
    about = (
        "Change of each race in the order in which they were run, worse to the right, with its interval and the limit."
    )
    return (
        [Bars(metric_words(found.question.metric), about, Axis("change", "change"), bars, interval=True)]
        if bars
        else []
    )


def _answer_notes(found: Bisection) -> list[str]:
    """What the answer rests on, and what else changed there."""
    proof = found.proof
    seconds = sum(each.seconds for each in found.races)
    races = f"{len(found.races)} race{'s' * (len(found.races) != 1)}"
    lines = [f"{races} between {len(found.releases)} {found.question.noun}s in {seconds:.0f} s"]
    if proof is not None:
        lines.append(f"{proof.old} -> {proof.new}: {proof.message}")
        lines += [f"  {change}" for change in proof.stack]
        lines += [f"  layer {layer}" for layer in proof.layers]
        if proof.answers:
            lines.append(f"  answers, new with old: {fidelity_text(proof.answers)}")
    return [*lines, *found.remarks()]


def _command(
    found: Bisection, sides: Mapping[str, str], asked: Sequence[str], more: Sequence[Sequence[str]]
) -> list[str]:
    """What races the two versions of the answer again, in lines of a terminal."""
    question, ends = found.question, [found.names[found.answer.good], found.names[found.answer.bad]]
    if not all(end in sides for end in ends):
        return []
    both = [shlex.join([f"--{side}", sides[end]]) for side, end in zip(("old", "new"), ends, strict=True)]
    what = [*asked, "--engine", question.engine, "--batch-size", str(question.batch), "--device", question.device]
    command = ["python -m trtgate ab", *both, *map(shlex.join, more), shlex.join(what)]
    return ["see it again:", *textwrap.indent(" \\\n  ".join(command), "  ").splitlines()]


def _versions_table(found: Bisection) -> Table:
    """All versions, with what is known of each."""
    rows = []
    for index, release in enumerate(found.releases):
        tried, raced = found.tried.get(str(release)), found.raced(0, index)
        known = Cell("the good end" if index == 0 else "")
        if tried is not None and tried.state is not State.WORKS:
            known = Cell(tried.words, Outcome.INVALID)
        elif raced is not None:
            text = _relation(found.question, raced.relation)
            known = Cell(f"{text}, against {found.names[0]}", OUTCOMES[raced.relation])
        rows.append(cells(str(release), release.date or release.digest.removeprefix("sha256:")[:12] or "-", known))
    noun, second = found.question.noun, "released" if found.question.package else "digest"
    columns = tuple(Column(each, text=True) for each in (noun, second, "what is known"))
    return Table(columns, tuple(rows), grouped=0)


def _relation(question: Question, relation: Relation) -> str:
    return "different" if question.metric == ANSWERS and relation is Relation.WORSE else relation.value
