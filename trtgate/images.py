"""What it is run on: photos, decoded by OpenCV and prepared as torchvision prepares them."""

from __future__ import annotations

import hashlib
import io
import logging
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from trtgate.engines.probe import require_sound
from trtgate.files import require_no_pipe
from trtgate.kinds import UserError
from trtgate.models.base import CLASSES, DATA, Preprocessing, image_classes
from trtgate.samples import Frame
from trtgate.signature import INPUT, Tensors

log = logging.getLogger(__name__)

EVALUATION_CROPS = 240
CALIBRATION_CROPS = 60
EVALUATION_SEED = 1
CALIBRATION_SEED = 2
# Crops smaller than a quarter of the photo show texture rather than an object, and no classifier is sure of those.
CROP_AREA = (0.25, 1.0)
CROP_ASPECT = (3 / 4, 4 / 3)

# A photo of more is refused unread: it would take more than half a GiB, and the largest cameras have 150 million.
MAX_PIXELS = 160_000_000
# Of a photo that is longer than so many times its short side only the middle is scaled: the crop sees no more.
MAX_ASPECT = 8
# Photos that are held in memory at once while all of them are gone through.
CHUNK = 32

# What a system or an archive leaves in folders.
DROPPINGS = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"})
# Names and beginnings of photos; some that OpenCV cannot read are among them, to be told of.
SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("jpg", "jpeg", "jpe", "jfif", "jp2", "png", "webp", "bmp", "dib", "tif", "tiff", "gif", "avif", "heic"),
        *("heif", "jxl", "ppm", "pgm", "pbm", "pnm", "exr", "hdr", "dng", "cr2", "nef", "arw"),
    )
)
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8")

Pixels = npt.NDArray[np.uint8]


class PixelFile:
    """uint8[N,3,crop,crop] on disk, in a file without a name: it is gone with the last reference, however that ends.

    Slices and index arrays give arrays in memory. Read, not mapped: what is mapped counts as memory of the process.
    """

    def __init__(self, folder: Path | None, crop: int) -> None:
        """An empty one in `folder`, or where temporary files go."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._item = (3, crop, crop)
        self._count = 0

    def append(self, pixels: Pixels) -> None:
        """Add one photo, uint8[3,crop,crop]. Raises OSError when the disk is full."""
        self._file.seek(0, io.SEEK_END)
        self._file.write(np.ascontiguousarray(pixels).data)
        self._count += 1

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._count, *self._item)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, which: slice | npt.NDArray[np.intp]) -> Pixels:
        if not isinstance(which, slice):
            return np.concatenate([self[index : index + 1] for index in which.tolist()])
        start, stop, step = which.indices(self._count)
        if step != 1:
            return self[np.arange(start, stop, step)]
        pixels = np.empty((max(0, stop - start), *self._item), np.uint8)
        self._file.seek(start * int(np.prod(self._item)))
        self._file.readinto(pixels.data)
        return pixels


@dataclass(frozen=True)
class ImageSet:
    """Photos cut to the network's input size.

    `pixels` is uint8[N,3,crop,crop] in RGB; `labels` is int64[N], class indices, or None where nobody said what is on
    the photos; `clusters` is int64[N], the photo that each is a crop of, or None where each is a photo of its own;
    `skipped` names the files that could not be read; `classes` are the names of the classes, by index, where the folder
    gives them; `input` is what the network calls them; `files` are the photos themselves, one for each, or none where
    what is seen are crops of them.
    """

    names: tuple[str, ...]
    pixels: Pixels | PixelFile
    preprocessing: Preprocessing
    labels: npt.NDArray[np.int64] | None = None
    skipped: tuple[str, ...] = ()
    clusters: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    input: str = INPUT
    files: tuple[Path, ...] = ()
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # hashlib of the pixels, not of the files: another decoder that gives other pixels gives another plan.
        digest = hashlib.sha256(repr((self.preprocessing, self.pixels.shape)).encode())
        for start in range(0, len(self), CHUNK):
            digest.update(np.ascontiguousarray(self.pixels[start : start + CHUNK]).data)
        object.__setattr__(self, "digest", digest.hexdigest())

    @property
    def doubt(self) -> str:
        return ""

    @property
    def frame(self) -> Frame | None:
        """How `centre_crop` brings one of the files to what the network sees."""
        crop, resize = self.preprocessing.crop, self.preprocessing.resize
        return Frame(crop, crop, "crop", resize) if self.files else None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensors:
        """One photo as a batch of one, normalised: float32[1,3,crop,crop]."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return {self.input: normalise(self.pixels[index : index + 1], self.preprocessing)}

    def first(self, n: int) -> ImageSet:
        """The first n photos as a set of their own."""
        return replace(
            self,
            names=self.names[:n],
            pixels=self.pixels[:n],
            labels=None if self.labels is None else self.labels[:n],
            clusters=None if self.clusters is None else self.clusters[:n],
            files=self.files[:n],
        )

    def batches(self, size: int) -> Iterator[Tensors]:
        """Normalised float32[n,3,crop,crop] batches in order; the last one may be smaller."""
        for start in range(0, len(self), size):
            yield {self.input: normalise(self.pixels[start : start + size], self.preprocessing)}


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
        require_no_pipe(path)
        encoded = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); fix or remove it") from error
    if not encoded:
        raise UserError(f"{path} is empty; remove it, or pass --skip-bad-images")
    advice = "remove it, or pass --skip-bad-images"
    if is_truncated(encoded):
        raise UserError(f"{path} is truncated; replace it, or pass --skip-bad-images")
    pixels = _pixels(encoded)
    if pixels > MAX_PIXELS:
        raise UserError(f"{path} has {pixels:,} pixels, more than the {MAX_PIXELS:,} that are read; {advice}")
    require_sound("cv2")
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UserError(f"{path} cannot be decoded ({error.err}); {advice}") from error
    if image is None:
        raise UserError(f"{path} is not an image that OpenCV can read; {advice}")
    return np.ascontiguousarray(image[:, :, ::-1], dtype=np.uint8)


def _pixels(encoded: bytes) -> int:
    """Height by width as a photo's header says; 0 where Pillow, which is asked for nothing else, cannot read it."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # we have a limit of our own, and say so in our own words
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return int(image.width) * int(image.height)
    except Exception:  # its readers raise what they like for a damaged file, of which OpenCV has the last word
        return 0
    finally:
        Image.MAX_IMAGE_PIXELS = before


def is_truncated(encoded: bytes) -> bool:
    """Whether a photo ends early: OpenCV fills the missing part with grey and only prints a warning.

    A JPEG's entropy-coded data never holds FF D9 except as its end marker (ITU-T T.81, B.1.1.2: FF is stuffed); a PNG
    is a chain of chunks that ends with IEND, a GIF one of blocks that ends with a trailer; WebP and BMP begin with
    their length. Whatever follows the end does not matter.
    """
    if encoded.startswith(b"\xff\xd8"):
        return _jpeg_is_truncated(encoded)
    if encoded.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png_is_truncated(encoded)
    if encoded.startswith((b"GIF87a", b"GIF89a")):
        return _gif_is_truncated(encoded)
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return len(encoded) < 8 + int.from_bytes(encoded[4:8], "little")
    if encoded.startswith(b"BM"):
        return len(encoded) < _bmp_length(encoded)
    return False


def _jpeg_is_truncated(encoded: bytes) -> bool:
    position = 2
    while True:
        # Any number of FF may stand before a marker (B.1.1.2), and decoders skip whatever else does.
        position = encoded.find(b"\xff", position)
        while 0 <= position < len(encoded) and encoded[position] == 0xFF:
            position += 1
        if not 0 <= position < len(encoded):
            return True
        marker = encoded[position]
        position += 1
        if marker in {0x00, 0x01} or 0xD0 <= marker <= 0xD8:  # stuffing, and markers that stand alone
            continue
        if marker == 0xD9:
            return False
        if marker == 0xDA:  # start of scan: entropy-coded data follows its header
            return encoded.find(b"\xff\xd9", position) < 0
        position += max(2, int.from_bytes(encoded[position : position + 2], "big"))


def _png_is_truncated(encoded: bytes) -> bool:
    position = 8
    while position + 12 <= len(encoded):
        length = int.from_bytes(encoded[position : position + 4], "big")
        if encoded[position + 4 : position + 8] == b"IEND":
            return False
        position += 12 + length
    return True


def _gif_is_truncated(encoded: bytes) -> bool:
    """Whether the first picture's data ends before its terminator: no other one is read."""

    def table(packed: int) -> int:
        return 3 << (packed % 8 + 1) if packed & 0x80 else 0

    def after_blocks(position: int) -> int:
        while position < len(encoded) and encoded[position]:
            position += 1 + encoded[position]
        return position + 1

    if len(encoded) < 13:
        return True
    position = 13 + table(encoded[10])
    while position + 10 <= len(encoded):
        if encoded[position] == 0x2C:  # a picture: its place, a table of colours, a code size, blocks
            return after_blocks(position + 11 + table(encoded[position + 9])) > len(encoded)
        if encoded[position] != 0x21:  # anything but an extension is no GIF's
            return False
        position = after_blocks(position + 2)
    return True


def _bmp_length(encoded: bytes) -> int:
    """The bytes that an uncompressed BMP has at least; the length in its header may be 0 or wrong."""
    if len(encoded) < 54 or int.from_bytes(encoded[14:18], "little") < 40:
        return 54 if len(encoded) < 26 else 0
    offset = int.from_bytes(encoded[10:14], "little")
    width = abs(int.from_bytes(encoded[18:22], "little", signed=True))
    height = abs(int.from_bytes(encoded[22:26], "little", signed=True))
    bits, compression = int.from_bytes(encoded[28:30], "little"), int.from_bytes(encoded[30:34], "little")
    return offset + (width * bits + 31) // 32 * 4 * height if compression == 0 else 0


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
    image = _middle(image)
    height, width = image.shape[:2]
    if height <= width:
        height, width = how.resize, int(how.resize * width / height)
    else:
        height, width = int(how.resize * height / width), how.resize
    scaled = resize(image, height, width, how.interpolation)
    top, left = round((height - how.crop) / 2), round((width - how.crop) / 2)
    return np.ascontiguousarray(scaled[top : top + how.crop, left : left + how.crop].transpose(2, 0, 1))


def _middle(image: Pixels) -> Pixels:
    """The middle of a photo that is longer than MAX_ASPECT times its short side; any other as it is."""
    height, width = image.shape[:2]
    longest = MAX_ASPECT * min(height, width)
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return image[top : height - top, left : width - left]


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
    classes: int | None = CLASSES,
    skip_bad: bool = False,
    spool: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImageSet:
    """The photos of a folder, flat or in a sub-folder for each class, in the order of their paths.

    For `classes` of 1000 the sub-folders are named by ImageNet's WordNet ids; for another number there is one for each
    class, and their order is that of the classes, as torchvision's ImageFolder has it. For None nobody asks what is on
    the photos. Pixels are kept in a file in `spool`, so memory does not depend on the number of photos.

    With `skip_bad` unreadable files are left out and counted in `skipped`. Raises UserError for a folder that is
    missing, empty or mixed, whose sub-folders are not those of the classes, or that holds a bad file.
    """
    listing = list_folder(folder, classes)
    for path in listing.left_out:
        log.warning("left out: %s is no photo", path)
    names, kept, skipped = [], [], []
    pixels = PixelFile(spool, how.crop)
    for index, path in enumerate(listing.files):
        try:
            crop = centre_crop(decode(path), how)
        except UserError as error:
            if not skip_bad:
                raise
            log.warning("left out: %s", error)
            skipped.append(str(path.relative_to(folder)))
            continue
        finally:
            progress(index + 1, len(listing.files))
        try:
            pixels.append(crop)
        except OSError as error:
            raise UserError(
                f"--plan-cache: {spool or tempfile.gettempdir()} has no room for {len(listing.files)} photos "
                f"({error.strerror}); name a folder with {len(listing.files) * crop.nbytes / 2**30:.1f} GiB to spare"
            ) from error
        names.append(str(path.relative_to(folder)))
        kept.append(index)
    if not names:
        raise UserError(f"{folder} holds no readable photo; give a folder of JPEG or PNG files")
    chosen = None if listing.labels is None else np.asarray(listing.labels, np.int64)[kept]
    files = tuple(listing.files[index] for index in kept)
    return ImageSet(tuple(names), pixels, how, chosen, tuple(skipped), classes=listing.classes, files=files)


@dataclass(frozen=True)
class Listing:
    """The photos of a folder, unread: files, their labels where it has sub-folders, the classes where it names them.

    `left_out` are files that are no photos.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    left_out: tuple[Path, ...] = ()


def list_folder(folder: Path, classes: int | None = CLASSES, called: Sequence[str] = ()) -> Listing:
    """What `read_folder` would read, of a network whose classes are `called` so, if anybody said. Raises UserError as
    it does, but for bad files."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give one with photos, flat or as <class>/*.jpg")
    entries = _entries(folder)
    folders = [entry for entry in entries if entry.is_dir()]
    flat, left_out = _photos_among([entry for entry in entries if not entry.is_dir()])
    if folders and flat:
        raise UserError(f"{folder} holds photos beside sub-folders; keep it flat, or move all photos to <class>/")
    if not folders:
        if not flat:
            raise UserError(f"{folder} holds no photos; give a folder of JPEG or PNG files")
        return Listing(tuple(flat), left_out=tuple(left_out))
    indices, names = _classes_of(folder, folders, classes, called)
    files: list[Path] = []
    labels: list[int] = []
    for sub in folders:
        inside = _entries(sub)
        if deeper := next((entry for entry in inside if entry.is_dir()), None):
            raise UserError(f"{deeper} is a folder inside a class; put the photos right into {sub}")
        photos, others = _photos_among(inside)
        left_out += others
        files += photos
        labels += [indices.get(sub.name, 0)] * len(photos)
    if not files:
        raise UserError(f"{folder} has class folders but no photo in them; give a folder that holds photos")
    return Listing(tuple(files), tuple(labels) if classes is not None else None, names, tuple(left_out))


def _entries(folder: Path) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); check its permissions") from error
    return [entry for entry in found if not entry.name.startswith(".") and entry.name.lower() not in DROPPINGS]


def _photos_among(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """The files that are called or begin like photos, and the others."""
    photos = [path for path in files if _may_be_photo(path)]
    chosen = set(photos)
    return photos, [path for path in files if path not in chosen]


def _may_be_photo(path: Path) -> bool:
    """What cannot be opened is for whoever decodes it to tell, if it is called a photo."""
    called = path.suffix.lower() in SUFFIXES
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False  # a pipe would be waited for
        if called:
            return True
        with path.open("rb") as file:
            return file.read(8).startswith(BEGINNINGS)
    except OSError:
        return called


def _classes_of(
    folder: Path, folders: list[Path], classes: int | None, called: Sequence[str]
) -> tuple[dict[str, int], tuple[str, ...]]:
    """The class index of each sub-folder by its name, and the classes' names where they are those of the folders."""
    names = [sub.name for sub in folders]
    if classes is None:
        return {}, ()
    if set(called) & set(names):
        if wrong := next((name for name in names if list(called).count(name) != 1), None):
            how = "two" if wrong in called else "none"
            raise UserError(
                f"{folder / wrong} is called as {how} of the model's classes; call each as one, or all otherwise"
            )
        return {name: list(called).index(name) for name in names}, ()
    by_wnid = {entry.wnid: entry.index for entry in image_classes()}
    if classes == CLASSES and by_wnid.keys() & set(names):
        unknown = next((name for name in names if name not in by_wnid), None)
        if unknown is not None:
            raise UserError(
                f"{folder / unknown} is not named by a WordNet id of data/imagenet_classes.csv, such as n01440764"
            )
        return by_wnid, ()
    if len(names) == classes:
        return {name: index for index, name in enumerate(names)}, tuple(names)
    wanted = "a WordNet id such as n01440764 each" if classes == CLASSES else "one for each class, an empty one too"
    raise UserError(f"{folder} has {len(names)} class folders, the model {classes} classes; give it {wanted}")
