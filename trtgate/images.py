"""What it is run on: photos, decoded by OpenCV and prepared as torchvision prepares them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from trtgate.errors import UserError
from trtgate.models import DATA, Preprocessing, image_classes

log = logging.getLogger(__name__)

EVALUATION_CROPS = 240
CALIBRATION_CROPS = 60
EVALUATION_SEED = 1
CALIBRATION_SEED = 2
# Crops smaller than a quarter of the photo show texture rather than an object, and no classifier is sure of those.
CROP_AREA = (0.25, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """Photos cut to the network's input size.

    `pixels` is uint8[N,3,crop,crop] in RGB; `labels` is int64[N], class indices, or None where nobody said what is on
    the photos; `clusters` is int64[N], the photo that each is a crop of, or None where each is a photo of its own;
    `skipped` names the files that could not be read.
    """

    names: tuple[str, ...]
    pixels: Pixels
    preprocessing: Preprocessing
    labels: npt.NDArray[np.int64] | None = None
    skipped: tuple[str, ...] = ()
    clusters: npt.NDArray[np.int64] | None = None
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # hashlib of the pixels, not of the files: another decoder that gives other pixels gives another plan.
        digest = hashlib.sha256(repr((self.preprocessing, self.pixels.shape)).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        object.__setattr__(self, "digest", digest.hexdigest())

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> ImageSet:
        """The photos from `start` to before `stop` as a set of their own."""
        labels = None if self.labels is None else self.labels[start:stop]
        clusters = None if self.clusters is None else self.clusters[start:stop]
        return ImageSet(self.names[start:stop], self.pixels[start:stop], self.preprocessing, labels, clusters=clusters)

    def first(self, n: int) -> ImageSet:
        """The first n photos as a set of their own."""
        return self.part(0, n)

    def batches(self, size: int) -> Iterator[npt.NDArray[np.float32]]:
        """Normalised float32[n,3,crop,crop] batches in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield normalise(self.pixels[start : start + size], self.preprocessing)


def normalise(pixels: Pixels, how: Preprocessing) -> npt.NDArray[np.float32]:
    """uint8[N,3,H,W] to float32[N,3,H,W]: (x / 255 - mean) / std, the arithmetic of torchvision's `normalize`."""
    mean = np.asarray(how.mean, np.float32)[:, None, None]
    std = np.asarray(how.std, np.float32)[:, None, None]
    normalised: npt.NDArray[np.float32] = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return normalised


def decode(path: Path) -> Pixels:
    """Read one photo as uint8[H,W,3] RGB, without applying an EXIF rotation (torchvision's loader applies none).

    Raises UserError for a file that is unreadable, empty, truncated or no image.
    """
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fix or remove it") from error
    if not encoded:
        raise UserError(f"{path} is empty; remove it, or pass --skip-bad-images")
    if is_truncated(encoded):
        raise UserError(f"{path} is truncated; replace it, or pass --skip-bad-images")
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UserError(f"{path} cannot be decoded ({error.err}); remove it, or pass --skip-bad-images") from error
    if image is None:
        raise UserError(f"{path} is not an image that OpenCV can read; remove it, or pass --skip-bad-images")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def is_truncated(encoded: bytes) -> bool:
    """Whether a JPEG or PNG ends early: OpenCV fills the missing part with grey and only prints a warning.

    A JPEG's entropy-coded data never holds FF D9 except as its end marker (ITU-T T.81, B.1.1.2: FF is stuffed), and
    a PNG closes with an IEND chunk.
    """
    if encoded.startswith(b"\xff\xd8"):
        position = 2
        while position + 4 <= len(encoded) and encoded[position] == 0xFF:
            marker = encoded[position + 1]
            position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
            if marker == 0xDA:  # start of scan: entropy-coded data follows its header
                return encoded.find(b"\xff\xd9", position) < 0
        return True
    return encoded.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" not in encoded[-1024:]


def resize(image: Pixels, height: int, width: int, interpolation: str) -> Pixels:
    """Antialiased resize of uint8[H,W,3]; torch's kernel, which is the one behind torchvision's own transform.

    OpenCV has no antialiased bilinear filter: its INTER_LINEAR skips pixels when it shrinks, INTER_AREA is a box.
    """
    planes = torch.from_numpy(image).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(
        planes, (height, width), mode=interpolation, antialias=True, align_corners=False
    )
    return scaled[0].permute(1, 2, 0).contiguous().numpy()


def centre_crop(image: Pixels, how: Preprocessing) -> Pixels:
    """Short side to `how.resize`, centre crop: uint8[H,W,3] to uint8[3,crop,crop]."""
    height, width = image.shape[:2]
    if height <= width:
        height, width = how.resize, int(how.resize * width / height)
    else:
        height, width = int(how.resize * height / width), how.resize
    scaled = resize(image, height, width, how.interpolation)
    top, left = round((height - how.crop) / 2), round((width - how.crop) / 2)
    return np.ascontiguousarray(scaled[top : top + how.crop, left : left + how.crop].transpose(2, 0, 1))


def random_resized_crop(image: Pixels, how: Preprocessing, rng: np.random.Generator) -> Pixels:
    """One random crop of uint8[H,W,3], resized to uint8[3,crop,crop] and mirrored half of the time.

    Area and aspect ratio as in "Going deeper with convolutions" (Szegedy et al. 2015), section 6, from a quarter on.
    """
    height, width = image.shape[:2]
    area = height * width * rng.uniform(*CROP_AREA)
    aspect = float(np.exp(rng.uniform(*np.log(CROP_ASPECT))))
    crop_h = min(height, max(1, round((area / aspect) ** 0.5)))
    crop_w = min(width, max(1, round((area * aspect) ** 0.5)))
    top, left = int(rng.integers(height - crop_h + 1)), int(rng.integers(width - crop_w + 1))
    window = np.ascontiguousarray(image[top : top + crop_h, left : left + crop_w])
    if rng.random() < 0.5:
        window = np.ascontiguousarray(window[:, ::-1])
    return np.ascontiguousarray(resize(window, how.crop, how.crop, how.interpolation).transpose(2, 0, 1))


def sample_crops(split: str, how: Preprocessing) -> ImageSet:
    """Seeded random crops of the shipped photos of `split`, "evaluation" or "calibration"."""
    count, seed = {
        "evaluation": (EVALUATION_CROPS, EVALUATION_SEED),
        "calibration": (CALIBRATION_CROPS, CALIBRATION_SEED),
    }[split]
    files = sorted((DATA / split).glob("*.jpg"))
    photos = [decode(path) for path in files]
    rng = np.random.default_rng(seed)
    names, crops = [], []
    for index in range(count):
        which = index % len(photos)
        names.append(f"{files[which].stem}#{index // len(photos)}")
        crops.append(random_resized_crop(photos[which], how, rng))
    return ImageSet(tuple(names), np.stack(crops), how, clusters=np.arange(count) % len(photos))


def read_folder(
    folder: Path,
    how: Preprocessing,
    *,
    skip_bad: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """The photos of a folder, flat or in ImageNet's layout `folder/<wnid>/*`, in the order of their paths.

    With `skip_bad` unreadable files are left out and counted in `skipped`. Raises UserError for a folder that is
    missing, empty or mixed, whose sub-folders are no WordNet ids of the class table, or that holds a bad file.
    """
    files, labels = _list_folder(folder)
    names, crops, kept, skipped = [], [], [], []
    for index, path in enumerate(files):
        try:
            crops.append(centre_crop(decode(path), how))
        except UserError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", error)
            skipped.append(str(path.relative_to(folder)))
            continue
        finally:
            progress(index + 1, len(files))
        names.append(str(path.relative_to(folder)))
        kept.append(index)
    if not crops:
        raise UserError(f"{folder} holds no readable photo; give a folder of JPEG or PNG files")
    chosen = None if labels is None else np.asarray(labels, np.int64)[kept]
    return ImageSet(tuple(names), np.stack(crops), how, chosen, tuple(skipped))


def _list_folder(folder: Path) -> tuple[list[Path], list[int] | None]:
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with photos, flat or as <wnid>/*.jpg")
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    folders = [entry for entry in entries if entry.is_dir()]
    flat = [entry for entry in entries if not entry.is_dir()]
    if folders and flat:
        raise UserError(f"{folder} holds photos beside sub-folders; keep it flat, or move all photos to <wnid>/")
    if not folders:
        if not flat:
            raise UserError(f"{folder} is empty; give a folder that holds photos")
        return flat, None
    by_wnid = {entry.wnid: entry.index for entry in image_classes()}
    files, labels = [], []
    for sub in folders:
        if sub.name not in by_wnid:
            raise UserError(f"{sub} is not named by a WordNet id of data/imagenet_classes.csv, such as n01440764")
        for path in sorted(entry for entry in sub.iterdir() if not entry.name.startswith(".")):
            files.append(path)
            labels.append(by_wnid[sub.name])
    if not files:
        raise UserError(f"{folder} has class folders but no photo in them; give a folder that holds photos")
    return files, labels
