"""Old records against new ones: what changed, by how much, and what the verdict is.

The one comparison there is: of a run with a baseline, of saved sessions, of the two sides of an A/B run, and of every
runner of a fleet.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trtgate.comparable import (
    CONTROL_MOVED,
    clock_moved,
    control_changes,
    disturbed,
    host_changed,
    host_hides,
    incomparable,
    machine_changed,
    moved_for_certain,
    only_slower,
    other_states,
    unfinished,
)
from trtgate.expectations import Expectation, Expectations
from trtgate.judge import FLOORS, recorded_floors
from trtgate.kinds import YARDSTICKS, UserError, printable
from trtgate.layers import LayerChange, changed_layers
from trtgate.records import (
    SCHEMA,
    EngineRecord,
    Key,
    SessionRecord,
    name_of,
)
from trtgate.stack import changed_fields, steady
from trtgate.tasks.against import LOST_DB, decide_all_scores, decide_scores, lost_db, ranked_scores
from trtgate.verdict.answers import Answers, decide_all_answers, decide_answers, ranked
from trtgate.verdict.metrics import (
    BY_NAME,
    METRICS,
    Limits,
    Metric,
    Numbers,
    Pairing,
    Sample,
    decide,
    decide_numbers,
    joined_numbers,
    limits_on,
    median,
    uncounted_doubts,
    within,
)
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import Floats, change_text
from trtgate.verdict.policy import GOOD, holm, worst
from trtgate.verdict.share_drop import decide_share_drop

# Fields that name the machine. Another one makes every ratio meaningless, so such a baseline is refused.
HARDWARE = ("cpu", "machine", "gpu")
# Fields of the stack that are settings of the run rather than what is upgraded: with another one the sides cannot be
# compared. (Absent from records of schema 1, where they are not known.)
SETTINGS = ("threads", "device", "cpu_features", "cpu_quota", "logical_cpus")
FAILED = frozenset({Outcome.REGRESSED, Outcome.INVALID})
ANSWERS = "answers"
AGREEMENT = "agreement"
ACCURACY = "accuracy"
# Beside the fastest calls: a baseline that does not know them (schema 1) cannot say that none of them got slower.
GUARDS = ("typical", "tail")


@dataclass(frozen=True)
class Change:
    """One metric of one engine: the median process of each side (None: not measured), and the verdict.

    `gated` says whether the verdict counts; one that does not is shown. `delta` is by how much it may get worse.
    """

    metric: str
    old: float | None
    new: float | None
    verdict: Verdict
    gated: bool = True
    delta: float | None = None


@dataclass(frozen=True)
class Comparison:
    """One engine, old against new, metric by metric; times are seconds, sizes bytes.

    `invalid` is why no number of it can be trusted to speak of the stack. `controls` are log ratios new / old of the
    fixed work, `layers` what changed most between the newest records, `baseline_differs` what the answers of the old
    side's own records lost from the best to the worst, where that alone would be REGRESSED.
    """

    key: Key
    changes: tuple[Change, ...]
    invalid: Verdict | None = None
    old_reference: float | None = None
    new_reference: float | None = None
    old_clock: float | None = None
    new_clock: float | None = None
    controls: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[LayerChange, ...] = ()
    baseline_differs: str = ""

    def change(self, metric: str) -> Change | None:
        """The change of one metric; None where the old side has not measured it."""
        return next((each for each in self.changes if each.metric == metric), None)

    @property
    def delta(self) -> float | None:
        """The limit on the latency; None where it has none, or was not measured."""
        latency = self.change("latency")
        return None if latency is None else latency.delta

    @property
    def clocks(self) -> str:
        """Whether the clock moved or the cycles did (time x clock), where both sides know their clock in MHz."""
        cycles = self.change("cycles")
        if not self.old_clock or not self.new_clock or cycles is None or not cycles.old or not cycles.new:
            return "clock unknown"
        moved = change_text(float(np.log(cycles.new / cycles.old)))
        return f"clock {self.old_clock:.0f} -> {self.new_clock:.0f} MHz, cycles {moved}"

    @property
    def verdicts(self) -> list[Verdict]:
        """All that count: why nothing can be said, or one for each gated metric."""
        if self.invalid is None:
            return [each.verdict for each in self.changes if each.gated]
        if self.invalid.reason is Reason.NOT_COMPARABLE:
            return [self.invalid]
        # What an engine answers does not depend on who else used the machine.
        answers = [each.verdict for each in self.changes if each.gated and each.metric not in BY_NAME]
        return [self.invalid, *(each for each in answers if each.outcome is Outcome.REGRESSED)]

    @property
    def verdict(self) -> Verdict:
        """The worst of all that count; where all is well, that on the latency."""
        some = self.verdicts
        bad = [each for each in some if each.outcome not in GOOD]
        latency = [each for each in some if each.metric == "latency"]
        nothing = Verdict(Outcome.INCONCLUSIVE, Reason.NO_LIMIT, "nothing that is gated was measured on both sides")
        return worst(bad or latency or some or [nothing])

    @property
    def attribution(self) -> str:
        """log speedup = log reference - log engine: both parts, so that a faster PyTorch is seen as what it is."""
        parts = []
        latency = self.change("latency")
        if latency and latency.old and latency.new:
            parts.append(f"engine {change_text(float(np.log(latency.new / latency.old)))}")
        if self.old_reference and self.new_reference:
            parts.append(f"reference {change_text(float(np.log(self.new_reference / self.old_reference)))}")
        parts += [f"{name} {change_text(change)}" for name, change in self.controls.items()]
        return ", ".join(parts)


@dataclass(frozen=True)
class Report:
    """A whole comparison.

    `missing` holds verdicts on what the old side has and the new side lacks, `problems` those on whole sessions of the
    new side, `limit_changes` expectations that differ between the sides, `sessions` the digests of the new side's.
    """

    engines: tuple[Comparison, ...]
    missing: Mapping[Key, Verdict] = field(default_factory=dict)
    problems: Mapping[str, Verdict] = field(default_factory=dict)
    added: tuple[Key, ...] = ()
    stack_changes: tuple[str, ...] = ()
    limit_changes: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()

    def verdicts(self) -> list[Verdict]:
        """All verdicts of the report that count."""
        return [each.verdict for each in self.engines] + [*self.missing.values(), *self.problems.values()]


@dataclass(frozen=True)
class Samples:
    """What was compared: the records of each side by engine, one for each session or process."""

    old: Mapping[Key, Sequence[EngineRecord]]
    new: Mapping[Key, Sequence[EngineRecord]]


def samples_of(old: Iterable[SessionRecord], new: Iterable[SessionRecord]) -> Samples:
    """The records of saved sessions."""
    return Samples(by_key(old), by_key(new))


SAVE_AGAIN = "save a sound one, with the old stack"


def require_usable(baseline: SessionRecord, stack: Mapping[str, Any]) -> None:
    """Raises UserError when the baseline's own run failed, or when it was measured on another CPU or GPU."""
    if baseline.unfit:
        raise UserError(
            f"baseline {baseline.path} must not be used: its own run failed ({baseline.unfit[0]}); {SAVE_AGAIN}"
        )
    bad = [
        each
        for record in baseline.engines.values()
        for each in (*record.verdicts, *record.flaws)
        if each.outcome in FAILED and each.reason is not Reason.DISTURBED
    ]
    if bad:
        raise UserError(
            f"baseline {baseline.path} must not be used: its own run failed ({bad[0].message}); {SAVE_AGAIN}"
        )
    if baseline.partial:
        raise UserError(
            f"baseline {baseline.path} must not be used: it did not judge everything ({baseline.partial[0]}); "
            "save a whole run"
        )
    require_same_hardware(baseline, stack)


def require_same_hardware(old: SessionRecord, stack: Mapping[str, Any]) -> None:
    """Raises UserError when the baseline was measured on another CPU or GPU."""
    for name in HARDWARE:
        before, now = old.stack.get(name), stack.get(name)
        if before != now:
            raise UserError(
                f"baseline {old.path} was measured on another {name} ({before}, this machine has {now}); "
                "save a baseline on this machine"
            )


def require_own_sessions(old: Sequence[SessionRecord], new: Sequence[SessionRecord]) -> None:
    """Raises UserError where a session counts twice, or where a side mixes stacks: then its spread is not its own."""
    seen: dict[str, SessionRecord] = {}
    for session in (*old, *new):
        if session.digest and session.digest in seen:
            raise UserError(
                f"{session.path} and {seen[session.digest].path} hold the same session; one session counts once"
            )
        seen[session.digest] = session
    for side in (old, new):
        for session in side[1:]:
            changed = changed_fields(steady(side[0].stack), steady(session.stack))
            if changed:
                raise UserError(
                    f"{side[0].path} and {session.path} are of different stacks ({'; '.join(changed[:3])}); "
                    "give sessions of one stack a name of their own"
                )


def compare_sessions(old: Sequence[SessionRecord], new: Sequence[SessionRecord], expectations: Expectations) -> Report:
    """Decide on every engine of the baseline `old`.

    Beside `expectations` hold the limits that models' own files set, as the newest of the new sessions keeps them.

    Raises UserError when a side is empty, counts a session twice or mixes stacks, when a session is unfit to be
    compared with, or when the hardware differs.
    """
    if not old or not new:
        raise UserError("a comparison needs at least one session on each side; save some with --benchmark-save")
    require_own_sessions(old, new)
    for session in old:
        require_usable(session, new[0].stack)
    skipped = {name: reason for session in new for name, reason in session.skipped.items()}
    before, after = by_key(old), by_key(new)
    # An engine that came and went is no engine to rely on: what one new session lacks is missing.
    whole = {
        key: records
        for key, records in after.items()
        if len(records) == len(new) or key not in before or expectations.acknowledges(key[0], key[1])
    }
    gone = {
        f"{key[0]} {key[1]}": f"not in {len(new) - len(records)} of {len(new)} sessions"
        for key, records in after.items()
        if key not in whole
    }
    expectations = expectations.with_models(new[-1].limits, {}, new[-1].own)
    report = compare_records(before, whole, expectations, "sessions", {**gone, **skipped})
    engines = tuple(
        of_other_sizes(each, *([session.sizes_of(each.key[0]) for session in side] for side in (old, new)))
        for each in report.engines
    )
    problems = _problems(old, new)
    return replace(
        _incomparable_sides(replace(report, engines=engines), problems),
        problems={**report.problems, **problems},
        stack_changes=(*changed_fields(steady(old[-1].stack), steady(new[-1].stack)), *_swapped(old, new)),
        sessions=tuple(session.digest for session in new),
    )


def of_other_sizes(comparison: Comparison, old: Sequence[frozenset[int]], new: Sequence[frozenset[int]]) -> Comparison:
    """The comparison of an engine of which the sides' sessions ran at these batch sizes.

    A plan is built for all that are asked for: with more of them it is larger, and may be slower at each. So where some
    were added nothing that is beyond its limit is proven by that, and where some were left out nothing that is within.
    """
    before, after = ([each for each in side if each] for side in (old, new))
    if len({*before, *after}) < 2:
        return comparison
    words = [", ".join(map(str, sorted(frozenset.union(*side)))) for side in (before, after)]
    told = (
        f"batch sizes differ ({words[0]}, then {words[1]}), which plans are built for; measure both sides at the same"
    )
    invalid = Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, told)

    def unproven(verdict: Verdict) -> Verdict:
        if verdict.outcome is not Outcome.REGRESSED or verdict.reason in OF_NO_SIZE:
            return verdict
        return replace(verdict, outcome=invalid.outcome, reason=invalid.reason, message=f"{told}: {verdict.message}")

    if frozenset.union(*after) - frozenset.intersection(*before):
        changes = tuple(replace(each, verdict=unproven(each.verdict)) for each in comparison.changes)
        comparison = replace(comparison, changes=changes)
    fewer = frozenset.union(*before) - frozenset.intersection(*after)
    # In the smallest all samples are answered.
    other_answers = len({min(each) for each in (*before, *after)}) > 1
    if (fewer or other_answers) and comparison.verdict.outcome in GOOD:
        return replace(comparison, invalid=invalid)
    return comparison


# What is wrong whatever a plan was built for.
OF_NO_SIZE = frozenset({Reason.MISSING, Reason.NOT_FINITE})


def _swapped(old: Sequence[SessionRecord], new: Sequence[SessionRecord]) -> list[str]:
    """That the old side seems to be the newer one, which clocks that were set may say too."""
    dates = [[session.datetime for session in side] for side in (old, new)]
    if not all(map(all, dates)) or min(dates[0]) <= max(dates[1]):
        return []
    return [f"the old side was measured on {min(dates[0])[:10]}, after the new one: are they swapped?"]


def _incomparable_sides(report: Report, problems: Mapping[str, Verdict]) -> Report:
    """The report, of which nothing is proven where whole sessions cannot be compared."""
    why = next((each for each in problems.values() if each.reason is Reason.NOT_COMPARABLE), None)
    if why is None:
        return report
    missing = {key: why if each.outcome is Outcome.REGRESSED else each for key, each in report.missing.items()}
    return replace(report, engines=tuple(replace(each, invalid=why) for each in report.engines), missing=missing)


def compare_records(
    old: Mapping[Key, Sequence[EngineRecord]],
    new: Mapping[Key, Sequence[EngineRecord]],
    expectations: Expectations,
    pairing: Pairing,
    skipped: Mapping[str, str],
) -> Report:
    """Decide on every engine of the old side, one record for each of its sessions, in an A/B run of its processes.

    `skipped` says why an engine, "MODEL ENGINE", was not measured on the new side. What is REGRESSED among many
    verdicts only by chance becomes INCONCLUSIVE. PyTorch, which no runtime's upgrade is about, fails by a proven
    regression only, as long as something else is compared.
    """
    engines = [_compare(key, old[key], new[key], expectations.of(key[0], key[1]), pairing) for key in old if key in new]
    limits = {
        f"{name_of(key)}: {change}": None
        for side in (old, new)
        for key in old
        if key in new and side[key][-1].limits
        for change in changed_fields(side[key][-1].limits, expectations.of(key[0], key[1]).as_json())
    }
    missing = {
        key: missing_verdict(key[0], key[1], skipped.get(f"{key[0]} {key[1]}", NOT_MEASURED), expectations)
        for key in old
        if key not in new
    }
    added = tuple(key for key in new if key not in old)
    corrected = corrected_comparisons(engines)
    if pairing != "interleaved" and any(each.key[1] not in YARDSTICKS for each in engines):
        corrected = list(map(lenient, corrected))
    return Report(
        engines=tuple(map(unharmed, corrected)),
        missing=missing,
        problems={
            **nothing_compared([each.key for each in engines], [*missing, *added]),
            **_below_floors(new, expectations),
        },
        added=added,
        limit_changes=tuple(limits),
    )


def _below_floors(new: Mapping[Key, Sequence[EngineRecord]], expectations: Expectations) -> dict[str, Verdict]:
    """Engines of the new side whose own run had other floors, where they do not reach those of today."""
    found = {}
    for key, records in new.items():
        expectation = expectations.of(key[0], key[1])
        for record in records:
            if not record.limits or all(record.limits.get(name) == expectation[name] for name in FLOORS):
                continue
            verdicts = [each for each in recorded_floors(record, expectation) if each.outcome not in GOOD]
            if verdicts:
                verdict = worst(verdicts)
                message = f"its own run had other floors; by today's: {verdict.message}"
                found[f"{name_of(key)} floors"] = replace(verdict, message=message)
    return found


def nothing_compared(compared: Iterable[Key], others: Iterable[Any]) -> dict[str, Verdict]:
    """A problem of a comparison in which no engine was compared, or the yardstick alone where a side has `others`.

    All that is missing may be acknowledged; nobody was asked whether the rest is still as fast.
    """
    keys = list(compared)
    if any(key[1] not in YARDSTICKS for key in keys) or (keys and not list(others)):
        return {}
    what = f"nothing but {', '.join(sorted({key[1] for key in keys}))}" if keys else "no engine"
    message = f"{what} was compared, so no upgrade was judged; measure what both sides have"
    return {"the comparison": Verdict(Outcome.INVALID, Reason.NO_RECORDS, message)}


def corrected_comparisons(comparisons: Sequence[Comparison], others: int = 0) -> list[Comparison]:
    """The comparisons with Holm's correction over all their gated verdicts, and so many of other engines."""
    gated = [(i, j) for i, each in enumerate(comparisons) for j, change in enumerate(each.changes) if change.gated]
    verdicts = holm([comparisons[i].changes[j].verdict for i, j in gated], others)
    changes = [list(each.changes) for each in comparisons]
    for (i, j), verdict in zip(gated, verdicts, strict=True):
        changes[i][j] = replace(changes[i][j], verdict=verdict)
    return [replace(each, changes=tuple(some)) for each, some in zip(comparisons, changes, strict=True)]


# Units of metrics that are times, or made of them.
OF_TIME = frozenset({"s", "1/s", "x"})
OPEN_BY_NOISE = frozenset({Reason.INTERVAL_TOO_WIDE, Reason.PROCESS_SPREAD, Reason.ONE_OF_MANY})
# What a time that was measured may be short of a PASS for.
BY_ITS_TIME = OPEN_BY_NOISE | {Reason.SLOWER, Reason.FAR_BEYOND_SPREAD, Reason.TOO_FEW_BUILDS, Reason.UNDERPOWERED}


def lenient(comparison: Comparison) -> Comparison:
    """The reference's comparison with those times passed that noise, or chance among many, leaves open, and all of
    them where they are those of a host that is not as it was; what was measured too seldom to prove anything is no
    pass."""
    if comparison.key[1] not in YARDSTICKS:
        return comparison
    invalid = comparison.invalid
    of_host = invalid is not None and invalid.reason is Reason.HOST_CHANGED

    def passed(verdict: Verdict) -> Verdict:
        metric = BY_NAME.get(verdict.metric)
        if metric is None:
            open_ = verdict.metric == ANSWERS and verdict.reason is Reason.TOO_FEW_IMAGES
        else:
            open_ = verdict.reason in OPEN_BY_NOISE | {Reason.HOST_CHANGED}
            open_ |= of_host and metric.unit in OF_TIME and verdict.reason in BY_ITS_TIME
        if not open_:
            return verdict
        why = invalid.message if invalid is not None and of_host and metric is not None else verdict.message
        message = f"the yardstick, which fails only by a proven regression: {why}"
        return replace(verdict, outcome=Outcome.PASS, reason=Reason.YARDSTICK, message=message)

    changes = tuple(replace(each, verdict=passed(each.verdict)) for each in comparison.changes)
    return replace(comparison, changes=changes, invalid=None if of_host else invalid)


OF_MACHINE = frozenset({Reason.MACHINE_CHANGED, Reason.HOST_CHANGED})


def unharmed(comparison: Comparison) -> Comparison:
    """The comparison without what makes it invalid where that is a machine that became slower, and all passed on it."""
    why, gated = comparison.invalid, [each.verdict for each in comparison.changes if each.gated]
    clocks = (comparison.old_clock, comparison.new_clock)
    slower = why is not None and why.reason in OF_MACHINE and only_slower(comparison.controls, comparison.delta, clocks)
    if not slower or not gated or any(each.outcome not in GOOD for each in gated):
        return comparison
    return replace(comparison, invalid=None)


def _problems(old: Sequence[SessionRecord], new: Sequence[SessionRecord]) -> dict[str, Verdict]:
    """What is wrong with sessions of the new side as a whole: their own run failed, or another setting."""
    found: dict[str, Verdict] = {}
    for session in new:
        where = printable(str(session.path))
        own = [
            verdict for record in session.engines.values() for verdict in record.verdicts if verdict.outcome not in GOOD
        ]
        own += session.failures
        if own:
            verdict = worst(own)
            found[where] = replace(verdict, message=f"its own run failed: {verdict.message}")
        if session.partial:
            message = f"it did not judge everything ({session.partial[0]})"
            found[f"{where} in part"] = Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)
        for name in (*HARDWARE, *SETTINGS):
            before, now = old[-1].stack.get(name), session.stack.get(name)
            known = min(old[-1].schema, session.schema) > 1 or None not in (before, now)
            if before != now and known:
                message = f"{name} differs ({before}, then {now}): the sides cannot be compared"
                found[f"{where} {name}"] = Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)
        if untold := [name for name in _told_of(old[-1], session) if name not in {*old[-1].stack, *session.stack}]:
            message = f"neither side tells its {', '.join(untold)}: whether they can be compared is not known"
            found[f"{where} untold"] = Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)
    return found


def _told_of(*sessions: SessionRecord) -> list[str]:
    """What every session says of its machine and its settings, if they are of this schema."""
    if any(session.schema < SCHEMA for session in sessions):
        return []
    gpu = any(session.stack.get("device") == "cuda" for session in sessions)
    return [name for name in (*HARDWARE, *SETTINGS) if gpu or name != "gpu"]


def by_key(sessions: Iterable[SessionRecord]) -> dict[Key, list[EngineRecord]]:
    """The records of each engine, one for each session that has it."""
    found: dict[Key, list[EngineRecord]] = {}
    for session in sessions:
        for key, record in session.engines.items():
            found.setdefault(key, []).append(record)
    return found


def _compare(
    key: Key, old: Sequence[EngineRecord], new: Sequence[EngineRecord], expectation: Expectation, pairing: Pairing
) -> Comparison:
    # Rounds that are interleaved all were disturbed or none; what a process takes in memory is known without any.
    measured = [[record for record in side if record.rounds or pairing == "interleaved"] for side in (old, new)]
    before, after = (joined_numbers([record.numbers for record in side]) for side in measured)
    uncounted = _uncounted(old), _uncounted(new)
    if pairing == "sessions" and any(record.processes for record in (*old, *new)):
        pairing = "processes"
    controls = control_changes(old, new)
    moved = moved_for_certain(old, new, controls)
    clocks = (_clock(old), _clock(new))
    invalid = incomparable(old, new) or unfinished(old, new) or disturbed(old, new, pairing)
    if invalid is None and pairing != "interleaved":
        invalid = machine_changed(old, new, moved, clocks, expectation["delta"]) or other_states(old, new, clocks)
    busy_host = "" if pairing == "interleaved" else host_changed(old, new, moved)
    hides = host_hides(old, new, controls) if busy_host else 1.0
    together = any(record.host_bound_together for side in measured for record in side)
    changes = []
    for metric in METRICS if before and after else ():
        limits = expectation.limits(metric)
        numbers: tuple[Numbers, Numbers] = before, after
        if metric.rule == "builds" and pairing != "interleaved":
            numbers = _builds(metric, measured[0]), _builds(metric, measured[1])
        verdict = _decide(metric, measured, numbers, limits, pairing)
        if verdict is None and metric.name in GUARDS and metric.name in after and "latency" in before:
            message = f"the baseline does not tell its {metric.name} calls; save a new one"
            verdict = Verdict(Outcome.INCONCLUSIVE, Reason.NOT_TOLD, message, metric=metric.name)
        if verdict is None:
            continue
        if verdict.outcome in GOOD and pairing != "interleaved":
            verdict = uncounted_doubts(metric, verdict, (before, after), uncounted, limits)
        doubtful = verdict.reason in BY_ITS_TIME
        of_host = metric.of_host == "always" or (metric.of_host == "handed over" and together)
        if of_host and hides > 1 and verdict.outcome in GOOD:
            longer = {**numbers[1], metric.name: _unhidden(metric, *numbers, hides)}
            found = _decide(metric, measured, (numbers[0], longer), limits, pairing)
            doubtful = found is not None and found.outcome not in GOOD
        if of_host and busy_host and doubtful:
            message = f"{busy_host}, so the host did, whose time this is: {verdict.message}"
            verdict = replace(verdict, outcome=Outcome.INVALID, reason=Reason.HOST_CHANGED, message=message)
        gated = limits.delta is not None
        if metric.name == "cycles":
            # A clock that is not told any more is missing; else the cycles count where they are what moved.
            lost = clocks[1] is None and pairing != "interleaved"
            gated = gated and (lost or (clock_moved(clocks) and _clock_bound(controls, clocks, before, after)))
            proven = verdict.reason in {Reason.SLOWER, Reason.FAR_BEYOND_SPREAD}
            if gated and proven and (stayed := _stayed(controls, clocks)):
                message = f"{stayed}, so the clock may have done this and no engine: {verdict.message}"
                verdict = replace(verdict, outcome=Outcome.INVALID, reason=Reason.MACHINE_CHANGED, message=message)
        middles = _middle(metric.name, before), _middle(metric.name, after)
        changes.append(Change(metric.name, *middles, verdict, gated, limits_on(metric, limits, before).delta))
    answers, differs = _answers(old, new, expectation)
    return Comparison(
        key=key,
        changes=(*changes, *answers),
        invalid=invalid,
        old_reference=_reference(old),
        new_reference=_reference(new),
        old_clock=clocks[0],
        new_clock=clocks[1],
        controls=controls,
        layers=changed_layers(old[-1].layer_times, new[-1].layer_times),
        baseline_differs=differs,
    )


def _builds(metric: Metric, side: Sequence[EngineRecord]) -> Numbers:
    """What is known of builds in each of a side's sessions, however many processes loaded the plan of one."""
    known = [record.numbers.get(metric.name) for record in side]
    return {metric.name: np.concatenate([np.full(1, np.nan) if each is None else np.unique(each) for each in known])}


def _unhidden(metric: Metric, old: Numbers, new: Numbers, hides: float) -> Floats:
    """What a number of the host's may be on the new side, in each process, beside a host that is as it was: `hides`
    times as long, but for what the GPU took of it by its own clock, and for a build that the old side knows, too."""
    whole = new[metric.name]
    if metric.higher_is_better:
        return whole / hides
    gpu = np.minimum(new[metric.of_gpu], whole) if metric.of_gpu else 0.0
    longer: Floats = gpu + hides * (whole - gpu)
    return np.where(np.isin(whole, old[metric.name]), whole, longer) if metric.rule == "builds" else longer


def _uncounted(side: Sequence[EngineRecord]) -> Numbers:
    """The numbers of all of a side's processes that do not count."""
    kept = [record.uncounted for record in side if record.uncounted]
    return joined_numbers([{name: np.array(values) for name, values in each.items()} for each in kept])


def _decide(
    metric: Metric,
    measured: Sequence[Sequence[EngineRecord]],
    numbers: tuple[Numbers, Numbers],
    limits: Limits,
    pairing: Pairing,
) -> Verdict | None:
    """The verdict on one metric, from all rounds where they are interleaved, else from each process's number."""

    def samples(side: Sequence[EngineRecord]) -> list[Sample]:
        return [sample for record in side for sample in record.samples()]

    if pairing == "interleaved":
        return decide(metric, samples(measured[0]), samples(measured[1]), limits, pairing)
    return decide_numbers(metric, *numbers, limits, pairing, lambda: within(metric, samples(measured[0])))


def _middle(metric: str, numbers: Numbers) -> float | None:
    values = numbers.get(metric)
    return None if values is None else float(np.nanmedian(values))


def _reference(records: Iterable[EngineRecord]) -> float | None:
    values = [median(record.reference_rounds) for record in records if record.reference_rounds]
    return median(values) if values else None


def _clock(records: Iterable[EngineRecord]) -> float | None:
    known = [record.clock_mhz for record in records if record.clock_mhz]
    return float(np.median(known)) if known else None


def _clock_bound(
    controls: Mapping[str, float],
    clocks: tuple[float | None, float | None],
    old: Numbers,
    new: Numbers,
) -> bool:
    """Whether more cycles mean more work, or that memory, which has a clock of its own, holds the work back.

    Fixed work tells where it was raced along. Without it the engine itself has to have followed the clock: its latency
    moved against it by more than noise.
    """
    if not clocks[0] or not clocks[1]:
        return False
    clock = float(np.log(clocks[1] / clocks[0]))
    matmul = controls.get("control-matmul")
    if matmul is not None:
        return bool(abs(matmul + clock) <= np.log1p(CONTROL_MOVED))
    before, after = (_middle("latency", side) for side in (old, new))
    moved = float(np.log(after / before)) if before and after else 0.0
    return bool(moved * clock < 0 and abs(moved) > np.log1p(CONTROL_MOVED))


def _stayed(controls: Mapping[str, float], clocks: tuple[float | None, float | None]) -> str:
    """That fixed work did not follow the clock even half the way, though within what it may move by anyway: nobody
    knows then what follows the clock, and what memory holds back. "" where it did, or is not known."""
    matmul = controls.get("control-matmul")
    if matmul is None or not clocks[0] or not clocks[1]:
        return ""
    clock = float(np.log(clocks[1] / clocks[0]))
    if abs(matmul + clock) <= abs(matmul):
        return ""
    return f"the clock changed by {change_text(clock)} and control-matmul by {change_text(matmul)}"


def _answers(
    old: Sequence[EngineRecord], new: Sequence[EngineRecord], expectation: Expectation
) -> tuple[list[Change], str]:
    """What became of the answers, photo by photo where both sides kept them, else by the share that agrees; and what
    the old side's own records differ by, where that is proven.

    Several builds of one version may answer differently: each of the new side's has to be as good as the typical one
    of the old (see `answers.ranked`, and `against.decide_all_scores` for what is no classifier), so that neither the
    best nor the worst of them decides.
    """
    lost = expectation.number("max_answers_lost")
    agreed = [[each.agreement for each in side if each.agreement] for side in (old, new)]
    changes, differs = _agreements(agreed[0], agreed[1], len(new), lost)
    kept = [[Answers.from_json(record.answers) for record in side if record.answers] for side in (old, new)]
    scored = [[record.scores for record in side if record.scores] for side in (old, new)]
    if kept[0]:
        if len(kept[1]) < len(new):
            verdict = _gone(old, "answers were kept before and are not now")
        else:
            verdict = decide_all_answers(*kept, max_drop=lost)
            differs.append(decide_answers(ranked(kept[0])[-1], ranked(kept[0])[0], max_drop=lost))
            if scored[1] and not scored[0] and old[-1].is_reference and verdict.reason is not Reason.SAME_ANSWERS:
                message = f"{verdict.message}; the baseline keeps no sketch of the logits, so by first answers alone"
                verdict = replace(verdict, message=message)
        changes.append(Change(ANSWERS, None, None, replace(verdict, metric=ANSWERS)))
    if scored[0]:
        if len(scored[1]) < len(new):
            verdict = _gone(old, "answers were compared before and are not now")
        else:
            verdict = decide_all_scores(scored[0], scored[1], expectation)
            order = ranked_scores(scored[0], expectation)
            differs.append(decide_scores(order[-1], order[0], expectation))
        changes.append(Change(ANSWERS, None, None, replace(verdict, metric=ANSWERS)))
    if any(record.accuracy for record in old) and not all(record.accuracy for record in new):
        verdict = Verdict(Outcome.REGRESSED, Reason.MISSING, "accuracy was measured before and is not now")
        changes.append(Change(ACCURACY, None, None, replace(verdict, metric=ACCURACY)))
    return changes, next((each.message for each in differs if each.outcome is Outcome.REGRESSED), "")


def _agreements(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], sessions: int, lost: float
) -> tuple[list[Change], list[Verdict]]:
    """What became of a classifier's agreement with the reference, of which `sessions` new ones are to tell; and what
    the old side's differ by."""
    changes, differs = [], []
    before, after = (sorted(side, key=lambda each: each["top1"] / each["n"]) for side in (old, new))
    first, second = (
        side[len(side) // 2]["top1"] / side[len(side) // 2]["n"] if side else None for side in (before, after)
    )
    if not all(each.get("finite", True) for each in after):
        verdict = Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, "the engine's logits hold NaN or infinity")
        changes.append(Change(AGREEMENT, first, second, replace(verdict, metric=AGREEMENT)))
    elif before:
        if len(after) < sessions:
            verdict = Verdict(Outcome.REGRESSED, Reason.MISSING, "agreement was measured before and is not now")
        else:
            verdict = _share_drop(before[len(before) // 2], after[0], lost)
            differs.append(_share_drop(before[-1], before[0], lost))
        # Two shares by themselves seldom prove that nothing was lost; they count where they prove that something was.
        counts = verdict.outcome is Outcome.REGRESSED
        changes.append(Change(AGREEMENT, first, second, replace(verdict, metric=AGREEMENT), counts))
        noisier = _noisier(before, after)
        if noisier is not None:
            changes.append(Change(ANSWERS, None, None, replace(noisier, metric=ANSWERS)))
    return changes, differs


def _noisier(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> Verdict | None:
    """REGRESSED where a classifier's logits lost as much of their SQNR as no other output may, the first answers kept:
    the typical new ones against the typical old ones, and the noisiest against the noisiest, since builds differ."""
    # JSON has no infinity, which logits have that are the reference's to the last bit; nor have those that hold NaN.
    before, after = (
        sorted(
            math.inf if each["sqnr_db"] is None else float(each["sqnr_db"])
            for each in some
            if "sqnr_db" in each and each.get("finite", True)
        )
        for some in (old, new)
    )
    if not before or not after:
        return None
    asked = ((before[len(before) // 2], after[(len(after) - 1) // 2]), (before[0], after[0]))
    for one, other in asked:
        if lost_db(one, other):
            text = f"SQNR of the logits went from {one:.1f} to {other:.1f} dB, {LOST_DB:g} dB may be lost"
            return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text)
    return None


def _gone(old: Sequence[EngineRecord], message: str) -> Verdict:
    """On answers that the new side lacks: an engine's are missing. The reference's own are kept by one test and since
    one version of this tool, so without them nothing is known of it."""
    if old[-1].is_reference:
        message = f"the reference's own {message}; measure both sides whole, and with one version of trtgate"
        return Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)
    return Verdict(Outcome.REGRESSED, Reason.MISSING, message)


def _share_drop(old: Mapping[str, Any], new: Mapping[str, Any], max_drop: float) -> Verdict:
    return decide_share_drop(old["top1"], old["n"], new["top1"], new["n"], max_drop=max_drop)


NOT_MEASURED = "renamed, deselected or not asked for?"


def missing_verdict(model: str, engine: str, why: str, expectations: Expectations) -> Verdict:
    """On an engine that the old side has and the new one lacks: REGRESSED unless the file says that this is meant."""
    if expectations.acknowledges(model, engine):
        return Verdict(Outcome.PASS, Reason.ACKNOWLEDGED, f"as acknowledged ({why})")
    return Verdict(Outcome.REGRESSED, Reason.MISSING, why)
