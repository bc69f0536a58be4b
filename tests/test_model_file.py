"""Model files: a TOML that tells of an ONNX file or of one of torchvision's networks, its photos and its task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtgate.ab.results import AbReport
from trtgate.engines import parse_spec
from trtgate.expectations import read_expectations
from trtgate.images import decode, list_folder
from trtgate.kinds import UserError
from trtgate.models.base import DATA
from trtgate.models.model_file import read_models
from trtgate.photos import PhotoFolder, Recipe
from trtgate.search.journal import contents_of
from trtgate.search.laboratory import read_report
from trtgate.search.question import Question, Raced, ask
from trtgate.signature import Signature, TensorSpec
from trtgate.tasks.classification import Classification
from trtgate.tasks.detection import Detections, average_precision_of, matched, read_coco
from trtgate.tasks.segmentation import Segmentation
from trtgate.verdict.bisection import Relation
from trtgate.verdict.outcome import Outcome
from trtgate.verdict.shares import mean_bounds
from trtgate.workbench import Workbench

from . import networks
from .test_onnx_file import settings_of
from .test_tasks import judged

PHOTOS = sorted((DATA / "evaluation").glob("*.jpg"))


def write(folder: Path, text: str, model: Any = None) -> Path:
    networks.save(model or networks.classifier(), folder / "net.onnx")
    path = folder / "mine.toml"
    path.write_text(f'model = "net.onnx"\n{text}')
    return path


def photos(folder: Path, *classes: str) -> Path:
    for index, name in enumerate(classes or (".",)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for path in PHOTOS[3 * index : 3 * index + 3]:
            shutil.copy(path, folder / name)
    return folder


PREPARED = "[preprocessing]\nmean = [0.5, 0.5, 0.5]\nstd = [0.5, 0.5, 0.5]\n"


# What a file may say.


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("taks = 'x'", "key taks is unknown; did you mean task"),
        ("task = 'detecting'", "task detecting is unknown; did you mean detection"),
        ("task = 'detection'", r'write boxes = "OUTPUT", one of map, boxes'),
        ("[tensors]\nmetric = 'nothing'", "write module:function"),
        ("[tensors]\nmetric = 'nowhere:mine'", "nowhere:mine cannot be imported"),
        ("[tensors]\nmetrics = 'a:b'", "metrics means nothing there"),
        ("[preprocessing]\nfit = 'fill'", "fit fill is unknown"),
        ("[preprocessing]\nstd = [0]", "std must not be 0"),
        ("[inputs]\ny = 1", "has no input y"),
        ("[inputs]\nx = nan", r"\[inputs\]: x must be finite"),
        ("[preprocessing]\nmean = [nan, 0, 0]", "mean must be finite"),
        ("[preprocessing]\nstd = inf", "std must be finite"),
        ("[preprocessing]\nmean = [1, 2]", "mean must be one number, or 3"),
        ("[preprocessing]\ncolour = 'GREY'\nstd = [1, 2, 3]", "std must be one number, or 1"),
        ("[preprocessing]\nscale = [255, 255]", "scale must be one number"),
        ("[preprocessing]\npad = 300", "pad must lie between 0 and 255"),
        ("[preprocessing]\npad = -1", "pad must lie between 0 and 255"),
        ("[preprocessing]\npad = [1, 2]", "pad must be one number"),
        ("[preprocessing]\nresize = [256]", "resize must be one number"),
        ("[preprocessing]\nresize = 1e9", "resize must be a whole number"),
        ("[preprocessing]\nresize = -7", "resize must be a whole number"),
        (f"[preprocessing]\nmean = [1{'0' * 400}, 0, 0]", "mean must be finite"),
        ("[preprocessing]\nmean = 1e300", "mean must be finite"),
        ("[preprocessing]\nstd = 1e-300", "std must not be 0"),
        ("[preprocessing]\nsize = [8, 'a']", "size must be a number"),
        ("[preprocessing]\nsize = [8, -8]", "size must be height and width"),
        (f"task = 'detection'\n[detection]\nthreshold = 1{'0' * 400}", "threshold must be a finite number"),
        ("task = 'detection'\n[detection]\ndecode = ''", "names no function; write module:function"),
        ("[tensors]\nmetric = ''", "names no function; write module:function"),
        ("task = 'classification'\n[classification]\noutput = 'map'\nmetric = 'own:f'", "metric means nothing there"),
        (
            "task = 'classification'\n[classification]\noutput = 'map'\nclasses = \"\\u0000\"",
            "cannot be read; give a file with a name in each line",
        ),
        (
            "task = 'segmentation'\n[segmentation]\noutput = 'map'\nthreshold = 'abc'",
            "threshold must be a finite number",
        ),
        ("task = 'detection'\n[detection]\nthreshold = [0.5]", "threshold must be a finite number"),
        ("task = 'detection'\n[detection]\nthreshold = nan", "threshold must be a finite number"),
        ("task = 'detection'\n[detection]\nannotations = 3", "annotations must be the name of a file"),
        ("task = 'detection'\n[detection]\nboxes = 'map'\nscores = 'map'", r"boxes = map is of .*, not \[n,4\]"),
        (
            "task = 'classification'\n[classification]\noutput = 'map'\nclasses = ['a']",
            "classes names 1, and map has 64",
        ),
        ("[limits]\nagrement = 0.9", "key agrement in .limits. is unknown; did you mean agreement"),
        ("[segmentation]\noutput = 'map'", "means nothing where the task is tensors; write task"),
        ("[limits]\nmean_iou = 0.9", "mean_iou in .limits. is of no score of the task tensors"),
        ("[limits.precision.int8]\nmetric = 0.9", "metric in .limits. is of no score of the task tensors"),
        ("weights = 'net.pth'", "weights are for a network of torchvision's"),
        ("[quantize]\nkeep_float = ['hed*']", r"keep_float hed\* names no node of net\.onnx, such as Conv_0"),
        ("shapes = 'x=1x3x8x8'", "shapes must be a list"),
        ("shapes = ['x=1x3']", "give 4 axes"),
        ("name = 'two words'", "name must be one word"),
        ("images = 3", "images must be a text"),
    ],
)
def test_what_is_wrong_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = write(tmp_path, text, networks.heads("N", 8, 8))
    with pytest.raises(UserError, match=sentence) as told:
        read_models([str(path)], [])
    assert "\n" not in str(told.value)


def test_it_must_name_a_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("task = 'tensors'")
    with pytest.raises(UserError, match="names no model"):
        read_models([str(path)], [])


def test_a_mark_of_the_byte_order_is_no_part_of_a_file(tmp_path: Path) -> None:
    """As editors on Windows write it."""
    path = write(tmp_path, "task = 'classification'\n[classification]\nclasses = 'names.txt'\n")
    path.write_text(path.read_text(), encoding="utf-8-sig", newline="\r\n")
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n", encoding="utf-8-sig", newline="\r\n")
    task = read_models([str(path)], [])["mine"].task
    assert isinstance(task, Classification)
    assert task.classes == ("ant", "bee", "cat", "dog", "elk")
    annotations = {"images": [{"id": 0, "file_name": "a.jpg"}], "annotations": []}
    (tmp_path / "coco.json").write_text(json.dumps(annotations), encoding="utf-8-sig")
    assert list(read_coco(tmp_path / "coco.json")) == ["a.jpg"]
    (tmp_path / "limits.toml").write_text("[default]\nagreement = 0.5\n", encoding="utf-8-sig")
    assert read_expectations(tmp_path / "limits.toml").of("mine", "onnxruntime-int8")["agreement"] == 0.5


def test_shapes_limits_and_a_name(tmp_path: Path) -> None:
    text = """
        name = "mine"
        shapes = ["x=1x3x8x8", "x=1x3x16x8"]
        [limits]
        cosine = 0.5
        [limits.precision.int8]
        sqnr_db = 3.0
        [quantize]
        calibration = "entropy"
    """
    settings = settings_of(tmp_path, "--model", str(write(tmp_path, text, networks.heads())))
    assert settings.models == ("mine@1x3x8x8", "mine@1x3x16x8")
    limits = settings.expectations.of("mine@1x3x8x8", "onnxruntime-int8")
    assert (limits["cosine"], limits["sqnr_db"], limits["speedup"]) == (0.5, 3.0, None)
    assert settings.expectations.quantize("mine@1x3x8x8").calibration == "entropy"


def test_one_of_torchvisions_networks_with_weights_and_limits(tmp_path: Path) -> None:
    path = tmp_path / "shop.toml"
    path.write_text('model = "squeezenet1_1"\nimages = "nowhere"\n')
    with pytest.raises(UserError, match=r"--images: .*nowhere is not a folder"):
        settings_of(tmp_path, "--model", str(path))
    for section in ("[classification]\nclasses = ['a']", "[detection]\nboxes = 'b'", "[limits]\nmean_ap = 0.5"):
        path.write_text(f'model = "squeezenet1_1"\n{section}\n')
        with pytest.raises(UserError, match=r"shop\.toml: .*(for an ONNX file|means nothing|no score)"):
            settings_of(tmp_path, "--model", str(path))
    path.write_text('model = "squeezenet1_1"\n[limits]\nagreement = 0.5\n')
    settings = settings_of(tmp_path, "--model", str(path))
    assert settings.models == ("shop",)
    assert settings.engines[0].id == "pytorch-fp32"
    assert settings.expectations.of("shop", "onnxruntime-int8")["agreement"] == 0.5
    assert settings.expectations.of("shop", "onnxruntime-int8")["speedup"] == 1.2
    with pytest.raises(UserError, match='--weights shop=.*; write weights = "FILE" into its TOML file'):
        settings_of(tmp_path, "--model", str(path), "--weights", "shop=a.pth")


# Photos.


@pytest.mark.parametrize(
    ("recipe", "shape"),
    [
        (Recipe((20, 12)), (1, 3, 20, 12)),
        (Recipe((12, 12), "crop", 16), (1, 3, 12, 12)),
        (Recipe((20, 12), "pad", colour="GREY"), (1, 1, 20, 12)),
        (Recipe((20, 12), layout="NHWC", colour="BGR"), (1, 20, 12, 3)),
    ],
)
def test_a_photo_becomes_an_input(recipe: Recipe, shape: tuple[int, ...]) -> None:
    array = recipe.prepare(decode(PHOTOS[0]), TensorSpec("x", "float32", shape))
    assert (array.shape, array.dtype) == (shape, np.float32)
    assert 0 <= array.min() < array.max() <= 1


def test_colours_and_types() -> None:
    red = np.zeros((6, 4, 3), np.uint8)
    red[:, :, 0] = 255
    spec = TensorSpec("x", "float32", (1, 3, 6, 4))
    assert Recipe((6, 4)).prepare(red, spec)[0, :, 0, 0].tolist() == [1, 0, 0]
    assert Recipe((6, 4), colour="BGR").prepare(red, spec)[0, :, 0, 0].tolist() == [0, 0, 1]
    assert Recipe((6, 4), mean=(0.5,), std=(0.5,)).prepare(red, spec)[0, :, 0, 0].tolist() == [1, -1, -1]
    raw = TensorSpec("x", "uint8", (1, 6, 4, 3))
    assert Recipe((6, 4), scale=1, layout="NHWC").prepare(red, raw)[0, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        (
            "uint8",
            {},
            "from 0 to 1 of photos, and the input is x uint8.*; change scale, which is 1 for pixels as they are",
        ),
        ("uint8", {"scale": 1, "mean": (124, 116, 104)}, "from -124 to 151 of photos, .*, which has not all of them"),
        ("int8", {"scale": 1}, "from 0 to 255 of photos"),
        ("float16", {"scale": 1e-3}, "which has not all of them; change scale, mean or std"),
        ("uint8", {"scale": 1}, ""),
        ("int8", {"scale": 1, "mean": (128,)}, ""),
        ("int8", {"mean": (0.5,), "std": (1 / 255,)}, ""),
        ("float16", {}, ""),
    ],
)
def test_photos_are_numbers_that_an_input_has(kind: str, how: dict[str, Any], said: str, tmp_path: Path) -> None:
    """numpy would count on from the lowest behind the highest, and 1 is white where numbers are whole."""
    each, folder = TensorSpec("x", kind, ("batch", 3, 16, 16)), photos(tmp_path / "photos")

    def read() -> PhotoFolder:
        return PhotoFolder(list_folder(folder, None), folder, Recipe((16, 16), **how), each, Signature((each,)), {})

    if not said:
        assert len(np.unique(read()[0]["x"])) > 100
        return
    with pytest.raises(UserError, match=said):
        read()


def test_the_size_of_photos_is_that_of_an_input_that_leaves_it_open(tmp_path: Path) -> None:
    path = write(tmp_path, "[preprocessing]\nsize = [24, 16]\n", networks.heads())
    [model] = read_models([str(path)], []).values()
    assert model.file is not None
    assert model.file.signature.inputs[0].shape == ("batch", 3, 24, 16)
    for wrong in ("'large'", "[24, 'a']", "[24, -16]", "[24.5, 16]", "[24]"):
        path.write_text(f'model = "net.onnx"\n[preprocessing]\nsize = {wrong}\n')
        with pytest.raises(UserError, match="size must be"):
            read_models([str(path)], [])


def test_photos_of_a_folder_and_the_shipped_ones(tmp_path: Path) -> None:
    path = write(tmp_path, PREPARED)
    settings = settings_of(tmp_path, "--model", str(path))
    with Workbench("mine", settings) as bench:
        assert len(bench.samples("evaluation")) == len(PHOTOS)
        assert bench.samples("evaluation").doubt == ""
    settings = settings_of(tmp_path, "--model", str(path), "--images", str(photos(tmp_path / "photos")))
    with Workbench("mine", settings) as bench:
        samples = bench.samples("evaluation")
        assert len(samples) == 3
        assert samples[0]["photo"].shape == (1, 3, 16, 16)
        assert samples.digest != samples.first(2).digest
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    with Workbench("mine", settings) as bench, pytest.raises(UserError, match=r"bad\.jpg is truncated"):
        bench.samples("evaluation")


def test_the_values_of_other_inputs_belong_to_the_photos(tmp_path: Path) -> None:
    photo, scale = TensorSpec("x", "float32", ("batch", 3, 16, 16)), TensorSpec("s", "float32", ())
    folder = photos(tmp_path / "photos")

    def digest(value: float) -> str:
        listing = list_folder(folder, None)
        return PhotoFolder(listing, folder, Recipe((16, 16)), photo, Signature((photo, scale)), {"s": value}).digest

    assert digest(1.0) == digest(1.0) != digest(3.0)


# Tasks.


def test_a_classifier_with_labels(tmp_path: Path) -> None:
    text = f'task = "classification"\n[classification]\noutput = "scores"\nclasses = "names.txt"\n{PREPARED}'
    path = write(tmp_path, text)
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    folder = photos(tmp_path / "photos", "ant", "bee", "cat", "dog", "elk")
    engine = parse_spec("openvino-fp32")
    settings = settings_of(tmp_path, "--model", str(path), "--images", str(folder), "--engine", engine.id)
    assert settings.task("mine") == "classification"
    with Workbench("mine", settings) as bench:
        samples = bench.samples("evaluation")
        assert bench.class_names == ("ant", "bee", "cat", "dog", "elk")
        assert samples.labels is not None
        assert samples.labels.tolist() == [index for index in range(5) for _ in range(3)]
        found = bench.task.compare(bench.outputs(bench.reference), bench.outputs(engine), samples)
        assert (found.top1, found.n) == (15, 15)
        assert bench.logits(engine).shape == (15, 5)


def test_folders_that_are_called_as_classes_are_those_classes(tmp_path: Path) -> None:
    """In whatever order the network has them; a few will do."""
    text = 'task = "classification"\n[classification]\nclasses = ["elk", "cat", "ant", "bee", "bee"]\n'
    [model] = read_models([str(write(tmp_path, f"{text}{PREPARED}"))], []).values()
    folder = photos(tmp_path / "photos", "ant", "elk")
    labels = model.samples("evaluation", folder, skip_bad=False).labels
    assert labels is not None
    assert labels.tolist() == [2] * 3 + [0] * 3
    for wrong, said in (("bee", "is called as two of the model's classes"), ("eel", "is called as none of the model")):
        with pytest.raises(UserError, match=said):
            model.check_folders(photos(tmp_path / wrong, "ant", wrong), None)
    # Called otherwise all of them are the classes in the order of their names.
    with pytest.raises(UserError, match="has 2 class folders, the model 5 classes"):
        model.check_folders(photos(tmp_path / "others", "1", "2"), None)


def boxes(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    array = np.array([row[:5] for row in rows], np.float64).reshape(-1, 5)
    return Detections(array[:, :4], array[:, 4], np.array([row[5] for row in rows], np.int64))


def test_boxes_are_found_again_by_overlap_and_label() -> None:
    wanted = boxes((0, 0, 10, 10, 0.9, 1), (20, 20, 30, 30, 0.8, 1), (40, 40, 50, 50, 0.7, 2))
    mine = boxes((1, 0, 11, 10, 0.9, 1), (20, 20, 30, 30, 0.8, 2), (60, 60, 70, 70, 0.9, 2))
    assert matched(wanted, wanted) == ([True, True, True], 0)
    assert matched(wanted, mine) == ([True, False, False], 2)
    assert average_precision_of([wanted], [wanted]).value == pytest.approx(1.0)
    assert average_precision_of([wanted], [boxes()]).value == 0.0
    assert average_precision_of([boxes()], [boxes()]).value == 1.0
    # Of one class the better half: precision 1 up to a recall of a half.
    two = boxes((0, 0, 10, 10, 0.9, 1), (20, 20, 30, 30, 0.8, 1))
    assert average_precision_of([two], [two.above(0.85)]).value == pytest.approx(0.5)


def test_a_detector_by_outputs_by_its_own_function_and_by_labels(tmp_path: Path) -> None:
    decode = """
import numpy as np

def decode(outputs):
    at = outputs["map"][0]
    best = np.argsort(-at.ravel())[:3]
    y, x = np.unravel_index(best, at.shape)
    return np.stack([x, y, x + 8, y + 8], 1), at.ravel()[best], np.zeros(3, int)

def mine(reference, got):
    return {"rows": float(len(reference) == len(got))}
"""
    (tmp_path / "own.py").write_text(decode)
    names = [path.name for path in PHOTOS[:3]]
    annotations = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(names)],
        "annotations": [{"image_id": 0, "bbox": [0, 0, 8, 8], "category_id": 0}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(annotations))
    text = f"""
task = "detection"
images = "photos"
[detection]
decode = "own:decode"
threshold = 0.1
annotations = "coco.json"
metric = "own:mine"
[limits]
metric = 0.9
{PREPARED}"""
    photos(tmp_path / "photos")
    path = write(tmp_path, text, networks.heads("N", 16, 16))
    engine = parse_spec("openvino-fp32")
    settings = settings_of(tmp_path, "--model", str(path), "--engine", engine.id)
    with Workbench("mine", settings) as bench:
        found = bench.task.compare(bench.outputs(bench.reference), bench.outputs(engine), bench.samples("evaluation"))
        assert {score.name: score.value for score in found.scores}["boxes found again"] == 1.0
        assert {score.name for score in found.scores if not score.of} == {
            "boxes found again",
            "confidence kept",
            "confidence kept by box",
            "mAP",
            "rows",
        }
        assert {score.of for score in found.scores} == {"", "boxes"}
        [verdict] = bench.task.decide(found, settings.expectations.of("mine", engine.id))
        # Nine boxes of three photos prove no share of 98 %.
        assert verdict.outcome is Outcome.INCONCLUSIVE, verdict


def test_a_segmenter(tmp_path: Path) -> None:
    text = f'task = "segmentation"\n[segmentation]\noutput = "boxes"\n[limits]\nmean_iou = 0.99\n{PREPARED}'
    path = write(tmp_path, text, networks.heads("N", 16, 16))
    engine = parse_spec("openvino-fp32")
    settings = settings_of(tmp_path, "--model", str(path), "--engine", engine.id)
    with Workbench("mine", settings) as bench:
        samples = bench.samples("evaluation")
        found = bench.task.compare(bench.outputs(bench.reference), bench.outputs(engine), samples)
        assert [score.name for score in found.scores][:2] == ["equal pixels", "mean IoU of classes"]
        assert {score.of for score in found.scores} == {"boxes", "map"}
        [verdict] = bench.task.decide(found, settings.expectations.of("mine", engine.id))
        assert verdict.outcome is Outcome.PASS, verdict


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize(
    ("given", "last"), [(("N", 16, 24, 3), True), (("N", 3, 16, 24), True), (("N", 3, 16, 24), False)]
)
def test_a_segmenters_classes_are_its_last_axis_where_its_form_says_so(
    channels: int, given: tuple[Any, ...], last: bool, tmp_path: Path
) -> None:
    """The largest of each row instead would be the same of answers half as large."""
    path = write(
        tmp_path, 'task = "segmentation"\n[segmentation]\nthreshold = 0.3\n', networks.masks(given, channels, last=last)
    )
    [model] = read_models([str(path)], []).values()
    assert isinstance(model.task, Segmentation)
    random = np.random.default_rng(0)
    maps = random.random((24, channels, 16, 24)).astype(np.float32)
    reference, halved, others = (
        [{"m": np.moveaxis(each, 0, -1) if last else each} for each in some]
        for some in (maps, maps / 2, maps[:, :1] / 2 + maps * (np.arange(channels) != 2)[:, None, None])
    )
    assert model.task.classes(reference[0]["m"]).shape == (16, 24)
    half = read_expectations().of("mine", "tensorrt-fp16")
    assert judged(model.task, reference, reference, half).outcome is Outcome.PASS
    wrong = judged(model.task, reference, halved if channels == 1 else others, half)
    assert (wrong.outcome, "equal pixels" in wrong.message) == (Outcome.REGRESSED, True)


def test_classes_of_another_axis_are_another_task(tmp_path: Path) -> None:
    """A session of before took them from the first."""
    text, digests = 'task = "segmentation"\n', set()
    for last in (False, True):
        [model] = read_models([str(write(tmp_path, text, networks.masks(("N", 3, 16, 24), 5, last=last)))], []).values()
        digests.add(model.task_digest)
    assert len(digests) == 2


def test_pixels_are_counted_by_class() -> None:
    task = Segmentation("y")
    two = np.zeros((3, 4, 4), np.float32)
    two[1] = 1
    assert task.classes(two).tolist() == [[1] * 4] * 4
    assert task.classes(np.full((1, 4, 4), 0.6, np.float32)).sum() == 16
    assert mean_bounds([1.0] * 5) == (1.0, 1.0)
    low, high = mean_bounds([0.9, 1.0, 0.95])
    assert 0.85 < low < 0.95 < high <= 1.0
    assert mean_bounds([1.0]) == (0.0, 1.0)


# Searches for a version.


def test_a_search_refuses_what_a_model_cannot_have(tmp_path: Path) -> None:
    path = write(tmp_path, PREPARED)
    settings = settings_of(tmp_path, "--model", str(path))
    with pytest.raises(UserError, match="counts first answers, and mine is judged by tensors"):
        ask(settings, "onnxruntime", ["onnxruntime-int8"], "answers", None)
    with pytest.raises(UserError, match="--engine pytorch-fp32: .*wants PyTorch's module"):
        ask(settings, "torch", ["pytorch-fp32"], "latency", None)
    path.write_text(f'task = "classification"\n{path.read_text()}')
    settings = settings_of(tmp_path, "--model", str(path))
    assert ask(settings, "onnxruntime", ["onnxruntime-int8"], "answers", None).metric == "answers"
    question = Question("onnxruntime", "mine", "onnxruntime-int8", 1, "cpu", "latency", 0.05)
    raced = Raced("1", "2", Relation.OPEN, False, "", 1, 0.0)
    with pytest.raises(UserError, match="cannot be raced .mine has no such layer"):
        read_report(raced, AbReport({"old": {}, "new": {}}, {"mine": "mine has no such layer"}, ()), question)


def test_a_search_goes_on_only_with_the_same_contents(tmp_path: Path) -> None:
    text = f"task = 'detection'\nimages = 'photos'\n[detection]\ndecode = 'own:decode'\n{PREPARED}"
    path, folder = write(tmp_path, text), photos(tmp_path / "photos")
    (tmp_path / "own.py").write_text("def decode(outputs):\n    return [], [], []\n")
    seen = []

    def note() -> None:
        seen.append(json.dumps(contents_of(settings_of(tmp_path, "--model", str(path), "--images", str(folder)))))

    note()
    note()
    assert seen[0] == seen[1]
    for file, more in (
        (tmp_path / "mine.toml", b"\n[inputs]\n"),
        (tmp_path / "own.py", b"# changed\n"),
        (next(folder.glob("*.jpg")), b"x"),
    ):
        file.write_bytes(file.read_bytes() + more)
        note()
    write(tmp_path, text.replace("[detection]", "[quantize]\ncalibration = 'entropy'\n[detection]\nthreshold = 0.4"))
    note()
    assert len(set(seen)) == len(seen) - 1


# What decides how answers are compared.


def test_sides_that_differ_in_how_answers_are_compared_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def f(a, b):\n    return 1.0\n")

    def digests(text: str) -> dict[str, str]:
        settings = settings_of(tmp_path, "--model", str(write(tmp_path, text)), "--engine", "onnxruntime-fp32")
        with Workbench("mine", settings) as bench:
            return bench.digests(parse_spec("onnxruntime-fp32"))

    texts = [
        "",
        'task = "classification"\n',
        'task = "segmentation"\n',
        'task = "segmentation"\n[segmentation]\nthreshold = 0.4\n',
        '[tensors]\nmetric = "own:f"\n',
    ]
    found = [digests(text) for text in texts]
    assert len({each["task"] for each in found}) == len(texts)
    assert {tuple(sorted(each)) for each in found} == {("evaluation photos", "task", "weights")}
    named = digests('task = "classification"\n[classification]\nclasses = ["a", "b", "c", "d", "e"]\n')
    assert named["task"] == found[1]["task"]
    assert digests("[limits]\ncosine = 0.5\n")["task"] == found[0]["task"]
    (tmp_path / "own.py").write_text("def f(a, b):\n    return 2.0\n")
    assert digests(texts[-1])["task"] != found[-1]["task"]


def test_a_network_of_torchvisions_has_one_task(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('model = "resnet18"\n')
    assert read_models([str(path)], [])["mine"].task_digest == ""
