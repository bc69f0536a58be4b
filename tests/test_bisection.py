"""The search for a version, simulated: what it asks, what it names, and that it never names a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtgate.verdict.bisection import (
    Answer,
    Compare,
    Kind,
    Prepare,
    Race,
    Relation,
    State,
    next_step,
    relation_of,
)
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import holm
from trtgate.verdict.processes import decide_processes

LAST = 11
WORKS, FAILS, ABSENT = State.WORKS, State.FAILS, State.ABSENT


@dataclass
class World:
    """Versions with a level each (log of what they take), and what is wrong with some of them."""

    levels: list[float]
    states: Mapping[int, State] = field(default_factory=dict)
    lost: frozenset[int] = frozenset()  # installed, available, and cannot be built

    @property
    def last(self) -> int:
        return len(self.levels) - 1

    def works(self, index: int) -> bool:
        return self.states.get(index, WORKS) is WORKS and index not in self.lost

    def differs(self, old: int, new: int) -> float:
        return self.levels[new] - self.levels[old]


Oracle = Callable[[World, Compare], Relation]


def exactly(world: World, asked: Compare) -> Relation:
    """A quiet machine and a delta of 2 %."""
    if not world.works(asked.old):
        return Relation.OPEN  # its worker dies
    if not world.works(asked.new):
        return Relation.LOST
    change = world.differs(asked.old, asked.new)
    return Relation.WORSE if change > 0.02 else Relation.BETTER if change < -0.02 else Relation.SAME


def run(world: World, oracle: Oracle = exactly, **more: bool) -> tuple[Answer, list[Race]]:
    """A whole search; it must come to an end, and race only what was prepared and works."""
    states: dict[int, State] = {}
    races: list[Race] = []
    for _ in range(8 * len(world.levels)):
        step = next_step(world.last, states, races, **more)
        if isinstance(step, Answer):
            return step, races
        if isinstance(step, Prepare):
            assert step.version not in states, "what is known is not asked"
            states[step.version] = world.states.get(step.version, WORKS)
            continue
        assert states[step.old] is WORKS
        assert step.old < step.new
        seen = [race for race in races if (race.old, race.new) == (step.old, step.new)]
        assert len(seen) == step.again, "once, and once again"
        races.append(Race(step.old, step.new, oracle(world, step), step.again))
    raise AssertionError("it goes on and on")


def step_at(first_bad: int, last: int = LAST, size: float = 0.05) -> World:
    return World([size * (index >= first_bad) for index in range(last + 1)])


@pytest.mark.parametrize("last", range(1, 25))
def test_one_step_is_found_wherever_it_is(last: int) -> None:
    for first_bad in range(1, last + 1):
        answer, races = run(step_at(first_bad, last))
        assert (answer.kind, answer.good, answer.bad) == (Kind.FOUND, first_bad - 1, first_bad)
        assert (answer.how, answer.first) == (Relation.WORSE, True)
        assert Race(first_bad - 1, first_bad, Relation.WORSE) in races, "raced directly"
        assert len(races) <= (5 if last == LAST else 2 + np.ceil(np.log2(last)))


@pytest.mark.parametrize("first_bad", range(1, LAST + 1))
def test_what_became_faster_is_found_too(first_bad: int) -> None:
    answer, races = run(step_at(first_bad, size=-0.05))
    assert (answer.kind, answer.bad, answer.how) == (Kind.FOUND, first_bad, Relation.BETTER)
    assert len(races) <= 6


@pytest.mark.parametrize("first_bad", range(1, LAST + 1))
@pytest.mark.parametrize("how", ["import", "build", "asked"])
def test_since_when_it_fails_is_found(first_bad: int, how: str) -> None:
    failing = range(first_bad, LAST + 1)
    if how == "import":
        world = World([0.0] * (LAST + 1), dict.fromkeys(failing, FAILS))
    else:
        world = World([0.0] * (LAST + 1), lost=frozenset(failing))
    answer, races = run(world, by_failing=how == "asked")
    assert (answer.kind, answer.bad, answer.how) == (Kind.FOUND, first_bad, Relation.LOST)
    assert Race(first_bad - 1, first_bad, Relation.LOST) in races
    assert len(races) <= {"import": 2, "build": 6, "asked": 5}[how]


def test_ends_that_do_not_differ_are_told_after_two_races() -> None:
    answer, races = run(World([0.0] * 12))
    assert (answer.kind, len(races)) == (Kind.NOTHING, 2)
    # What came and went again has not made the bad end bad.
    assert run(World([0.0] * 3 + [0.05] * 3 + [0.0] * 6))[0].kind is Kind.NOTHING


def test_a_slow_drift_is_no_version() -> None:
    answer, races = run(World([0.007 * index for index in range(12)]))
    assert answer.kind is Kind.DRIFT
    assert answer.how is Relation.WORSE
    assert Race(answer.good, answer.bad, Relation.SAME) in races


def test_of_several_steps_the_first_is_found() -> None:
    answer, _ = run(World([0.05 * (index >= 3) + 0.05 * (index >= 8) for index in range(12)]))
    assert (answer.kind, answer.bad) == (Kind.FOUND, 3)


def test_a_version_that_was_better_in_between_does_not_lead_astray() -> None:
    """It became 5 % faster with 4 and 10 % slower with 9: the bad end is worse, and 9 is why."""
    answer, _ = run(World([-0.05 * (index >= 4) + 0.10 * (index >= 9) for index in range(12)]))
    assert (answer.kind, answer.bad, answer.how) == (Kind.FOUND, 9, Relation.WORSE)


@pytest.mark.parametrize("state", [FAILS, ABSENT, None])
def test_versions_that_cannot_be_used_are_stepped_over(state: State | None) -> None:
    for first_bad in range(1, LAST + 1):
        for broken in range(1, LAST):
            world = step_at(first_bad)
            world = World(world.levels, {broken: state} if state else {}, frozenset() if state else frozenset({broken}))
            answer, _ = run(world)
            if broken in {first_bad - 1, first_bad}:
                ends = (broken - 1, broken + 1)
                assert (answer.kind, answer.good, answer.bad) == (Kind.BETWEEN, *ends), (first_bad, broken)
            else:
                assert (answer.kind, answer.bad) == (Kind.FOUND, first_bad)


def test_what_is_open_is_raced_again_and_then_its_neighbours() -> None:
    def open_at_seven(world: World, asked: Compare) -> Relation:
        return Relation.OPEN if asked.new == 7 and asked.old == 0 else exactly(world, asked)

    answer, races = run(step_at(9), open_at_seven)
    assert (answer.kind, answer.bad) == (Kind.FOUND, 9)
    assert races[:2] == [Race(0, 7, Relation.OPEN), Race(0, 7, Relation.OPEN, again=True)]
    # It is the one, and against the good end it stays open: raced against its neighbours it can be named all the same.
    answer, _ = run(step_at(7), open_at_seven)
    assert (answer.kind, answer.good, answer.bad) == (Kind.FOUND, 6, 7)


def test_a_machine_on_which_nothing_can_be_told_is_told_soon() -> None:
    answer, races = run(step_at(5), lambda world, asked: Relation.OPEN)
    assert answer.kind is Kind.OPEN
    assert len(races) <= 8


@pytest.mark.parametrize("beside", [Relation.NO_WORSE, Relation.SAME, Relation.BETTER])
def test_a_gain_of_about_delta_is_not_asked_of_every_version(beside: Relation) -> None:
    def as_large_as_delta(world: World, asked: Compare) -> Relation:
        return beside if asked.new == world.last - 1 else Relation.NO_WORSE

    answer, races = run(step_at(5, 24), as_large_as_delta)
    assert answer.kind is Kind.OPEN
    assert len(races) <= 12


def answered(last: int, *races: Race) -> Answer:
    """What is answered where these are all races, and every version works."""
    step = next_step(last, dict.fromkeys(range(last + 1), WORKS), races)
    assert isinstance(step, Answer)
    return step


def test_a_bad_end_that_may_be_better_is_not_as_the_good_one() -> None:
    races = Race(0, 1, Relation.WORSE), Race(0, 1, Relation.NO_WORSE, again=True)
    assert answered(1, *races).kind is Kind.OPEN


def test_what_was_worse_in_between_is_not_why_a_bad_end_is_no_worse() -> None:
    end = Race(0, 2, Relation.OPEN), Race(0, 2, Relation.NO_WORSE, again=True)
    races = Race(0, 1, Relation.BETTER), *end, Race(0, 1, Relation.WORSE, again=True)
    assert answered(2, *races).kind is Kind.OPEN


def test_a_step_back_is_no_drift() -> None:
    end = Race(0, 4, Relation.OPEN), Race(0, 4, Relation.WORSE, again=True)
    races = Race(0, 3, Relation.SAME), *end, Race(3, 4, Relation.BETTER)
    assert answered(4, *races).kind is Kind.OPEN


def test_ends_that_cannot_be_used_are_refused() -> None:
    for states in ({0: FAILS, 3: WORKS}, {0: WORKS, 3: ABSENT}):
        with pytest.raises(ValueError, match="good end that works"):
            next_step(3, states, [])


# Noise. A race may be open, may miss a small change or a large one, and may call what is better no worse; that it calls
# two alike versions different is what its own rule holds at bay.


@st.composite
def worlds(draw: st.DrawFn) -> World:
    last = draw(st.integers(1, 14))
    sizes = st.sampled_from([0.0] * 8 + [0.01, -0.01, 0.03, 0.05, 0.05, -0.05])
    levels = np.cumsum([0.0, *draw(st.lists(sizes, min_size=last, max_size=last))])
    some = st.sampled_from([WORKS] * 6 + [FAILS, ABSENT])
    states = {index: draw(some) for index in range(1, last)}
    states[last] = draw(st.sampled_from([WORKS, WORKS, WORKS, FAILS]))
    lost = frozenset(draw(st.sets(st.integers(1, last), max_size=3)) if draw(st.booleans()) else ())
    return World([float(level) for level in levels], states, lost)


@given(worlds(), st.data(), st.booleans())
@settings(max_examples=400)
def test_never_a_wrong_name_whatever_the_noise(world: World, data: st.DataObject, by_failing: bool) -> None:
    def noisy(world: World, asked: Compare) -> Relation:
        true = exactly(world, asked)
        if true is Relation.LOST or not world.works(asked.old):
            return true
        found = [Relation.OPEN, Relation.SAME, Relation.NO_WORSE, true, true]
        change = world.differs(asked.old, asked.new)
        found += [Relation.WORSE] if change > 0.005 else [Relation.BETTER] if change < -0.005 else []
        return data.draw(st.sampled_from(found))

    answer, races = run(world, noisy, by_failing=by_failing)
    if answer.kind in {Kind.FOUND, Kind.BETWEEN}:
        good, bad = answer.good, answer.bad
        assert any((race.old, race.new, race.relation) == (good, bad, answer.how) for race in races), "not shown"
        assert world.works(good)
        assert not any(world.works(index) for index in range(good + 1, bad)), "not its predecessor"
        assert answer.kind is (Kind.FOUND if bad == good + 1 else Kind.BETWEEN)
        if answer.how is Relation.LOST:
            assert not world.works(bad)
        else:
            change = world.differs(good, bad)
            assert change > 0.005 if answer.how is Relation.WORSE else change < -0.005
    if answer.kind is Kind.NOTHING and by_failing:
        assert world.works(world.last)
    if answer.kind is Kind.NOTHING and not by_failing:
        ends = [race.relation for race in races if (race.old, race.new) == (0, world.last)]
        assert ends[-1] is Relation.SAME


@given(worlds(), st.integers(0, 8), st.booleans())
@settings(max_examples=200)
def test_a_race_in_which_memory_was_short_names_nothing(world: World, when: int, by_failing: bool) -> None:
    """A worker of the newer version is ended once: a race that says that it is lost."""
    count = 0

    def short(world: World, asked: Compare) -> Relation:
        nonlocal count
        count += 1
        true = exactly(world, asked)
        return Relation.LOST if count == when + 1 and world.works(asked.old) else true

    answer, _ = run(world, short, by_failing=by_failing)
    if answer.kind in {Kind.FOUND, Kind.BETWEEN} and answer.how is Relation.LOST:
        assert not world.works(answer.bad)
    if answer.kind is Kind.BETWEEN:
        assert not any(world.works(index) for index in range(answer.good + 1, answer.bad)), "it can be used"


def test_a_version_is_not_left_out_for_one_failure() -> None:
    """It is the one that changed, and memory was short when it was first raced."""

    def short(world: World, asked: Compare) -> Relation:
        return Relation.LOST if asked == Compare(0, 8) else exactly(world, asked)

    answer, races = run(step_at(8), short)
    assert (answer.kind, answer.good, answer.bad) == (Kind.FOUND, 7, 8)
    assert Race(0, 8, Relation.WORSE, again=True) in races


# With the rule itself, corrected as that of a gate of one verdict: 6 processes a side, 15 rounds, a delta of 2 %.


def raced(rng: np.random.Generator, spread: float, noise: float) -> Oracle:
    def oracle(world: World, asked: Compare) -> Relation:
        processes = 12 if asked.again else 6
        sides = []
        for index in (asked.old, asked.new):
            own = world.levels[index] + rng.normal(0, spread, processes)
            sides.append([1e-3 * np.exp(each + np.abs(rng.normal(0, noise, 15))) for each in own])
        [verdict] = holm([decide_processes(*sides, delta=0.02)])
        return relation_of(verdict, 0.02)

    return oracle


@pytest.mark.parametrize("first_bad", range(1, LAST + 1))
def test_a_step_of_five_percent_is_found_in_twenty_of_twenty(first_bad: int) -> None:
    rng = np.random.default_rng(first_bad)
    for _ in range(20):
        answer, races = run(step_at(first_bad), raced(rng, 0.004, 0.003))
        assert (answer.kind, answer.bad) == (Kind.FOUND, first_bad)
        assert len(races) <= 5


@pytest.mark.parametrize("first_bad", [1, 4, 8, 11])
def test_on_a_loud_machine_it_is_right_or_cannot_tell(first_bad: int) -> None:
    rng = np.random.default_rng(first_bad)
    answers = [run(step_at(first_bad), raced(rng, 0.015, 0.03))[0] for _ in range(20)]
    named = [answer for answer in answers if answer.kind in {Kind.FOUND, Kind.BETWEEN}]
    assert all(answer.bad == first_bad for answer in named)
    assert len(named) >= 10


@pytest.mark.parametrize(
    ("outcome", "low", "estimate", "relation"),
    [
        (Outcome.REGRESSED, 1.01, 1.05, Relation.WORSE),
        (Outcome.IMPROVED, 0.93, 0.95, Relation.BETTER),
        (Outcome.PASS, 0.99, 1.0, Relation.SAME),
        (Outcome.PASS, 0.97, 0.985, Relation.NO_WORSE),
        (Outcome.PASS, None, 0.5, Relation.NO_WORSE),
        (Outcome.PASS, None, None, Relation.SAME),
        (Outcome.INCONCLUSIVE, 0.99, 1.02, Relation.OPEN),
        (Outcome.INVALID, None, None, Relation.OPEN),
    ],
)
def test_what_a_outcome_says_to_a_search(
    outcome: Outcome, low: float | None, estimate: float | None, relation: Relation
) -> None:
    assert relation_of(Verdict(outcome, Reason.SLOWER, "", estimate, low), 0.02) is relation


@pytest.mark.parametrize(("high", "relation"), [(1.1, Relation.OPEN), (None, Relation.OPEN), (1.01, Relation.SAME)])
def test_what_is_let_go_for_its_size_is_not_the_same(high: float | None, relation: Relation) -> None:
    """10 % more memory is no less for being a few megabytes, where a search was asked about 2 %."""
    verdict = Verdict(Outcome.PASS, Reason.WITHIN_ABSOLUTE_FLOOR, "", high and high - 0.005, high and high - 0.01, high)
    assert relation_of(verdict, 0.02) is relation


def test_a_yardstick_and_what_was_not_measured_say_nothing() -> None:
    for reason, outcome in ((Reason.YARDSTICK, Outcome.PASS), (Reason.MISSING, Outcome.REGRESSED)):
        assert relation_of(Verdict(outcome, reason, ""), 0.02) is Relation.OPEN
