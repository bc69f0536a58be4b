"""Does the engine still give the reference's answers?"""

from dataclasses import replace

import pytest

from fixtures.engines import Settle
from trtgate import judge
from trtgate.engines.base import Engine
from trtgate.expectations import Expectation
from trtgate.kinds import EngineSpec
from trtgate.plugin.gate import Gate
from trtgate.tasks.base import Scores
from trtgate.verdict.agreement import Agreement, measure_accuracy
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.policy import worst
from trtgate.workbench import Workbench


@pytest.mark.with_reference
def test_answers_are_finite(engine: Engine, workbench: Workbench, kept_reference: None) -> None:
    size = min(workbench.batch_sizes)
    outputs = engine.infer(workbench.batch(size))
    if wrong := workbench.signature.misfit(outputs, size, whole=True):
        pytest.fail(f"{engine.spec.id} answers {wrong}", pytrace=False)
    bad = workbench.not_finite(outputs)
    assert not bad, f"{engine.spec.id} answers NaN or infinity in {', '.join(bad)} on the first samples"


@pytest.mark.with_reference
@pytest.mark.larger_batches
def test_answers_of_larger_batches(
    in_batches: list[Verdict],
    workbench: Workbench,
    spec: EngineSpec,
    batch_size: int,
    gate: Gate,
    request: pytest.FixtureRequest,
) -> None:
    for verdict in in_batches:
        told = replace(verdict, message=f"in batches of {batch_size}: {verdict.message}")
        gate.settle(request.node, told, workbench.name, spec.id, batch_size)


@pytest.mark.task("classification")
def test_top1_agreement(agreement: Agreement, expectation: Expectation, workbench: Workbench, settle: Settle) -> None:
    flips = judge.describe_flips(agreement, workbench.samples("evaluation").names, workbench.class_names)
    settle(judge.agreement_verdict(agreement, expectation), details=flips)


@pytest.mark.task("classification")
def test_logit_fidelity(
    agreement: Agreement, other_outputs: Scores | None, expectation: Expectation, settle: Settle
) -> None:
    others = [] if other_outputs is None else other_outputs.decide(expectation, "fidelity")
    settle(worst([judge.fidelity_verdict(agreement, expectation), *others]))


@pytest.mark.task("classification")
def test_labelled_accuracy(
    trained: None, expectation: Expectation, workbench: Workbench, engine: Engine, gate: Gate, settle: Settle
) -> None:
    photos = workbench.samples("evaluation")
    if photos.labels is None:
        pytest.skip("the photos have no labels; give --images DIR with DIR/<class>/*.jpg")
    reference, logits = workbench.logits(workbench.reference), workbench.logits(engine.spec)
    accuracy = measure_accuracy(reference, logits, photos.labels, photos.clusters)
    gate.note(workbench.name, engine.spec.id, accuracy=judge.accuracy_summary(accuracy))
    settle(judge.accuracy_verdict(accuracy, expectation))


@pytest.mark.task("detection", "segmentation", "tensors")
def test_answers_agree(scores: Scores, expectation: Expectation, workbench: Workbench, settle: Settle) -> None:
    for verdict in workbench.task.decide(scores, expectation):
        settle(verdict, details=scores.worst_samples)
