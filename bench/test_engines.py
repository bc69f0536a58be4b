"""Is the engine what was asked for: built in the right precision, from a plan of a sensible size?"""

import pytest

from fixtures.engines import Settle
from trtgate import judge
from trtgate.engines.base import Engine
from trtgate.plugin.gate import Gate
from trtgate.workbench import Workbench


@pytest.mark.with_reference
def test_built_precision(engine: Engine, workbench: Workbench, gate: Gate, settle: Settle) -> None:
    audit = engine.audit()
    gate.note(workbench.name, engine.spec.id, layers=audit.histogram)
    if excuse := workbench.excuse(engine.spec):
        pytest.skip(f"{engine.spec.id}: {excuse}")
    verdict = judge.audit_verdict(audit, workbench.graphs.kept_in_float(engine.spec))
    if excuse := workbench.excuse(engine.spec, verdict.reason):
        gate.skip(workbench.name, engine.spec, f"{verdict.message} ({excuse})")
        pytest.skip(f"{engine.spec.id}: {verdict.message} ({excuse})")
    settle(verdict)


def test_plan(engine: Engine, workbench: Workbench, gate: Gate) -> None:
    plan = workbench.plan(engine.spec)
    if plan is None:
        pytest.skip("no plan, the PyTorch model itself is run")
    plan_facts = {"bytes": plan.size, "build_seconds": plan.build_seconds, **engine.facts()}
    gate.note(workbench.name, engine.spec.id, plan=plan_facts)
    # TensorRT's plans hold kernels too, and some weights once for each batch size: there the audit has to do.
    # Of a user's file nobody knows how much of it is weights that can be INT8: there it has to do, too.
    if engine.spec.precision == "int8" and engine.spec.backend != "tensorrt" and workbench.file is None:
        graph = workbench.graphs.of("fp32")
        assert plan.size < graph.size / 2, (
            f"the plan of {engine.spec.id} has {plan.size} bytes, the FP32 graph {graph.size}: weights are not INT8"
        )
