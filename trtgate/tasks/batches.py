"""Answers in larger batches: they have to be as right as those of the smallest, which is judged on all samples."""

from __future__ import annotations

from dataclasses import replace

from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.tasks.against import decide_scores, lost_db
from trtgate.tasks.base import Outputs, Scores, Task, spoilt_outputs
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detection
from trtgate.verdict.agreement import Agreement, decide_agreement
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst

# Of signal to noise, in a larger batch: it may have other kernels, which round otherwise, but not tenfold noise.
LOST_DB = 10.0


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
        again = worst([_like_alone(same, expectation), _same_first(same, expectation), _none_lost(before, found)])
    else:
        again = decide_scores(task.summary(before), task.summary(found), expectation, LOST_DB)
    pairs = zip(task.decide(before, expectation), task.decide(found, expectation), strict=True)
    decided = [_settled(other, verdict, again) for other, verdict in pairs]
    if isinstance(task, Classification):
        others = [task.others(reference, each, samples) for each in (alone, got)]
        if others[0] is not None and others[1] is not None:
            decided += _others_kept(others[0], others[1], expectation)
    return decided


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
    to the same batch, `wanted`; `reference` and `alone` are the answers to all samples in the smallest batch."""
    if isinstance(task, Detection):
        task = replace(task, truth=None)  # which is by sample

    def judged(first: Outputs, second: Outputs, some: Samples) -> list[Verdict]:
        decided = task.decide(replace(task.compare(first, second, some), doubt=""), expectation)
        others = task.others(first, second, some) if isinstance(task, Classification) else None
        return [*decided, *(replace(others, doubt="").decide(expectation, "fidelity") if others is not None else [])]

    before, found = judged(reference, alone, samples), judged(wanted, got, samples.first(len(got)))
    nothing = Verdict(Outcome.PASS, Reason.NO_FLOOR, "as the smallest batch has it: a few batches tell no more")
    return [_settled(one, other, nothing) for one, other in zip(before, found, strict=True)]


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


def _same_first(found: Agreement, expectation: Expectation) -> Verdict:
    """A trained classifier's first answers against the engine's own in the smallest batch: no more may be others than
    two stacks may differ by, as far as so few samples prove it."""
    verdict = decide_agreement(found, floor=1 - expectation.number("max_answers_lost"))
    if verdict.outcome is not Outcome.REGRESSED:
        return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, verdict.message, metric="agreement")
    message = f"against the engine's own answers in the smallest batch: {verdict.message}"
    return replace(verdict, message=message, metric="agreement")


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
