"""Boxes and masks in the HTML report: what a session keeps of them, and what is drawn of it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from trtgate.__main__ import main
from trtgate.ab.run import PROCESSES
from trtgate.compare import Samples
from trtgate.images import list_folder, read_folder
from trtgate.models.base import Preprocessing
from trtgate.photos import PhotoFolder, Recipe
from trtgate.report import html
from trtgate.report.pages import run_page
from trtgate.samples import Frame, Unlabelled
from trtgate.signature import Signature, TensorSpec
from trtgate.tasks.against import pictures_in
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.detection import MOST_SHOWN, Detection, from_outputs, overlaps
from trtgate.tasks.pictures import MOST_SAMPLES
from trtgate.tasks.segmentation import LONGEST, Segmentation
from trtgate.thumbnails import own_photos

from . import networks, scenes
from .saved import save
from .test_ab import PYTHON, python_with
from .test_bench import ROOT, bench
from .test_onnx_bench import SPOILS
from .test_pages import MARKUP, Document

DETECTOR = Detection(from_outputs("boxes", "scores", "labels", "xyxy"))
SEGMENTER = Segmentation("mask")


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Some(Unlabelled):
    digest = "some"

    def __init__(self, count: int, frame: Frame | None) -> None:
        self.names, self.frame = tuple(f"{index}.jpg" for index in range(count)), frame


def kept(task: Task, reference: Outputs, got: Outputs, frame: Frame | None = None) -> dict[str, Any]:
    """What a session has of an engine's answers."""
    found = task.summary(task.compare(reference, got, Some(len(reference), frame)))
    return json.loads(json.dumps(found, allow_nan=False))  # type: ignore[no-any-return]


def compared(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The HTML of a comparison of saved sessions."""
    for number, (name, scores) in enumerate((("before", old), ("after", new)), 1):
        save(number, name, scores=scores)
    main(["compare", "before", "after", "--html", "out.html"])
    return Path("out.html").read_text()


def told(text: str) -> str:
    """What is to be read of a page."""
    return " ".join(" ".join(Document(text).texts).split())


def changed(outputs: Outputs, sample: int, **values: Any) -> list[dict[str, Any]]:
    """The same answers, but for some outputs of one sample."""
    return [{**row, **values} if index == sample else dict(row) for index, row in enumerate(outputs)]


def outlines(text: str, side: str) -> list[set[str]]:
    """The boxes of a side in each picture that has any."""
    return [set(path.split("z")) - {""} for path in re.findall(rf'class="box {side}" d="([^"]+)"', text)]


# Detectors.


def detections(count: int = 8) -> list[dict[str, Any]]:
    """Three boxes of 30 by 30 on each sample, sure by 0.9, 0.8 and 0.7."""
    corner = np.array([[10.0, 10.0], [60.0, 10.0], [10.0, 60.0]])
    row = {
        "boxes": np.concatenate([corner, corner + 30], 1),
        "scores": np.array([0.9, 0.8, 0.7]),
        "labels": np.arange(3),
    }
    return [row] * count


def moved(by: float) -> Any:
    return detections()[0]["boxes"] + np.array([[0.0, 0, 0, 0], [by, 0, by, 0], [0, 0, 0, 0]])


FRAME = Frame(100, 200)


def test_a_box_that_moved_and_one_that_is_lost_are_drawn_and_told() -> None:
    reference = detections()
    old = changed(reference, 1, labels=np.array([5, 1, 2]))
    new = changed(reference, 2, boxes=moved(5.0), scores=np.array([0.9, 0.75, 0.2]))
    text = compared(kept(DETECTOR, reference, old, FRAME), kept(DETECTOR, reference, new, FRAME))
    said = told(text)
    assert "Of 8 samples 1 (old) and 1 (new) are answered otherwise than by the reference; 2 of them are shown" in said
    # 25 of 35 are both's.
    assert "1 lost: [1] class 2, 0.70. 1 moved: [2] class 1, 0.80 to 0.75, IoU 0.71" in said
    assert "1 lost: [1] class 0, 0.90. 1 more: [2] class 5, 0.90" in said
    document = Document(text)
    assert document.tags["image"] == document.tags["img"] == 0
    # 100 by 200 pixels in 400 units, the moved box 5 further to the right: 2 units a pixel.
    square, [first, second, third] = "h60v60h-60", ("M20 20", "M120 20", "M20 120")
    assert outlines(text, "new") == [{f"{first}{square}", f"M130 20{square}"}]
    assert outlines(text, "old") == [{f"{each}{square}" for each in (first, second, third)}]
    assert outlines(text, "base") == 2 * outlines(text, "old")
    # Of the box that the old side calls another class, its number beside the one that is lost there.
    plates = re.findall(r'class="plate" d="M([\d.]+ [\d.]+)h([\d.]+)v', text)
    assert plates[:2] == [("20 20", "12.5"), ("32.5 20", "12.5")]


def test_what_is_told_of_boxes_is_what_the_session_has() -> None:
    reference = detections()
    scores = kept(DETECTOR, reference, changed(reference, 3, boxes=moved(8.0)), FRAME)
    pictures: Any = pictures_in(scores)
    assert (pictures.samples, pictures.differ) == ((3,), 1)
    wanted, mine = pictures.reference[0], pictures.engine[0]
    overlap = overlaps(wanted.boxes, mine.boxes)[wanted.labels.tolist().index(1), mine.labels.tolist().index(1)]
    assert pictures.off == (pytest.approx(1 - overlap),)
    assert f"class 1, 0.80 to 0.80, IoU {overlap:.2f}" in told(compared(scores, scores))
    assert "new against old all found again, and no others" in told(compared(scores, scores))


@pytest.mark.parametrize(
    ("factor", "frame", "path"),
    [
        (0.01, FRAME, "M40 20h120v60h-120z"),  # shares of the picture, which is twice as wide as high
        (1.0, None, "M44.4 44.4h133.3v133.3h-133.3z"),  # nobody knows what of
        (100.0, FRAME, "M44.4 44.4h133.3v133.3h-133.3z"),  # no pixels of what the network sees
    ],
)
def test_boxes_in_other_units_than_the_inputs_pixels(factor: float, frame: Frame | None, path: str) -> None:
    reference = [{**row, "boxes": factor * row["boxes"]} for row in detections()]
    scores = kept(DETECTOR, reference, changed(reference, 3, labels=np.array([0, 1, 7])), frame)
    assert path in compared(scores, scores)


def test_only_the_worst_samples_are_kept_and_fewer_shown_and_that_is_said() -> None:
    reference = detections(40)
    got = [
        {**row, "labels": row["labels"] + (np.arange(3) < (index >= 8) + (index == 9))}
        for index, row in enumerate(reference)
    ]
    got[9]["labels"] = np.array([7, 8, 9])
    scores = kept(DETECTOR, reference, got, FRAME)
    pictures: Any = pictures_in(scores)
    assert (pictures.differ, len(pictures.samples), pictures.samples[0]) == (32, MOST_SAMPLES, 9)
    text = compared(scores, scores)
    assert "32 (old) and 32 (new) are answered otherwise than by the reference; 12 of them are shown" in told(text)
    assert text.count('<div class="picture drawn">') == 12


def test_many_boxes_of_a_sample_are_cut_to_those_that_differ() -> None:
    random = np.random.default_rng(0)
    corner = random.uniform(0, 5000, (250, 2))
    row = {
        "boxes": np.concatenate([corner, corner + 9], 1),
        "scores": random.uniform(0.6, 1, 250),
        "labels": np.arange(250),
    }
    labels = np.where(np.arange(250) % 80 == 7, 999, row["labels"])
    pictures: Any = pictures_in(kept(DETECTOR, [row], [{**row, "labels": labels}]))
    wanted, mine = pictures.reference[0], pictures.engine[0]
    assert len(wanted.scores) == len(mine.scores) == MOST_SHOWN
    assert set(wanted.labels[:4]) == {7, 87, 167, 247}
    assert set(mine.labels[:4]) == {999}
    assert (wanted.labels[4:] == mine.labels[4:]).all()


# Segmenters.


def masks(count: int = 6, height: int = 60, width: int = 240) -> list[dict[str, Any]]:
    """A quarter of one class on another."""
    mask = np.zeros((1, height, width), np.float32)
    mask[:, : height // 2, : width // 2] = 1
    return [{"mask": mask}] * count


def corner(outputs: Outputs, height: int, width: int) -> Any:
    mask = outputs[0]["mask"].copy()
    mask[:, -height:, -width:] = 1
    return mask


def test_a_mask_that_differs_in_a_corner_is_drawn_and_told() -> None:
    reference = masks()
    old = changed(reference, 4, mask=corner(reference, 5, 20))
    new = changed(reference, 4, mask=corner(reference, 15, 40))
    scores = [kept(SEGMENTER, reference, got, Frame(240, 960)) for got in (old, new)]
    text = compared(*scores)
    said = told(text)
    off = [each["kept"]["pictures"]["off"][0] for each in scores]
    assert off == [pytest.approx(100 / 14400), pytest.approx(600 / 14400)]
    assert f"old {off[0]:.2%} of the pixels differ new {off[1]:.1%} of the pixels differ" in said
    assert set(off) <= set(Document(text).values)
    # 24 by 96 cells: of the new side's those of the last six rows and sixteen columns, all of their pixels.
    assert '<path class="mark" transform="scale(4.1667 4.1667)" d="M80 18h16v1h-16zM80 19h16v1h-16z' in text
    [full, *_] = re.findall(r'class="mark" [^>]* d="([^"]+)"', text)[::-1]
    assert full.count("M") == 6
    # The same areas of both, by hand: 2 rows of 8 cells against 6 of 16.
    assert f"{(96 - 16) / (24 * 96):.1%} of the map's cells differ" in said
    assert [f"<figcaption>{name}</figcaption>" in text for name in ("reference", "old", "new")] == [True] * 3
    assert "class 0 75.0%, class 1 25.0% of it" in said


def test_maps_of_other_sizes_and_volumes() -> None:
    reference = masks()
    other = kept(SEGMENTER, reference, changed(reference, 0, mask=masks(1, 30, 120)[0]["mask"]))
    assert "100.0% of the pixels differ" in told(compared(other, other))
    volume = [{"mask": np.stack([row["mask"]] * 3, 1)} for row in reference]
    assert "pictures" not in kept(SEGMENTER, volume, [{"mask": 1 - row["mask"]} for row in volume])["kept"]


def test_noise_of_many_classes_makes_no_huge_page() -> None:
    random = np.random.default_rng(0)
    reference = [{"mask": random.integers(0, 20, (96, 96))} for _ in range(4)]
    scores = kept(SEGMENTER, reference, [{"mask": row["mask"][::-1]} for row in reference])
    assert len(json.dumps(scores["kept"]["pictures"])) < 4 * 40_000
    text = compared(scores, scores)
    assert len(text) < 4 * 80_000
    assert "other classes" in told(text)


# The reference itself.


def own(task: Task, outputs: Outputs, frame: Frame | None = None) -> dict[str, Any]:
    """What a session has of the reference's own answers."""
    found = task.own(outputs, Some(len(outputs), frame))["scores"]
    return json.loads(json.dumps(found, allow_nan=False))  # type: ignore[no-any-return]


def references(task: Task, old: Outputs, new: Outputs) -> str:
    """What the HTML of a run tells of a reference that changed since the baseline, and of an engine that is like it."""
    sides = []
    for outputs in (old, new):
        pair = scenes.measured()[:2]
        found = (own(task, outputs, FRAME), kept(task, outputs, outputs, FRAME))
        sides.append([scenes.replace(each, scores=scores) for each, scores in zip(pair, found, strict=True)])
    before, after = ({each.key: [each] for each in side} for side in sides)
    return html.render(run_page(sides[1], [], scenes.GPU_STACK, samples=Samples(before, after)))


def test_boxes_of_a_reference_that_changed_are_drawn_old_and_new() -> None:
    old = detections()
    new = changed(changed(old, 1, boxes=moved(5.0)), 2, labels=np.array([5, 1, 2]), scores=np.array([0.9, 0.8, 0.2]))
    for text in (compared(own(DETECTOR, old), own(DETECTOR, new)), references(DETECTOR, old, new)):
        said = told(text)
        assert "Of 8 samples 2 are answered otherwise than before by the reference itself; 2 of them are shown" in said
        worst = said.index("2 lost: [1] class 0, 0.90; [2] class 2, 0.70. 1 more: [3] class 5, 0.90")
        assert worst < said.index("1 moved: [1] class 1, 0.80 to 0.80, IoU 0.71")
        assert [len(each) for side in ("old", "new") for each in outlines(text, side)] == [3, 3, 2, 3]
    # The frame is that of the engines that were held against it: 2 units a pixel.
    assert outlines(text, "old")[0] == {f"{at}h60v60h-60" for at in ("M20 20", "M120 20", "M20 120")}
    assert "answers that differ" not in told(compared(own(DETECTOR, old), own(DETECTOR, old)))
    assert "answers that differ" not in told(compared(own(DETECTOR, old), own(DETECTOR, new[:7])))


def test_many_boxes_of_many_samples_of_a_reference_make_no_huge_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtgate.tasks.detection.MOST_BOXES", 3600)
    random = np.random.default_rng(0)
    corner = random.uniform(0, 5000, (250, 2))
    row = {"boxes": np.concatenate([corner, corner + 9], 1), "scores": np.full(250, 0.9), "labels": np.zeros(250)}
    text = compared(own(DETECTOR, [row] * 16), own(DETECTOR, [{**row, "labels": row["labels"] + 1}] * 16))
    assert "Of the first 14 of 16 samples, whose boxes are kept, 14 are answered otherwise" in told(text)
    assert text.count('<div class="picture drawn">') == 12
    assert len(text) < 12 * 35_000


def test_masks_of_a_reference_that_changed_are_told_by_their_sketches() -> None:
    old = masks()
    new = changed(changed(old, 3, mask=corner(old, 60, 120)), 1, mask=corner(old, 5, 20))
    said = told(references(SEGMENTER, old, new))
    assert "Of 6 samples 2 are answered otherwise than before by the reference itself; 2 of them are shown" in said
    assert "A session keeps too little of a reference's masks to draw them" in said
    share, _ = re.findall(r"about (\d+)% of the pixels differ", said)
    # A half of them does, of which the sketch knows roughly how many.
    assert 40 <= int(share) <= 60
    other = changed(old, 0, mask=masks(1, 30, 120)[0]["mask"])
    assert "60 by 240 pixels became 30 by 120" in told(references(SEGMENTER, old, other))


def test_masks_of_a_reference_without_their_sketches_are_not_told() -> None:
    old, new = (own(SEGMENTER, each) for each in (masks(), changed(masks(), 3, mask=corner(masks(), 60, 120))))
    assert "the reference itself" in told(compared(old, new))
    del new["kept"]["sketch"]
    assert "the reference itself" not in told(compared(old, new))


# Sessions without them, and damaged ones.


def test_an_old_side_without_pictures_is_told() -> None:
    reference = detections()
    new = kept(DETECTOR, reference, changed(reference, 2, boxes=moved(5.0)), FRAME)
    old = json.loads(json.dumps(new))
    del old["kept"]["pictures"]
    assert "1 (new) are answered otherwise than by the reference; 1 of them is shown" in told(compared(old, new))
    assert "The old side kept nothing of these to show." in told(compared(old, new))
    assert "answers that differ" not in told(compared(new, old))


def spoilt(scores: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    pictures = scores["kept"]["pictures"]
    place, _, inner = name.partition(".")
    if inner:
        pictures[place][inner] = value
    else:
        pictures[place] = value
    return scores


def numbers(values: Any) -> str:
    return base64.b64encode(zlib.compress(np.asarray(values, "<f4").tobytes())).decode()


BOXES: list[tuple[str, Any]] = [
    ("samples", [8]),
    ("samples", [-1]),
    ("samples", ["<script>"]),
    ("samples", [2, 2]),
    ("samples", list(range(30))),
    ("off", [float("nan")]),
    ("off", [0]),
    ("off", []),
    ("differ", 0),
    ("differ", 9),
    ("photos", "x" * 1000),
    ("frame", [100, 200, "<b>", 0]),
    ("frame", [10**9, 200, "crop", 0]),
    ("frame", [100, 200, "crop", 10**9]),
    ("frame", [0, 200, "", 0]),
    ("frame", [100]),
    ("frame", "x"),
    ("engine", []),
    ("engine.counts", [10**6]),
    ("engine.counts", [-3]),
    ("engine.counts", [3, 0]),
    ("engine.base64", "!"),
    ("engine.base64", numbers([np.nan] * 18)),
    ("engine.base64", numbers([1.0] * 5)),
    ("reference.base64", numbers([np.inf] * 18)),
]
MAPS: list[tuple[str, Any]] = [
    ("engine.shapes", [[10**6, 10**6]]),
    ("engine.shapes", [[0, 5]]),
    ("engine.shapes", [[5]]),
    ("engine.shapes", []),
    ("engine.base64", numbers([1.0] * 3)),
    ("engine.base64", numbers([np.nan] * (2 * 24 * LONGEST))),
    ("engine.base64", numbers([7.0] * (2 * 24 * LONGEST))),  # marks are of three kinds
    ("engine.base64", numbers([1e30] * (2 * 24 * LONGEST))),
]


@pytest.mark.parametrize(
    ("task", "name", "value"), [*(("b", *each) for each in BOXES), *(("m", *each) for each in MAPS)]
)
def test_damaged_pictures_are_one_sentence(
    task: str, name: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    if task == "b":
        reference = detections()
        scores = kept(DETECTOR, reference, changed(reference, 2, boxes=moved(5.0)), FRAME)
    else:
        reference = masks()
        scores = kept(SEGMENTER, reference, changed(reference, 2, mask=corner(reference, 9, 9)), FRAME)
    save(1, "before", scores=scores)
    save(2, "after", scores=spoilt(json.loads(json.dumps(scores)), name, value))
    assert main(["compare", "before", "after", "--html", "out.html"]) not in {0, 1}
    said = capsys.readouterr()
    assert "0002_after.json is damaged" in said.err
    assert len(said.err.strip().splitlines()) == 1
    assert not Path("out.html").exists()


def test_pictures_of_another_task_are_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    reference = detections()
    scores = {**kept(DETECTOR, reference, changed(reference, 2, boxes=moved(5.0))), "task": "tensors"}
    save(1, "before", scores=scores)
    assert main(["compare", "before", "before"]) not in {0, 1}
    assert "the task tensors has no pictures" in capsys.readouterr().err


def test_far_boxes_and_large_labels_stay_within_the_page() -> None:
    far = np.array([[-9e29, -9e29, 9e29, 9e29], [60, 10, 90, 40], [90, 90, 10, 10]])
    reference = detections()
    scores = kept(DETECTOR, reference, changed(reference, 0, boxes=far, labels=np.array([2**60, 1, 2])), FRAME)
    text = compared(scores, scores)
    coordinates = [
        abs(float(each)) for path in re.findall(r' d="([^"]+)"', text) for each in re.findall(r"-?[\d.]+", path)
    ]
    assert max(coordinates) <= 1.2 * 400
    assert len(text) < 60_000


# Photos.


def photo_folder(recipe: Recipe, path: Path, photo: Any, name: str = "0.jpg") -> PhotoFolder:
    path.mkdir(exist_ok=True)
    cv2.imwrite(str(path / "a.png"), photo)
    (path / "a.png").rename(path / name)
    height, width = recipe.size
    each = TensorSpec("x", "float32", (1, 3, height, width))
    return PhotoFolder(list_folder(path), path, recipe, each, Signature((each,), ()), {})


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_photo_lies_behind_its_boxes_as_the_network_sees_it(fit: Any, tmp_path: Path) -> None:
    photo = np.zeros((300, 200, 3), np.uint8)
    photo[120:180, 80:120] = (0, 0, 255)  # in BGR
    recipe = Recipe((100, 160), fit, resize=120 if fit == "crop" else 0)
    samples = photo_folder(recipe, tmp_path / "photos", photo)
    seen = samples[0]["x"][0, 0] > 0.5
    [photos] = own_photos(samples).values()
    small = cv2.imdecode(np.frombuffer(photos.thumbnail(0, samples.frame), np.uint8), cv2.IMREAD_COLOR)
    assert small.shape == (200, 320, 3)
    red = cv2.resize(small[:, :, 2].astype(np.float32), (160, 100), interpolation=cv2.INTER_AREA) > 127
    assert np.mean(red != seen) < 0.02
    (tmp_path / "photos" / "0.jpg").unlink()
    [photos] = own_photos(samples).values()
    assert photos.thumbnail(0, samples.frame) == b""


@pytest.mark.parametrize("named", [True, False])
def test_a_photo_of_a_classifiers_own_folder_is_shown_as_it_is_cut(named: bool, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "a").mkdir(parents=True)
    (folder / "b").mkdir()
    photo = np.zeros((300, 200, 3), np.uint8)
    photo[120:180, 80:120] = (0, 0, 255)  # in BGR
    for name in ("a", "b"):
        cv2.imwrite(str(folder / name / "0.jpg"), photo)
    samples = read_folder(folder, Preprocessing(resize=120, crop=100), classes=2 if named else None)
    seen = samples.first(1)[0]["input"][0, 0] > 1
    [photos] = own_photos(samples.first(1)).values()
    assert photos.imagenet is not named
    assert tuple(photos.classes[:2]) == (("a", "b") if named else ("tench", "goldfish"))
    small = cv2.imdecode(np.frombuffer(photos.thumbnail(0, None), np.uint8), cv2.IMREAD_COLOR)
    red = cv2.resize(small[:, :, 2].astype(np.float32), (100, 100), interpolation=cv2.INTER_AREA) > 127
    assert np.mean(red != seen) < 0.02


def test_a_run_shows_its_own_photos_whatever_they_are_called(tmp_path: Path) -> None:
    name = f"{MARKUP.replace('/', '')}.jpg"
    samples = photo_folder(Recipe((120, 240)), tmp_path / "photos", np.full((30, 120, 3), 200, np.uint8), name)
    [record] = scenes.measured()[1:2]
    pages = []
    for task, reference, other in (
        (DETECTOR, detections(1), {"labels": np.array([0, 1, 7])}),
        (SEGMENTER, masks(1), {"mask": corner(masks(1), 9, 9)}),
    ):
        found = task.compare(reference, changed(reference, 0, **other), samples)  # type: ignore[attr-defined]
        mine = scenes.replace(record, scores=json.loads(json.dumps(task.summary(found))))  # type: ignore[attr-defined]
        pages.append(html.render(run_page([mine], [], scenes.GPU_STACK, photos=own_photos(samples))))
    boxes, maps = map(Document, pages)
    assert (boxes.tags["image"], maps.tags["img"]) == (1, 1)
    for text, document in zip(pages, (boxes, maps), strict=True):
        assert name in "".join(document.texts)
        assert "<img src=x" not in text
        assert "Of 1 samples 1 (this run) are answered otherwise" in told(text)
        assert all(link.startswith("data:image/jpeg;base64,") for link in document.links)
        assert len(document.ids) == len(set(document.ids)) == 2 * document.tags["svg"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a segmenter with photos."""
    folder = tmp_path_factory.mktemp("segmenter")
    networks.save(networks.heads(), folder / "heads.onnx")
    (folder / "heads.toml").write_text(
        'model = "heads.onnx"\ntask = "segmentation"\nshapes = ["x=1x3x64x96"]\nimages = "photos"\n'
        '[segmentation]\noutput = "boxes"\n[preprocessing]\nfit = "crop"\n'
    )
    (folder / "photos").mkdir()
    for path in sorted((ROOT / "data" / "evaluation").glob("*.jpg"))[:6]:
        shutil.copy(path, folder / "photos")
    return [
        *("--model", str(folder / "heads.toml"), "--engine", "onnxruntime-int8", "--device", "cpu"),
        *("--plan-cache", str(folder / "plans")),
    ]


@pytest.mark.slow
def test_a_run_of_a_segmenter_shows_its_photos(given: list[str], tmp_path: Path) -> None:
    page = tmp_path / "run.html"
    result = bench(*given, f"--html={page}", storage=tmp_path / "storage")
    assert "Traceback" not in result.stdout + result.stderr
    document = Document(page.read_text())
    assert 0 < document.tags["img"] <= 6
    assert " (this run) are answered otherwise than by the reference" in told(page.read_text())


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
def test_an_ab_run_of_a_segmenter_shows_its_photos(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 2)
    new = tmp_path / "new"  # not where either side's workers start, who would find it there
    new.mkdir()
    script = python_with(new, "sitecustomize", SPOILS)
    main(["ab", "--old", str(PYTHON), "--new", str(script), *given, "--rounds", "2", "--html", "out.html"])
    text = Path("out.html").read_text()
    assert Document(text).tags["img"] == 6
    # The old side's INT8 may differ from the reference in a pixel here and there, too.
    counted = r"Of 6 samples \d \(old\) and 6 \(new\) are answered otherwise than by the reference; 6 of them are shown"
    assert re.search(counted, told(text))
    assert re.search(r"new against old [\d.]+% of the map's cells differ", told(text))
