"""expectations.toml: look-up, mistakes, writing a delta."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trtgate.expectations import DEFAULT_PATH, Expectation, read_expectations, require_own, write_delta
from trtgate.kinds import UserError
from trtgate.verdict import Outcome
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.paired import decide_paired

from .faults.table import Fault


def test_what_is_expected_by_default_sees_three_percent_of_a_fast_engine() -> None:
    """The blog post's INT8 engine took 0.39 ms; an absolute floor above 12 us would let 3 % of it pass."""
    generator = np.random.default_rng(0)
    old, new = (seconds * generator.normal(1, 0.001, 15) for seconds in (0.39e-3, 0.39e-3 * 1.03))
    floor = read_expectations(DEFAULT_PATH).of("resnet50", "tensorrt-int8").absolute_floor
    assert decide_paired(old, new, delta=0.015, absolute_floor=floor).outcome is Outcome.REGRESSED
    assert floor == Expectation().absolute_floor


def test_the_most_particular_section_counts(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text(
        """
        [default]
        agreement = 0.1
        speedup = 1
        delta = 0.01
        cosine = 0.4
        [default.precision.int8]
        agreement = 0.15
        cosine = 0.5
        [default.engines.onnxruntime-int8]
        agreement = 0.2
        speedup = 2
        delta = 0.02
        [models.resnet50]
        agreement = 0.3
        speedup = 3
        [models.resnet50.engines.onnxruntime-int8]
        agreement = 0.4
        """
    )
    found = read_expectations(path).of("resnet50", "onnxruntime-int8")
    assert tuple(map(found.number, ("agreement", "speedup", "delta", "cosine"))) == (0.4, 3, 0.02, 0.5)
    other = read_expectations(path).of("resnet18", "openvino-int8")
    assert tuple(map(other.number, ("agreement", "speedup", "delta"))) == (0.15, 1, 0.01)


def test_a_question_about_one_metric_gates_nothing_beside_it_and_the_latency(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    limits = "[models.resnet50.engines.onnxruntime-int8]\ndelta = 0.03\ntail = 0.2\n"
    path.write_text(f"acknowledged_missing = ['*']\n{limits}")
    engine = ("resnet50", "onnxruntime-int8")
    asked = read_expectations(path).only(*engine, BY_NAME["host_memory"], 0.1)
    found = asked.of(*engine)
    gated = {name: found.limits(metric).delta for name, metric in BY_NAME.items() if found.limits(metric).delta}
    assert gated == {"latency": 0.03, "cycles": 0.03, "host_memory": 0.1}
    assert not asked.acknowledges(*engine)
    assert asked.only(*engine, BY_NAME["latency"], 0.1).of(*engine)["delta"] == 0.1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[default", "TOML"),
        ("[defaults]", "defaults"),
        ("[default]\nagrement = 0.9", "agrement"),
        ('[default]\nagreement = "high"', "agreement"),
        ("[default.engine.a-fp32]\ndelta = 0.1", "did you mean engines?"),
        ("[quantize.resnet50]\ncalibration = 'max'", "calibration"),
        ("[quantize.resnet50]\nkeep = ['conv1']", "keep"),
        ("[quantize.resnet50]\nkeep_float = 'conv1'", "keep_float"),
        ("acknowledged_missing = 'all'", "acknowledged_missing"),
    ],
)
def test_a_mistake_is_an_error_that_names_file_and_key(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError, match="mine.toml") as caught:
        read_expectations(path)
    assert named in str(caught.value)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.toml"):
        read_expectations(tmp_path / "nowhere.toml")


def test_a_delta_can_be_written_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    shutil.copy(DEFAULT_PATH, path)
    for delta in (0.02, 0.035):
        write_delta(path, "resnet50", "onnxruntime-int8", delta)
        assert read_expectations(path).of("resnet50", "onnxruntime-int8")["delta"] == delta
    before, after = DEFAULT_PATH.read_text(), path.read_text()
    assert after.startswith(before)
    assert after.count("[models.resnet50.engines.onnxruntime-int8]") == 1
    assert read_expectations(path).of("resnet50", "openvino-int8")["delta"] == read_expectations().of("a", "b")["delta"]


@pytest.mark.parametrize("model", ["net", "net.onnx", "net.onnx@1x3x64x64"])
@pytest.mark.parametrize("spaces", ["", " "])
def test_a_delta_can_be_written_for_a_model_of_a_file(model: str, spaces: str, tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text(f"# mine\n[{spaces}models.'net.onnx'.engines.onnxruntime-int8]\ntail = 0.3 # kept\n")
    require_own(path, model, "onnxruntime-int8")
    for delta in (0.02, 0.035):
        write_delta(path, model, "onnxruntime-int8", delta)
        assert read_expectations(path).of(model, "onnxruntime-int8")["delta"] == delta
    assert path.read_text().count("engines") == (1 if model == "net.onnx" else 2)
    assert "tail = 0.3 # kept" in path.read_text()


def test_two_may_write_their_deltas_at_once(tmp_path: Path) -> None:
    path, engines = tmp_path / "expectations.toml", [f"onnxruntime-{each}" for each in ("fp32", "fp16", "int8")] * 4
    path.write_text("[default]\ndelta = 0.05\n")
    with ThreadPoolExecutor(len(engines)) as pool:
        list(pool.map(lambda engine: require_own(path, "net", engine), engines))
        list(pool.map(lambda engine: write_delta(path, "net", engine, 0.03), engines))
    assert {read_expectations(path).of("net", each)["delta"] for each in engines} == {0.03}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.fault(
    done="`selftest --write` into an expectations.toml that has the section in a form that no line can be put into",
    said="mine.toml: delta of net onnxruntime-int8 cannot be set; write it there by hand",
    status="-",
    kept="the file; nothing is measured",
)
def test_a_delta_that_cannot_be_written_is_told_before(tmp_path: Path, fault: Fault) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("models = {net = {engines = {onnxruntime-int8 = {delta = 0.2}}}}\n")
    with pytest.raises(UserError) as caught:
        require_own(path, "net", "onnxruntime-int8")
    fault.says(str(caught.value))
    assert path.read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("section", "known", "said"),
    [
        ("models.resnet18", ["resnet50"], ""),
        ("models.resnet5O", ["resnet50"], "did you mean resnet50?"),
        ("models.shelf", ["shelf"], ""),
        ("models.shelf", ["resnet50"], "names no model"),
        ("models.beside", ["resnet50"], ""),
        ("models.renamed", ["resnet50"], ""),
        ("quantize.shelve", ["shelf"], "[quantize.shelve] names no model, here or elsewhere; did you mean shelf?"),
        ('models."detector.onnx"', ["detector.onnx@1x3x64x64"], ""),
        ('models."detector.onnx@1x3x64x64"', ["detector.onnx"], ""),
        ('models."detectr.onnx"', ["detector.onnx"], 'did you mean "detector.onnx"?'),
        ('models."elsewhere.onnx"', ["resnet50"], ""),
        ('models."detector2.onnx"', ["detector.onnx"], ""),
    ],
)
def test_a_section_is_of_a_model_that_there_is(section: str, known: list[str], said: str, tmp_path: Path) -> None:
    path, models = tmp_path / "mine.toml", tmp_path / "models"
    models.mkdir()
    (models / "detector2.onnx").touch()
    (tmp_path / "beside.toml").write_text("model = 'resnet18'\n")
    (tmp_path / "other.toml").write_text("model = 'resnet18'\nname = 'renamed'\n")
    path.write_text(f"[{section}]\n")
    found = read_expectations(path)
    if not said:
        found.require_models(known, [models])
        return
    for folders in ([models], None) if ".onnx" in section else ([models],):
        with pytest.raises(UserError) as caught:
            found.require_models(known, folders)
        assert "mine.toml: [" in str(caught.value)
        assert said in str(caught.value)


@pytest.mark.parametrize("section", ["det_v2.onnx", "resnet50.onnx"])
def test_another_version_of_a_network_is_not_misspelt(section: str, tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text(f'[models."{section}"]\nagreement = 0.9\n')
    read_expectations(path).require_models(["det_v1.onnx", "resnet50"], [tmp_path])


def test_sections_of_models_that_are_only_read_of_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "expectations.toml"
    path.write_text("[models.shelf]\nagreement = 0.9\n")
    found = read_expectations(path)
    found.require_models(["resnet50"])
    with pytest.raises(UserError, match="names no model"):
        found.require_models(["resnet50"], [tmp_path])
