"""From a model to its ONNX graphs: FP32, FP16 and INT8, each from the cache or made when it is first asked for."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from trtgate.build.cache import CachedFile, PlanCache
from trtgate.engines.probe import require_sound
from trtgate.graphs import OPSET, export, fold, half, quantize
from trtgate.graphs.weighted import weighted_nodes
from trtgate.kinds import EngineSpec, EngineUnavailable, GraphKind, UserError
from trtgate.models.base import Model
from trtgate.models.onnx_file import FORM, LARGEST, OnnxFile, digest_of, first_line, load_graph, with_shapes
from trtgate.progress import Progress
from trtgate.samples import Samples
from trtgate.settings import Settings
from trtgate.stack import cpu_features, version_of


class Graphs:
    """The graphs of one model, which is either a PyTorch `model` or an ONNX `file`; INT8 is calibrated on `samples`."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        cache: PlanCache,
        progress: Progress,
        *,
        file: OnnxFile | None,
        model: Callable[[], Model],
        samples: Callable[[str], Samples],
    ) -> None:
        self._name = name
        self._settings = settings
        self._cache = cache
        self._progress = progress
        self._file = file
        self._model = model
        self._samples = samples
        self._made: dict[GraphKind, CachedFile] = {}
        self._folded: CachedFile | None = None

    def of(self, kind: GraphKind) -> CachedFile:
        """The ONNX graph of that kind, from the cache or made now."""

        def make() -> CachedFile:
            try:
                return self._make_graph(kind)
            except (UserError, EngineUnavailable):
                raise
            except Exception as error:
                if self._file is None:
                    raise
                said = f"no {kind} graph can be made of {self._file.path.name} ({first_line(error)})"
                raise EngineUnavailable(said) from error

        if kind not in self._made:
            self._made[kind] = make()
        return self._made[kind]

    @functools.cached_property
    def too_large(self) -> str:
        """Why no graph can be made of the model; empty if one can. Every test asks, and all weights are looked at."""
        if self._file is not None or (size := self._model().size) <= LARGEST:
            return ""
        return f"{self._name} has {size / 1e9:.1f} GB of weights, and graphs of more than 2 GB are not supported"

    def _file_graph(self, file: OnnxFile) -> CachedFile:
        """The file's own graph at its shape: whatever is to be built of it, where it is not FP32."""
        depends = {
            "kind": "own",
            "model": self._name,
            "file": file.digest,
            "inputs": list(map(str, file.signature.inputs)),
        }

        def build(path: Path) -> None:
            model = load_graph(file.path)
            if digest_of(file.path) != file.digest:  # its entry would be that of what the file was
                raise UserError(f"--model {file.path} was changed while this run was on; run it again")
            onnx.save(with_shapes(model, file.signature.inputs), path)

        text = f"{self._name}: reading {file.path.name}"
        return self._cached("graphs", text, "graph.onnx", {**depends, "form": FORM, "onnx": version_of("onnx")}, build)

    def _float_graph(self) -> CachedFile:
        """What INT8 graphs are made of."""
        fp32 = self.of("fp32")
        if self._file is None:
            return fp32
        if self._folded is not None:
            return self._folded
        depends = {
            "kind": "folded",
            "model": self._name,
            "fp32": fp32.digest,
            "form": fold.FORM,
            "onnxruntime": version_of("onnxruntime"),
        }
        text = f"{self._name}: folding constants"
        folded = self._cached("graphs", text, "graph.onnx", depends, lambda path: fold.fold(fp32.path, path))
        if not weighted_nodes(onnx.load(folded.path, load_external_data=False)):
            name = self._file.path.name
            raise EngineUnavailable(f"{name} has no convolution or matrix product with weights that could be INT8")
        self._folded = folded
        return folded

    def _make_graph(self, kind: GraphKind) -> CachedFile:
        if self._file is not None and (kind == "fp32" or self._file.own != "fp32"):
            return self._file_graph(self._file)
        if kind == "fp32":
            if self.too_large:
                raise UserError(self.too_large)
            depends: dict[str, Any] = {
                "kind": kind,
                "model": self._name,
                "weights": self._model().weights.digest,
                "crop": self._model().preprocessing.crop,
                "opset": OPSET,
                "form": export.FORM,
                "torch": version_of("torch"),
                "onnx": version_of("onnx"),
            }
            text = f"{self._name}: exporting ONNX"
            return self._cached("graphs", text, "graph.onnx", depends, lambda path: export.export(self._model(), path))
        if kind == "fp16":
            fp32 = self.of("fp32")
            depends = {"kind": kind, "model": self._name, "fp32": fp32.digest, "onnxruntime": version_of("onnxruntime")}
            text = f"{self._name}: converting to FP16"
            return self._cached("graphs", text, "graph.onnx", depends, lambda path: half.convert(fp32.path, path))
        if kind == "int8-symmetric-fp16":
            int8 = self.of("int8-symmetric")
            depends = {"kind": kind, "model": self._name, "int8": int8.digest, "onnxruntime": version_of("onnxruntime")}
            text = f"{self._name}: converting what INT8 leaves to FP16"
            return self._cached("graphs", text, "graph.onnx", depends, lambda path: half.convert(int8.path, path))
        flavour: quantize.Kind = "symmetric" if kind == "int8-symmetric" else "asymmetric"
        fp32, measured = self._float_graph(), self._ranges_file()
        options = self._settings.expectations.quantize(self._name)
        depends = {
            "kind": kind,
            "model": self._name,
            "fp32": fp32.digest,
            "ranges": measured.digest,
            "keep_float": list(options.keep_float),
            "reduce_range": self.reduce_range,
            "placement": quantize.PLACEMENT,
            "onnxruntime": version_of("onnxruntime"),
        }

        def build(path: Path) -> None:
            ranges, sample = self.ranges(), self._samples("calibration")[0]
            quantize.quantize(
                fp32.path, path, flavour, ranges, options.keep_float, sample=sample, reduce_range=self.reduce_range
            )

        return self._cached("graphs", f"{self._name}: quantising to INT8 ({flavour})", "graph.onnx", depends, build)

    @property
    def reduce_range(self) -> bool:
        """Whether INT8 weights must be narrowed for the processor that will run them."""
        return self._settings.device == "cpu" and quantize.needs_reduced_range(cpu_features())

    def ranges(self) -> quantize.Ranges:
        """The activation ranges that INT8 graphs are made with, measured on the calibration photos."""
        found: quantize.Ranges = json.loads(self._ranges_file().path.read_text())
        return found

    def _ranges_file(self) -> CachedFile:
        fp32, photos = self._float_graph(), self._samples("calibration")
        calibration = self._settings.expectations.quantize(self._name).calibration
        depends = {
            "model": self._name,
            "fp32": fp32.digest,
            "images": photos.digest,
            "calibration": calibration,
            "tensors_of": list(quantize.QUANTIZED),
            "onnxruntime": version_of("onnxruntime"),
        }

        def build(path: Path) -> None:
            path.write_text(json.dumps(quantize.measure_ranges(fp32.path, photos, calibration)))

        text = f"{self._name}: calibrating INT8 on {len(photos)} samples ({calibration})"
        return self._cached("ranges", text, "ranges.json", depends, build)

    def kept_in_float(self, spec: EngineSpec) -> frozenset[str]:
        """The names of the nodes that were meant to stay in float in an INT8 engine, and of their outputs.

        Builders call a layer after the one or the other.
        """
        if spec.precision != "int8":
            return frozenset()
        if self._file is not None and self._file.own != "fp32":
            graph = onnx.load(self.of("fp32").path, load_external_data=False)
            integers = {each.output[0] for each in graph.graph.node if each.op_type == "DequantizeLinear"}
            return frozenset(each.name for each in weighted_nodes(graph) if each.input[1] not in integers)
        graph = onnx.load(self._float_graph().path, load_external_data=False)
        kept = set(quantize.matching_nodes(graph, self._settings.expectations.quantize(self._name).keep_float))
        return frozenset(kept.union(*(node.output for node in graph.graph.node if node.name in kept)))

    def _cached(
        self, kind: str, text: str, filename: str, depends: Mapping[str, Any], build: Callable[[Path], None]
    ) -> CachedFile:
        """From the cache, or built with progress shown."""

        def build_showing(path: Path) -> None:
            require_sound("onnxruntime")  # which makes some of them, and checks the others
            with self._progress.step(text):
                build(path)

        return self._cache.get_or_build(kind, filename, depends, build_showing)
