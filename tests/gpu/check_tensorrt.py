"""For whoever has TensorRT: does it do what trtgate takes it to do? python tests/gpu/check_tensorrt.py [--out FILE]

Needs what the tensorrt-* engines need (`python -m trtgate doctor`) and requirements.txt. Builds and runs a classifier
of a few layers in every way that trtgate builds one, and says of each assumption whether it holds. Takes some minutes
and writes one file to attach to a report: nothing in it but versions, the GPU's name and what was seen. It is written
as it goes, so that it also tells where a crash was. Status 1 if something does not hold, 2 if TensorRT cannot be used.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests import small_classifier as small
from trtgate import judge
from trtgate.engines import backend, parse_spec
from trtgate.engines.gpu import CAPTURED
from trtgate.engines.tensorrt.api import Features, TensorRTError, installed, plan_version, require_own_plan, trt
from trtgate.engines.tensorrt.build import RECIPES, build_plan, make_calibrator
from trtgate.engines.tensorrt.inspect import tensor_type, weighted_layers
from trtgate.engines.tensorrt.run import TensorRTEngine
from trtgate.graphs import half
from trtgate.kinds import Availability, UserError
from trtgate.layers import own_name
from trtgate.nvml import current_gpu
from trtgate.stack import cuda_needs
from trtgate.verdict import Outcome

SIZES = (1, 4)
WEIGHTED = ("conv1", "conv2", "fc")
# Of the largest logit; what each precision may be off.
TOLERANCE = {"fp32": 1e-4, "tf32": 5e-3, "fp16": 1e-2, "int8": 0.15}
PHOTOS = small.photos(max(SIZES))


class Report:
    """What was assumed, and what was seen; `keep` is called with both whenever there is more."""

    def __init__(self, keep: Callable[[list[dict[str, Any]]], object]) -> None:
        self.found: list[dict[str, Any]] = []
        self._keep = keep

    def note(self, more: dict[str, Any]) -> None:
        """Keep what is no check."""
        self.found.append(more)
        self._keep(self.found)

    def check(self, assumption: str, look: Callable[[], tuple[bool, str]]) -> None:
        """Look, and note what was seen; an exception is something seen, too, and so is that nothing comes after it."""
        self.note({"assumption": assumption, "holds": False, "seen": "the process ended here"})
        try:
            holds, seen = look()
        except Exception as error:  # whatever TensorRT throws belongs into the report
            holds, seen = False, f"{type(error).__name__}: {error}"
        self.found.pop()
        self.note({"assumption": assumption, "holds": bool(holds), "seen": seen})
        print(f"{'holds' if holds else 'DOES NOT HOLD'}: {assumption}: {seen}", flush=True)


def graphs(folder: Path) -> dict[str, onnx.ModelProto]:
    """The small classifier's graphs, of every kind that an engine is built from."""
    made = {"fp32": small.graph()}
    for name, source in (("fp16", made["fp32"]), ("int8-symmetric-fp16", small.quantised(made["fp32"]))):
        onnx.save(source, folder / "source.onnx")
        half.convert(folder / "source.onnx", folder / "half.onnx")
        made[name] = onnx.load(folder / "half.onnx")
    return made


def check_engine(report: Report, text: str, plan: bytes, wanted: np.ndarray) -> None:
    """One engine, from its plan to its end."""
    spec = parse_spec(text)
    tolerance = TOLERANCE[spec.precision] * float(np.abs(wanted).max())

    def answers(engine: TensorRTEngine, size: int) -> float:
        return float(np.abs(engine.infer({"input": PHOTOS[:size]})["logits"] - wanted[:size]).max())

    with TensorRTEngine(spec, plan, SIZES, small.signature(), WEIGHTED) as engine:
        for size in SIZES:
            report.check(
                f"{text}: answers like ONNX Runtime at batch {size}",
                lambda size=size: (
                    (error := answers(engine, size)) <= tolerance,
                    f"off by {error:.2e} of {tolerance:.2e}",
                ),
            )
        how = dict(engine.facts()["launched_as"])
        report.check(f"{text}: is captured in a CUDA graph", lambda: (set(how.values()) == {CAPTURED}, str(how)))

        def untold() -> tuple[bool, str]:
            inspector = engine._engine.create_engine_inspector()
            without = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
            # The names of kernels may be told all the same.
            inputs = [each for layer in json.loads(without, strict=False)["Layers"] for each in layer.get("Inputs", [])]
            told = sorted({*map(tensor_type, inputs)} - {""})
            return not told, ", ".join(told) or "none"

        def told(size: int) -> tuple[bool, str]:
            found = weighted_layers(engine._layers(size), WEIGHTED)
            return set(found) == set(WEIGHTED) and all(found.values()), str(found)

        def built() -> tuple[bool, str]:
            audit = judge.audit_verdict(engine.audit(), ())
            return audit.outcome is Outcome.PASS, f"{audit.outcome.name}: {audit.message}"

        def profiled() -> tuple[bool, str]:
            names = {layer.name for layer in engine._layers(max(SIZES))}
            times = engine.layer_times({"input": PHOTOS})
            return {own_name(each.name) for each in times} <= names, f"{len(times)} of {len(names)}"

        # Each looks by itself: what one of them does not find keeps no other from being looked at.
        report.check(f"{text}: without a context the inspector tells no types", untold)
        for size in SIZES:
            report.check(
                f"{text}: with a context it tells the type of every weighted node at batch {size}",
                lambda size=size: told(size),
            )
        report.check(f"{text}: was built as asked", built)
        report.check(f"{text}: the profiler's layers are the inspector's", profiled)
        report.check(
            f"{text}: a context that replaces one that was profiled answers the same",
            lambda: ((error := answers(engine, max(SIZES))) <= tolerance, f"off by {error:.2e}"),
        )
        report.check(
            f"{text}: two contexts on one profile run at once",
            lambda: ((speed := engine.throughput({"input": PHOTOS[:1]}, 2)) is not None, f"{speed:.0f} images/s"),
        )
    report.check(f"{text}: closing it twice does nothing", lambda: (engine.close() is None, "closed"))


def check_plan(report: Report, plan: bytes, again: bytes, wanted: np.ndarray) -> None:
    """What a plan is, and what a second build of it answers."""
    spec = parse_spec("tensorrt-fp32")
    report.check(
        "a plan's header tells the installed version", lambda: (bool(require_own_plan(plan)), plan_version(plan))
    )

    def refused(spoilt: bytes) -> tuple[bool, str]:
        try:
            TensorRTEngine(spec, spoilt, SIZES, small.signature(), WEIGHTED).close()
        except TensorRTError as error:
            return True, str(error).splitlines()[0]
        return False, "it was loaded"

    report.check("a plan that was cut short is refused in a sentence", lambda: refused(plan[:-7]))
    report.check("what is no plan is refused in a sentence", lambda: refused(b"no plan" * 99))
    rows = []
    for content in (plan, again):
        with TensorRTEngine(spec, content, SIZES, small.signature(), WEIGHTED) as engine:
            rows.append(engine.infer({"input": PHOTOS})["logits"])
    worst = float(np.abs(rows[0] - rows[1]).max() / np.abs(wanted).max())
    report.check(
        "two builds answer alike", lambda: (worst < TOLERANCE["fp32"], f"off by {worst:.1e} of the largest logit")
    )


def check_trtexec(report: Report, folder: Path, model: onnx.ModelProto, plan: bytes) -> None:
    """Our latency beside that of TensorRT's own tool, where it is there."""
    name = "tensorrt_rtx" if installed().__name__.startswith("tensorrt_rtx") else "trtexec"  # neither loads the other's
    tool = shutil.which(name)
    if tool is None:
        report.check("latency is trtexec's", lambda: (True, f"not tried: {name} is not on the path"))
        return
    (folder / "plan.engine").write_bytes(plan)
    shape = f"input:{max(SIZES)}x3x{small.CROP}x{small.CROP}"
    command = [
        tool,
        f"--loadEngine={folder / 'plan.engine'}",
        f"--shapes={shape}",
        "--useCudaGraph",
        "--noDataTransfers",
    ]
    times = folder / "times.json"
    command += [f"--useProfile={len(SIZES) - 1}", f"--exportTimes={times}"]

    def look() -> tuple[bool, str]:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if run.returncode != 0:
            return False, (run.stdout + run.stderr)[-400:]
        theirs = float(np.median([each["computeMs"] for each in json.loads(times.read_text())]))
        with TensorRTEngine(parse_spec("tensorrt-fp32"), plan, SIZES, small.signature(), WEIGHTED) as engine:
            ours = 1e3 * float(np.median(engine.block(500, {"input": PHOTOS}).seconds))
        # A few microseconds of launch are a large part of so small a network.
        return abs(ours - theirs) < 0.1 * theirs + 0.005, f"ours {ours:.4f} ms, trtexec {theirs:.4f} ms"

    report.check("latency is trtexec's", look)


def everything(report: Report) -> None:
    """All checks."""
    features = Features.of(trt)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = graphs(folder)
        wanted = small.answers(made["fp32"], PHOTOS)
        plans: dict[str, bytes] = {}
        for spec, recipe in RECIPES.items():
            found = backend("tensorrt").available(spec, "cuda")
            if not found.ok:
                report.check(f"{spec.id}: is not there for a reason", lambda found=found: (True, found.reason))
                continue
            calibrator = (
                make_calibrator([{"input": photo[None]} for photo in PHOTOS], None) if recipe.calibrated else None
            )

            def build(spec: Any = spec, recipe: Any = recipe, calibrator: Any = calibrator) -> tuple[bool, str]:
                start = time.monotonic()
                content = made[recipe.graph].SerializeToString()
                plans[spec.id] = build_plan(spec, content, SIZES, small.signature(), calibrator=calibrator)
                return True, f"{len(plans[spec.id])} bytes in {time.monotonic() - start:.1f} s"

            report.check(f"{spec.id}: is built", build)
            if calibrator is not None:
                report.check(
                    f"{spec.id}: the calibration can be kept", lambda kept=calibrator: (bool(kept.known), "kept")
                )
                calibrator.close()
            if spec.id in plans:
                try:
                    check_engine(report, spec.id, plans[spec.id], wanted)
                except Exception as error:
                    said = f"{type(error).__name__}: {error}"
                    report.check(f"{spec.id}: lives", lambda said=said: (False, said))
        mean = small.graph(pooling="ReduceMean")
        spec = parse_spec("tensorrt-fp32")

        def reduced() -> tuple[bool, str]:
            plan = build_plan(spec, mean.SerializeToString(), SIZES, small.signature())
            with TensorRTEngine(spec, plan, SIZES, small.signature(), WEIGHTED) as engine:
                error = float(np.abs(engine.infer({"input": PHOTOS})["logits"] - small.answers(mean, PHOTOS)).max())
            return error < TOLERANCE["fp32"] * float(np.abs(wanted).max()), f"off by {error:.1e}"

        report.check("a mean whose axes are an input is over those axes", reduced)
        if spec.id in plans:
            again = build_plan(spec, made["fp32"].SerializeToString(), SIZES, small.signature())
            check_plan(report, plans[spec.id], again, wanted)
            check_trtexec(report, folder, made["fp32"], plans[spec.id])
    report.note({"features": {name: getattr(features, name) for name in features.__dataclass_fields__}})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("check_tensorrt.json"))
    options = parser.parse_args(arguments)
    try:
        found = backend("tensorrt").available(parse_spec("tensorrt-fp32"), "cuda")
    except UserError as error:
        found = Availability(False, str(error))
    if not found.ok:
        print(f"check_tensorrt: {found}", file=sys.stderr)
        return 2
    gpu = current_gpu()
    facts = {
        "module": installed().__name__,
        "version": installed().__version__,
        "gpu": gpu.identity() if gpu is not None else None,
        "made_for_cuda": cuda_needs(),
        "python": sys.version.split()[0],
    }
    if facts["gpu"]:
        del facts["gpu"]["gpu_uuid"]
    print(facts)

    def keep(found: list[dict[str, Any]]) -> None:
        options.out.write_text(json.dumps({**facts, "checks": found}, indent=1) + "\n")

    report = Report(keep)
    everything(report)
    checks = [each for each in report.found if "holds" in each]
    failed = [each for each in checks if not each["holds"]]
    print(f"{len(checks) - len(failed)} of {len(checks)} assumptions hold; attach {options.out} to a report")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
