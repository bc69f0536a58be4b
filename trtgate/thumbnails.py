"""Small pictures of photos for reports: of those that the repository ships, and of a run's own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, cast

from trtgate.engines.probe import require_sound
from trtgate.images import ImageSet, Pixels, decode, list_folder, sample_crops
from trtgate.models.base import DATA, Preprocessing, image_classes
from trtgate.photos import Recipe
from trtgate.report.photos import Photos
from trtgate.samples import Frame, Samples
from trtgate.verdict.answers import digest_of_names

# Pixels on each side: enough to recognise what is on it, some 3 KB.
SIZE = 96
# Of the longer side of one that boxes are drawn on, some 15 KB.
LARGE = 320
QUALITY = 70


def shipped_photos() -> Mapping[str, Photos]:
    """The evaluation photos of data/ and their crops by the digests of their names; empty where they are not there."""
    try:
        crops, whole = _crops(), list_folder(DATA / "evaluation")
    except Exception:  # installed without them, or what reads them is broken, which is no part of what was decided
        return {}
    names = tuple(str(path.relative_to(DATA / "evaluation")) for path in whole.files)
    return {
        digest_of_names(crops.names): Photos(crops.names, _imagenet(), _thumbnail, imagenet=True),
        digest_of_names(names): _photos(names, whole.files, None),
    }


def _imagenet() -> tuple[str, ...]:
    return tuple(each.name for each in image_classes())


def own_photos(samples: Samples) -> Mapping[str, Photos]:
    """The photos that a run's samples are made of by the digest of their names; empty where they are none."""
    found = _photos(samples.names, samples.files, samples.frame, samples.classes)
    return {digest_of_names(samples.names): found} if samples.files else {}


def _photos(names: Sequence[str], files: Sequence[Path], usual: Frame | None, classes: Sequence[str] = ()) -> Photos:
    @functools.cache
    def thumbnail(index: int, frame: Frame | None) -> bytes:
        seen = frame or usual
        if seen is None or not seen.fit:
            return b""
        try:
            return _jpeg(_framed(decode(files[index]), seen))
        except Exception:  # it was there when the run began, or what reads it is broken
            return b""

    return Photos(names, classes or _imagenet(), thumbnail, imagenet=not classes)


def _framed(photo: Pixels, frame: Frame) -> Pixels:
    """A photo as a network sees it, only smaller: all lengths alike."""
    scale = LARGE / max(frame.height, frame.width)
    height, width = (max(1, round(side * scale)) for side in (frame.height, frame.width))
    fit = cast(Literal["stretch", "crop", "pad"], frame.fit)
    # What is cut out is no smaller part than a tenth of a photo's side: nobody knows who wrote the number.
    resize = min(round(frame.resize * scale), 10 * LARGE)
    return Recipe((height, width), fit, resize).fitted(photo)


@functools.cache
def _crops() -> ImageSet:
    # The crops do not depend on the size that they are brought to.
    return sample_crops("evaluation", Preprocessing(resize=SIZE, crop=SIZE))


@functools.cache
def _thumbnail(index: int, frame: Frame | None) -> bytes:
    return _jpeg(_crops().pixels[index : index + 1][0].transpose(1, 2, 0))


def _jpeg(pixels: Pixels) -> bytes:
    """uint8[H,W,3] in RGB."""
    require_sound("cv2")
    import cv2

    return bytes(cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])
