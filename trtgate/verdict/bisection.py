"""Which of many versions it was: from what has been seen of them to what to look at next, or to the answer.

Pure. Versions are numbers in their order, 0 the good end and `last` the bad one. The search races versions against the
good end until a pair of neighbours is left, and then those two directly; only what that shows is named, and only where
a second race bears it out. What is open is raced again with more processes, and where that does not help its neighbours
are asked. The same observations lead to the same next question, so a search that was cut off goes on by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from trtgate.verdict.outcome import Outcome, Reason, Verdict

# Versions that stay open with more processes too, or that are asked beside a bad end that does, before the machine, or
# a change of the size of delta, is to blame.
MOST_OPEN = 3


class State(enum.Enum):
    """What is known of one version by itself."""

    WORKS = "works"
    FAILS = "fails"  # it is installed, and the engine is not available in it
    ABSENT = "cannot be installed"


class Relation(enum.Enum):
    """What a race of an older version against a newer one came to."""

    WORSE = "worse"
    BETTER = "better"
    SAME = "same"
    NO_WORSE = "no worse"  # and it may be better by more than delta
    OPEN = "open"
    LOST = "lost"  # the newer one cannot build, load or run what the older one can


OUTCOMES = {Outcome.REGRESSED: Relation.WORSE, Outcome.IMPROVED: Relation.BETTER, Outcome.PASS: Relation.SAME}


def relation_of(verdict: Verdict, delta: float) -> Relation:
    """What a gate's verdict on the newer version says to a search.

    A gate passes what is no worse. That is the same only where it is no better by more than `delta`, either; and it
    passes a yardstick that is open and what may be worse by more than that, yet by so little that it is let go, and
    fails what is missing, of which a search learns nothing.
    """
    if verdict.reason in {Reason.YARDSTICK, Reason.MISSING}:
        return Relation.OPEN
    if verdict.reason is Reason.WITHIN_ABSOLUTE_FLOOR and (verdict.high is None or verdict.high > 1 + delta):
        return Relation.OPEN
    relation = OUTCOMES.get(verdict.outcome, Relation.OPEN)
    least = verdict.estimate if verdict.low is None else verdict.low
    if relation is Relation.SAME and least is not None and least * (1 + delta) < 1:
        return Relation.NO_WORSE
    return relation


@dataclass(frozen=True)
class Race:
    """One race of two versions; `again` with more processes, after one that was open."""

    old: int
    new: int
    relation: Relation
    again: bool = False


@dataclass(frozen=True)
class Prepare:
    """Next: install a version, and see whether the engine is available in it."""

    version: int


@dataclass(frozen=True)
class Compare:
    """Next: race two versions, `again` with more processes."""

    old: int
    new: int
    again: bool = False


class Kind(enum.Enum):
    """What a search can come to."""

    FOUND = "found"  # `bad` differs from `good`, the version before it
    BETWEEN = "between"  # `bad` differs from `good`, and nothing between them can be used
    DRIFT = "drift"  # from `good` to `bad` no version differs from the one before it, together they do
    NOTHING = "nothing"  # the ends do not differ
    OPEN = "open"  # it cannot be told which one from `good` to `bad` it is


@dataclass(frozen=True)
class Answer:
    """The end of a search. `how` the newer versions differ from the good end is None where they do not.

    `first` is false where it is open whether a version before `bad` differs from its predecessor, too.
    """

    kind: Kind
    good: int
    bad: int
    how: Relation | None = None
    first: bool = True


Step = Prepare | Compare | Answer


class Side(enum.Enum):
    """On which side of the change a version lies."""

    GOOD = "good"
    BAD = "bad"
    OPEN = "open"
    SKIP = "skip"  # it cannot be raced
    UNKNOWN = "unknown"


def next_step(last: int, states: Mapping[int, State], races: Sequence[Race], *, by_failing: bool = False) -> Step:
    """What to look at next, after these `races` in their order.

    With `by_failing` the question is since when the engine cannot be built, loaded and run; so it is, too, where the
    bad end turns out to be like that. Raises ValueError for a good end that does not work, and for a bad one that
    cannot be installed: there is nothing to search between.
    """
    for end in (0, last):
        if end not in states:
            return Prepare(end)
    if last < 1 or states[0] is not State.WORKS or states[last] is State.ABSENT:
        raise ValueError("a search needs a good end that works and another one that can be installed")
    return _Search(last, states, races, by_failing).step()


class _Search:
    """What one set of observations says."""

    def __init__(self, last: int, states: Mapping[int, State], races: Sequence[Race], by_failing: bool) -> None:
        self._last = last
        self._states = states
        self._races = races
        self._by_failing = by_failing
        self._seen = {(race.old, race.new): race for race in races}  # of a pair the latest counts
        self._how = self._direction()

    def step(self) -> Step:
        if self._races and self._is_unsettled(self._races[-1]):
            return self._ask(self._races[-1].old, self._races[-1].new)
        bad = next((index for index in range(1, self._last + 1) if self.side(index) is Side.BAD), None)
        if bad is None:
            return self._premise()
        good = max(index for index in range(bad) if self.side(index) is Side.GOOD)
        unknown = self._unknown(good, bad)
        if not unknown:
            once = [race.new for race in self._failed_once(good, bad) if not race.again]
            return self._ask(0, once[0]) if once else self._neighbours(good, bad)
        if self._open() >= MOST_OPEN:
            return Answer(Kind.OPEN, good, bad, self._how)
        return self._ask(0, _nearest(unknown, (good + bad) / 2))

    def _direction(self) -> Relation | None:
        """How the bad end differs, as far as it is known: it is worse, unless it turns out to be better or to fail."""
        if self._by_failing or self._states[self._last] is State.FAILS:
            return Relation.LOST
        race = self._seen.get((0, self._last))
        ends = race.relation if race else None
        if ends in {Relation.WORSE, Relation.BETTER, Relation.LOST}:
            return ends
        if ends is Relation.SAME:
            return None
        # What came and went again has not made a bad end bad that is no worse, but it may be better, as another one is.
        likely = Relation.BETTER if ends is Relation.NO_WORSE else Relation.WORSE
        return likely if any(race.relation is likely for race in self._seen.values() if race.old == 0) else None

    def side(self, index: int) -> Side:
        """On which side a version lies, from what is known of it and of its race against the good end."""
        state, race = self._states.get(index), self._seen.get((0, index))
        if index == 0:
            return Side.GOOD
        if state is State.ABSENT:
            return Side.SKIP
        lost = state is State.FAILS or (race is not None and race.relation is Relation.LOST)
        if lost:
            return Side.BAD if self._how is Relation.LOST else Side.SKIP
        if state is not None and self._by_availability:
            return Side.GOOD
        return Side.UNKNOWN if race is None or self._is_unsettled(race) else self._read(race.relation, index)

    @property
    def _by_availability(self) -> bool:
        """Whether the question is since when the engine is not available, for which nothing need be raced."""
        return self._states[self._last] is State.FAILS and not self._by_failing

    def _read(self, relation: Relation, new: int) -> Side:
        """What the outcome of a race says of the change that is searched, and of the newer version."""
        if relation is self._how:
            return Side.BAD
        # One that is no worse may be better. Of the bad end that leaves open whether there is anything to search.
        better = self._how is Relation.BETTER or (self._how is None and new == self._last)
        if relation is Relation.OPEN or (relation is Relation.NO_WORSE and better):
            return Side.OPEN
        return Side.GOOD

    def _is_unsettled(self, race: Race) -> bool:
        """Whether it is to be raced again with more processes."""
        return not race.again and self._read(race.relation, race.new) is Side.OPEN

    def _is_borne_out(self, race: Race) -> bool:
        """Whether more than one race of the usual size shows that the newer version is on the bad side.

        Of two versions that are alike one race in a hundred says otherwise. What fails once may have lacked memory or
        time, on a machine that others use too, and more processes do not make that surer.
        """
        alike = [each for each in self._races if each.new == race.new and each.relation is race.relation]
        return len(alike) > 1 or (race.again and race.relation is not Relation.LOST)

    def _open(self) -> int:
        """How many versions stay open against the good end."""
        return sum(self.side(index) is Side.OPEN for index in range(1, self._last + 1))

    def _unknown(self, good: int, bad: int) -> list[int]:
        return [index for index in range(good + 1, bad) if self.side(index) is Side.UNKNOWN]

    def _premise(self) -> Step:
        """Nothing is on the bad side yet. The bad end is asked second: where two thirds of the way already differ, it
        need not be asked at all, and 12 versions take 5 races at the most."""
        end = self.side(self._last)
        if end is Side.GOOD:
            return Answer(Kind.NOTHING, 0, self._last)
        unknown = self._unknown(0, self._last)
        if end is Side.UNKNOWN:
            if self._seen or not unknown:
                return self._ask(0, self._last)
            return self._ask(0, _nearest([*unknown, self._last], 2 * self._last / 3))
        asked = sum((0, index) in self._seen for index in range(max(unknown, default=0) + 1, self._last + 1))
        if unknown and asked < MOST_OPEN:
            return self._ask(0, unknown[-1])
        return Answer(Kind.OPEN, 0, self._last, self._how)

    def _failed_once(self, good: int, bad: int) -> list[Race]:
        """What alone leaves out a version between them, which may have lacked memory or time, and be the one."""
        working = [index for index in range(good + 1, bad) if self._states.get(index, State.WORKS) is State.WORKS]
        races = [self._seen[0, index] for index in working if (0, index) in self._seen]
        return [race for race in races if race.relation is Relation.LOST and not self._is_borne_out(race)]

    def _neighbours(self, good: int, bad: int) -> Step:
        """The change lies from `good` to `bad`, and what is between them is open or cannot be raced: each against the
        one before it."""
        first = True
        between = [index for index in range(good + 1, bad) if self.side(index) is Side.OPEN]
        for old, new in pairwise([good, *between, bad]):
            race = self._seen.get((old, new))
            if race is None or self._is_unsettled(race):
                return self._ask(old, new)
            if race.relation is self._how:
                if self._is_borne_out(race):
                    kind = Kind.OPEN if self._failed_once(old, new) else Kind.BETWEEN
                    return Answer(Kind.FOUND if new == old + 1 else kind, old, new, self._how, first)
                if not race.again:
                    return self._ask(old, new)
            # What failed once and does not now, or the other way round, is open as well; so is a step back, which those
            # from the good end to the bad one would have to outweigh.
            first &= race.relation in {Relation.SAME, Relation.NO_WORSE} and self._how is not Relation.LOST
            first &= self._read(race.relation, new) is Side.GOOD
        if not first:
            return Answer(Kind.OPEN, good, bad, self._how)
        # Each is as the one before it, so the race that set the last one apart has to be borne out.
        if not self._seen[0, bad].again:
            return self._ask(0, bad)
        return Answer(Kind.DRIFT, good, bad, self._how)

    def _ask(self, old: int, new: int) -> Step:
        if new not in self._states:
            return Prepare(new)
        return Compare(old, new, again=(old, new) in self._seen)


def _nearest(some: Sequence[int], middle: float) -> int:
    return min(some, key=lambda index: (abs(index - middle), index))
