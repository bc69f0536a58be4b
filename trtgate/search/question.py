"""Which version changed an engine: the question, what is seen of the versions, and the answer.

What to look at next is `verdict.bisection`'s to say; the laboratory does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trtgate.engines import backend, parse_spec
from trtgate.kinds import Device, UserError
from trtgate.measure.remote import Place
from trtgate.search.releases import Release
from trtgate.settings import Settings
from trtgate.verdict.bisection import Answer, Compare, Kind, Prepare, Race, Relation, State, next_step
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.policy import EXIT_INCONCLUSIVE, EXIT_PASS

# Beside the metrics that an A/B run measures: on how many photos the answer changed, and whether there is an engine.
ANSWERS, BUILD = "answers", "build"
BUILDS_MEASURED = ("build_seconds", "plan_bytes")
MEASURED = ("latency", "typical", "tail", "host_memory", "cold_start", *BUILDS_MEASURED)
ON_A_GPU = ("end_to_end", "end_to_end_tail", "device_memory")
EXIT_STATUS = {kind: EXIT_INCONCLUSIVE if kind is Kind.OPEN else EXIT_PASS for kind in Kind}


@dataclass(frozen=True)
class Question:
    """What is asked: since which version of `package`, or since which image where that is None, has a metric of one
    engine changed by more than `delta`?"""

    package: str | None
    model: str
    engine: str
    batch: int
    device: Device
    metric: str
    delta: float

    @property
    def noun(self) -> str:
        """What it is searched among."""
        return "version" if self.package else "image"

    def called(self, version: str) -> str:
        """A version, as somebody is told of it."""
        return f"{self.package} {version}" if self.package else version

    def later(self, version: str) -> str:
        """The option that begins the search there."""
        return f"--good {version}" if self.package else f"--images from {version} on"


@dataclass(frozen=True)
class Raced:
    """One A/B run of a search: what it came to, `before` and `after` in the metric's own unit, and what else changed
    between the two versions: the `stack`, `layers`, and `answers` as an A/B run has them."""

    old: str
    new: str
    relation: Relation
    again: bool
    message: str
    processes: int
    seconds: float
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    before: float | None = None
    after: float | None = None
    stack: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tried:
    """What is known of a version by itself, and why it is not usable; `what` where the state has other words."""

    state: State
    why: str = ""
    what: str = ""

    @property
    def words(self) -> str:
        """Its state, as somebody is told of it."""
        return self.what or self.state.value


class Versions(Protocol):
    """Where the versions come from, and how one becomes a side of a race."""

    @property
    def folder(self) -> Path:
        """Where unfinished searches are kept."""

    @property
    def made_of(self) -> Mapping[str, Any]:
        """All that the sides depend on besides their versions' names."""

    def get(self, version: str) -> Path | Place:
        """The side of a version. Raises NotInstallable where there is none, and UserError."""

    def sides(self, versions: Iterable[str]) -> Mapping[str, str]:
        """How `ab` is given those that there are."""


class Laboratory(Protocol):
    """Where versions are tried and raced."""

    def prepare(self, version: str) -> Tried:
        """Install a version, and see whether the engine is available in it."""

    def race(self, old: str, new: str, *, again: bool) -> Raced:
        """Race two versions that work."""


@dataclass(frozen=True)
class Bisection:
    """A whole search: the versions, the older ones first, what was seen of them, and the answer."""

    question: Question
    releases: tuple[Release, ...]
    tried: Mapping[str, Tried]
    races: tuple[Raced, ...]
    answer: Answer

    @property
    def names(self) -> list[str]:
        """The versions as they are asked for."""
        return list(map(str, self.releases))

    @property
    def status(self) -> int:
        """The command's exit status: 0 for an answer, 6 where it cannot be told."""
        return EXIT_STATUS[self.answer.kind]

    def raced(self, old: int, new: int) -> Raced | None:
        """The last race of two versions."""
        pair = (self.names[old], self.names[new])
        return next((each for each in reversed(self.races) if (each.old, each.new) == pair), None)

    @property
    def proof(self) -> Raced | None:
        """The race on which the answer rests."""
        return self.raced(self.answer.good, self.answer.bad)

    def remarks(self) -> list[str]:
        """What the answer leaves unsaid: versions that could not be used, and other changes that were met."""
        answer, names = self.answer, self.names
        lines = [
            f"{name} {self.tried[name].words}: {self.tried[name].why}"
            for name in names
            if name in self.tried and self.tried[name].state is not State.WORKS
        ]
        if answer.kind not in {Kind.FOUND, Kind.BETWEEN}:
            return lines
        if not answer.first:
            lines.append(f"whether a version before {names[answer.bad]} changed something too is open")
        first = self.raced(0, answer.bad)
        for index in range(answer.bad + 1, len(names)):
            later = self.raced(0, index)
            if later is None or first is None:
                continue
            if later.relation is Relation.SAME:
                lines.append(f"the change went again: {names[index]} is as {names[0]} was")
            elif _apart(first, later):
                lines.append(
                    f"not the only change: from {names[answer.bad]} to {names[index]} there is another; search it "
                    f"with {self.question.later(names[answer.bad])}"
                )
        return lines


def _apart(first: Raced, later: Raced) -> bool:
    """Whether two changes against the good end are of different size, by their intervals."""
    if first.low is None or first.high is None or later.low is None or later.high is None:
        return False
    return first.high < later.low or later.high < first.low


def ask(settings: Settings, package: str | None, engines: Sequence[str], metric: str, delta: float | None) -> Question:
    """The question of those options. Raises UserError for what a search cannot be on."""
    for option, some in (("--model", settings.models), ("--engine", engines), ("--batch-size", settings.batch_sizes)):
        if len(some) != 1:
            raise UserError(
                f"{option} must be given once: a search asks about one model, one engine and one batch size"
            )
    [engine], [model] = engines, settings.models
    spec, known = parse_spec(engine), (*MEASURED, *(ON_A_GPU if settings.device == "cuda" else ()), ANSWERS, BUILD)
    if metric not in known:
        raise UserError(f"--metric {metric} is not measured on this device; there are {', '.join(known)}")
    if metric in BUILDS_MEASURED and backend(spec.backend).plan_file(spec) is None:
        raise UserError(f"--metric {metric}: {engine} has no plan; give another engine or metric")
    if metric == ANSWERS and (task := settings.task(model)) != "classification":
        raise UserError(
            f"--metric answers counts first answers, and {model} is judged by {task}; give a TOML with task = "
            '"classification", or race two versions with ab, which judges all'
        )
    if model in settings.files:
        kind = backend(spec.backend).graph_kind(spec)
        if not (found := settings.files[model].available(spec, kind, settings.device)).ok:
            raise UserError(f"--engine {engine}: {found}; give another one")
    if delta is None:
        usual = BY_NAME.get(metric)
        delta = (settings.expectations.of(model, engine)[usual.limit] if usual else None) or 0.0
    return Question(package, model, engine, settings.batch_sizes[0], settings.device, metric, delta)


def search(
    question: Question,
    releases: Sequence[Release],
    laboratory: Laboratory,
    known: Sequence[Raced] = (),
    keep: Callable[[Sequence[Raced]], None] = lambda races: None,
) -> Bisection:
    """Ask until there is an answer, with what is `known` from before; all races are handed to `keep` after each.

    Raises UserError for an end that cannot be used, and what the laboratory raises.
    """
    names = list(map(str, releases))
    races = [each for each in known if {each.old, each.new} <= set(names)]
    tried: dict[str, Tried] = {}
    while True:
        step = next_step(
            len(names) - 1,
            {index: tried[name].state for index, name in enumerate(names) if name in tried},
            [Race(names.index(each.old), names.index(each.new), each.relation, each.again) for each in races],
            by_failing=question.metric == BUILD,
        )
        if isinstance(step, Answer):
            return Bisection(question, tuple(releases), tried, tuple(races), step)
        if isinstance(step, Prepare):
            name = names[step.version]
            tried[name] = laboratory.prepare(name)
            _require_end(question, names, name, tried[name])
        elif isinstance(step, Compare):
            races.append(laboratory.race(names[step.old], names[step.new], again=step.again))
            keep(races)


def _require_end(question: Question, names: Sequence[str], name: str, found: Tried) -> None:
    package, why = question.package, f"{found.words} ({found.why})"
    if name == names[0] and found.state is not State.WORKS:
        end = f"--good {name}: {package} {name}" if package else f"--images {name}"
        advice = "give a version" if package else "begin with an image"
        raise UserError(f"{end} {why}; {advice} in which {question.engine} runs")
    if name == names[-1] and found.state is State.ABSENT:
        end = f"--bad {name}: {package} {name}" if package else f"--images {name}"
        advice = "give a version that can be installed" if package else "end with an image that can be started"
        raise UserError(f"{end} {why}; {advice}")
