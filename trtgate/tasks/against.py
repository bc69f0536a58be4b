"""Answers of two stacks, each held against the same reference: what the new one lost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trtgate import fields
from trtgate.expectations import Expectation
from trtgate.tasks.base import (
    LEAST,
    NEAR_ENOUGH,
    SAME_SHAPE,
    UNUSUAL,
    Score,
    certain_fall,
    fallen,
    least_decibels,
    least_fall,
)
from trtgate.tasks.detection import (
    BY_BOX,
    Detection,
    Detections,
    average_precision_of,
    boxes_again,
    boxes_from_json,
    confidence_again,
    labels_again,
    lost_labels,
    pictured_boxes,
    require_boxes,
)
from trtgate.tasks.pictures import Pictured
from trtgate.tasks.segmentation import (
    FORMER_MEAN,
    MEAN,
    Segmentation,
    SmallMap,
    areas_in,
    ious_at_most,
    lost_classes,
    lost_few,
    pictured_maps,
    sizes_in,
)
from trtgate.tasks.sketch import EQUAL, Sketch, comparable, compare_sketches, marks_in, sketches_in
from trtgate.tasks.slices import ENOUGH_DB, changed_slices, lost_samples, lost_slices, sample_decibels
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst
from trtgate.verdict.shares import difference_bounds, jackknife_margin

# Of signal to noise, as what is lost of it between two stacks: less is another rounding.
LOST_DB = 3.0
# What is kept of each class, by its key: in words, and what decides on how much of it may be lost.
CLASSES = {
    "ious": ("IoU of each class", lost_classes),
    "few": ("IoU of each small class", lost_few),
    "labels": ("boxes found again of each class", lost_labels),
}
# Shares that are given only where they are not 1.
UNSAID = (SAME_SHAPE, "boxes found again")
# Scores of sessions saved before, which mean another thing than what came in their place.
FORMER = {FORMER_MEAN: MEAN}
# What is kept of every answer now: of a task that has them only an older version kept none.
NEWER = (*CLASSES, "values")
# A metric of the user's own that moved by less, in its own unit, is rounded otherwise.
METRIC_LEAST = 1e-6
# The keys of numbers that are means over classes.
MEANS = frozenset({"mean_ap", "mean_iou"})
# Answers with more noise than this have nothing to lose.
NOISE_DB = 6.0


def scores_in(summary: Mapping[str, Any]) -> dict[tuple[str, str], Score]:
    """The scores of a summary by name and output. Raises one of `fields.DAMAGED` for what no session writes."""
    found = {}

    def number(name: str, value: Any) -> float | None:
        return -math.inf if value == LEAST else fields.optional(fields.number)(name, value)

    for each in fields.items("scores", summary["scores"]):
        value = number("value", each["value"])
        score = Score(
            fields.line("name", each["name"]),
            fields.line("of", each["of"]),
            float("inf") if value is None else value,
            fields.line("key", each["key"]),
            fields.line("unit", each["unit"]),
            number("low", each["low"]),
            number("high", each["high"]),
            without=fields.listed(fields.share)("without", each.get("without", [])),
        )
        found[score.name, score.of] = score
    return found


def require_scores(summary: Mapping[str, Any]) -> None:
    """Raises one of `fields.DAMAGED` for what is no summary of a comparison."""
    for key, read in (("task", fields.line), ("n", fields.batch), ("finite", fields.flag), ("text", fields.text)):
        read(key, summary[key])
    fields.text("doubt", summary.get("doubt", ""))
    scores_in(summary)
    kept = fields.table("kept", summary.get("kept", {}))
    if "powers" in kept:
        lost_slices(kept, kept, 0.0)
        for powers in kept["powers"].values():
            sample_decibels(powers, 0.0)
    fields.mapped(fields.number)("floors", summary.get("floors", {}))
    for key in ("sketch", "values"):
        sketches_in(kept.get(key, {}))
    if "sketch" in kept and "powers" not in kept:
        raise ValueError("a sketch stands beside powers")
    if "marks" in kept:
        marks_in(kept["marks"], summary["n"])
    areas_in(kept)
    sizes_in(kept)
    for key, (_, lost) in CLASSES.items():
        if key in kept:
            lost(kept[key], kept[key], 0.0)
    if "boxes" in kept:
        require_boxes(kept["boxes"], summary["n"])
    pictures_in(summary)


def pictures_in(summary: Mapping[str, Any]) -> Pictured[Detections] | Pictured[SmallMap] | None:
    """What a summary kept to be shown; None for nothing. Raises one of `fields.DAMAGED` for what no session writes."""
    values = summary.get("kept", {}).get("pictures")
    if values is None:
        return None
    given, n = fields.table("pictures", values), fields.batch("n", summary["n"])
    if summary["task"] == Detection.name:
        return pictured_boxes(given, n)
    if summary["task"] == Segmentation.name:
        return pictured_maps(given, n)
    raise ValueError(f"the task {summary['task']} has no pictures")


def decide_scores(
    old: Mapping[str, Any], new: Mapping[str, Any], expectation: Expectation, lost: float = LOST_DB
) -> Verdict:
    """Whether a summary of answers lost something that another one had.

    REGRESSED, naming the output, where an output's SQNR fell by more than `lost` dB and to less than ENOUGH_DB, where
    slices of an output are spoilt (`lost_slices`), where a share fell by more than `max_answers_lost` for certain, or
    the overlap of one class, or the share of its boxes that is found, by more than `max_class_lost`; INVALID for
    answers to other samples.
    """
    kept = [side.get("kept", {}) for side in (old, new)]
    before, after = scores_in(old), scores_in(new)
    if known := _at_once(old, new, older=_older(kept, before, after)):
        return known
    if "sketch" in kept[0]:
        return _decide_own(new, kept, expectation)
    for one, other in ((before, after), (after, before)):
        one |= {
            key: replace(other[key], value=1.0, low=1.0, high=1.0)
            for key in other.keys() - one.keys()
            if key[0] in UNSAID
        }
    decided = [
        _lost(score, after.get(key), expectation, lost)
        for key, score in sorted(before.items())
        if key in after or (FORMER.get(score.name), score.of) not in after
    ]
    if all("powers" in side for side in kept):
        spoilt = lost_slices(kept[0], kept[1], expectation.number("sqnr_db"))
        if spoilt:
            message = f"noise that the old answers did not have: {'; '.join(spoilt)}"
            decided.insert(0, Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, message))
        decided += _lost_samples(kept[0]["powers"], kept[1]["powers"], expectation, lost)
    for key, (_, lost_of_each) in CLASSES.items():
        if all(key in side for side in kept):
            decided += lost_of_each(kept[0][key], kept[1][key], expectation.number("max_class_lost"))
    bad = [each for each in decided if each.outcome is not Outcome.PASS]
    if bad:
        found = worst(bad)
        more = [each.message for each in bad if each is not found and each.outcome is found.outcome]
        return replace(found, message="; ".join([found.message, *more[:3]]))
    since = [after[key].label for key in sorted(after.keys() - before.keys())]
    since += [text for key, (text, _) in CLASSES.items() if key in kept[1] and key not in kept[0]]
    untold = f"; of before there is no {', no '.join(since)}" if since else ""
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, f"{old['text']} before, {new['text']} now{untold}")


def _at_once(old: Mapping[str, Any], new: Mapping[str, Any], *, older: bool) -> Verdict | None:
    """What needs no look at the scores, or forbids one; None for nothing such."""
    if not new["finite"]:
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, "NaN or infinity elsewhere than in the reference's")
    if not old["finite"]:
        message = "the old answers hold NaN or infinity elsewhere than in the reference's: nothing to judge others by"
        return Verdict(Outcome.INVALID, Reason.NOT_FINITE, message)
    kept = [side.get("kept", {}) for side in (old, new)]
    if old["task"] != new["task"] or kept[0].get("samples") != kept[1].get("samples"):
        return Verdict(Outcome.INVALID, Reason.DIFFERENT_PHOTOS, "answers cannot be compared: other samples or task")
    if kept[0].get("digest") and kept[0]["digest"] == kept[1].get("digest"):
        message = f"the answers to {new['n']} samples are the same to the last bit"
        return Verdict(Outcome.PASS, Reason.SAME_ANSWERS, message, 1.0, 1.0, 1.0)
    if older:
        message = "what the new side kept is an older version's; measure both sides with one version of trtgate"
        return Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)
    return None


def _older(
    kept: Sequence[Mapping[str, Any]],
    before: Mapping[tuple[str, str], Score],
    after: Mapping[tuple[str, str], Score],
) -> bool:
    """Whether an older trtgate than the old side's saved the new one."""
    missing = before.keys() - after.keys()
    return (
        any(key in kept[0] and key not in kept[1] for key in NEWER)
        or any(name == BY_BOX or (name == UNUSUAL and (EQUAL, of) in after) for name, of in missing)
        or any((FORMER.get(name, ""), of) in missing for name, of in after)
    )


def _decide_own(summary: Mapping[str, Any], kept: Sequence[Mapping[str, Any]], expectation: Expectation) -> Verdict:
    """Whether a reference, of whose answers `summary` is, still gives the old one's: by today's floors for it."""
    if "sketch" not in kept[1]:
        message = "the reference's own answers were kept before and are not now"
        return Verdict(Outcome.REGRESSED, Reason.MISSING, message)
    old, new = (_sketched(side) for side in kept)
    compared = {
        key: compare_sketches(_named(key), sketch, new[key])
        for key, sketch in old.items()
        if key in new and comparable(sketch, new[key])
    }
    marks = [marks_in(side.get("marks", {}), summary["n"]) for side in kept]
    moved = [name for name in marks[0] if name in marks[1] and marks[0][name] != marks[1][name]]
    moved += [_named(key) for key, scores in compared.items() if scores is None]
    if unlike := _unlike([_named(key) for key in old if key not in new], moved, whole=len(compared) == len(old)):
        return unlike
    floors = Expectation({**expectation.values, **summary.get("floors", {})})
    # Masks are judged by their classes.
    masks = {_named((name, values)) for name in kept[0].get("pixels", {}) for values in (False, True)}
    found = [
        score
        for scores in compared.values()
        for score in scores or ()
        if score.name != UNUSUAL or score.of not in masks
    ]
    sure: list[Score] = []
    nothing = False
    classes: list[Verdict] = []
    found += ious_at_most(kept[0], kept[1], floors.number("max_class_lost"))
    if all("boxes" in side for side in kept):
        before, now = (boxes_from_json(side["boxes"]) for side in kept)
        again = boxes_again(before, now)
        found += [again, average_precision_of(before, now)] if again else []
        sure = confidence_again(before, now) if again else []
        nothing = again is None
        counts = labels_again(before, now)
        whole = {label: [boxes, boxes, worth] for label, (boxes, _, worth) in counts.items()}
        classes = lost_labels(whole, counts, floors.number("max_class_lost"))
    decided = [
        each
        for score in found
        if (each := _with_bound(score).decide(floors)) is not None
        # All that is there was found again; how much more there could have been is no question of an upgrade.
        and (each.outcome is not Outcome.INCONCLUSIVE or score.value < 1)
    ]
    exact = floors.number("sqnr_db") >= ENOUGH_DB
    # Beside its own of before, of which all is kept; of a mean that other kernels of a narrower type change, the floor.
    kept_whole = [*sure, *(each for each in found if exact and (each.key in MEANS or each.name == UNUSUAL))]
    decided += [_lost(replace(each, value=1.0, without=()), each, floors, LOST_DB) for each in kept_whole]
    decided += classes
    found += sure
    bad = [each.message for each in decided if each.outcome is Outcome.REGRESSED]
    if exact:
        bad += [f"{each} is another one than before" for each in changed_slices(*kept)]
    if bad:
        message = f"the reference's own answers are others: {'; '.join(bad[:4])}"
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, message)
    text = ", ".join(
        [*(f"{each.label} {each.text(each.value)}" for each in found), *(each.message for each in classes)]
    )
    message = f"the reference's own answers, with those of before: {text or 'nothing to compare'}"
    if any("pixels" in side and "areas" not in side for side in kept):
        message += "; one side kept no areas, so classes are compared by their sizes alone"
    if since := [_named(key) for key in new if key not in old]:
        message += f"; of before there is no {', no '.join(since)}"
    if nothing:
        message += ": it finds nothing that reaches the threshold, before or now"
    if nothing or not found:
        return Verdict(Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED, message)
    if any(each.outcome is Outcome.INCONCLUSIVE for each in decided):
        return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{message}: too few samples to tell")
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, message)


def _sketched(kept: Mapping[str, Any]) -> dict[tuple[str, bool], Sketch]:
    """What is kept of outputs and of the values under masks, by the output's name and whether it is the latter."""
    return {
        (name, key == "values"): sketch
        for key in ("sketch", "values")
        for name, sketch in sketches_in(kept.get(key, {})).items()
    }


def _named(key: tuple[str, bool]) -> str:
    name, values = key
    return f"{name} by value" if values else name


def _unlike(gone: Sequence[str], moved: Sequence[str], *, whole: bool) -> Verdict | None:
    """On a reference's own answers that cannot be those of before, or cannot be held against them; None where they can.

    `gone` are outputs that it has no more, `moved` those with NaN or infinity elsewhere; `whole` says that all others
    were kept alike.
    """
    if gone:
        return Verdict(Outcome.REGRESSED, Reason.MISSING, f"the reference had an output {gone[0]} before")
    if not whole:
        message = "the reference's own answers were kept in another way; measure both sides with one version of trtgate"
        return Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)
    if moved:
        message = f"the reference's own answers: NaN or infinity in {moved[0]} elsewhere than before"
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, message)
    return None


def lost_db(old: float, new: float, lost: float = LOST_DB) -> bool:
    """Whether an SQNR in dB fell by more than `lost` and to less than ENOUGH_DB; noise has nothing to lose."""
    return old >= NOISE_DB and new < ENOUGH_DB and min(old, ENOUGH_DB) - new > lost


def _lost(old: Score, new: Score | None, expectation: Expectation, decibels: float) -> Verdict:
    if new is None:
        return Verdict(Outcome.REGRESSED, Reason.MISSING, f"{old.label} was measured before and is not now")
    text = f"{old.label} went from {old.text(old.value)} to {new.text(new.value)}"
    if old.unit == "dB":
        if old.value < NOISE_DB:
            return _judged(False, f"{text}, and were noise before")
        return _judged(lost_db(old.value, new.value, decibels), f"{text}, {decibels:g} dB may be lost")
    share = expectation.number("max_answers_lost")
    own = old.key == "metric"
    # A metric of the user's own has a scale of its own.
    allowed = max(share * abs(old.value), METRIC_LEAST) if own else share
    if not (own or old.unit == "%") or new.value >= old.value or new.value >= old.value - allowed:
        return _judged(False, text)
    text = f"{text}, {share:.1%}{' of it' if own else ''} may be lost"
    least = least_fall(old, new)
    return fallen(text, proved=least is None or least > allowed)


def _lost_samples(
    old: Mapping[str, Any], new: Mapping[str, Any], expectation: Expectation, decibels: float
) -> list[Verdict]:
    """On each output of which more samples than may be lost, net, are not near by themselves any more."""
    allowed, least, found = expectation.number("max_answers_lost"), least_decibels(expectation), []
    for name in (name for name in old if name in new):
        changes = lost_samples(old[name], new[name], least, decibels, expectation.number("sqnr_db"))
        if changes is None or changes.mean() <= allowed:
            continue
        lost, gained, n = int(np.sum(changes > 0)), int(np.sum(changes < 0)), len(changes)
        text = f"{NEAR_ENOUGH} of {name}: {lost} lost and {gained} gained of {n}, {allowed:.1%} may be lost"
        found.append(fallen(text, proved=difference_bounds(lost, gained, n)[0] > allowed))
    return found


def _with_bound(score: Score) -> Score:
    """With the bound that a reference's own answers, which are those of before or are not, are others by."""
    if score.high is not None or not score.without or certain_fall(1 - score.value, score):
        return score
    return replace(score, high=score.value + jackknife_margin(score.without))


def _judged(lost: bool, text: str) -> Verdict:
    if lost:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text)
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, text)


def decide_all_scores(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], expectation: Expectation
) -> Verdict:
    """`decide_scores` on several sessions or builds a side: the worst of two questions.

    The typical new one is held against the typical old one, and each new one against the worst old one but one, since
    builds of one version may answer differently: so a single old one that answers worse than its like excuses nothing,
    and several of them no new side that is usually so.
    """
    before, after = (ranked_scores(side, expectation) for side in (old, new))
    low, typical = before[min(1, len(before) - 1)], before[len(before) // 2]
    return worst(
        [
            decide_scores(typical, after[(len(after) - 1) // 2], expectation),
            *(decide_scores(low, each, expectation) for each in after),
        ]
    )


def ranked_scores(summaries: Sequence[Mapping[str, Any]], expectation: Expectation) -> list[Mapping[str, Any]]:
    """The sessions by how many of the others have answers that they lost, the worst first; the typical one stands at
    len // 2, of an even number the better of the middle two."""

    def place(new: Mapping[str, Any]) -> tuple[int, float]:
        outcomes = [decide_scores(old, new, expectation).outcome for old in summaries]
        return -sum(outcome is not Outcome.PASS for outcome in outcomes), _worth(new)

    return sorted(summaries, key=place)


def _worth(summary: Mapping[str, Any]) -> float:
    """How good the scores are on the whole, where none is lost for certain."""
    return sum(min(score.value, ENOUGH_DB) for score in scores_in(summary).values() if score.unit in {"dB", "%"})
