"""Answers in larger batches: they have to be as right as those of the smallest, which is judged on all samples."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.tasks.against import decide_scores, lost_db
from trtgate.tasks.base import SAME_SHAPE, UNUSUAL, Outputs, Scores, Summary, Task, is_exact, spoilt_outputs
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import BY_BOX, CONFIDENCE, Detection, lost_labels
from trtgate.tasks.segmentation import Segmentation
from trtgate.tasks.slices import ENOUGH_DB, ratio
from trtgate.tasks.tensors import TensorsTask
from trtgate.verdict.agreement import Agreement, counted, decide_agreement, filled, filling, numbers
from trtgate.verdict.answers import MAX_DROP
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst
from trtgate.verdict.shares import difference_bounds, drop_bounds, share_bounds

# Of signal to noise, in a larger batch: it may have other kernels, which round otherwise, but not tenfold noise.
LOST_DB = 10.0
# Of a share, and twice what may be lost of it: where a batch or two are all the samples, a fall by more is proven by
# the number of boxes or elements, though those of a batch have something in common.
FAR = 0.1


def decide_batch(
    task: Task, reference: Outputs | None, alone: Outputs, got: Outputs, samples: Samples, expectation: Expectation
) -> list[Verdict]:
    """What is expected of answers to some samples in a larger batch, `alone` being the engine's in the smallest.

    They are held against the reference's by the floors that hold for all samples. Whatever that comes to, nothing may
    be lost of what the engine's own answers have there, which alone is asked without a `reference`, as where the
    weights are untrained.
    """
    if reference is None:
        return [_like_alone(task.compare(alone, got, samples), expectation)]
    before, found = (task.compare(reference, each, samples) for each in (alone, got))
    if isinstance(task, Classification):
        same = task.compare(alone, got, samples)
        lost = [
            _like_alone(same, expectation),
            _same_first(same, expectation),
            _none_lost(before, found),
            _first_kept(before, found, expectation),
        ]
        by_value = list(reference[0])
    else:
        lost = [_scores_kept(task.summary(before), task.summary(found), expectation, LOST_DB)]
        by_value = [score.of for score in found.scores if score.unit == "dB"]
    again = worst([*lost, *(_each_kept(name, reference, alone, got, samples) for name in by_value)])
    pairs = zip(task.decide(before, expectation), task.decide(found, expectation), strict=True)
    decided = [_settled(other, verdict, again) for other, verdict in pairs]
    if isinstance(task, Classification):
        others = [task.others(reference, each, samples) for each in (alone, got)]
        if others[0] is not None and others[1] is not None:
            decided += _others_kept(others[0], others[1], expectation)
    return decided


def of_batches(task: Task) -> Task:
    """The task for answers that stand for no sample each: without what is told by sample, which is what people marked
    and the user's own metric."""
    if isinstance(task, Classification):
        return task
    task = replace(cast(Any, task), metric=None)
    return replace(task, truth=None) if isinstance(task, Detection) else task


def decide_whole(
    task: Task,
    reference: Outputs,
    alone: Outputs,
    wanted: Outputs,
    got: Outputs,
    samples: Samples,
    expectation: Expectation,
) -> list[Verdict]:
    """The same where the answer to a batch is not those to its samples: it is held against what the reference answers
    to the same batch, `wanted`; `reference` and `alone` are the answers to these samples in the smallest batch.

    A batch or two leave nearly every floor open, so what counts is what was lost of the share that the smallest batch
    has.
    """
    task = of_batches(task)
    sides = ((reference, alone), (wanted, got))
    before, found = (replace(task.compare(*each, samples.first(len(each[0]))), doubt="") for each in sides)
    pairs = zip(task.decide(before, expectation), task.decide(found, expectation), strict=True)
    if not isinstance(task, Classification):
        again = _whole_kept(task, before, found, wanted, expectation)
        if isinstance(task, Detection | Segmentation):
            # Boxes and pixels, of which no batch of one is exact by itself.
            return [_settled(one, other, again) for one, other in pairs]
        return [_whole_settled(one, other, again, expectation) for one, other in pairs]
    same = _share_kept(before, found, expectation)
    decided = [_whole_settled(one, other, same, expectation) for one, other in pairs]
    rest, now = (task.others(*each, samples.first(len(each[0]))) for each in sides)
    if rest is not None and now is not None:
        rest, now = replace(rest, doubt=""), replace(now, doubt="")
        again = _whole_kept(TensorsTask(), rest, now, wanted, expectation)
        pairs = zip(rest.decide(expectation, "fidelity"), now.decide(expectation, "fidelity"), strict=True)
        decided += [_whole_settled(one, other, again, expectation) for one, other in pairs]
    return decided


def _whole_settled(before: Verdict, found: Verdict, again: Verdict, expectation: Expectation) -> Verdict:
    """As `_settled`, but that a narrow type whose answers to a batch reach their floors is asked no more: how far it
    rounds other numbers off tells nothing of these (a softmax over a batch of one is exact)."""
    if found.outcome is Outcome.PASS and not is_exact(expectation):
        return found
    return _settled(before, found, again)


def _scores_kept(old: Summary, new: Summary, expectation: Expectation, lost_db: float) -> Verdict:
    """`decide_scores`, but that of a class only a proven loss counts: a few boxes near the threshold are most of a rare
    class in so few samples, and the same ones in every run."""
    one, other = ({**each, "kept": {**each.get("kept", {})}} for each in (old, new))
    before, after = (each["kept"].pop("labels", {}) for each in (one, other))
    verdict = decide_scores(one, other, expectation, lost_db)
    classes = lost_labels(before, after, expectation.number("max_class_lost")) if new["finite"] else []
    return worst([verdict, *(each for each in classes if each.outcome is Outcome.REGRESSED)])


def _whole_kept(task: Task, before: Scores, found: Scores, wanted: Outputs, expectation: Expectation) -> Verdict:
    """Whether answers to batches are as near to the reference's as those to their samples are."""
    # What each of two batches lacks alike is bounded by no spread between them.
    scores = (replace(each, high=1.0) if len(each.without) in {1, 2} else each for each in found.scores)
    found = replace(found, scores=tuple(scores))
    old, new = (task.summary(each) for each in (before, found))
    # Neither are they answers to the same, nor slices of the same; only classes are.
    for each in (old, new):
        each["kept"] = {key: each.get("kept", {}).get(key, {}) for key in ("labels", "ious")}
    verdict = _scores_kept(old, new, expectation, LOST_DB if is_exact(expectation) else math.inf)
    if verdict.outcome is Outcome.INCONCLUSIVE and (far := _far_fallen(before, found, wanted, expectation)):
        return replace(verdict, outcome=Outcome.REGRESSED, reason=Reason.ANSWERS_LOST, message=far)
    return verdict


def _far_fallen(before: Scores, found: Scores, wanted: Outputs, expectation: Expectation) -> str:
    """The share that fell so far that no choice of boxes or elements explains it, though nobody can bound it by one or
    two batches; empty if none did."""
    allowed = expectation.number("max_answers_lost")
    old = {(score.name, score.of): score for score in before.scores}
    labels = [(each.kept or {}).get("labels", {}).values() for each in (before, found)]
    boxes, again = sum(each[0] for each in labels[1]), min(sum(each[1] for each in side) for side in labels)
    for score in found.scores:
        was, verdict = old.get((score.name, score.of)), replace(score, low=None, high=None).decide(expectation)
        if was is None or score.unit != "%" or score.name in {SAME_SHAPE, UNUSUAL}:
            continue
        if verdict is not None and verdict.outcome is Outcome.PASS:
            continue
        if score.of:
            many = sum(row[score.of].size for row in wanted)
        else:
            many = again if score.name in {CONFIDENCE, BY_BOX} else boxes
        if many and was.value - share_bounds(score.value, many)[1] > max(FAR, 2 * allowed):
            text = f"{score.label} went from {was.text(was.value)} in the smallest batch to {score.text(score.value)}"
            return f"{text}, {allowed:.1%} may be lost"
    return ""


def _share_kept(before: Agreement, found: Agreement, expectation: Expectation) -> Verdict:
    """Of a classifier's first answers no more may be others than in the smallest batch, as far as so few prove it."""
    floor = max(0.0, before.share - expectation.number("max_answers_lost"))
    low, _ = drop_bounds((before.share, before.effective), (found.share, found.effective))
    verdict = decide_agreement(found, floor=floor)
    # One answer of few is a share below all of them, and may be chance: where hardly any may be lost the other side has
    # bounds, too.
    return _proven(verdict) if low > 0 or not found.finite else _kept(verdict.message)


def _settled(before: Verdict, found: Verdict, again: Verdict) -> Verdict:
    """A floor's verdict on some samples in a larger batch, beside what was lost `again`st the smallest one: what so few
    samples leave open, or fail in the smallest batch too, says nothing by itself."""
    told = replace(again, metric=found.metric)
    if before.outcome is Outcome.PASS and found.outcome is Outcome.REGRESSED:
        return found
    return worst([found, told]) if found.outcome is Outcome.PASS else told


def _others_kept(before: Scores, found: Scores, expectation: Expectation) -> list[Verdict]:
    """On a classifier's other outputs in the smallest batch and in a larger one, as on those of any other task."""
    again = decide_scores(before.to_json(Classification.name), found.to_json(Classification.name), expectation, LOST_DB)
    pairs = zip(before.decide(expectation, "fidelity"), found.decide(expectation, "fidelity"), strict=True)
    return [_settled(one, other, again) for one, other in pairs]


def _none_lost(before: Agreement, found: Agreement) -> Verdict:
    """A classifier's logits against the reference's: as little noise as in the smallest batch."""
    text = f"SQNR {found.sqnr_db:.1f} dB, in the smallest batch {before.sqnr_db:.1f}: {LOST_DB:g} dB may be lost"
    if found.finite and before.finite and lost_db(before.sqnr_db, found.sqnr_db, LOST_DB):
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text, metric="fidelity")
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, text, metric="fidelity")


def _each_kept(name: str, reference: Outputs, alone: Outputs, got: Outputs, samples: Samples) -> Verdict:
    """On one output: no sample may have so much more noise than the noisiest one in the smallest batch. On the whole
    one wrong answer is lost among many, as where a place of the batch has its neighbour's."""
    wanted = [row[name] for row in reference]
    fill = filling(wanted) if wanted[0].dtype.kind == "f" else None
    usual, noise = ([_power(a, row[name], fill) for a, row in zip(wanted, side, strict=True)] for side in (alone, got))
    nothing = [
        np.where(filled(each, fill), each, np.zeros_like(each)) if fill else np.zeros_like(each) for each in wanted
    ]
    signal = float(np.mean([_power(*each, fill) for each in zip(wanted, nothing, strict=True)]))
    least = max([*usual, signal / ratio(ENOUGH_DB)])
    at = int(np.argmax(noise))
    if noise[at] <= ratio(LOST_DB) * least:
        return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, f"no sample has {LOST_DB:g} dB more noise in {name}")
    more = 10 * math.log10(noise[at] / least) if least else math.inf
    text = f"{name} on {samples.names[at]} has {more:.0f} dB more noise than any sample in the smallest batch"
    return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, f"{text}, {LOST_DB:g} dB may be lost")


def _power(a: npt.NDArray[Any], b: npt.NDArray[Any], fill: float | None) -> float:
    """Of the difference of two answers; of those of other shapes or of integers others tell."""
    if a.shape != b.shape or a.dtype.kind != "f" or b.dtype.kind != "f":
        return 0.0
    sound = numbers(a) & counted(a, b, fill)
    return float(np.sum((np.where(sound, a, 0).astype(np.float64) - np.where(sound, b, 0)) ** 2))


def _same_first(found: Agreement, expectation: Expectation) -> Verdict:
    """A trained classifier's first answers against the engine's own in the smallest batch: no more may be others than
    two stacks may differ by, as far as so few samples prove it. Some flip to and fro, however little may be lost."""
    verdict = _proven(decide_agreement(found, floor=1 - max(MAX_DROP, expectation.number("max_answers_lost"))))
    if verdict.outcome is Outcome.REGRESSED:
        verdict = replace(verdict, message=f"against the engine's own answers in the smallest batch: {verdict.message}")
    return replace(verdict, metric="agreement")


def _first_kept(before: Agreement, found: Agreement, expectation: Expectation) -> Verdict:
    """A trained classifier's first answers against the reference's: what is lost of them, net, beside the smallest
    batch."""
    wrong, now = ({flip.index for flip in each.flips} for each in (before, found))
    lost, gained, allowed = len(now - wrong), len(wrong - now), expectation.number("max_answers_lost")
    worth = found.effective / found.n
    low, _ = difference_bounds(lost * worth, gained * worth, found.effective)
    text = (
        f"{lost} first answers lost and {gained} gained of {found.size} beside the smallest batch, {allowed:.1%} may be"
    )
    if low > allowed:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text, metric="agreement")
    return _kept(text)


def _kept(text: str) -> Verdict:
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, text)


def _proven(verdict: Verdict) -> Verdict:
    """Of a classifier's first answers only what is proven counts: a single photo of so few would be a loss."""
    return verdict if verdict.outcome is Outcome.REGRESSED else _kept(verdict.message)


def _like_alone(found: Agreement, expectation: Expectation) -> Verdict:
    """A classifier's logits against the engine's own in the smallest batch: how alike each photo's are."""
    if not found.finite:
        message = "NaN or infinity elsewhere than in the engine's own answers in the smallest batch"
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, message, metric="fidelity")
    floor = expectation.number("cosine")
    text = f"worst cosine {found.cosine:.4f} to the engine's own answers in the smallest batch: the floor is {floor:g}"
    if found.measured and found.cosine < floor:
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, text, metric="fidelity")
    return Verdict(Outcome.PASS, Reason.FLOOR_MET, text, metric="fidelity")


def decide_finite(reference: Outputs, got: Outputs) -> Verdict:
    """Of a network whose answers are not compared: whether NaN and infinity stand where the reference has them."""
    if spoilt := spoilt_outputs(reference, got):
        message = f"{', '.join(spoilt)}: NaN or infinity elsewhere than in the reference's"
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, message, metric="fidelity")
    return Verdict(Outcome.PASS, Reason.NO_FLOOR, "finite where the reference's answers are", metric="fidelity")
