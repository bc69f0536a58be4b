"""What the blog post measured, as it measured it, beside what the suite says. Opt-in: `--blog-protocol`."""

import pytest

from trtgate.blog import BlogRow, baseline_seconds, engine_seconds
from trtgate.engines.base import Engine
from trtgate.plugin.gate import Gate
from trtgate.records import EngineRecord
from trtgate.workbench import Workbench


@pytest.mark.blog_protocol
def test_blog_protocol(engine: Engine, record: EngineRecord, workbench: Workbench, batch_size: int, gate: Gate) -> None:
    if workbench.file is not None:
        pytest.skip("the blog post's baseline is PyTorch's module, and an ONNX file has none")
    batch = workbench.batch(batch_size)
    baseline = float(baseline_seconds(workbench.model, batch, gate.settings.device).mean())
    seconds = float(engine_seconds(engine, batch).mean())
    gate.blog.append(
        BlogRow(workbench.name, engine.spec.id, batch_size, baseline, seconds, record.latency, record.speedup)
    )
    # With copies and a synchronisation nothing takes half of what its computing takes: one of the two would be wrong.
    assert seconds > record.latency / 2, f"{engine.spec.id}: {seconds} s with copies, {record.latency} s without"
