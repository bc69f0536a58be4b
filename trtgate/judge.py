"""From a record and what is expected of it to verdicts: which rule of `verdict` applies to which number."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar, cast

import numpy as np

from trtgate.expectations import Expectation
from trtgate.kinds import AT_BATCH, PrecisionAudit
from trtgate.measure.race import Race
from trtgate.records import EngineRecord
from trtgate.tasks.against import scores_in
from trtgate.tasks.base import doubted
from trtgate.verdict.agreement import (
    NOT_FINITE,
    NOTHING,
    Accuracy,
    Agreement,
    Rebuilt,
    decide_accuracy,
    decide_agreement,
)
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import decide_floor

# As trtexec warns: above this coefficient of variation of the rounds the machine is not quiet.
VARIATION_WARNING = 0.025
FLIPS_SHOWN = 10
ASKED_TYPES = {
    "fp32": frozenset({"float32"}),
    "tf32": frozenset({"tf32", "float32"}),
    "fp16": frozenset({"float16"}),
    "bf16": frozenset({"bfloat16"}),
    "int8": frozenset({"int8"}),
}


Judge = TypeVar("Judge", bound=Callable[..., Verdict])


def about(metric: str) -> Callable[[Judge], Judge]:
    """Names what a judge's verdicts are about."""

    def named(judge: Judge) -> Judge:
        @functools.wraps(judge)
        def decide(*arguments: Any, **keywords: Any) -> Verdict:
            return replace(judge(*arguments, **keywords), metric=metric)

        return cast(Judge, decide)

    return named


@about("agreement")
def agreement_verdict(agreement: Agreement, expectation: Expectation, builds: Rebuilt | None = None) -> Verdict:
    """Top-1 agreement against its floor; `builds` where it is a new version's with the old one's."""
    verdict = doubted(decide_agreement(agreement, floor=expectation.number("agreement")), agreement.doubt, expectation)
    return _within_rebuilds(verdict) if builds is not None and builds.answers else verdict


@about("fidelity")
def fidelity_verdict(agreement: Agreement, expectation: Expectation, builds: Rebuilt | None = None) -> Verdict:
    """Cosine similarity and SQNR of the logits against their floors; `builds` as for `agreement_verdict`."""
    verdict = doubted(_fidelity(agreement, expectation), agreement.doubt, expectation)
    return _within_rebuilds(verdict) if builds is not None and builds.logits else verdict


def _within_rebuilds(verdict: Verdict) -> Verdict:
    """What falls below a floor is no change of the version's where builds of the old one lie as far apart."""
    if verdict.outcome is not Outcome.REGRESSED:
        return verdict
    message = f"{verdict.message}; two builds of the old version lie as far apart, so that is not the upgrade's"
    return replace(verdict, outcome=Outcome.PASS, reason=Reason.WITHIN_REBUILDS, message=message)


def same_as_before(verdict: Verdict) -> Verdict:
    """A verdict on answers that are the old side's to the last bit: a floor that is missed was missed before, and how
    many samples there are does not matter."""
    return as_before(verdict) if verdict.reason in {Reason.BELOW_FLOOR, Reason.TOO_FEW_IMAGES} else verdict


def as_before(verdict: Verdict) -> Verdict:
    """The same of any verdict on answers that are the old side's to the last bit."""
    message = f"the same to the last bit as before; {verdict.message}"
    return replace(verdict, outcome=Outcome.PASS, reason=Reason.SAME_ANSWERS, message=message)


def mended(verdict: Verdict) -> Verdict:
    """A verdict on new answers beside old ones that miss the floors of the reference's, where the new ones do not."""
    if verdict.outcome is not Outcome.REGRESSED:
        return verdict
    message = f"{verdict.message}; but it is the old side's answers that are not the reference's"
    return replace(verdict, outcome=Outcome.PASS, reason=Reason.ANSWERS_KEPT, message=message)


def not_finite_before(verdict: Verdict) -> Verdict:
    """A verdict on answers that hold NaN or infinity just where the old side's do: no upgrade changed that, and what
    answers so is fit to judge none."""
    if verdict.reason is not Reason.NOT_FINITE:
        return verdict
    message = f"{verdict.message}; the old side's just there too: not the upgrade's, and no answer to judge it by"
    return replace(verdict, outcome=Outcome.INVALID, message=message)


def rebuild_note(builds: Rebuilt | None) -> tuple[str, ...]:
    """Whether a new version's builds answer otherwise than the old one's, which may differ among themselves."""
    if builds is None:
        return ()
    how = "no more" if builds.answers and builds.logits else "more"
    return (f"answers changed by {how} than building the old version anew changes them",)


def _fidelity(agreement: Agreement, expectation: Expectation) -> Verdict:
    if not agreement.finite:
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, NOT_FINITE)
    if not agreement.measured:
        return Verdict(Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED, NOTHING)
    text = f"worst cosine {agreement.cosine:.4f}, SQNR {agreement.sqnr_db:.1f} dB"
    cosine, sqnr_db = expectation.number("cosine"), expectation.number("sqnr_db")
    floors = f"floors are {cosine:g} and {sqnr_db:g} dB"
    if agreement.cosine < cosine or agreement.sqnr_db < sqnr_db:
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, f"{text}: {floors}")
    if agreement.spoilt:
        message = f"{agreement.spoilt}: not what the reference has there, whatever the whole looks like ({text})"
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, message)
    return Verdict(Outcome.PASS, Reason.FLOOR_MET, f"{text}: {floors}")


def accuracy_summary(accuracy: Accuracy) -> dict[str, float]:
    """The numbers of an accuracy that a record keeps."""
    low, high = accuracy.drop_bounds
    return {**asdict(accuracy), "drop": accuracy.drop, "drop_low": low, "drop_high": high}


@about("precision")
def audit_verdict(
    audit: PrecisionAudit, kept_in_float: Collection[str], before: Collection[PrecisionAudit] = ()
) -> Verdict:
    """Whether the layers run in what was asked for, but for those that were meant to stay in float, by name, and for
    what an old version's builds have not either, of which `before` are the audits."""
    wanted = ASKED_TYPES[audit.asked] | audit.also
    kept = set(kept_in_float).union(*(_float_before(old, audit) for old in before))
    outside = [name for name in audit.outside(wanted) if kept.isdisjoint({name, AT_BATCH.sub("", name)})]
    built = ", ".join(f"{count} {kind}" for kind, count in audit.histogram.items())
    if not audit.layers:
        return Verdict(Outcome.REGRESSED, Reason.WRONG_PRECISION, "the engine names no convolution or matrix product")
    if outside:
        message = f"asked for {audit.asked}, built {built}; not in {'/'.join(sorted(wanted))}: {', '.join(outside)}"
        return Verdict(Outcome.REGRESSED, Reason.WRONG_PRECISION, message)
    if audit.unknown():
        message = f"asked for {audit.asked}, built {built}; the engine does not tell of: {', '.join(audit.unknown())}"
        return Verdict(Outcome.INCONCLUSIVE, Reason.NOT_TOLD, message)
    if audit.asked == "tf32" and "tf32" not in audit.histogram:
        message = f"asked for tf32, built {built}: no layer shows that it uses TF32"
        return Verdict(Outcome.INCONCLUSIVE, Reason.NOT_TOLD, message)
    if audit.also and none_as_asked(audit) and not any(map(none_as_asked, before)):
        message = f"asked for {audit.asked}, built {built}: the builder chose it for no layer"
        return Verdict(Outcome.REGRESSED, Reason.WRONG_PRECISION, message)
    return Verdict(Outcome.PASS, Reason.AS_ASKED, f"asked for {audit.asked}, built {built}")


def none_as_asked(audit: PrecisionAudit) -> bool:
    """Whether no layer runs in what was asked for, but in what the builder was merely free to choose at the best; False
    where that is not told of all."""
    told = bool(audit.layers) and not audit.unknown()
    return told and ASKED_TYPES[audit.asked].isdisjoint(audit.layers.values())


def _float_before(old: PrecisionAudit, new: PrecisionAudit) -> frozenset[str]:
    """Which layers of a new version may be outside what was asked for, since the old one's are: those, and in place of
    each that is called otherwise now, as a fused one is, another one that the old version did not know."""
    outside = [set(each.outside(ASKED_TYPES[each.asked] | each.also)) for each in (old, new)]
    gone = outside[0] - new.layers.keys()
    unknown = sorted(outside[1] - old.layers.keys())
    return frozenset(outside[0] | set(unknown[: len(gone)]))


@about("accuracy")
def accuracy_verdict(accuracy: Accuracy, expectation: Expectation) -> Verdict:
    """Labelled accuracy against the reference's."""
    return decide_accuracy(accuracy, max_drop=expectation.number("max_accuracy_drop"))


@about("speedup")
def floor_verdict(record: EngineRecord, expectation: Expectation) -> Verdict:
    """Speedup against its floor; INVALID when the race could not be finished, or somebody else used the processor."""
    if record.disturbed:
        return disturbed(record.disturbed)
    if not record.complete:
        return unfinished(record.dropped_rounds)
    return _speedup_floor(record, expectation)


def _speedup_floor(record: EngineRecord, expectation: Expectation) -> Verdict:
    return decide_floor(np.asarray(record.reference_rounds), np.asarray(record.rounds), floor=expectation["speedup"])


# What `recorded_floors` reads.
FLOORS = (
    "speedup",
    "agreement",
    "cosine",
    "sqnr_db",
    "mean_ap",
    "confidence",
    "mean_iou",
    "metric",
    "max_accuracy_drop",
)


def recorded_floors(record: EngineRecord, expectation: Expectation) -> Iterator[Verdict]:
    """The numbers that a record kept against floors that hold now, which need not be those of its own run."""
    if not record.is_reference and record.rounds:
        yield _speedup_floor(record, expectation)
    bounds = (("low", "high", "agreement"), ("cosine", "cosine", "cosine"), ("sqnr_db", "sqnr_db", "sqnr_db"))
    for low, high, name in bounds:
        floor, least, most = expectation.number(name), record.agreement.get(low), record.agreement.get(high)
        if least is None or most is None or least >= floor:
            continue
        yield _below(f"{name.replace('_', ' ')} {least:.4g} is below the floor {floor:g}", certain=most < floor)
    yield from _score_floors(record.scores, expectation)
    yield from _accuracy_floor(record.accuracy, expectation)


def _score_floors(scores: Mapping[str, Any], expectation: Expectation) -> Iterator[Verdict]:
    """The kept scores of a task that is no classifier's, where they do not reach today's floors for certain."""
    if not scores.get("scores") or not scores["finite"]:
        return
    for score in scores_in(scores).values():
        verdict = score.decide(expectation)
        if verdict is None or verdict.outcome is Outcome.PASS:
            continue
        yield doubted(verdict, str(scores.get("doubt", "")), expectation)


def _accuracy_floor(accuracy: Mapping[str, Any], expectation: Expectation) -> Iterator[Verdict]:
    """The kept drop of labelled accuracy, where it is not certain to be within what may be lost today."""
    allowed, low, high = expectation.number("max_accuracy_drop"), accuracy.get("drop_low"), accuracy.get("drop_high")
    if low is None or high is None or high <= allowed:
        return
    text = f"labelled top-1 fell by {low * 100:.1f} to {high * 100:.1f} points, {allowed * 100:.1f} are allowed"
    yield _below(text, certain=low > allowed)


def _below(message: str, *, certain: bool) -> Verdict:
    if certain:
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, message)
    return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, message)


def disturbed(why: str) -> Verdict:
    """The verdict on a race that was finished, but not alone."""
    message = f"{why} during the race: the machine is not fit to measure on"
    return Verdict(Outcome.INVALID, Reason.DISTURBED, message)


def unfinished(dropped: int, why: str = "") -> Verdict:
    """The verdict on a race that could not be finished."""
    reason = f" ({why})" if why else ""
    message = f"{dropped} rounds were disturbed{reason}, the machine is not fit to measure on"
    return Verdict(Outcome.INVALID, Reason.DISTURBED, message)


RESTLESS = "did not become steady during warm-up"


def race_warnings(race: Race, arm: str) -> tuple[str, ...]:
    """What makes an engine's measurement less sure without making it invalid."""
    warnings = list(race.notes)
    if not race.warm.get(arm, True):
        warnings.append(RESTLESS)
    variation = race.variation(arm)
    if variation > VARIATION_WARNING:
        warnings.append(f"coefficient of variation {variation:.1%} over {race.rounds} rounds")
    if race.dropped:
        warnings.append(f"{len(race.dropped)} rounds dropped ({race.dropped[0]})")
    return tuple(warnings)


def gpu_warnings(record: EngineRecord) -> tuple[str, ...]:
    """When a GPU's number is really that of the host or of the link to it."""
    warnings = []
    enqueue, end_to_end = record.enqueue_seconds, record.value("end_to_end")
    if enqueue is not None and record.host_bound:
        warnings.append(
            f"host-bound: handing an inference over takes {enqueue * 1e3:.2f} ms of {record.latency * 1e3:.2f} ms; "
            "this is the CPU's number"
        )
    if end_to_end is not None and end_to_end > 2 * record.latency:
        warnings.append(
            f"copies and launch take longer than computing: end to end {end_to_end * 1e3:.2f} ms, computing "
            f"{record.latency * 1e3:.2f} ms; end to end is the link's number"
        )
    return tuple(warnings)


def describe_flips(agreement: Agreement, names: Sequence[str], classes: Sequence[str]) -> str:
    """One line per photo that flipped, the surest ones first: from what, to what, by which margin.

    `names` are the photos', `classes` those of the logits.
    """
    lines = [
        f"  {names[flip.index]}: {classes[flip.reference]} -> {classes[flip.engine]}, margin {flip.margin:.2f}"
        for flip in sorted(agreement.flips, key=lambda flip: -flip.margin)[:FLIPS_SHOWN]
    ]
    more = len(agreement.flips) - len(lines)
    return "\n".join(lines + ([f"  and {more} more"] if more > 0 else []))


def agreement_summary(agreement: Agreement) -> dict[str, float | int | bool]:
    """The numbers of an agreement that a record keeps."""
    values = asdict(agreement)
    del values["flips"], values["measured"], values["spoilt"], values["doubt"]
    # JSON has no infinity, which an engine has that equals the reference to the last bit, and no NaN.
    values |= {name: None for name in ("cosine", "sqnr_db") if not np.isfinite(values[name])}
    low, high = agreement.bounds
    return {**values, "low": low, "high": high}
