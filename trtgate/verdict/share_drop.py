"""Two shares of different samples, where nobody kept which photo was which."""

from __future__ import annotations

from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.shares import drop_bounds

# Crops of a photo agree with one another: 240 crops of six photos tell as much as 73 photos would (measured).
DESIGN_EFFECT = 3.3


def decide_share_drop(old: int, old_n: int, new: int, new_n: int, *, max_drop: float) -> Verdict:
    """Whether a share, `old` of `old_n`, fell by more than `max_drop` to `new` of `new_n` (0.01 is one point).

    REGRESSED for a drop beyond that which is proven to be one, PASS where a drop beyond it is excluded; the samples are
    counted as DESIGN_EFFECT times smaller. Raises ValueError for what is no share.
    """
    if not 0 <= old <= old_n or not 0 <= new <= new_n or not old_n or not new_n:
        raise ValueError(f"{old} of {old_n} and {new} of {new_n} are no shares")
    gain = new / new_n - old / old_n
    low, high = drop_bounds((old / old_n, old_n / DESIGN_EFFECT), (new / new_n, new_n / DESIGN_EFFECT))
    text = f"{old}/{old_n}, then {new}/{new_n}: {gain * 100:+.1f} points, {max_drop * 100:.1f} may be lost"
    if -gain > max_drop and low > 0:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, text)
    if high <= max_drop:
        return Verdict(Outcome.PASS, Reason.WITHIN_DELTA, text)
    return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{text}: two shares cannot exclude it")
