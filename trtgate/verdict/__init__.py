"""Numbers in, verdict out: pure functions that do no I/O and know nothing of engines, files or pytest."""

from trtgate.verdict.decision import Decision, Reason, Verdict

__all__ = ["Decision", "Reason", "Verdict"]
