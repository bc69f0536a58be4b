"""INT8 and FP16 graphs of NVIDIA's Model Optimizer beside ours: the same networks, the same calibration photos.

    python tests/studies/model_optimizer.py --optimizer PYTHON [--model M] ... [--weights M=FILE] ... [--images DIR] ...

PYTHON is the interpreter of an environment with Model Optimizer, which wants other versions of ONNX and ONNX Runtime
than ours. Without a GPU this is enough for its ONNX quantiser and AutoCast; its extra `onnx` brings CuPy and ONNX
Runtime's GPU build too:

    pip install nvidia-modelopt 'onnx~=1.21.0' 'onnxruntime~=1.24.2' \\
        onnxscript onnx-graphsurgeon onnxslim lief polygraphy

M is a classifier or a model TOML. Every graph is run by the ONNX Runtime of this environment and held against the FP32
graph: on the model's own evaluation samples, and where labelled photos are given (DIR/<wnid>/*.jpg) on those. Each INT8
graph with FP16 around it is given to TensorRT-RTX's builder, which needs no GPU, unless --no-build; it is fetched from
the package index when it is first asked for. `--json FILE` keeps what was found.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.tensorrt_api.fetch import RTX, install
from trtgate.engines.base import GraphKind
from trtgate.graphs import fold, half, quantize
from trtgate.graphs.weighted import weighted_nodes
from trtgate.images import read_folder
from trtgate.models.base import Model
from trtgate.models.model_file import is_file, read_models
from trtgate.options import choose_weights
from trtgate.samples import Samples, rows_of
from trtgate.signature import Signature, answers
from trtgate.tasks.base import Outputs, Scores
from trtgate.tasks.classification import Classification
from trtgate.tasks.tensors import compare_outputs, same_bits
from trtgate.verdict.agreement import compare_logits
from trtgate.workbench import Settings, Workbench

BATCH = 4
SMALLEST_BUILD, LARGEST_BUILD = 1, 8

# Run by the other environment: a list of jobs comes in, a line for each goes out.
MAKE = """
import json, sys, time
import numpy as np, onnx
from importlib.metadata import version
from modelopt.onnx.autocast import convert_to_mixed_precision
from modelopt.onnx.quantization import quantize

print("WITH", *(f"{name} {version(name)}" for name in ("nvidia-modelopt", "onnx", "onnxruntime")), flush=True)
for job in json.load(sys.stdin):
    error = ""
    start = time.monotonic()
    try:
        if job["how"] == "autocast":
            made = convert_to_mixed_precision(
                job["fp32"], keep_io_types=True, calibration_data=job["first"], providers=["cpu"]
            )
            onnx.save(made, job["path"])
        else:
            quantize(
                job["fp32"], "int8", dict(np.load(job["photos"])), job["how"], calibration_eps=["cpu"],
                high_precision_dtype="fp32", output_path=job["path"], log_level="ERROR",
            )
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    print("MADE " + json.dumps({"seconds": time.monotonic() - start, "error": error}), flush=True)
"""

BUILD = """
import json, sys
from pathlib import Path
from trtgate.engines import parse_spec
from trtgate.engines.tensorrt.build import build_plan
from trtgate.signature import Signature

path, signature, *sizes = json.loads(sys.argv[1])
plan = build_plan(
    parse_spec("tensorrt-int8"), Path(path).read_bytes(), sizes, Signature.from_json(signature),
    compute_capability="SM89",
)
print(f"BUILT {len(plan)}")
"""


@dataclass
class Row:
    """One graph of one model: what it is, how it answers, and whether TensorRT-RTX's builder takes it."""

    model: str
    graph: str
    path: Path | None = None
    seconds: float = 0.0
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)
    photos: dict[str, Any] = field(default_factory=dict)
    built: str = ""


def make(python: Path, jobs: Sequence[dict[str, str]]) -> list[dict[str, Any]]:
    """Model Optimizer's graphs; a line for each that says how long it took, or what was raised."""
    run = subprocess.run([str(python), "-c", MAKE], input=json.dumps(jobs), capture_output=True, text=True, check=False)
    print(*(line for line in run.stdout.splitlines() if line.startswith("WITH ")), flush=True)
    made = [json.loads(line.removeprefix("MADE ")) for line in run.stdout.splitlines() if line.startswith("MADE ")]
    if len(made) < len(jobs):
        sys.exit(f"Model Optimizer made {len(made)} of {len(jobs)} graphs:\n{run.stderr[-2000:]}")
    return made


def arrays(graph: onnx.ModelProto) -> dict[str, npt.NDArray[Any]]:
    """The constants of a graph, by name."""
    found = {each.name: onnx.numpy_helper.to_array(each) for each in graph.graph.initializer}
    for node in graph.graph.node:
        if node.op_type == "Constant" and node.attribute[0].HasField("t"):
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return found


def scales(graph: onnx.ModelProto) -> dict[str, float]:
    """The scale of every activation that is quantised."""
    constants = arrays(graph)
    return {
        node.input[0]: float(constants[node.input[1]].reshape(-1)[0])
        for node in graph.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants
    }


def same_scales(ours: Path, theirs: Path) -> str:
    """How many of the activations that both quantise have one scale in both."""
    a, b = scales(onnx.load(ours)), scales(onnx.load(theirs))
    common = a.keys() & b.keys()
    return f"{sum(bool(np.isclose(a[each], b[each], rtol=1e-6)) for each in common)} of {len(common)}"


def integer_facts(path: Path) -> dict[str, Any]:
    """Where the Q/DQ nodes of an INT8 graph stand, and what they hold."""
    graph = onnx.load(path)
    constants = arrays(graph)
    dequantizers = {node.output[0]: node for node in graph.graph.node if node.op_type == "DequantizeLinear"}
    weighted = weighted_nodes(graph)
    integer = [node for node in weighted if node.input[0] in dequantizers and node.input[1] in dequantizers]
    channels = []
    for node in integer:
        weights = dequantizers[node.input[1]]
        axis = next((each.i for each in weights.attribute if each.name == "axis"), 1)
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        wanted = 0 if node.op_type == "Conv" or transposed else 1
        channels.append(constants[weights.input[1]].size > 1 and axis == wanted)
    zeros = [
        not constants[node.input[2]].any()
        for node in graph.graph.node
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and len(node.input) > 2
    ]
    others = Counter(
        f"{node.op_type} {sum(name in dequantizers for name in node.input)}/{len(node.input)}"
        for node in graph.graph.node
        if node not in weighted and node.op_type != "QuantizeLinear" and dequantizers.keys() & set(node.input)
    )
    return {
        "weighted": f"{len(integer)} of {len(weighted)}",
        "float": [node.name for node in weighted if node not in integer],
        "per output channel": f"{sum(channels)} of {len(channels)}",
        "zero points 0": all(zeros),
        "other inputs": dict(others),
        "int8 weights": all(dequantizers[node.input[1]].input[0] in constants for node in integer),
        "MB": path.stat().st_size / 1e6,
    }


def half_facts(path: Path) -> dict[str, Any]:
    """How many nodes of an FP16 graph still compute in FP32, and how many casts it has."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path))
    infos = (*graph.graph.value_info, *graph.graph.input, *graph.graph.output)
    types = {each.name: each.type.tensor_type.elem_type for each in infos}
    types.update({each.name: each.data_type for each in graph.graph.initializer})
    nodes = [node for node in graph.graph.node if node.op_type not in {"Cast", "Constant"}]
    wide = [node.op_type for node in nodes if onnx.TensorProto.FLOAT in {types.get(name) for name in node.output}]
    casts = sum(node.op_type == "Cast" for node in graph.graph.node)
    return {"in FP32": dict(Counter(wide)), "nodes": len(nodes), "casts": casts, "MB": path.stat().st_size / 1e6}


def run_graph(path: Path, signature: Signature, samples: Samples) -> Outputs:
    """What ONNX Runtime answers to each sample."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = signature.output_names
    size = BATCH if signature.separable and signature.batched else 1

    def infer(inputs: Any) -> dict[str, Any]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return list(answers(infer, signature, rows_of(samples), size))


def compared(bench: Workbench, reference: Outputs, got: Outputs, samples: Samples) -> dict[str, Any]:
    """How alike two sides' answers are, and how many are right where somebody said what is."""
    task = bench.task
    if not isinstance(task, Classification):
        found = task.compare(reference, got, samples)
        scores, _ = compare_outputs(list(reference[0]), reference, got)
        lowest = {name: min(each.value for each in scores if each.name == name) for name in ("SQNR", "cosine")}
        text = found.text if isinstance(found, Scores) else ""
        return {"n": len(reference), "text": text, "sqnr": lowest["SQNR"], "cosine": lowest["cosine"]}
    before, after = task.logits(reference), task.logits(got)
    agreement = compare_logits(before, after, samples.clusters)
    result = {
        "n": agreement.n,
        "agreement": agreement.top1,
        "sqnr": agreement.sqnr_db,
        "cosine": agreement.cosine,
        "worst": float(np.abs(before - after).max() / np.abs(before).max()),
    }
    if samples.labels is not None:
        result["right"] = int(np.sum(after.argmax(1) == samples.labels))
        result["right in FP32"] = int(np.sum(before.argmax(1) == samples.labels))
    return result


def build(path: Path, signature: Signature, folder: Path) -> str:
    """What TensorRT-RTX's builder says to an INT8 graph with what is not INT8 in FP16."""
    narrow = folder / "narrow.onnx"
    try:
        half.convert(path, narrow)
    except Exception as error:  # what cannot be converted is a result
        return f"no: {type(error).__name__}: {error}"
    sizes = (SMALLEST_BUILD, LARGEST_BUILD) if signature.batched else (SMALLEST_BUILD,)
    run = subprocess.run(
        [sys.executable, "-c", BUILD, json.dumps([str(narrow), signature.to_json(), *sizes])],
        env={**os.environ, "PYTHONPATH": f"{install(*RTX)}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    built = [line.removeprefix("BUILT ") for line in run.stdout.splitlines() if line.startswith("BUILT ")]
    return f"{int(built[0]) / 1e6:.1f} MB" if built else f"no: {run.stderr.strip().splitlines()[-1][:200]}"


def save_photos(samples: Samples, signature: Signature, folder: Path) -> dict[str, str]:
    """The calibration samples as Model Optimizer reads them: all of them, and the first alone."""
    rows = list(rows_of(samples))
    found = {"photos": str(folder / "photos.npz"), "first": str(folder / "first.npz")}
    for path, some in zip(found.values(), (rows, rows[:1]), strict=True):
        arrays_ = {each.name: np.concatenate([row[each.name] for row in some]) for each in signature.inputs}
        np.savez(path, allow_pickle=False, **arrays_)
    return found


def additions_of_constants(path: Path) -> list[str]:
    """The names of the additions of a constant that ours quantises, such as that inside a hard swish."""
    graph = onnx.load(path)
    constants, left = arrays(graph).keys(), quantize.not_quantized(graph)
    added = (node for node in graph.graph.node if node.op_type == "Add" and node.name not in left)
    return [node.name for node in added if constants & set(node.input)]


def ours(bench: Workbench, only: str) -> list[Row]:
    """Our graphs of a model."""
    rows = []
    kinds: dict[GraphKind, str] = {"int8-symmetric": "INT8 ours", "fp16": "FP16 ours"}
    for kind, title in kinds.items():
        if only not in title:
            continue
        start, row = time.monotonic(), Row(bench.name, title)
        try:
            row.path = bench.graph(kind).path
        except Exception as error:  # what cannot be made is a result
            row.error = f"{type(error).__name__}: {error}"
        row.seconds = time.monotonic() - start
        rows.append(row)
    return rows


def theirs(bench: Workbench, optimizer: Path, folder: Path, only: str) -> list[Row]:
    """Model Optimizer's graphs of a model."""
    titles = {"max": "INT8 theirs, max", "entropy": "INT8 theirs, entropy", "autocast": "FP16 theirs"}
    titles = {how: title for how, title in titles.items() if only in title}
    saved = save_photos(bench.samples("calibration"), bench.signature, folder)
    fp32 = str(bench.graph("fp32").path)
    jobs = [{**saved, "how": how, "fp32": fp32, "path": str(folder / f"{how}.onnx")} for how in titles]
    return [
        Row(
            bench.name, titles[job["how"]], None if made["error"] else Path(job["path"]), made["seconds"], made["error"]
        )
        for job, made in zip(jobs, make(optimizer, jobs), strict=True)
    ]


def with_less(bench: Workbench, rows: Sequence[Row], folder: Path) -> list[Row]:
    """Our INT8 graph again with less in it, where that tells what a difference comes from.

    Of a classifier that is what Model Optimizer leaves in float; of a file the additions of constants.
    """
    paths = {row.graph: row.path for row in rows if row.path is not None}
    if "INT8 ours" not in paths or "INT8 theirs, max" not in paths:
        return []
    if bench.file is None:
        source = bench.graph("fp32").path
        left = integer_facts(paths["INT8 theirs, max"])["float"]
        said = ", ".join(left)
    else:
        source = folder / "folded.onnx"
        fold.fold(bench.graph("fp32").path, source)
        left = additions_of_constants(source)
        said = f"{len(left)} additions of constants"
    if not left:
        return []
    row = Row(bench.name, f"INT8 ours, {said} in float", folder / "less.onnx")
    sample = bench.samples("calibration")[0]
    quantize.quantize(source, folder / "less.onnx", "symmetric", bench.ranges(), tuple(left), sample=sample)
    return [row]


def study(bench: Workbench, arguments: argparse.Namespace, folder: Path) -> list[Row]:
    """All graphs of one model: made, looked at, run and built."""
    rows = [*ours(bench, arguments.only), *theirs(bench, arguments.optimizer, folder, arguments.only)]
    rows += with_less(bench, rows, folder)
    own = bench.samples("evaluation")
    sets: dict[str, Samples] = {"own": own.first(arguments.samples) if arguments.samples else own}
    if bench.file is None:
        sets |= {str(each): labelled(bench.model, each, folder) for each in arguments.images}
    fp32 = bench.graph("fp32").path
    references = {key: run_graph(fp32, bench.signature, samples) for key, samples in sets.items()}
    kept: dict[str, Outputs] = {}
    first = next((row.path for row in rows if row.graph == "INT8 ours"), None)
    for row in rows:
        if row.path is not None:
            integer = row.graph.startswith("INT8")
            row.facts = integer_facts(row.path) if integer else half_facts(row.path)
            if integer and first is not None:
                row.facts["scales as ours"] = same_scales(first, row.path)
            found = {}
            for key, samples in sets.items():
                if key == "own" or integer:
                    got = run_graph(row.path, bench.signature, samples)
                    found[key] = compared(bench, references[key], got, samples)
                    if key == "own":
                        found[key]["same as"] = [title for title, other in kept.items() if same_bits(got, other)]
                        kept[row.graph] = got
            row.own = found.pop("own")
            row.photos = pooled(list(found.values()))
            if integer and arguments.build:
                row.built = build(row.path, bench.signature, folder)
        print(json.dumps(asdict(row), default=str), flush=True)
    return rows


def labelled(model: Model, folder: Path, spool: Path) -> Samples:
    """The labelled photos of a folder, prepared for a model."""
    return read_folder(folder, model.preprocessing, classes=model.classes, spool=spool)


def pooled(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several folders of photos as one; decibels are those of the mean noise, weighted by photos."""
    if not found:
        return {}
    weights = [each["n"] for each in found]
    noise = np.average([10 ** (-each["sqnr"] / 10) for each in found], weights=weights)
    result = {key: sum(each[key] for each in found) for key in ("n", "agreement", "right", "right in FP32")}
    return {**result, "sqnr": float(-10 * np.log10(noise)), "cosine": min(each["cosine"] for each in found)}


def table(rows: Sequence[Row]) -> list[str]:
    """The rows as Markdown."""
    lines = [
        "| model | graph | seconds | quantised | MB | agreement | SQNR dB | worst cosine "
        "| photos: agreement | SQNR dB | worst cosine | top-1 (FP32) | built |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        if row.error:
            lines.append(f"| {row.model} | {row.graph} | {row.error[:100]} |")
            continue
        own, some = row.own, row.photos
        said = f"{own['agreement']} of {own['n']}" if "agreement" in own else own.get("text", "")
        seen = (
            f"{some['agreement']} of {some['n']} | {some['sqnr']:.1f} | {some['cosine']:.3f} "
            f"| {some['right'] / some['n']:.1%} ({some['right in FP32'] / some['n']:.1%})"
            if some
            else " | | | "
        )
        made = row.facts.get("weighted") or f"{row.facts['in FP32'] or 'nothing'} in FP32"
        lines.append(
            f"| {row.model} | {row.graph} | {row.seconds:.0f} | {made} | {row.facts['MB']:.1f} "
            f"| {said} | {own['sqnr']:.1f} | {own['cosine']:.3f} | {seen} | {row.built} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", type=Path, required=True, metavar="PYTHON")
    parser.add_argument("--model", action="append", default=[], metavar="M")
    parser.add_argument("--weights", action="append", default=[], metavar="M=FILE")
    parser.add_argument("--images", action="append", default=[], type=Path, metavar="DIR")
    parser.add_argument("--only", choices=("INT8", "FP16"), default="")
    parser.add_argument("--samples", type=int, metavar="N", help="only the first N of the model's own")
    parser.add_argument("--no-build", action="store_false", dest="build")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    models = arguments.model or ["resnet50", "efficientnet_lite0"]
    files = read_models(models, [])
    rows: list[Row] = []
    for name in (*(each for each in models if not is_file(each)), *files):
        # A cache of its own: what others left there would take no time.
        with tempfile.TemporaryDirectory(prefix="trtgate-optimizer-") as folder:
            settings = Settings(
                models=(name,),
                files=files,
                weights=choose_weights(arguments.weights),
                plan_cache=Path(folder) / "plans",
            )
            with Workbench(name, settings) as bench:
                rows += study(bench, arguments, Path(folder))
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1, default=str))
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
