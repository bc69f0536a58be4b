"""Photos: decoding, preparing as torchvision does, folders, bad files."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from trtgate import images
from trtgate.errors import UserError
from trtgate.images import centre_crop, decode, normalise, read_folder, sample_crops
from trtgate.models import DATA, Preprocessing
from trtgate.workbench import Workbench

PHOTOS = sorted(DATA.glob("*/*.jpg"))
RESNET = Preprocessing()
LITE0 = Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3, interpolation="bicubic")


def ours(path: Path, how: Preprocessing) -> np.ndarray:
    return normalise(centre_crop(decode(path), how)[None], how)[0]


def torchvisions(path: Path, how: Preprocessing) -> np.ndarray:
    transform = ImageClassification(
        crop_size=how.crop,
        resize_size=how.resize,
        mean=how.mean,
        std=how.std,
        interpolation=InterpolationMode(how.interpolation),
    )
    return transform(Image.open(path).convert("RGB")).numpy()


@pytest.mark.parametrize("how", [RESNET, LITE0], ids=["bilinear", "bicubic"])
def test_equals_torchvisions_own_transform(how: Preprocessing) -> None:
    assert len(PHOTOS) == 45
    # In levels of 255: the two differ only where a rounding falls the other way.
    scale = 255 * np.asarray(how.std)[:, None, None]
    differences = [np.abs(ours(path, how) - torchvisions(path, how)) * scale for path in PHOTOS]
    assert max(float(each.mean()) for each in differences) <= 0.05
    assert max(float(each.max()) for each in differences) <= 3.01


def test_gives_the_same_answers_as_torchvisions_own_transform(lite0: Workbench) -> None:
    how = lite0.model.preprocessing
    with torch.inference_mode():
        mine, theirs = (
            lite0.model.module(torch.from_numpy(np.stack([prepare(path, how) for path in PHOTOS]))).argmax(1)
            for prepare in (ours, torchvisions)
        )
    assert mine.tolist() == theirs.tolist()


def test_decodes_to_rgb_and_ignores_exif_rotation(tmp_path: Path) -> None:
    red = np.zeros((8, 16, 3), np.uint8)
    red[..., 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.fromarray(red).save(tmp_path / "red.jpg", exif=exif, quality=95)
    image = decode(tmp_path / "red.jpg")
    assert image.shape == (8, 16, 3)
    assert image[..., 0].min() > 240
    assert image[..., 1:].max() < 15


def bad_files(folder: Path) -> dict[str, Path]:
    jpeg = PHOTOS[0].read_bytes()
    png = cv2.imencode(".png", cv2.imread(str(PHOTOS[0])))[1].tobytes()
    contents = {
        "empty.jpg": b"",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "header.jpg": jpeg[:20],
        "truncated.png": png[: len(png) // 2],
        "text.jpg": b"this is no photo",
        "notes.txt": b"nor is this",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.jpg").symlink_to(folder / "nowhere.jpg")
    return {name: folder / name for name in [*contents, "dangling.jpg"]}


def test_a_bad_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    for name, path in bad_files(tmp_path).items():
        with pytest.raises(UserError, match=name):
            decode(path)


def test_bad_files_can_be_skipped_and_are_counted(tmp_path: Path) -> None:
    bad = bad_files(tmp_path)
    shutil.copy(PHOTOS[0], tmp_path / "good.jpg")
    with pytest.raises(UserError):
        read_folder(tmp_path, RESNET)
    photos = read_folder(tmp_path, RESNET, skip_bad=True)
    assert photos.names == ("good.jpg",)
    assert photos.clusters is None
    assert sorted(photos.skipped) == sorted(bad)


def test_a_jpeg_with_a_thumbnail_is_cut_where_it_is_cut(tmp_path: Path) -> None:
    # The thumbnail inside the EXIF segment has an end marker of its own.
    exif = b"Exif\0\0" + b"\xff\xd8 thumbnail \xff\xd9"
    jpeg = PHOTOS[0].read_bytes()
    whole = jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]
    assert not images.is_truncated(whole)
    assert not images.is_truncated(whole + b"trailing bytes of a camera")
    assert images.is_truncated(whole[:-1000])


def test_labels_come_from_the_class_table_not_from_the_folders(tmp_path: Path) -> None:
    for wnid in ("n02123045", "n01440764", "n15075141"):
        (tmp_path / wnid).mkdir()
        shutil.copy(PHOTOS[0], tmp_path / wnid / "a.jpg")
    photos = read_folder(tmp_path, RESNET)
    assert photos.labels is not None
    assert dict(zip(photos.names, photos.labels.tolist(), strict=True)) == {
        "n01440764/a.jpg": 0,
        "n02123045/a.jpg": 281,
        "n15075141/a.jpg": 999,
    }


@pytest.mark.parametrize("case", ["missing", "empty", "mixed", "unknown", "hollow"])
def test_a_wrong_folder_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    if case != "missing":
        folder.mkdir()
    if case == "mixed":
        shutil.copy(PHOTOS[0], folder / "a.jpg")
    if case in {"mixed", "hollow"}:
        (folder / "n01440764").mkdir()
    if case == "unknown":
        (folder / "cats").mkdir()
    with pytest.raises(UserError, match="photos"):
        read_folder(folder, RESNET)


def test_sample_crops_are_seeded_and_of_different_photos() -> None:
    first, again = sample_crops("evaluation", RESNET), sample_crops("evaluation", RESNET)
    assert first.digest == again.digest
    assert len(first) == 240
    assert first.pixels.shape == (240, 3, 224, 224)
    assert first.clusters is not None
    assert np.bincount(first.clusters).tolist() == [6] * 40
    same = dict(zip(first.names, first.clusters.tolist(), strict=True))
    assert all(same[name] == same[name.split("#")[0] + "#0"] for name in first.names)
    part = first.part(100, 140).clusters
    assert part is not None
    assert np.array_equal(part, first.clusters[100:140])
    calibration = sample_crops("calibration", RESNET)
    assert not {name.split("#")[0] for name in first.names} & {name.split("#")[0] for name in calibration.names}


def test_batches_cover_all_photos_in_order() -> None:
    photos = sample_crops("calibration", RESNET)
    batches = list(photos.batches(16))
    assert [len(batch) for batch in batches] == [16, 16, 16, 12]
    assert np.array_equal(np.concatenate(batches), normalise(photos.pixels, RESNET))
