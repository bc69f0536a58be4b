"""Small pictures of the photos that the repository ships, for reports."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import cv2

from trtgate.images import ImageSet, sample_crops
from trtgate.kinds import UserError
from trtgate.models.base import Preprocessing, image_classes
from trtgate.report.gallery import Photos

# Pixels on each side: enough to recognise what is on it, some 3 KB.
SIZE = 96
QUALITY = 70


def shipped_photos() -> Mapping[str, Photos]:
    """The evaluation photos of data/ by the digest of their names; empty where they are not there."""
    try:
        crops = _crops()
    except (UserError, OSError, ZeroDivisionError):  # installed without them
        return {}
    digest = hashlib.sha256("\0".join(crops.names).encode()).hexdigest()
    classes = tuple(each.name for each in image_classes())
    return {digest: Photos(crops.names, classes, _thumbnail)}


@functools.cache
def _crops() -> ImageSet:
    # The crops do not depend on the size that they are brought to.
    return sample_crops("evaluation", Preprocessing(resize=SIZE, crop=SIZE))


@functools.cache
def _thumbnail(index: int) -> bytes:
    pixels = _crops().pixels[index : index + 1][0].transpose(1, 2, 0)[:, :, ::-1]
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])
