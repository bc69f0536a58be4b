"""A network of the user's that its reference cannot run any more, though the baseline ran it."""

from __future__ import annotations

import pytest

from trtgate.baseline import find_baseline
from trtgate.compare import require_usable
from trtgate.models.onnx_file import NotRun
from trtgate.options import choose_device
from trtgate.plugin.refusals import storage_of
from trtgate.records import read_session
from trtgate.stack import stack
from trtgate.verdict.outcome import Outcome, Reason, Verdict


def lost_reference(config: pytest.Config, error: NotRun) -> Verdict | None:
    """What the baseline says of a file that ONNX Runtime cannot run; None where it never ran this very file.

    REGRESSED, as any engine of it that is missing, where the file by itself is the model and ONNX Runtime is another
    one: only then nothing else can have changed it. Raises UserError for a baseline that none can be compared with.
    """
    wanted = config.getoption("benchmark_compare", None)
    if not wanted:
        return None
    here = stack(None, choose_device(config.getoption("device")))
    files, _ = find_baseline(storage_of(config), wanted, here)
    sessions = [read_session(path, layers=False) for path in files]
    for session in sessions:
        require_usable(session, here)
        ran = [
            record
            for record in session.engines.values()
            if record.model == error.model and record.digests.get("weights") == error.digest
        ]
        if ran:
            break
    else:
        return None
    before, now = session.stack.get("onnxruntime"), here["onnxruntime"]
    message = f"{error.said}; the baseline {session.path} ran this very file, with ONNX Runtime {before}, here is {now}"
    if error.alone and before != now:
        return Verdict(Outcome.REGRESSED, Reason.MISSING, f"{message}: its reference is lost, and all that needs it")
    return Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, f"{message}: what else changed, its TOML or the machine?")
