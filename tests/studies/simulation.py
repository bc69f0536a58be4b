"""How often the rules are wrong, by simulation: noise made up of all that a shared machine does.

    python tests/studies/simulation.py [--trials N]

Each round's log latency is shared by both arms up to: an autocorrelated wobble of the machine (AR(1)), a drift over the
race, a drift within the round (what one arm sees before the other), and heavy-tailed noise of its own (Student's t with
3 degrees of freedom). For sessions, an offset of each session takes the place of the round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from trtgate.measure.race import Schedule
from trtgate.verdict import Outcome
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.paired import decide_paired
from trtgate.verdict.policy import holm, more_may_decide, worst
from trtgate.verdict.sessions import LOOK_ALPHA, decide_sessions
from trtgate.verdict.sessions import LOOKS as LOOKS_AT_PROCESSES

Floats = npt.NDArray[np.float64]
DELTA = 0.05
SESSIONS = 5
PROCESSES = 8
# Of 22 engines at two batch sizes, two series each.
SERIES = 88


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log latency (0.01 is 1 %), and drifts per race and per round."""

    name: str
    own: float
    wobble: float
    drift: float
    within: float
    session: float


QUIET = Noise("quiet", own=0.005, wobble=0.02, drift=0.0, within=0.0, session=0.004)
SHARED = Noise("shared", own=0.010, wobble=0.05, drift=0.10, within=0.002, session=0.008)
LOADED = Noise("loaded", own=0.025, wobble=0.15, drift=0.20, within=0.005, session=0.015)
# Noise as large as delta: the rules can only say that they cannot tell, and here their error rates are put to the test.
HOSTILE = Noise("hostile", own=0.10, wobble=0.15, drift=0.30, within=0.01, session=0.08)


def student(rng: np.random.Generator, size: int) -> Floats:
    """Heavy tails of unit variance: Student's t with 3 degrees of freedom."""
    return rng.standard_t(3, size) / np.sqrt(3)


def wobble(rng: np.random.Generator, size: int, coefficient: float = 0.8) -> Floats:
    """AR(1) of unit variance."""
    values = np.empty(size)
    values[0] = rng.normal()
    for i in range(1, size):
        values[i] = coefficient * values[i - 1] + np.sqrt(1 - coefficient**2) * rng.normal()
    return values


def paired_arms(rng: np.random.Generator, noise: Noise, effect: float, rounds: int) -> tuple[Floats, Floats]:
    """Seconds of both arms; the second is slower by `effect` (0.07 is 7 %)."""
    shared = noise.wobble * wobble(rng, rounds) + noise.drift * np.linspace(0, 1, rounds)
    # Odd rounds run in reverse order, so a drift within the round favours the arms in turns.
    within = noise.within * np.where(np.arange(rounds) % 2 == 0, 1, -1)
    old = shared + noise.own * student(rng, rounds)
    new = shared + noise.own * student(rng, rounds) + within + np.log1p(effect)
    return 1e-3 * np.exp(old), 1e-3 * np.exp(new)


def paired_outcome(rng: np.random.Generator, noise: Noise, effect: float) -> Outcome:
    """As the gate does it: a race that goes on from look to look while it is inconclusive."""
    schedule = Schedule()
    old, new = paired_arms(rng, noise, effect, schedule.rounds)
    for look in schedule.looks:
        outcome = decide_paired(old[:look], new[:look], delta=DELTA).outcome
        if outcome is not Outcome.INCONCLUSIVE:
            break
    return outcome


def sessions_outcome(rng: np.random.Generator, noise: Noise, effect: float) -> Outcome:
    """Five sessions a side."""
    old, new = (1e-3 * np.exp(noise.session * student(rng, SESSIONS)) for _ in range(2))
    return decide_sessions(old, new * (1 + effect), delta=DELTA).outcome


def grown(rng: np.random.Generator, noise: Noise, effect: float, open_: Callable[[Verdict], bool]) -> Verdict:
    """A run's processes against a saved run's, with as many again where the first look leaves it open."""
    old, new = (1e-3 * np.exp(noise.session * student(rng, PROCESSES * looks)) for looks in (1, LOOKS_AT_PROCESSES))
    for look in range(1, LOOKS_AT_PROCESSES + 1):
        verdict = decide_sessions(old, new[: look * PROCESSES] * (1 + effect), delta=DELTA, alpha=LOOK_ALPHA)
        if not open_(verdict):
            break
    return verdict


def processes_outcome(rng: np.random.Generator, noise: Noise, effect: float) -> Outcome:
    """One series of a run that is compared with another."""
    return grown(rng, noise, effect, lambda verdict: verdict.outcome is Outcome.INCONCLUSIVE).outcome


def run_outcome(rng: np.random.Generator, noise: Noise, effect: float) -> Outcome:
    """A whole run of SERIES series against a saved one, one slower; the worst verdict after the correction."""

    def open_(verdict: Verdict) -> bool:
        return more_may_decide(verdict, SERIES)

    found = [grown(rng, noise, effect if index == 0 else 0.0, open_) for index in range(SERIES)]
    return worst(holm(found)).outcome


def gate_outcome(rng: np.random.Generator, noise: Noise, effect: float) -> Outcome:
    """A whole gate: SERIES series of five sessions a side, one slower; the worst verdict after the correction."""
    found = []
    for index in range(SERIES):
        old, new = (1e-3 * np.exp(noise.session * student(rng, SESSIONS)) for _ in range(2))
        found.append(decide_sessions(old, new * (1 + (effect if index == 0 else 0.0)), delta=DELTA))
    return worst(holm(found)).outcome


@dataclass(frozen=True)
class Row:
    rule: str
    noise: str
    effect: float
    outcomes: dict[Outcome, int]
    trials: int

    def share(self, outcome: Outcome) -> float:
        return self.outcomes.get(outcome, 0) / self.trials


def simulate(trials: int, seed: int = 0) -> list[Row]:
    """Every rule under every noise, without an effect and at delta + 2 points."""
    rules: dict[str, Callable[[np.random.Generator, Noise, float], Outcome]] = {
        "paired": paired_outcome,
        "sessions 5:5": sessions_outcome,
        f"gate of {SERIES} series 5:5": gate_outcome,
        f"processes {PROCESSES}:{PROCESSES}, then {LOOKS_AT_PROCESSES * PROCESSES}": processes_outcome,
        f"gate of {SERIES} series of these": run_outcome,
    }
    rows = []
    for rule, outcome in rules.items():
        for noise in (QUIET, SHARED, LOADED, HOSTILE):
            for effect in (0.0, DELTA + 0.02):
                rng = np.random.default_rng([seed, len(rows)])
                counts: dict[Outcome, int] = {}
                # A gate is as many series as there are, and takes as much longer.
                runs = max(200, trials // SERIES) if outcome in (gate_outcome, run_outcome) else trials
                for _ in range(runs):
                    found = outcome(rng, noise, effect)
                    counts[found] = counts.get(found, 0) + 1
                rows.append(Row(rule, noise.name, effect, counts, runs))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000)
    trials = parser.parse_args().trials
    print(f"delta {DELTA:.0%}, {trials} trials a row")
    print("| rule | noise | slower by | REGRESSED | INCONCLUSIVE | PASS |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for row in simulate(trials):
        shares = " | ".join(
            f"{row.share(outcome):.2%}" for outcome in (Outcome.REGRESSED, Outcome.INCONCLUSIVE, Outcome.PASS)
        )
        print(f"| {row.rule} | {row.noise} | {row.effect:.0%} | {shares} |")


if __name__ == "__main__":
    main()
