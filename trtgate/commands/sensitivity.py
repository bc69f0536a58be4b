"""Which layers cost the agreement: quantise one group of layers at a time, everything else in float."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from trtgate.commands.common import (
    settings_of,
)
from trtgate.engines import backend
from trtgate.engines.base import BuildRequest
from trtgate.graphs.quantize import QUANTIZED, not_quantized, quantize
from trtgate.graphs.weighted import weighted_nodes
from trtgate.kinds import EngineSpec, UserError
from trtgate.measure.race import Arm, Schedule, run_race
from trtgate.options import add_options
from trtgate.progress import Progress, console_progress
from trtgate.report.page import Column, Table, cells
from trtgate.report.terminal import print_table
from trtgate.report.words import milliseconds
from trtgate.samples import rows_of
from trtgate.signature import OUTPUT, answers
from trtgate.verdict.agreement import Agreement, compare_logits
from trtgate.workbench import Workbench, engine_arm

# Enough photos to rank layers by SQNR; agreement itself moves in steps of one photo.
PHOTOS = 120
# The graphs that it can be asked of: nothing is done to them after they are quantised.
KINDS = frozenset({"int8-symmetric", "int8-asymmetric"})


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
    if kind not in KINDS:
        raise UserError(f"--engine {spec.id} is not built from an INT8 graph; give an INT8 engine")
    if bench.file is not None:
        raise UserError(f"--model {bench.name}: sensitivity is for torchvision's classifiers, whose layers have names")
    if not bench.weights.trained:
        raise UserError(f"{bench.name} is untrained, its answers mean nothing; give --weights {bench.name}=PATH")
    fp32 = bench.graphs.of("fp32").path
    graph_of = onnx.load(fp32)
    left_out = set(not_quantized(graph_of))
    nodes = graph_of.graph.node
    quantizable = [node.name for node in nodes if node.op_type in QUANTIZED and node.name not in left_out]
    groups = group_nodes([node.name for node in weighted_nodes(graph_of)], depth)
    photos = bench.samples("evaluation").first(PHOTOS)
    reference = bench.logits(bench.reference)[: len(photos)]
    ranges, sample = bench.graphs.ranges(), bench.samples("calibration")[0]
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
                reduce_range=bench.graphs.reduce_range,
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


def add(commands: Any) -> None:
    parser = commands.add_parser("sensitivity", help="which layers cost an INT8 engine its agreement")
    add_options(parser.add_argument)
    parser.add_argument(
        "--depth", type=int, default=2, help="group layers by this many parts of their name; 0: each one (default 2)"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    specs = [spec for spec in settings.engines if backend(spec.backend).graph_kind(spec) in KINDS]
    if not specs:
        raise UserError(
            "sensitivity needs an INT8 engine of a CPU; "
            "give --device cpu with --engine onnxruntime-int8 or openvino-int8"
        )
    progress = console_progress()
    for name in settings.models:
        with Workbench(name, settings, progress) as bench:
            for spec in specs:
                rows: list[Sensitivity] = []
                try:
                    rows.extend(sensitivities(bench, spec, options.depth, progress))
                finally:  # also of what Ctrl-C left
                    if rows:
                        print(f"{name} {spec.id}: quantising one group at a time, the most harmful first")
                        print_table(sensitivity_table(rows))
    return 0


def sensitivity_table(rows: Sequence[Sensitivity]) -> Table:
    """One row per group of layers, the lowest SQNR first."""
    columns = (Column("quantised", text=True), *map(Column, ("layers", "agreement", "SQNR dB", "latency ms")))
    return Table(
        columns,
        tuple(
            cells(
                row.group,
                len(row.nodes),
                f"{row.agreement.top1}/{row.agreement.n}",
                f"{row.agreement.sqnr_db:.1f}",
                milliseconds(row.latency),
            )
            for row in sorted(rows, key=lambda row: row.agreement.sqnr_db)
        ),
        grouped=0,
    )
