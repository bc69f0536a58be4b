"""TensorRT's engines end to end on a stand-in that computes and punishes, for each supported version.

No TensorRT runs here; see `tensorrt_api/standin.py`. The second half takes away what the code does right, piece by
piece, and shows that the stand-in does not let it pass: a check that cannot fail would prove nothing.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import numpy as np
import onnx
import pytest
import torch

from trtgate import judge
from trtgate.build import plan as building
from trtgate.build.cache import CachedFile, PlanCache
from trtgate.build.graphs import Graphs
from trtgate.engines import backend, parse_spec
from trtgate.engines.base import BuildRequest
from trtgate.engines.gpu import CAPTURED
from trtgate.engines.tensorrt import api as tensorrt
from trtgate.engines.tensorrt import build, inspect, run
from trtgate.engines.tensorrt.api import Features, TensorRTError
from trtgate.engines.tensorrt.build import RECIPES, build_plan, make_calibrator
from trtgate.engines.tensorrt.run import TensorRTEngine, TensorRTLane
from trtgate.graphs import half
from trtgate.kinds import EngineRefused, EngineSpec, UserError
from trtgate.measure import worker
from trtgate.measure.spread import Spread
from trtgate.models.base import Architecture, Preprocessing
from trtgate.models.own import OWN
from trtgate.progress import SILENT
from trtgate.samples import Seeded
from trtgate.settings import Settings
from trtgate.stack import TENSORRT_CHOICE, cuda_needs, version_of
from trtgate.verdict import Outcome
from trtgate.workbench import Workbench

from . import small_classifier as small
from .fake_cuda import FakeGpu
from .gpu import check_tensorrt
from .tensorrt_api.fetch import BINDINGS, api
from .tensorrt_api.installing import forget, use_gpu, use_module
from .tensorrt_api.standin import VIOLATIONS, Flaws, Host, StandIn

SIZES = (1, 4)
EIGHT, TEN, NEWEST_10, ELEVEN, RTX = BINDINGS
WEIGHTED = ("conv1", "conv2", "fc")
PHOTOS = small.photos(4)
INPUTS = {"input": PHOTOS}
SAMPLES = [{"input": photo[None]} for photo in PHOTOS]

Install = Callable[..., StandIn]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return use_gpu(monkeypatch)


@pytest.fixture
def install(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a version's stand-in the installed TensorRT, with flaws of its own if wanted."""
    monkeypatch.setattr("trtgate.engines.gpu.THROUGHPUT_SECONDS", 1e-3)
    VIOLATIONS.clear()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so little work is slower on more

    def install(package: str, **flaws: Any) -> StandIn:
        found = StandIn(api(package), Host(gpu), Flaws(**flaws))
        use_module(monkeypatch, found.module)
        return found

    yield install
    torch.set_num_threads(threads)
    forget()


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, onnx.ModelProto]:
    """The graphs that the engines are built from."""
    folder = tmp_path_factory.mktemp("small")
    fp32, int8 = small.graph(), small.quantised(small.graph())
    made = {"fp32": fp32, "int8-symmetric": int8}
    for name, source in (("fp16", fp32), ("int8-symmetric-fp16", int8)):
        onnx.save(source, folder / "source.onnx")
        half.convert(folder / "source.onnx", folder / "half.onnx")
        made[name] = onnx.load(folder / "half.onnx")
    return made


def plan_of(text: str, model: onnx.ModelProto, **more: Any) -> bytes:
    return build_plan(parse_spec(text), model.SerializeToString(), SIZES, small.signature(), **more)


def load(text: str, plan: bytes) -> TensorRTEngine:
    return TensorRTEngine(parse_spec(text), plan, SIZES, small.signature(), WEIGHTED)


TYPES = {"fp32": "float32", "tf32": "tf32", "fp16": "float16", "int8": "int8"}


LIVES = [(package, spec) for package in BINDINGS for spec in RECIPES if not RECIPES[spec].calibrated]
CALIBRATED = [spec for spec in RECIPES if RECIPES[spec].calibrated]


@pytest.mark.parametrize(
    ("package", "spec"),
    [*LIVES, *((package, spec) for package in (EIGHT, TEN, NEWEST_10) for spec in CALIBRATED)],
    ids=lambda each: getattr(each, "id", each),
)
def test_the_whole_life_of_an_engine(
    package: str, spec: Any, install: Install, gpu: FakeGpu, graphs: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    install(package)
    recipe = RECIPES[spec]
    calibrator = make_calibrator(SAMPLES, None) if recipe.calibrated else None
    plan = plan_of(spec.id, graphs[recipe.graph], calibrator=calibrator, timing_cache=tmp_path / "timings")
    if calibrator is not None:
        assert b"4" in calibrator.known
        calibrator.close()
    wanted = small.answers(graphs["fp32"], PHOTOS)
    tolerance = {"fp32": 1e-5, "tf32": 1e-5, "fp16": 1e-2, "int8": 0.1}[spec.precision] * np.abs(wanted).max()
    with load(spec.id, plan) as engine:
        np.testing.assert_allclose(engine.infer({"input": PHOTOS})["logits"], wanted, atol=tolerance)
        np.testing.assert_allclose(engine.infer({"input": PHOTOS[:1]})["logits"], wanted[:1], atol=tolerance)
        assert set(engine.facts()["launched_as"].values()) == {CAPTURED}
        assert engine.block(3, INPUTS).end_to_end is not None
        audit = engine.audit()
        assert audit.layers["conv1"] == audit.layers["conv2"] == TYPES[spec.precision]
        assert judge.audit_verdict(audit, ()).outcome is Outcome.PASS, audit
        layers = engine.layer_times(INPUTS)
        assert layers[0].name == "conv1 + relu1" or "Quantize" in layers[0].name or "cast" in layers[0].name
        assert {"conv1", "conv2", "fc"} <= {node for layer in layers for node in layer.nodes}
        assert engine.throughput(INPUTS, 2) is not None
        # What was profiled, and other lanes, leave the engine as it was.
        np.testing.assert_allclose(engine.infer({"input": PHOTOS})["logits"], wanted, atol=tolerance)
        assert set(engine.facts()["launched_as"].values()) == {CAPTURED}
    assert gpu.clean
    assert VIOLATIONS == []


def test_a_profile_with_other_types_is_found(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    for package in BINDINGS:
        install(package, second_profile_float=True)
        with load("tensorrt-fp16", plan_of("tensorrt-fp16", graphs["fp16"])) as engine:
            audit = engine.audit()
        assert audit.layers["conv1 at batch 1"] == "float16"
        assert audit.layers["conv1 at batch 4"] in {"float32", "tf32"}
        assert judge.audit_verdict(audit, ()).outcome is Outcome.REGRESSED


def test_tf32_is_proven_used_and_unused(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    """Types say float32 either way; only the kernels' names tell."""
    install(NEWEST_10)
    used, unused = (plan_of(text, graphs["fp32"]) for text in ("tensorrt-tf32", "tensorrt-fp32"))
    with load("tensorrt-fp32", used) as engine:
        assert judge.audit_verdict(engine.audit(), ()).outcome is Outcome.REGRESSED
    with load("tensorrt-tf32", unused) as engine:
        verdict = judge.audit_verdict(engine.audit(), ())
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert "no layer shows" in verdict.message


def test_a_slowed_and_a_wrong_one_are_slower_and_wrong(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    """The flaws that a gate is shown must be there."""
    wanted = small.answers(graphs["fp32"], PHOTOS)
    install(ELEVEN, wrong=True)
    plan = plan_of("tensorrt-fp32", graphs["fp32"])
    with load("tensorrt-fp32", plan) as engine:
        assert np.abs(engine.infer({"input": PHOTOS})["logits"] - wanted).max() > 0.1
    install(ELEVEN, slower=3.0)
    with load("tensorrt-fp32", plan) as engine:
        slow = float(np.median(engine.block(20, INPUTS).seconds))
    install(ELEVEN)
    with load("tensorrt-fp32", plan) as engine:
        assert slow > 2 * float(np.median(engine.block(20, INPUTS).seconds))


# What a plan is.


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda plan: plan[:20], "no TensorRT plan"),
        (lambda plan: b"MZ" + plan[2:], "no TensorRT plan: it begins with b'MZrt'"),
        (lambda plan: plan[:-5], "not whole"),
        (lambda plan: plan[:24] + bytes([8, 6, 1, 6]) + plan[28:], r"by TensorRT 8\.6\.1\.6.*10\.13\.0\.35"),
        (lambda plan: b"vtrt" + plan[4:], r"by TensorRT-RTX 10.*, TensorRT 10\.13\.0\.35 is installed"),
    ],
    ids=["short", "foreign", "cut", "old", "rtx"],
)
def test_what_is_no_plan_of_this_version(
    spoil: Callable[[bytes], bytes], message: str, install: Install, graphs: dict[str, onnx.ModelProto]
) -> None:
    install(NEWEST_10)
    plan = plan_of("tensorrt-fp32", graphs["fp32"])
    with pytest.raises(TensorRTError, match=message):
        load("tensorrt-fp32", spoil(plan))


@pytest.mark.parametrize("package", BINDINGS)
def test_engines_side_by_side_have_one_logger(
    package: str, install: Install, graphs: dict[str, onnx.ModelProto], caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT keeps the first for what has none, and does not keep it alive: it must outlive every engine."""
    install(package)
    plan = plan_of("tensorrt-fp32", graphs["fp32"])
    first, second = (load("tensorrt-fp32", plan) for _ in range(2))
    first.close()
    del first
    with second, load("tensorrt-fp32", plan) as third:
        third.infer(INPUTS)
        context = second._engine.create_execution_context()
        assert context.set_optimization_profile_async(1, 1)
        assert not context.set_input_shape("input", (9, 3, small.CROP, small.CROP))
        del context
        assert "outside of profile" in str(tensorrt.refusal("", second._logger))
    assert VIOLATIONS == []
    assert "differs from one already registered" not in caplog.text


@pytest.mark.parametrize("package", BINDINGS)
def test_plugins_are_registered_before_a_graph_or_a_plan_is_read(
    package: str, install: Install, graphs: dict[str, onnx.ModelProto]
) -> None:
    found = install(package)
    plan = plan_of("tensorrt-fp32", graphs["fp32"])
    assert found.without_plugins == []
    found = install(package)  # as another process, which has nothing but the plan
    load("tensorrt-fp32", plan).close()
    assert found.without_plugins == []


def test_an_error_tells_the_last_problems_once(install: Install) -> None:
    """A builder may log one for each kernel that it cannot use."""
    found = install(NEWEST_10)
    logger = tensorrt.fresh_logger()
    for number in range(99):
        logger.log(found.module.ILogger.Severity.ERROR, f"kernel {number // 2} cannot be used")
    said = str(tensorrt.refusal("it could not", logger)).splitlines()
    assert said == ["it could not:", *(f"  kernel {number} cannot be used" for number in range(42, 50))]
    assert "gave no reason" in str(tensorrt.refusal("it could not", logger))


# What the stand-in does not let pass.


def test_trap_a_graph_that_outlives_its_context(
    install: Install, graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(NEWEST_10)

    def forgetful(lane: TensorRTLane, context: Any, enqueue: Any) -> None:
        lane.context, lane.enqueue, lane.run = context, enqueue, enqueue

    capture = TensorRTEngine._capture

    def capture_and_forget(engine: TensorRTEngine, lane: TensorRTLane) -> str:
        how = capture(engine, lane)
        lane.context, lane.enqueue = None, lambda: None
        return how

    monkeypatch.setattr(TensorRTLane, "own", forgetful)
    monkeypatch.setattr(TensorRTEngine, "_capture", capture_and_forget)
    with load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"])) as engine:
        assert np.isnan(engine.infer({"input": PHOTOS})["logits"]).all()


def test_trap_an_engine_that_goes_before_its_context(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    install(NEWEST_10)
    engine = load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"]))
    engine.infer({"input": PHOTOS})["logits"]
    engine._settings = engine._engine = None
    assert VIOLATIONS == ["an engine is gone before its context"]
    engine.close()


def test_trap_a_runtime_or_logger_that_goes_first(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    install(NEWEST_10)
    engine = load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"]))
    engine._runtime = None
    assert VIOLATIONS == ["a runtime is gone before its engine"]
    VIOLATIONS.clear()
    engine._logger = None
    tensorrt.process_logger.cache_clear()
    assert VIOLATIONS == ["a logger is gone that the plugin library keeps"]
    VIOLATIONS.clear()
    with pytest.raises(TensorRTError):
        engine.infer(small.signature().blank(2))
    context = engine._engine.create_execution_context()
    assert not context.set_input_shape("input", (9, 3, small.CROP, small.CROP))
    assert VIOLATIONS == ["a logger is gone before what was made with it"]


def test_trap_a_timing_cache_that_goes_first(
    install: Install, graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(NEWEST_10)
    give = build.read_timings
    monkeypatch.setattr(build, "read_timings", lambda config, path: give(config, path) and None)
    plan_of("tensorrt-fp32", graphs["fp32"], timing_cache=tmp_path / "timings")
    assert VIOLATIONS == ["a timing cache is gone before the builder's config that it was given to"]


@pytest.mark.parametrize("content", [b"damaged", b"another stack"])
def test_timings_that_cannot_be_used_are_made_anew(
    content: bytes,
    install: Install,
    graphs: dict[str, onnx.ModelProto],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install(NEWEST_10)
    timings = tmp_path / "timings"
    timings.write_bytes(content)
    for kept in (b"t", b"tt"):
        plan_of("tensorrt-fp32", graphs["fp32"], timing_cache=timings)
        assert timings.read_bytes() == kept
    assert caplog.text.count("damaged or from another stack") == 1
    assert VIOLATIONS == []


@pytest.mark.parametrize(("package", "shares"), [(EIGHT, False), (TEN, True), (ELEVEN, True)])
def test_trap_two_contexts_on_one_profile(
    package: str,
    shares: bool,
    install: Install,
    graphs: dict[str, onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = install(package)
    alone = dataclasses.replace(Features.of(found.module), profile_sharing=False)
    monkeypatch.setattr(Features, "of", classmethod(lambda cls, module: alone))
    with load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"])) as engine:
        engine.infer({"input": PHOTOS})["logits"]
        if shares:
            assert engine.throughput(INPUTS, 2)
        else:
            with pytest.raises(TensorRTError, match="Profile 1 has been chosen by another IExecutionContext"):
                engine.throughput(INPUTS, 2)


def test_trap_an_inspector_without_a_context(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    for package in BINDINGS:
        found = install(package)
        with load("tensorrt-fp16", plan_of("tensorrt-fp16", graphs["fp16"])) as engine:
            inspector = engine._engine.create_engine_inspector()
            text = inspector.get_engine_information(found.module.LayerInformationFormat.JSON)
        assert "dynamic shapes" in text
        found = inspect.weighted_layers(inspect.read_layers(text), WEIGHTED)
        assert found == {"conv1": "float16", "conv2": "float16", "fc": ""}, "the names of kernels alone"


def test_trap_a_calibrated_engine_without_ranges(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    for package in (EIGHT, TEN, NEWEST_10):
        install(package)
        with load("tensorrt-int8-calibrated", plan_of("tensorrt-int8-calibrated", graphs["fp32"])) as engine:
            verdict = judge.audit_verdict(engine.audit(), ())
        assert verdict.outcome is Outcome.REGRESSED
        assert "3 float16: the builder chose it for no layer" in verdict.message


def test_trap_a_mean_whose_axes_are_an_input(
    install: Install, graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(EIGHT)
    model = small.graph(pooling="ReduceMean")
    with load("tensorrt-fp32", plan_of("tensorrt-fp32", model)) as engine:
        np.testing.assert_allclose(engine.infer({"input": PHOTOS})["logits"], small.answers(model, PHOTOS), atol=1e-5)
    monkeypatch.setattr(build, "for_old_parser", lambda graph, widen: graph)
    with pytest.raises(TensorRTError, match="SHAPE ERROR"):
        plan_of("tensorrt-fp32", model)
    with pytest.raises(TensorRTError, match="reads float"):
        plan_of("tensorrt-int8", graphs["int8-symmetric-fp16"])


@pytest.mark.parametrize("held", ["initializer", "value", "value_ints"])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceSumSquare"])
def test_the_old_parser_is_given_axes_wherever_they_are_held(held: str, kind: str) -> None:
    axes = onnx.numpy_helper.from_array(np.array([-1]), "axes")
    nodes = [onnx.helper.make_node(kind, ["x", "axes"], ["y"], keepdims=0)]
    if held != "initializer":
        value = {"value": axes} if held == "value" else {"value_ints": [-1]}
        nodes.insert(0, onnx.helper.make_node("Constant", [], ["axes"], **value))
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in
            (("x", [2, 3]), ("y", [2]))]  # fmt: skip
    initializers = [axes] if held == "initializer" else []
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], initializers)
    given = build.for_old_parser(onnx.helper.make_model(graph).SerializeToString(), widen=False)
    reduction = onnx.load_from_string(given).graph.node[-1]
    assert list(reduction.input) == ["x"]
    assert {each.name: list(each.ints) for each in reduction.attribute}["axes"] == [-1]


def test_trap_a_capture_before_a_first_run(
    install: Install, graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(NEWEST_10)
    monkeypatch.setattr(run, "WARM_UP", 0)
    with load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"])) as engine:
        engine.infer({"input": PHOTOS})["logits"]
        assert "before a first enqueue" in engine.notes(4)[0]


def test_trap_a_second_capture(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    install(NEWEST_10)
    with load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"])) as engine:
        engine._capture(engine._lane_of(4))
        assert VIOLATIONS == ["a context was captured twice"]


def test_trap_rtx_runs_generic_kernels_until_it_is_asked(
    install: Install, graphs: dict[str, onnx.ModelProto], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = install(RTX)
    plan = plan_of("tensorrt-fp32", graphs["fp32"])
    with load("tensorrt-fp32", plan) as engine:
        assert engine._lane_of(4).context._state.eager
    features = Features.of(found.module)
    lazy = dataclasses.replace(features, kernel_specialization=False, user_allocation=False)
    monkeypatch.setattr(Features, "of", classmethod(lambda cls, module: lazy))
    with load("tensorrt-fp32", plan) as engine:
        assert not engine._lane_of(4).context._state.eager
    with load("tensorrt-fp32", plan_of("tensorrt-fp32", graphs["fp32"])) as engine:
        engine.infer({"input": PHOTOS})["logits"]
        assert "cannot be captured" in engine.notes(4)[0]


def test_a_driver_that_is_too_old_is_told_in_a_sentence(install: Install, graphs: dict[str, onnx.ModelProto]) -> None:
    """The bindings say "factory function returned nullptr"; the cause was logged before it."""
    found = install(ELEVEN)

    def refuse(builder: Any, logger: Any) -> None:
        logger.log(found.module.ILogger.Severity.WARNING, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    found.module._behaviour["Builder.__init__"] = refuse  # type: ignore[index]
    with pytest.raises(TensorRTError, match=r"driver may be too old.*\n.*error: 35") as raised:
        plan_of("tensorrt-fp32", graphs["fp32"])
    assert "nullptr" not in str(raised.value)


def test_of_what_is_longer_than_its_header_says_tensorrt_is_the_judge(
    install: Install, graphs: dict[str, onnx.ModelProto]
) -> None:
    install(NEWEST_10)
    plan = plan_of("tensorrt-fp32", graphs["fp32"])
    with pytest.raises(TensorRTError, match=r"cannot load the plan(.|\n)*header.size == blobSize failed"):
        load("tensorrt-fp32", plan + b"more")


def test_rtx_can_be_chosen_where_both_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    both = {name: type(name, (), {"Builder": None, "__name__": name}) for name in ("tensorrt", "tensorrt_rtx")}
    monkeypatch.setattr(tensorrt.importlib, "import_module", lambda name: both[name])
    for choice, wanted in ((None, "tensorrt"), ("tensorrt_rtx", "tensorrt_rtx")):
        forget()
        monkeypatch.delenv(TENSORRT_CHOICE, raising=False)
        if choice:
            monkeypatch.setenv(TENSORRT_CHOICE, choice)
        assert tensorrt.installed() is both[wanted]
        wanted_modules = set(tensorrt.MODULES) if choice is None else {choice}
        assert {*backend("tensorrt").runtimes("cuda")} & {*tensorrt.MODULES} == wanted_modules, (
            "the other may be broken"
        )
    forget()
    monkeypatch.setenv(TENSORRT_CHOICE, "rtx")
    with pytest.raises(UserError, match="TRTGATE_TENSORRT=rtx is not a TensorRT; give one of tensorrt"):
        tensorrt.installed()
    forget()


@pytest.mark.parametrize(
    ("choice", "there", "wanted"),
    [
        (None, {"tensorrt": "11.4", "tensorrt-rtx": "1.7"}, "11.4"),
        ("tensorrt", {"tensorrt-cu12": "10.13", "tensorrt-rtx": "1.7"}, "10.13"),
        ("tensorrt_rtx", {"tensorrt": "11.4", "tensorrt-rtx": "1.7"}, "1.7"),
        ("tensorrt_rtx_bindings", {"tensorrt": "11.4", "tensorrt-rtx-cu13-bindings": "1.7"}, "1.7"),
        (None, {"tensorrt-rtx-cu13-bindings": "1.7"}, "1.7"),
    ],
)
def test_the_stack_tells_the_version_of_the_one_that_is_used(
    choice: str | None, there: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distribution(name: str) -> Any:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return SimpleNamespace(name=name, version=there[name], locate_file=lambda path: "nowhere")

    monkeypatch.setattr(metadata, "distribution", distribution)
    monkeypatch.delenv(TENSORRT_CHOICE, raising=False)
    if choice:
        monkeypatch.setenv(TENSORRT_CHOICE, choice)
    assert version_of("tensorrt") == wanted


def put(site: Path, name: str, version: str) -> str:
    """Install a package that has nothing but a name into a folder, which is returned."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(site)


def test_the_version_is_that_of_the_folder_that_is_imported_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An environment in one of NVIDIA's containers sees the system's TensorRT behind its own."""
    system = put(tmp_path / "system", "tensorrt", "10.9.0.34")
    own = put(tmp_path / "own", "tensorrt-cu13", "11.4.0.106")
    monkeypatch.delenv(TENSORRT_CHOICE, raising=False)
    monkeypatch.setattr(sys, "path", [own, system, *sys.path])
    assert version_of("tensorrt") == "11.4.0.106"
    monkeypatch.setattr(sys, "path", [system, own, *sys.path])
    assert version_of("tensorrt") == "10.9.0.34"
    rtx = put(tmp_path / "rtx", "tensorrt-rtx", "1.7.1.116")
    monkeypatch.setattr(sys, "path", [rtx, system, *sys.path])
    assert version_of("tensorrt") == "10.9.0.34", "TensorRT goes before TensorRT-RTX wherever they are"


def test_a_runtime_that_is_installed_by_another_name_has_its_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A plan is the key's in which its runtime's version stands: one nightly build is not to run another one's."""
    site = put(tmp_path, "ort-nightly", "1.33.0.dev20261101")
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").touch()
    [info] = tmp_path.glob("*.dist-info")
    (info / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.setattr(sys, "path", [site])
    assert version_of("onnxruntime") == "1.33.0.dev20261101"
    assert version_of("openvino") is None


def test_a_package_that_was_removed_in_part_keeps_nobody_from_looking(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "torch-2.0.dist-info").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), put(tmp_path / "site", "tensorrt-cu12", "10.13"), *sys.path])
    assert cuda_needs()["tensorrt-cu12"] == "12"


# What a plan is keyed by.


def test_a_version_that_is_built_for_several_cudas_has_plans_of_each(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(NEWEST_10)
    maker, spec, request = backend("tensorrt"), parse_spec("tensorrt-fp16"), BuildRequest(None, None, (1,), 1, "cuda")
    found = []
    for name in ("tensorrt-cu12", "tensorrt-cu13"):
        with monkeypatch.context() as patched:
            patched.setattr(sys, "path", [put(tmp_path / name, name, "10.13.3.9"), *sys.path])
            found.append(maker.build_options(spec, request)["cuda"])
    assert found == [["tensorrt-cu12"], ["tensorrt-cu13"]]


@pytest.mark.parametrize("reuse", [False, True])
def test_a_fresh_process_loads_the_plan_that_was_audited(
    reuse: bool, install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is told of no calibration and of no timings: did it look for the plan by them it would build another one,
    without ranges, that is INT8 by name alone."""
    install(NEWEST_10)
    spec, samples = parse_spec("tensorrt-int8-calibrated"), Seeded(small.signature(), {}, {}, 3, seed=0)
    graph = SimpleNamespace(path=tmp_path / "graph.onnx", digest="of the graph")
    made = SimpleNamespace(path=tmp_path / "plan.engine")
    layers = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * small.CROP**2, 10))
    monkeypatch.setitem(OWN, "small", lambda: Architecture(layers, Preprocessing(resize=16, crop=small.CROP)))
    monkeypatch.setattr(Graphs, "of", lambda graphs, kind: graph)
    monkeypatch.setattr(Workbench, "samples", lambda bench, split: samples)
    monkeypatch.setattr(Workbench, "plan", lambda bench, spec: made)
    settings = Settings(engines=(spec,), plan_cache=tmp_path / "plans", reuse_timing_cache=reuse)
    with Workbench("small", settings) as bench:
        job = Spread(bench, 1)._job(spec, tmp_path / "model.pt", tmp_path / "samples")
    loaded: list[Path | None] = []

    def load(maker: object, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> NoReturn:
        loaded.append(plan)
        raise EngineRefused("seen enough")

    monkeypatch.setattr(type(backend("tensorrt")), "load", load)
    monkeypatch.setattr(type(backend("tensorrt")), "build", lambda *_: pytest.fail("it builds another plan"))
    with pytest.raises(EngineRefused, match="seen enough"):
        worker.Worker(cast(Any, None)).open(**job)
    assert loaded == [made.path]


def test_a_calibrated_engine_is_not_built_without_its_samples(install: Install, tmp_path: Path) -> None:
    install(NEWEST_10)
    request = BuildRequest(None, tmp_path / "graph.onnx", (1,), 1, "cuda")
    with pytest.raises(AssertionError):
        backend("tensorrt").build(parse_spec("tensorrt-int8-calibrated"), request, tmp_path / "plan")


H100 = {
    "gpu": "NVIDIA H100 80GB HBM3",
    "gpu_uuid": "GPU-1",
    "compute_capability": "9.0",
    "gpu_memory_mib": 81559,
    "vbios": "96.00",
    "driver": "575.57",
    "driver_cuda": "12.9",
    "cuda": "13.0",
    "cudnn": 91900,
}


@pytest.mark.parametrize(
    ("changed", "reused"),
    [
        ({"driver": "580.159", "driver_cuda": "13.0", "vbios": "96.01"}, True),
        ({"gpu_uuid": "GPU-2"}, True),
        ({"cuda": "13.1", "cudnn": 92000}, True),
        ({"gpu": "NVIDIA H200", "gpu_memory_mib": 143771}, False),
        ({"compute_capability": "8.0"}, False),
    ],
)
def test_a_plan_outlives_its_driver_and_not_its_kind_of_gpu(
    changed: dict[str, Any],
    reused: bool,
    install: Install,
    graphs: dict[str, onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    install(NEWEST_10)
    monkeypatch.setattr(backend("tensorrt"), "build", lambda spec, request, path: path.write_bytes(b"plan"))
    request = BuildRequest(None, tmp_path / "graph.onnx", (1,), 1, "cuda")

    def plan(facts: dict[str, Any], *, anew: bool = False) -> CachedFile:
        monkeypatch.setattr(building, "cuda_facts", lambda: facts)
        asked = dataclasses.replace(request, anew=anew)
        cache = PlanCache(tmp_path)
        found = building.cached_plan(cache, "small", parse_spec("tensorrt-fp32"), asked, {"graph": "digest"}, SILENT)
        assert found is not None
        return found

    assert plan(H100).built_on["driver"] == "575.57"
    again = plan({**H100, **changed})
    assert again.reused is reused
    assert again.built_on["driver"] == ("575.57" if reused else {**H100, **changed}["driver"])
    rebuilt = plan({**H100, **changed}, anew=True)
    assert not rebuilt.reused
    assert plan({**H100, **changed}).built_on == {**H100, **changed}


def test_without_nvml_nothing_is_keyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "cuda_facts", dict)
    with pytest.raises(UserError, match="NVML does not answer"):
        building.processor("cuda", 1)


# What the first person with TensorRT runs.


@pytest.mark.parametrize("package", BINDINGS)
def test_the_check_for_whoever_has_tensorrt(
    package: str, install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(package)
    assert check_tensorrt.main(["--out", str(tmp_path / "report.json")]) == 0, capsys.readouterr().out
    written = json.loads((tmp_path / "report.json").read_text())
    assert len([each for each in written["checks"] if "holds" in each]) > 40
    assert VIOLATIONS == []
    assert "assumptions hold" in capsys.readouterr().out


def test_the_check_says_what_does_not_hold(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(NEWEST_10, wrong=True, second_profile_float=True)
    assert check_tensorrt.main(["--out", str(tmp_path / "report.json")]) == 1
    text = capsys.readouterr().out
    assert "DOES NOT HOLD: tensorrt-fp32: answers like ONNX Runtime at batch 4" in text
    assert "DOES NOT HOLD: tensorrt-fp16: was built as asked" in text


def test_the_check_tells_where_the_process_ended(
    install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """TensorRT may bring it down: what was seen until then is in the file, and what was looked at last."""
    install(NEWEST_10)

    def crash(engine: TensorRTEngine) -> None:
        raise SystemExit  # nothing that is caught

    monkeypatch.setattr(TensorRTEngine, "audit", crash)
    with pytest.raises(SystemExit):
        check_tensorrt.main(["--out", str(tmp_path / "report.json")])
    *before, last = json.loads((tmp_path / "report.json").read_text())["checks"]
    assert all(each["holds"] for each in before)
    assert last == {"assumption": "tensorrt-fp32: was built as asked", "holds": False, "seen": "the process ended here"}


def test_the_check_without_tensorrt_is_a_sentence(
    gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name}", name=name)

    forget()
    monkeypatch.setattr(tensorrt.importlib, "import_module", missing)
    assert check_tensorrt.main(["--out", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr().err
    assert "TensorRT cannot be imported" in said
    assert "pip install -r requirements-gpu.txt" in said
    monkeypatch.setenv(TENSORRT_CHOICE, "rtx")
    forget()
    assert check_tensorrt.main([]) == 2
    assert "TRTGATE_TENSORRT=rtx is not a TensorRT" in capsys.readouterr().err
    forget()
