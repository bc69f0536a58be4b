"""One of several classes for each photo: which one, and how far the logits are from the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from trtgate import judge
from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.signature import OUTPUT
from trtgate.tasks.base import Outputs, Scores, Summary
from trtgate.tasks.slices import powers_of, spoilt_slices
from trtgate.tasks.tensors import TensorsTask, sketched
from trtgate.verdict.agreement import Agreement, Logits, Rebuilt, compare_logits
from trtgate.verdict.answers import answers_of
from trtgate.verdict.outcome import Verdict


@dataclass(frozen=True)
class Classification:
    """Classes are read from one output, [classes] for each sample. `classes` are their names, if anybody gave them."""

    name: ClassVar[str] = "classification"
    output: str = OUTPUT
    classes: Sequence[str] = ()

    def logits(self, outputs: Outputs) -> Logits:
        """float32[N,classes]."""
        with np.errstate(over="ignore"):  # beyond the numbers of float32 is infinity
            rows = [np.asarray(row[self.output], np.float32).reshape(-1) for row in outputs]
        found: Logits = np.stack(rows)
        return found

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Agreement:
        return self.agreement(self.logits(reference), self.logits(got), samples)

    def agreement(self, wanted: Logits, mine: Logits, samples: Samples) -> Agreement:
        """The same of logits that were read before."""
        found = compare_logits(wanted, mine, samples.clusters)
        return replace(found, spoilt=self._spoilt(wanted, mine) if found.finite else "", doubt=samples.doubt)

    def _spoilt(self, wanted: Logits, mine: Logits) -> str:
        """A class whose logit is wrong on every photo: of a thousand it is hardly any noise, and the photos need have
        none of it."""
        powers = powers_of([*zip(wanted, mine, strict=True)], len(wanted))
        certain, _ = spoilt_slices(self.output, powers, 0.0)
        return certain[0] if certain else ""

    def decide(self, found: Agreement, expectation: Expectation, builds: Rebuilt | None = None) -> list[Verdict]:
        return [
            judge.fidelity_verdict(found, expectation, builds),
            judge.agreement_verdict(found, expectation, builds),
        ]

    def summary(self, found: Agreement) -> Summary:
        return judge.agreement_summary(found)

    def answers(self, reference: Outputs, got: Outputs, samples: Samples) -> Summary:
        """What a session keeps of the answers, photo by photo."""
        return answers_of(samples.names, self.logits(reference), self.logits(got), samples.clusters).to_json()

    def others(self, reference: Outputs, got: Outputs, samples: Samples) -> Scores | None:
        """What is found of the outputs that classes are not read from, by value; None where there are none."""
        if not reference or set(reference[0]) == {self.output}:
            return None
        sides = [
            [{name: row[name] for name in row if name != self.output} for row in side] for side in (reference, got)
        ]
        return TensorsTask().compare(sides[0], sides[1], samples)

    def own(self, reference: Outputs, samples: Samples) -> dict[str, Summary]:
        """Beside the answers a sketch of all outputs: logits may be others where the first answers are the same."""
        return {
            "answers": self.answers(reference, reference, samples),
            "scores": sketched(self.name, reference, samples),
        }


def named(task: Classification, classes: Sequence[str]) -> Classification:
    """The same with names for the classes."""
    return replace(task, classes=tuple(classes))
