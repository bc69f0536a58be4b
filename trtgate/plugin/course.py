"""What became of the tests of a pytest session: planned, begun, failed, skipped, or kept from running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

import pytest

from trtgate.kinds import UserError
from trtgate.records import Key
from trtgate.suite import Test, tests_beside

# Names in one line of what did not run.
LEFT_OUT_SHOWN = 3


class Course:
    """What became of the tests of a session.

    `collected` are those that were found, `deselected` counts what the user left out, `mistakes` are sentences on what
    could not be judged for a reason that is the user's to mend, by the name of the test or file, and `cut_off` says
    that the run did not come to its end.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.deselected = 0
        self.collected: set[Test] = set()
        self.mistakes: dict[str, str] = {}
        self.cut_off = ""
        self._config = config
        self._skips: Counter[str] = Counter()
        self._settled: set[str] = set()
        self._failed: set[str] = set()
        self._excused: set[str] = set()
        self._planned: dict[str, Mapping[str, str]] = {}
        self._begun: set[str] = set()
        self._uncollected = ""

    def note_plan(self, items: Iterable[pytest.Item]) -> None:
        """Remember which tests are to be run, and on what."""
        for item in items:
            given = getattr(item, "callspec", None)
            params = given.params if given is not None else {}
            self._planned[item.nodeid] = {name: str(getattr(each, "id", each)) for name, each in params.items()}

    def note_begun(self, nodeid: str) -> None:
        """Remember that a test was run."""
        self._begun.add(nodeid)

    def note_skip(self, reason: str) -> None:
        """Remember why a test was skipped."""
        self._skips[reason] += 1

    def note_excused(self, nodeid: str) -> None:
        """Remember a test that a marker of the user's skipped, or expected to fail."""
        self._excused.add(nodeid)

    def note_failure(self, report: pytest.TestReport) -> None:
        """Remember a failed test."""
        self._failed.add(report.nodeid)

    def note_settled(self, nodeid: str) -> None:
        """Remember a test that failed by a verdict."""
        self._settled.add(nodeid)

    def note_mistake(self, name: str, sentence: str) -> None:
        """Remember what could not be judged for a reason that is the user's to mend: no verdict of any kind."""
        self.mistakes.setdefault(name, sentence)

    def note_uncollected(self, name: str) -> None:
        """Remember what could not be collected, so that nobody knows which tests it has."""
        self._uncollected = f"{name} cannot be collected"
        self.note_mistake(name, "it cannot be collected")

    def require_collected(self, items: Collection[pytest.Item]) -> None:
        """Raises UserError where a comparison has no tests that were left out one by one: then nothing is missing."""
        if not items and not self.deselected and not self._uncollected:
            raise UserError("--benchmark-compare: no test was collected; name bench/, and leave --ignore and -o out")

    def skips(self, left_out: Mapping[str, str]) -> list[str]:
        """Why tests were skipped, in a line; none for none. `left_out` says why by the names of models and engines."""
        absent = {told for name, why in left_out.items() for told in (why, f"{name.rpartition(' ')[2]}: {why}")}
        counts: Counter[str] = Counter()
        for reason, count in self._skips.items():
            counts["engines that are not there" if reason in absent else reason.partition(";")[0]] += count
        told = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
        return [f"{counts.total()} tests skipped: {told}"] if counts else []

    @property
    def broken(self) -> set[str]:
        """Tests that failed without a verdict and without a sentence for the user."""
        return self._failed - self._settled - self.mistakes.keys()

    def kept_from(self, key: Key) -> str:
        """What kept an engine from being measured that is nothing of its own: a mistake, or the end of the run; ""
        where it is its own that it is missing."""
        model, engine, batch = key
        own = [
            nodeid
            for nodeid, given in self._planned.items()
            if engine in given.values()
            and given.get("workbench", model) == model
            and given.get("batch_size", str(batch)) == str(batch)
        ]
        if self.broken & set(own):
            return ""
        found = [self.mistakes[nodeid] for nodeid in own if nodeid in self.mistakes]
        if self.cut_off and set(own) - self._begun:
            found.append(self.cut_off)
        if not own and self._uncollected:
            found.append(self._uncollected)
        return found[0] if found else ""

    def partial(self) -> list[str]:
        """Why this run did not judge all that a whole one would; empty if it did."""
        chosen = [argument for argument in self._config.args if "::" in argument or argument.endswith(".py")]
        return [
            *([self.cut_off] if self.cut_off else []),
            *([f"{self.deselected} tests were deselected"] if self.deselected else []),
            *([f"{len(self._excused)} tests were skipped or failed as a marker asked"] if self._excused else []),
            *(["--benchmark-only left the answers out"] if self._config.getoption("benchmark_only", False) else []),
            *([f"only {', '.join(chosen)} was run"] if chosen else []),
            *self._left_out(),
            *(f"{name}: {sentence}" for name, sentence in self.mistakes.items()),
        ]

    def _left_out(self) -> list[str]:
        """Test functions beside those that were collected, which were not."""
        missing = sorted(tests_beside(self.collected) - self.collected)
        names = [f"{path.name}::{name}" for path, name in missing]
        more = f" and {len(names) - LEFT_OUT_SHOWN} more" if len(names) > LEFT_OUT_SHOWN else ""
        return [f"{', '.join(names[:LEFT_OUT_SHOWN])}{more} did not run"] if names else []
