"""Numbers in, verdict out: pure functions that do no I/O and know nothing of engines, files or pytest."""

from trtgate.verdict.outcome import Outcome, Reason, Verdict

__all__ = ["Outcome", "Reason", "Verdict"]
