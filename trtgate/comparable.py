"""Whether two sides can be compared at all: what they were measured on, whether they were alone, whether the machine is
the one that it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from trtgate.kinds import CLOCK_MOVED, OTHERS_ON_CPU
from trtgate.measure.race import HOST_CONTROL
from trtgate.records import MEAN, EngineRecord, controls_of_processes, fixed_work_of_processes, medians_of
from trtgate.verdict.metrics import Pairing
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import change_text
from trtgate.verdict.sessions import shift_bounds
from trtgate.verdict.states import in_state

# Fixed work that changed by more than this, or by more than an engine's delta where that is less, was not done by the
# same machine.
CONTROL_MOVED = 0.05
# Of the mean, which every other user of the machine moves.
CONTROL_MEAN_MOVED = 0.25
# A copy of 64 MB differs by 6 % between processes that follow each other, so medians of 8 and of 8 may lie 5 % apart by
# chance. What is above zero or below it but for this error, one-sided, has moved.
MOVED_ALPHA = 0.05
# Nobody knows how much others may have hidden.
ANYTHING = 1e6


def incomparable(old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> Verdict | None:
    """INVALID where the sides were not measured on the same weights, photos and streams, or do not tell."""
    both = (*old, *new)
    told = [record.digests for record in both]
    if any(told):
        # Records of schema 1 say only where the weights came from; those are old ones.
        sides = told[: len(old)], told[len(old) :]
        if not all(sides[1]) or any(len({frozenset(each) for each in side}) > 1 for side in sides):
            return _cannot("what the sides were measured on is known of some sessions and not of others")
        if lost := sorted(set(sides[0][0]) - set(sides[1][0])):
            return _cannot(f"the old side tells its {lost[0]}, the new one does not")
    inputs = [dict(each) for each in told] if all(told) else [{"weights from": record.weights} for record in both]
    for given, record in zip(inputs, both, strict=True):
        if "streams" in record.throughput:
            given["streams"] = f"{record.throughput['streams']:g}"
    streams = [
        {each["streams"] for each in side if "streams" in each} for side in (inputs[: len(old)], inputs[len(old) :])
    ]
    if streams[0] and not all("streams" in each for each in inputs[len(old) :]):
        return _cannot(f"the old side ran --streams {min(streams[0])}, the new one none; give both the same")
    if len(tasks := sorted({task for record in both if (task := _task(record))})) > 1:
        return _cannot(f"tasks differ between the sides ({', '.join(tasks)})")
    for name in dict.fromkeys(name for each in inputs for name in each):
        values = {each[name] for each in inputs if name in each}
        if len(values) > 1:
            return _cannot(f"{name} differ between the sides ({', '.join(sorted(value[:12] for value in values))})")
    return None


def _task(record: EngineRecord) -> str:
    """What a record's answers were compared by; "" where it has none."""
    return str(record.scores["task"]) if record.scores else "classification" if record.agreement else ""


def _cannot(message: str) -> Verdict:
    return Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)


def unfinished(old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> Verdict | None:
    """INVALID where a race was not run to its end."""
    if all(record.complete and record.rounds for record in (*old, *new)):
        return None
    return Verdict(Outcome.INVALID, Reason.DISTURBED, "a race was not finished: too many disturbed rounds")


def disturbed(old: Sequence[EngineRecord], new: Sequence[EngineRecord], pairing: Pairing) -> Verdict | None:
    """INVALID where somebody else used the processor; what is interleaved both sides suffered alike."""
    reasons = dict.fromkeys(record.disturbed for record in (*old, *new) if record.disturbed)
    if not reasons or pairing == "interleaved":
        return None
    return Verdict(Outcome.INVALID, Reason.DISTURBED, f"{'; '.join(reasons)} during a race")


def machine_changed(
    old: Sequence[EngineRecord],
    new: Sequence[EngineRecord],
    controls: Mapping[str, float],
    clocks: tuple[float | None, float | None],
    delta: float | None,
) -> Verdict | None:
    """INVALID where fixed work takes another time than before and the clock does not explain it, or where it was raced
    along before and is not now, which is told so. `controls` are its `control_changes` that are `moved_for_certain`;
    the host's count where an engine waits for it. `delta` is the engine's; what moved by more may hide as much."""
    before, after = ({name for record in side for name in record.controls} for side in (old, new))
    if lost := sorted(before - after):
        message = f"{lost[0]} was raced along before and is not now, so whether the machine changed is not known"
        return Verdict(Outcome.INVALID, Reason.NOT_TOLD, message)
    clock = float(np.log(clocks[1] / clocks[0])) if clocks[0] and clocks[1] and clock_moved(clocks) else 0.0
    host_bound = any(record.host_bound for record in (*old, *new))
    for name, change in sorted(controls.items(), key=lambda each: each[0].startswith(HOST_CONTROL)):
        of_host = name.startswith(HOST_CONTROL)
        if of_host and not host_bound:
            continue
        limit = _limit(name, delta)
        # Work that is bound by memory does not follow the clock of the cores.
        if min(abs(change), abs(change + (0.0 if of_host else clock))) > limit:
            what = "the host did, which this engine waits for" if of_host else "the machine did"
            message = f"{name} changed by {change_text(change)}, so {what}; measure both sides on it as it is"
            return Verdict(Outcome.INVALID, Reason.HOST_CHANGED if of_host else Reason.MACHINE_CHANGED, message)
    return None


# So many of a side's processes have to have met the machine as the other side's typical process did.
MET_ALIKE = 0.5


def other_states(
    old: Sequence[EngineRecord], new: Sequence[EngineRecord], clocks: tuple[float | None, float | None]
) -> Verdict | None:
    """INVALID where a side's processes are a mixture of states of the machine, few of them that of the other side.

    The medians of a mixture may be anything, those of the other side too. With another clock all are in another state.
    """
    if clock_moved(clocks):
        return None
    before, after = fixed_work_of_processes(old), fixed_work_of_processes(new)
    for name, some, other in (("old", before, after), ("new", after, before)):
        alike = len(in_state(some, medians_of(other)))
        if alike < MET_ALIKE * len(some):
            message = (
                f"{alike} of {len(some)} {name} processes met the machine as the other side did, by their fixed work; "
                "measure both sides on it as it is"
            )
            return Verdict(Outcome.INVALID, Reason.DISTURBED, message)
    return None


def _limit(control: str, delta: float | None) -> float:
    """How far fixed work may move, as a log ratio, beside an engine that may by `delta`."""
    if control.endswith(MEAN):
        return float(np.log1p(CONTROL_MEAN_MOVED))
    return float(np.log1p(CONTROL_MOVED if delta is None else min(CONTROL_MOVED, delta)))


def _moved(controls: Mapping[str, float], delta: float | None) -> dict[str, float]:
    return {name: change for name, change in controls.items() if abs(change) > _limit(name, delta)}


def only_slower(
    controls: Mapping[str, float], delta: float | None, clocks: tuple[float | None, float | None] = (None, None)
) -> bool:
    """Whether the machine, where it changed, became slower, its clock too, and not by so much that it is another one: a
    slower machine hides no slowdown, so what passes on it has passed."""
    rose = clock_moved(clocks) and (clocks[1] or 0.0) > (clocks[0] or 0.0)
    return not rose and all(0 < change <= np.log1p(CONTROL_MEAN_MOVED) for change in _moved(controls, delta).values())


def slower_work(controls: Mapping[str, float], delta: float | None) -> str:
    """The fixed work that took longer than before; "" where none did, or some became faster."""
    if not only_slower(controls, delta):
        return ""
    return ", ".join(f"{name} changed by {change_text(change)}" for name, change in _moved(controls, delta).items())


def host_changed(old: Sequence[EngineRecord], new: Sequence[EngineRecord], controls: Mapping[str, float]) -> str:
    """How the host beside a GPU was another one for one side, so that its times say nothing of the stack; "" where it
    was not, and where it is the processor itself."""
    moved = [f"{name} changed by {change_text(change)}" for name, change in _host_moved(controls).items()]
    gpu = any(name.startswith(HOST_CONTROL) for record in (*old, *new) for name in record.controls)
    most = max((record.readings.get("others_cores", 0.0) for record in (*old, *new)), default=0.0)
    if gpu and most > OTHERS_ON_CPU:
        moved.append(f"other processes used {most:.1f} of its cores")
    return moved[0] if moved else ""


def host_hides(old: Sequence[EngineRecord], new: Sequence[EngineRecord], controls: Mapping[str, float]) -> float:
    """How much longer than it was measured a time of the host's beside a GPU may be on the new side, as a factor: by
    what its loop became faster, and by anything where others used the old side's cores alone."""
    if not any(name.startswith(HOST_CONTROL) for name in controls):
        return 1.0
    before, after = (max(record.readings.get("others_cores", 0.0) for record in side) for side in (old, new))
    if before - after > OTHERS_ON_CPU:
        return ANYTHING
    return float(np.exp(-min([0.0, *_host_moved(controls).values()])))


def _host_moved(controls: Mapping[str, float]) -> dict[str, float]:
    # The limits of its times are wider than that of a latency.
    return {name: change for name, change in _moved(controls, None).items() if name.startswith(HOST_CONTROL)}


def clock_moved(clocks: tuple[float | None, float | None]) -> bool:
    """Whether the clock, in MHz before and after, is another one."""
    old, new = clocks
    return bool(old and new and abs(np.log(new / old)) > CLOCK_MOVED)


def control_changes(old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> dict[str, float]:
    """Log ratios new / old of the fixed work that both sides have: of medians over the records that have it."""
    before, after = (medians_of([record.controls for record in side]) for side in (old, new))
    return {name: float(np.log(after[name] / value)) for name, value in before.items() if name in after}


def moved_for_certain(
    old: Sequence[EngineRecord], new: Sequence[EngineRecord], controls: Mapping[str, float]
) -> dict[str, float]:
    """Those of the `control_changes` that are more than chance, as far as the sides have enough processes to tell."""
    before, after = (controls_of_processes(side) for side in (old, new))
    found = {}
    for name, change in controls.items():
        bounds = shift_bounds(np.log(before[name]), np.log(after[name]), MOVED_ALPHA)
        if bounds is None or bounds[0] > 0 or bounds[1] < 0:
            found[name] = change
    return found


def own_controls(record: EngineRecord) -> dict[str, float]:
    """The fixed work that an engine can have moved with: the host's only where it waits for the host."""
    return {
        name: seconds
        for name, seconds in record.controls.items()
        if record.host_bound or not name.startswith(HOST_CONTROL)
    }
