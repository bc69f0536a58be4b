"""What a run was asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trtgate.engines import DEFAULT_ENGINES, parse_spec
from trtgate.expectations import Expectations, read_expectations
from trtgate.kinds import REFERENCE, Device, EngineSpec
from trtgate.stack import usable_threads
from trtgate.tasks.classification import Classification
from trtgate.verdict.outcome import Verdict, not_raced

if TYPE_CHECKING:
    from trtgate.models.model_file import ModelFile
    from trtgate.models.onnx_file import OnnxFile

DEFAULT_MODELS = ("resnet50", "efficientnet_lite0")


@dataclass(frozen=True)
class Settings:
    """What a run was asked to do; the fields are the options of pytest and of the command line."""

    models: tuple[str, ...] = DEFAULT_MODELS
    # Those of the models that a file describes, by name.
    files: Mapping[str, ModelFile] = field(default_factory=dict)
    device: Device = "cpu"
    engines: tuple[EngineSpec, ...] = field(default_factory=lambda: tuple(map(parse_spec, DEFAULT_ENGINES["cpu"])))
    batch_sizes: tuple[int, ...] = (1,)
    # Whether they were asked for, and are not the default.
    sizes_asked: bool = False
    streams: int = 1
    reuse_timing_cache: bool = False
    rebuild: bool = False
    weights: Mapping[str, Path] = field(default_factory=dict)
    images: Path | None = None
    calibration_images: Path | None = None
    skip_bad_images: bool = False
    plan_cache: Path = Path(".trtgate")
    threads: int = field(default_factory=usable_threads)
    expectations: Expectations = field(default_factory=read_expectations)
    # Over how many fresh processes a race is spread; 0: it is run in this very process.
    processes: int = 0

    def reference(self, model: str) -> EngineSpec:
        """What the answers and the speed of a model are held against."""
        return self.files[model].reference(self.device) if model in self.files else REFERENCE

    def _onnx(self, model: str) -> OnnxFile | None:
        """What is known of a model that is an ONNX file."""
        return self.files[model].file if model in self.files else None

    def sizes_of(self, model: str) -> tuple[int, ...]:
        """The batch sizes that a model is run at: one that takes no batches has the size 1."""
        file = self._onnx(model)
        return self.batch_sizes if file is None or file.signature.batched else (1,)

    def unbatched(self, model: str) -> str:
        """Why a model takes no batches; empty for one that does."""
        file = self._onnx(model)
        if file is None or file.signature.batched:
            return ""
        if file.unbatched:
            return f"ONNX Runtime cannot run it in batches ({file.unbatched})"
        return "its inputs leave no room for a batch"

    def dropped(self, model: str) -> dict[str, str]:
        """What is not run of a model, and why: the batch sizes that it does not take."""
        sizes = sorted(set(self.batch_sizes) - set(self.sizes_of(model)))
        return {f"{model} at batch {', '.join(map(str, sizes))}": self.unbatched(model)} if sizes else {}

    def not_batched(self, model: str) -> Verdict | None:
        """On batch sizes that were asked for, for which a file leaves room and which its reference cannot run: nothing
        passes that leaves them out without a word."""
        file = self._onnx(model)
        sizes = [str(size) for size in self.batch_sizes if size > 1]
        if file is None or not file.unbatched or not sizes or not self.sizes_asked:
            return None
        return not_raced(f"{model} at batch {', '.join(sizes)}", "--batch-size", self.unbatched(model))

    def task(self, model: str) -> str:
        """The name of a model's task."""
        return self.files[model].task.name if model in self.files else Classification.name
