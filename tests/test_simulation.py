"""The error rates that the rules promise, on the simulated noise of tests/studies/simulation.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "studies"))

from simulation import simulate

from trtgate.verdict import Outcome


@pytest.mark.slow
def test_false_alarms_and_misses_stay_below_their_promises() -> None:
    for row in simulate(trials=2000):
        if row.rule.startswith("gate"):
            # 1 % of whole gates is promised, whatever the noise; a gate passes only if all of its series do.
            if row.effect == 0:
                assert row.share(Outcome.REGRESSED) <= 0.01 + 2.5 * (0.01 * 0.99 / row.trials) ** 0.5, row
            else:
                assert row.share(Outcome.PASS) <= 0.01, row
        elif row.effect == 0:
            # 0.5 % is promised; two and a half standard deviations are this sample's own.
            spread = (0.005 * 0.995 / row.trials) ** 0.5
            assert row.share(Outcome.REGRESSED) <= 0.005 + 2.5 * spread, row
        else:
            # A miss is a PASS: INCONCLUSIVE fails the gate too, and says that it could not tell.
            assert row.share(Outcome.PASS) <= 0.01, row
            if row.noise in {"quiet", "shared"}:
                assert row.share(Outcome.REGRESSED) >= 0.90, row
