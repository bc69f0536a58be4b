"""Which layers cost the agreement: quantise one group of layers at a time, everything else in float."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from trtgate.engines import backend
from trtgate.engines.base import BuildRequest, EngineSpec
from trtgate.errors import UserError
from trtgate.graphs.quantize import QUANTIZED, not_quantized, quantize
from trtgate.graphs.weighted import weighted_nodes
from trtgate.progress import Progress
from trtgate.race import Arm, Schedule, run_race
from trtgate.signature import OUTPUT, answers
from trtgate.verdict.agreement import Agreement, compare_logits
from trtgate.workbench import Workbench, engine_arm, rows_of

# Enough photos to rank layers by SQNR; agreement itself moves in steps of one photo.
PHOTOS = 120


@dataclass(frozen=True)
class Sensitivity:
    """What quantising only `nodes` costs: agreement and SQNR against PyTorch, and latency in seconds."""

    group: str
    nodes: tuple[str, ...]
    agreement: Agreement
    latency: float


def group_nodes(names: list[str], depth: int) -> dict[str, list[str]]:
    """Node names by their first `depth` dotted parts; 0 keeps every node on its own."""
    groups: dict[str, list[str]] = {}
    for name in names:
        parts = re.split(r"\.", name)
        groups.setdefault(".".join(parts[:depth]) if depth else name, []).append(name)
    return groups


def sensitivities(bench: Workbench, spec: EngineSpec, depth: int, progress: Progress) -> Iterator[Sensitivity]:
    """One result per group in the order of the graph, then one for `(all)` groups quantised together.

    Latency is that of a single block, for ranking only. Raises UserError for an engine that is not INT8.
    """
    kind = backend(spec.backend).graph_kind(spec)
    if kind not in {"int8-symmetric", "int8-asymmetric"}:
        raise UserError(f"--engine {spec.id} is not built from an INT8 graph; give an INT8 engine")
    if bench.file is not None:
        raise UserError(f"--model {bench.name}: sensitivity is for torchvision's classifiers, whose layers have names")
    if not bench.weights.trained:
        raise UserError(f"{bench.name} is untrained, its answers mean nothing; give --weights {bench.name}=PATH")
    fp32 = bench.graph("fp32").path
    graph_of = onnx.load(fp32)
    left_out = set(not_quantized(graph_of))
    nodes = graph_of.graph.node
    quantizable = [node.name for node in nodes if node.op_type in QUANTIZED and node.name not in left_out]
    groups = group_nodes([node.name for node in weighted_nodes(graph_of)], depth)
    photos = bench.samples("evaluation").first(PHOTOS)
    reference = bench.logits(bench.reference)[: len(photos)]
    ranges, sample = bench.ranges(), bench.samples("calibration")[0]
    with TemporaryDirectory() as folder, progress.step(f"{bench.name}: {spec.id} by layer") as count:
        for index, (group, members) in enumerate([*groups.items(), ("(all)", quantizable)]):
            graph, plan = Path(folder) / "graph.onnx", Path(folder) / "plan"
            quantize(
                fp32,
                graph,
                "symmetric" if kind == "int8-symmetric" else "asymmetric",
                ranges,
                tuple(name for name in quantizable if name not in members),
                sample=sample,
                reduce_range=bench.reduce_range,
            )
            settings = bench.settings
            signature = bench.signature
            request = BuildRequest(bench.model, graph, (1,), settings.threads, settings.device, signature)
            maker = backend(spec.backend)
            maker.build(spec, request, plan)
            with maker.load(spec, request, plan) as engine:
                logits = np.stack([row[OUTPUT] for row in answers(engine.infer, signature, rows_of(photos), 1)])
                latency = quick_latency(engine_arm(engine, bench.batch(1)))
            count(index + 1, len(groups) + 1)
            yield Sensitivity(group, tuple(members), compare_logits(reference, logits, photos.clusters), latency)


def quick_latency(arm: Arm) -> float:
    """Seconds of a single round after a short warm-up."""
    return run_race([arm], Schedule(rounds=1, warm_up_seconds=0.1, warm_up_limit_seconds=1.0)).latency(arm.name)
