"""Photos: decoding, preparing as torchvision does, folders, bad files."""

from __future__ import annotations

import os
import shutil
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from trtgate import images
from trtgate.images import ImageSet, centre_crop, decode, normalise, read_folder, sample_crops
from trtgate.kinds import UserError
from trtgate.models.base import DATA, Preprocessing
from trtgate.samples import rows_of
from trtgate.signature import load_tensors, save_tensors
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
    # Every third: all of them are held to each other's pixels above.
    how, photos = lite0.model.preprocessing, PHOTOS[::3]
    with torch.inference_mode():
        mine, theirs = (
            lite0.model.module(torch.from_numpy(np.stack([prepare(path, how) for path in photos]))).argmax(1)
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
    (tmp_path / "notes.txt").write_text("no photo, and not called one")
    with pytest.raises(UserError):
        read_folder(tmp_path, RESNET)
    photos = read_folder(tmp_path, RESNET, skip_bad=True)
    assert photos.names == ("good.jpg",)
    assert photos.clusters is None
    assert sorted(photos.skipped) == sorted(bad)


def encoded(extension: str, image: np.ndarray) -> bytes:
    return cv2.imencode(extension, image)[1].tobytes()


def test_fill_bytes_before_a_marker_are_part_of_a_jpeg(tmp_path: Path) -> None:
    jpeg = PHOTOS[0].read_bytes()
    for marker in (b"\xff\xdb", b"\xff\xc0", b"\xff\xda"):
        at = jpeg.index(marker)
        (tmp_path / "filled.jpg").write_bytes(jpeg[:at] + b"\xff" * 3 + jpeg[at:])
        assert np.array_equal(decode(tmp_path / "filled.jpg"), decode(PHOTOS[0]))
        assert images.is_truncated((jpeg[:at] + b"\xff" * 3 + jpeg[at:])[:-1000])


@pytest.mark.parametrize("extension", [".jpg", ".png", ".gif", ".bmp", ".webp"])
def test_a_photo_cut_anywhere_is_found_in_every_format(extension: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    whole = encoded(extension, noise)
    assert not images.is_truncated(whole)
    assert not images.is_truncated(whole + bytes(64))
    for length in range(12, len(whole) - 2, max(1, len(whole) // 50)):
        assert images.is_truncated(whole[:length]), length
    if extension == ".png":
        assert images.is_truncated(whole[: len(whole) // 2] + whole[-12:])


def test_what_is_no_photo_is_left_out(tmp_path: Path) -> None:
    for wnid in ("n01440764", "n02123045", "__MACOSX"):
        (tmp_path / wnid).mkdir()
        shutil.copy(PHOTOS[0], tmp_path / wnid / "a.JPEG")
        (tmp_path / wnid / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    shutil.copy(PHOTOS[1], tmp_path / "n02123045" / "without_suffix")
    os.mkfifo(tmp_path / "n02123045" / "pipe.jpg")
    (tmp_path / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "README.md").write_text("beside class folders")
    photos = read_folder(tmp_path, RESNET)
    assert photos.names == ("n01440764/a.JPEG", "n02123045/a.JPEG", "n02123045/without_suffix")
    assert photos.skipped == ()


def test_a_photo_of_too_many_pixels_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was read"))
    for extension in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif"):
        (tmp_path / f"bomb{extension}").write_bytes(encoded(extension, np.zeros((10, 10, 3), np.uint8)))
        with pytest.raises(UserError, match=f"bomb{extension} has 100 pixels"):
            decode(tmp_path / f"bomb{extension}")


@pytest.mark.parametrize("shape", [(40, 3000, 3), (3001, 40, 3)])
def test_of_a_strip_only_the_middle_is_scaled(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    strip = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, shape, np.uint8), (9, 9), 4)
    scaled: list[int] = []
    real = images.resize

    def resize(image: np.ndarray, height: int, width: int, how: str) -> np.ndarray:
        scaled.append(height * width)
        return real(image, height, width, how)

    monkeypatch.setattr(images, "resize", resize)
    mine = centre_crop(strip, RESNET)
    monkeypatch.setattr(images, "MAX_ASPECT", 1000)
    whole = centre_crop(strip, RESNET)
    assert scaled[0] <= 8 * 256 * 257 < scaled[1]
    assert np.abs(mine.astype(int) - whole).mean() < 4  # the two are at most a pixel apart


def test_classes_of_other_numbers_are_named_by_their_folders(tmp_path: Path) -> None:
    for name in ("dog", "cat", "empty"):
        (tmp_path / name).mkdir()
    shutil.copy(PHOTOS[0], tmp_path / "dog" / "a.jpg")
    shutil.copy(PHOTOS[0], tmp_path / "cat" / "a.jpg")
    photos = read_folder(tmp_path, RESNET, classes=3)
    assert photos.classes == ("cat", "dog", "empty")
    assert photos.labels is not None
    assert photos.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match="3 class folders, the model 4 classes"):
        read_folder(tmp_path, RESNET, classes=4)
    assert read_folder(tmp_path, RESNET, classes=None).labels is None


def test_photos_on_disk_are_those_in_memory(tmp_path: Path) -> None:
    for index, path in enumerate(PHOTOS):
        shutil.copy(path, tmp_path / f"{index:02}.jpg")
    photos = read_folder(tmp_path, RESNET, spool=tmp_path)
    pixels = np.stack([centre_crop(decode(path), RESNET) for path in PHOTOS])
    held = ImageSet(photos.names, pixels, RESNET)
    assert photos.digest == held.digest
    assert np.array_equal(photos.pixels[np.array([3, 0, 3])], pixels[[3, 0, 3]])
    assert np.array_equal(photos.first(3).pixels[:], pixels[:3])
    save_tensors(tmp_path / "all", rows_of(photos))
    read = np.concatenate([row["input"] for row in load_tensors(tmp_path / "all")])
    assert np.array_equal(read, normalise(pixels, RESNET))
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"{i:02}.jpg" for i in range(len(PHOTOS))), "all"]


def test_memory_does_not_depend_on_the_number_of_photos(tmp_path: Path) -> None:
    peaks = []
    for count in (20, 200):
        folder = tmp_path / str(count)
        folder.mkdir()
        for index in range(count):
            (folder / f"{index}.jpg").symlink_to(PHOTOS[index % len(PHOTOS)])
        tracemalloc.start()
        photos = read_folder(folder, RESNET)
        for _ in photos.batches(8):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20  # of pixels alone 27 MB more


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


@pytest.mark.parametrize(
    "case", ["missing", "empty", "mixed", "unknown", "unknown among known", "hollow", "nested", "no photos"]
)
def test_a_wrong_folder_is_an_error_that_names_it(case: str, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    if case != "missing":
        folder.mkdir()
    if case == "mixed":
        shutil.copy(PHOTOS[0], folder / "a.jpg")
    if case in {"mixed", "hollow"}:
        (folder / "n01440764").mkdir()
    if case in {"unknown", "unknown among known"}:
        (folder / "cats").mkdir()
        shutil.copy(PHOTOS[0], folder / "cats" / "a.jpg")
    if case == "unknown among known":
        (folder / "n01440764").mkdir()
    if case == "nested":
        (folder / "n01440764" / "images").mkdir(parents=True)
    if case == "no photos":
        (folder / "Thumbs.db").write_bytes(b"droppings")
        (folder / "labels.csv").write_text("no photo")
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
    part = first.first(140).clusters
    assert part is not None
    assert np.array_equal(part, first.clusters[:140])
    calibration = sample_crops("calibration", RESNET)
    assert not {name.split("#")[0] for name in first.names} & {name.split("#")[0] for name in calibration.names}


def test_batches_cover_all_photos_in_order() -> None:
    photos = sample_crops("calibration", RESNET)
    batches = list(photos.batches(16))
    assert [len(batch["input"]) for batch in batches] == [16, 16, 16, 12]
    assert np.array_equal(np.concatenate([batch["input"] for batch in batches]), normalise(photos.pixels, RESNET))
