"""One model on the bench: from its photos and graphs to its engines, their agreement and their race."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from trtgate import images, judge
from trtgate.build.cache import CachedFile, PlanCache, key_of
from trtgate.build.graphs import Graphs
from trtgate.build.plan import cached_calibration, cached_plan, processor, runs_nothing, stack_key
from trtgate.child import WorkFailed
from trtgate.engines import available, backend
from trtgate.engines.base import BuildRequest, Calibration, Engine
from trtgate.engines.gpu import GpuEngine
from trtgate.graphs.weighted import weighted_nodes
from trtgate.kinds import (
    REFERENCE,
    Availability,
    Block,
    EngineBroken,
    EngineRefused,
    EngineSpec,
    EngineUnavailable,
    UserError,
)
from trtgate.limits import LOAD_SECONDS, RUN_SECONDS, within
from trtgate.measure import controls
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import SCHEDULES, Arm, Race, briefly, run_race
from trtgate.measure.spread import Spread
from trtgate.models.base import CLASSES, Model, Weights, image_classes
from trtgate.models.loading import load_model
from trtgate.models.model_file import ModelFile
from trtgate.models.onnx_file import OnnxFile, first_line
from trtgate.processes import come_to_rest
from trtgate.progress import SILENT, Progress
from trtgate.samples import Samples, rows_of
from trtgate.settings import Settings
from trtgate.signature import Signature, Tensors, answers, load_tensors, save_tensors
from trtgate.stack import version_of
from trtgate.tasks.base import Outputs, Task, spoilt_outputs
from trtgate.tasks.classification import Classification
from trtgate.tasks.places import Visits, arranged
from trtgate.verdict.outcome import Reason

# The reference answers in batches: it is arithmetic there, not a measurement.
REFERENCE_BATCH = 16


Logits = npt.NDArray[np.float32]


class Workbench:
    """Everything of one model, made when it is first asked for and kept until `close`."""

    def __init__(self, name: str, settings: Settings, progress: Progress = SILENT) -> None:
        self.name = name
        self.settings = settings
        self.progress = progress
        self.described = settings.files.get(name) or ModelFile(
            name, Classification(), architecture=name, weights=settings.weights.get(name)
        )
        self._cache = PlanCache(settings.plan_cache)
        self.graphs = Graphs(
            name,
            settings,
            self._cache,
            progress,
            file=self.described.file,
            model=lambda: self.model,
            samples=self.samples,
        )
        self._made: dict[Any, Any] = {}
        self._exit = contextlib.ExitStack()

    def close(self) -> None:
        """Free the engines and forget the rest."""
        self._exit.close()
        self._made.clear()

    def __enter__(self) -> Workbench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def file(self) -> OnnxFile | None:
        """The ONNX file that the model is, if it is one."""
        return self.described.file

    @property
    def model(self) -> Model:
        """The PyTorch model with the best weights to be had; an ONNX file has none."""

        def load() -> Model:
            with self.progress.step(f"{self.name}: loading weights"):
                return load_model(self.described.architecture, self.described.weights)

        made: Model = self._once("model", load)
        return made

    @property
    def weights(self) -> Weights:
        """Where the weights came from."""
        return Weights("onnx", self.file.path.name, self.file.digest) if self.file else self.model.weights

    @property
    def signature(self) -> Signature:
        """What goes into the model and what comes out."""
        return self.file.signature if self.file else self.model.signature

    @property
    def unsteady(self) -> str:
        """Why its answers cannot be compared with anybody's; empty if they can."""
        if self.file is None or not self.file.unsteady:
            return ""
        return (
            f"{self.file.path.name} does not repeat itself: {', '.join(self.file.unsteady)} differs between two runs "
            "on one sample, as random operators do; its answers are not judged"
        )

    @property
    def apart(self) -> bool:
        """Whether its answer to a batch is those to the samples in it."""
        return self.file is None or self.file.apart

    @property
    def not_compared(self) -> str:
        """Which of its outputs nobody compares, and why; empty if there is none."""
        if self.file is None or not self.file.left_out:
            return ""
        return f"not compared: {', '.join(self.file.left_out)}, no tensors of numbers that numpy has"

    @property
    def task(self) -> Task:
        """How its answers are compared."""
        return self.described.task

    @property
    def reference(self) -> EngineSpec:
        """What its answers and its speed are held against."""
        return self.settings.reference(self.name)

    @property
    def reference_words(self) -> str:
        """What the reference is called in a sentence."""
        return "PyTorch" if self.reference == REFERENCE else "ONNX Runtime"

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that it is run at."""
        return self.settings.sizes_of(self.name)

    def available(self, spec: EngineSpec) -> Availability:
        """Whether the engine can run here, and be built of this model."""
        found = available(spec, self.settings.device)
        return self.buildable(spec) if found.ok else found

    def buildable(self, spec: EngineSpec) -> Availability:
        """Whether the engine can be built of this model, wherever its runtime is."""
        kind = backend(spec.backend).graph_kind(spec)
        if kind is not None and self.graphs.too_large:
            return Availability(False, self.graphs.too_large)
        return self.described.available(spec, kind, self.settings.device)

    def samples(self, split: str) -> Samples:
        """The "evaluation" or "calibration" samples, prepared for this model."""

        def read() -> Samples:
            evaluated, own = split == "evaluation", self.described
            folder = self.settings.images if evaluated else self.settings.calibration_images
            folder = folder or (own.images if evaluated else own.calibration_images)
            if self.file is not None:
                with self.progress.step(f"{self.name}: reading {split} samples"):
                    return own.samples(split, folder, skip_bad=self.settings.skip_bad_images)
            if folder is None:
                return images.sample_crops(split, self.model.preprocessing)
            with self.progress.step(f"{self.name}: reading {split} photos") as count:
                return images.read_folder(
                    folder,
                    self.model.preprocessing,
                    classes=self.model.classes if split == "evaluation" else None,
                    skip_bad=self.settings.skip_bad_images,
                    spool=self._cache.root,
                    progress=count,
                )

        made: Samples = self._once(split, read)
        return made

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of the logits: those that the model's file or the photos' folders give,
        ImageNet's, or numbers."""
        own, count = self.described, self.described.classes or self.model.classes
        named = (own.task.classes if isinstance(own.task, Classification) else ()) or self.samples("evaluation").classes
        if not named and self.file is None and count == CLASSES:
            return tuple(each.name for each in image_classes())
        return tuple(named) or tuple(f"class {index}" for index in range(count))

    def _request(self, spec: EngineSpec) -> BuildRequest:
        kind = backend(spec.backend).graph_kind(spec)
        settings = self.settings
        return BuildRequest(
            None if self.file else self.model,
            self.graphs.of(kind).path if kind is not None else None,
            self.batch_sizes,
            settings.threads,
            settings.device,
            self.signature,
            self._calibration(spec) if spec.variant == "calibrated" else None,
            self.timing_cache(spec),
            settings.rebuild,
            self.samples("evaluation")[0] if self.file else None,
        )

    def _calibration(self, spec: EngineSpec) -> Calibration:
        samples = self.samples("calibration")
        graph = self.graphs.of("fp32").digest
        return cached_calibration(self._cache, self.name, spec, graph, samples.digest, lambda: list(rows_of(samples)))

    def timing_cache(self, spec: EngineSpec) -> Path | None:
        """Where this stack's kernel timings are kept, if they are: another driver, GPU or version has other timings."""
        if not self.settings.reuse_timing_cache:
            return None
        stack = {**processor(self.settings.device, self.settings.threads), spec.backend: version_of(spec.backend)}
        return self._cache.root / "timing" / f"{key_of(stack)[:32]}.cache"

    def plan(self, spec: EngineSpec) -> CachedFile | None:
        """The engine's plan, from the cache or built now; None for an engine that has none."""
        made: CachedFile | None = self._once(("plan", spec), lambda: self._make_plan(spec))
        return made

    def _make_plan(self, spec: EngineSpec) -> CachedFile | None:
        if backend(spec.backend).plan_file(spec) is None:
            return None
        return cached_plan(
            self._cache, self.name, spec, self._request(spec), self.source(spec), self.progress, alone=self._settle
        )

    def _settle(self) -> None:
        """Have nothing else running."""
        if "spread" in self._made:
            self._made["spread"].settle()

    def source(self, spec: EngineSpec) -> dict[str, str]:
        """The digest of what the engine is built from: its graph, or the weights where it needs no graph."""
        kind = backend(spec.backend).graph_kind(spec)
        return {"weights": self.weights.digest} if kind is None else {"graph": self.graphs.of(kind).digest}

    def engine(self, spec: EngineSpec) -> Engine:
        """The loaded engine; it stays loaded until `close`. What failed once fails again without another try."""

        def load() -> Engine | Exception:
            try:
                plan = self.plan(spec)
                request = self._request(spec)
                with within(LOAD_SECONDS, f"{self.name}: loading {spec.id}"):
                    made = backend(spec.backend).load(spec, request, plan.path if plan else None)
            except Exception as error:  # kept for whoever asks for this engine; the others can still race
                return self._said_of(spec, error)
            self._exit.enter_context(made)
            try:
                self._require_lanes(made)
            except Exception as error:
                made.close()  # what it holds is for the others
                return self._said_of(spec, error)
            return self._not_as_asked(spec, made) or made

        engine: Engine | Exception = self._once(("engine", spec), load)
        if isinstance(engine, Exception):
            raise engine
        return engine

    def _require_lanes(self, engine: Engine) -> None:
        """Have an engine on a GPU take what it needs at every batch size: where memory runs out later, in the middle of
        a race, there would be no race at all."""
        if isinstance(engine, GpuEngine):
            for size in self.batch_sizes:
                with within(LOAD_SECONDS, f"{self.name}: {engine.spec.id} at batch {size}"):
                    engine.lane(size)

    def _said_of(self, spec: EngineSpec, error: Exception) -> Exception:
        """What a runtime cannot do with a user's file is a reason to leave that engine out, and no failure of ours;
        unless it cannot do anything."""
        if isinstance(error, UserError | EngineUnavailable):
            return error
        if nothing := runs_nothing(spec, self.settings.device):
            told = f"{spec.backend} is broken: it cannot even run one small convolution ({first_line(nothing)})"
            return EngineBroken(told)
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if self.file is None and not isinstance(error, WorkFailed):
            return error
        if self.file is None:
            return EngineRefused(f"{spec.backend} cannot run {self.name} ({first_line(lines[-1])})")
        return EngineUnavailable(f"{spec.backend} cannot run {self.file.path.name} ({first_line(lines[-1])})")

    def _not_as_asked(self, spec: EngineSpec, engine: Engine) -> EngineUnavailable | None:
        """Why an engine of a user's file is not what was asked for in a single layer, as when its runtime has no such
        kernels for these operators."""
        if self.file is None or spec == self.reference:
            return None
        audit = engine.audit()
        if not judge.none_as_asked(audit):
            return None
        built = ", ".join(f"{count} {kind}" for kind, count in audit.histogram.items())
        return EngineUnavailable(
            f"{spec.backend} computes none of the layers of {self.file.path.name} in {spec.precision} (built {built})"
        )

    def excuse(self, spec: EngineSpec, reason: Reason | None = None) -> str:
        """Why the precision of an engine of a user's file is not judged; empty if it is.

        `reason` is that of a verdict: which layers a runtime leaves in float is its own affair, until somebody says
        which ones are meant to be.
        """
        if self.file is None:
            return ""
        if spec == self.reference and self.file.own != "fp32":
            return f"the reference runs {self.file.path.name} as it is"
        graph = onnx.load(self.graphs.of("fp32").path, load_external_data=False)
        if self.file.own == "fp32" and not weighted_nodes(graph):
            return f"{self.file.path.name} has no convolution or matrix product with weights"
        if reason in {Reason.WRONG_PRECISION, Reason.NOT_TOLD}:
            return "layers in float that are meant to be go under keep_float, and the others are judged then"
        return ""

    def loadable(self) -> tuple[EngineSpec, ...]:
        """The engines of the settings that are available and could be built and loaded."""

        def loads(spec: EngineSpec) -> bool:
            if not self.available(spec).ok:
                return False
            with contextlib.suppress(Exception):
                return bool(self.engine(spec))
            return False

        return tuple(spec for spec in self.settings.engines if loads(spec))

    def outputs(self, spec: EngineSpec) -> Outputs:
        """The answers to the evaluation samples, at the smallest batch size that is raced; the reference's come from
        the cache when nothing they depend on has changed."""
        made: Outputs = self._once(
            ("outputs", spec),
            lambda: self._reference_outputs() if spec == self.reference else self._engine_outputs(spec),
        )
        return made

    def logits(self, spec: EngineSpec) -> Logits:
        """float32[N,classes] of a classifier's evaluation photos."""
        assert isinstance(self.task, Classification)
        return self.task.logits(self.outputs(spec))

    def reference_at(self, size: int) -> Outputs:
        """The reference's answers that an engine's to all evaluation samples in batches of that size are held against:
        to the same batches, where nothing in them stands for a sample."""
        if self.apart or size == min(self.batch_sizes):
            return self.outputs(self.reference)
        made: Outputs = self._once(("reference at", size), lambda: self._engine_outputs(self.reference, size))
        return made

    def batched(self, size: int) -> int:
        """How many samples one or two full batches of `size` hold: the first evaluation samples, repeated where there
        are fewer, so that every place in a batch is told of."""
        return 2 * size if len(self.samples("evaluation")) >= 2 * size else size

    def outputs_at(self, spec: EngineSpec, size: int) -> list[Outputs]:
        """The answers to the samples of `batched`, a list for each repetition."""
        n = len(self.samples("evaluation"))
        rows = self._answers(spec, [index % n for index in range(self.batched(size))], size)
        return [rows[start : start + n] for start in range(0, len(rows), n)]

    def visits_at(self, spec: EngineSpec, size: int) -> Iterator[Visits]:
        """The answers to batches of `size` in which the first evaluation samples stand at random places: so that what
        is wrong at one place is told from what is wrong with a sample. One batch at a time, which may be large."""
        batches = arranged(len(self.samples("evaluation")), size)
        with self.progress.step(f"{self.name}: {spec.id} answers at all places of batches of {size}") as count:
            for index, chosen in enumerate(batches):
                yield chosen, self._require_alike(spec, self._rows(spec, chosen, size))
                count(index + 1, len(batches))

    def _engine_outputs(self, spec: EngineSpec, batch: int | None = None) -> Outputs:
        return self._answers(spec, range(len(self.samples("evaluation"))), batch or min(self.batch_sizes))

    def _answers(self, spec: EngineSpec, chosen: Sequence[int], size: int) -> Outputs:
        """The answers to the chosen evaluation samples in batches of `size`, told as they come. Raises as `_rows` and
        `_require_alike` do."""
        with self.progress.step(f"{self.name}: {spec.id} answers on {len(chosen)} samples") as count:
            rows = self._rows(spec, chosen, size, count)
        return self._require_alike(spec, rows)

    def _rows(
        self,
        spec: EngineSpec,
        chosen: Sequence[int],
        size: int,
        count: Callable[[int, int], None] = lambda done, total: None,
    ) -> Outputs:
        """The answers to the chosen evaluation samples in batches of `size`.

        Raises UserError for a sample of the user's own that the reference cannot be run on, EngineRefused where only
        another engine cannot, or where what it gives is no answer to a batch.
        """
        engine, samples = self.engine(spec), self.samples("evaluation")
        rows: list[Tensors] = []

        def infer(inputs: Tensors) -> Tensors:
            try:
                with within(RUN_SECONDS, f"{self.name}: an answer of {spec.id}"):
                    return engine.infer(inputs)
            except Exception as error:  # a runtime's own, of which there are many
                if self.file is None:
                    raise
                name = samples.names[chosen[min(len(rows), len(chosen) - 1)]]
                said = f"{spec.backend} cannot run {self.file.path.name} on the sample {name} ({first_line(error)})"
                if spec == self.reference:
                    raise UserError(f"{said}; give samples that it takes") from error
                raise EngineRefused(said) from error

        try:
            for row in answers(infer, self.signature, (samples[index] for index in chosen), size):
                rows.append(row)
                count(len(rows), len(chosen))
        except EngineRefused as error:
            raise EngineRefused(f"{self.name}: {spec.id}: {error}") from error
        return rows

    def _require_alike(self, spec: EngineSpec, rows: Outputs) -> Outputs:
        """These answers. Raises EngineRefused where they are of another kind than the reference's."""
        if spec != self.reference and (wrong := self.unlike_reference(rows)):
            raise EngineRefused(f"{self.name}: {spec.id} answers {wrong}")
        return rows

    def unlike_reference(self, rows: Outputs) -> str:
        """What of an engine's answers is of another kind than the reference's, which nothing can be compared with;
        empty for nothing such."""
        if not self.apart and len(rows) != len(self.outputs(self.reference)):
            return ""  # answers to other batches
        return self.unlike(self.outputs(self.reference), rows, f"the reference ({self.reference.id})")

    def unlike(self, wanted: Outputs, rows: Outputs, whose: str) -> str:
        """The same of any answers, in `whose` words."""
        whole = {self.task.output} if isinstance(self.task, Classification) else set()
        for index, row in enumerate(rows):
            if different := self.signature.unlike(wanted[index % len(wanted)], row, whole):
                return f"{different[0]} where {whose} has {different[1]}"
        return ""

    def _reference_outputs(self) -> Outputs:
        runtime = "onnxruntime" if self.file else "torch"
        # Of a user's file nobody knows how large a batch fits into memory, or what it does to the answers.
        batch = min(self.batch_sizes) if self.file else REFERENCE_BATCH
        depends = {
            "model": self.name,
            "weights": self.weights.digest,
            "inputs": list(map(str, self.signature.inputs)),
            "images": self.samples("evaluation").digest,
            runtime: version_of(runtime),
            "stack": stack_key(self.settings.device),
            **processor(self.settings.device, self.settings.threads),
            "batch": batch,
        }

        def build(path: Path) -> None:
            save_tensors(path, self._engine_outputs(self.reference, batch))

        # What is kept of a run is what its own stack answered, whatever changed under the versions that it tells.
        anew = self.settings.rebuild or self.settings.processes > 0
        try:
            found = self._cache.get_or_build("references", "outputs", depends, build, anew=anew)
        except EngineUnavailable as error:
            if self.file is None or isinstance(error, EngineBroken):
                raise
            # It ran the file on samples of our own.
            raise UserError(f"{error}: nothing can be held against its answers; give samples that it takes") from error
        return list(load_tensors(found.path))

    def not_finite(self, outputs: Tensors) -> tuple[str, ...]:
        """Which of the answers to the first batch hold NaN or infinity; of a user's file, where the reference has none,
        which may answer so itself where nothing is to be said."""
        found = tuple(name for name, array in outputs.items() if not np.isfinite(array).all())
        if self.file is None or not found:
            return found
        rows = self.signature.split(outputs, min(self.batch_sizes))
        return spoilt_outputs(self.outputs(self.reference)[: len(rows)], rows[: len(self.samples("evaluation"))])

    def batch(self, size: int) -> Tensors:
        """One batch of evaluation samples, repeated if there are fewer."""

        def choose() -> Tensors:
            samples = self.samples("evaluation")
            return self.signature.join([samples[index % len(samples)] for index in range(size)], size)

        made: Tensors = self._once(("batch", size), choose)
        return made

    def race(self, batch_size: int, undecided: Callable[[Race], bool] = lambda race: False) -> Race:
        """Race all loadable engines at one batch size for as long as something is `undecided`."""

        def run() -> Race:
            device, batch = self.settings.device, self.batch(batch_size)
            arms = [engine_arm(self.engine(spec), batch) for spec in self.loadable()]
            text = f"{self.name}: racing {len(arms)} engines at batch {batch_size}"
            with controls.control_arms(device) as control, self.progress.step(text) as count:
                return run_race(
                    [*arms, *control],
                    briefly(SCHEDULES[device]),
                    undecided=undecided,
                    monitor=monitor_for(device)(),
                    rest=come_to_rest if device == "cpu" else lambda: None,
                    progress=count,
                )

        made: Race = self._once(("race", batch_size), run)
        return made

    def beside(self, spec: EngineSpec, batch_size: int) -> Mapping[str, Any]:
        """What is measured of an engine besides the race, as fields of its record."""

        def measure() -> dict[str, Any]:
            engine, batch, streams = self.engine(spec), self.batch(batch_size), self.settings.streams
            found: dict[str, Any] = {"enqueue_seconds": engine.enqueue_seconds(batch)}
            found["layer_times"] = {
                layer.name: {"ms": layer.seconds * 1e3, "type": layer.kind, "nodes": list(layer.nodes)}
                for layer in engine.layer_times(batch)
            }
            if streams > 1 and (together := engine.throughput(batch, streams)) is not None:
                alone = engine.throughput(batch, 1)
                found["throughput"] = {"streams": streams, "images_per_second": together, "alone": alone}
            return found

        made: Mapping[str, Any] = self._once(("beside", spec, batch_size), measure)
        return made

    def costs(self, spec: EngineSpec) -> Mapping[str, float]:
        """What an engine's plan costs, by the names of metrics; empty for an engine that has none."""
        plan = self.plan(spec)
        return {} if plan is None else {"plan_bytes": float(plan.size), "build_seconds": plan.build_seconds}

    def spread(self, before: Mapping[int, Mapping[str, float]] | None = None) -> Spread:
        """The race spread over fresh processes, the first of which begin to import when this is first asked for; they
        are to meet the machine as it was when fixed work took `before`, by batch size."""

        def make() -> Spread:
            spread = Spread(self, self.settings.processes, before)
            self._exit.callback(spread.close)
            spread.prepare()
            return spread

        made: Spread = self._once("spread", make)
        return made

    def job(self, spec: EngineSpec, rebuild: int, calibration: Path | None, samples: Path) -> dict[str, Any]:
        """What a worker needs to build or load an engine, as JSON values; `calibration` and `samples` are files of
        samples."""
        kind = backend(spec.backend).graph_kind(spec)
        settings, weights = self.settings, self.described.weights
        given = {"samples": str(calibration), "digest": self.samples("calibration").digest} if calibration else None
        return {
            "engine": spec.id,
            "model": self.name,
            "graph": str(self.graphs.of(kind).path.resolve()) if kind is not None else None,
            "source": self.source(spec),
            "batch_sizes": list(self.batch_sizes),
            "threads": settings.threads,
            "device": settings.device,
            "signature": self.signature.to_json(),
            "plan_cache": str(settings.plan_cache.resolve()),
            "rebuild": rebuild,
            "anew": settings.rebuild,
            "calibration": given,
            "architecture": self.described.architecture,
            "weights": str(weights.resolve()) if weights else None,
            "sample": str(samples) if self.file else None,
        }

    def digests(self, spec: EngineSpec) -> dict[str, str]:
        """What went into an engine's numbers: sides that differ in one of these cannot be compared."""
        found = {"weights": self.weights.digest, "evaluation photos": self.samples("evaluation").digest}
        if spec.precision == "int8":
            found["calibration photos"] = self.samples("calibration").digest
            recipe = repr(self.settings.expectations.quantize(self.name))
            found["INT8 recipe"] = hashlib.sha256(recipe.encode()).hexdigest()
        return found | ({"task": self.described.task_digest} if self.described.task_digest else {})


def engine_arm(engine: Engine, batch: Tensors, name: str | None = None) -> Arm:
    """An engine as a racing arm on one batch, under its id unless another name is given."""

    def block(n: int) -> Block:
        with within(RUN_SECONDS, f"a block of {engine.spec.id}"):
            return engine.block(n, batch)

    return Arm(name or engine.spec.id, block)
