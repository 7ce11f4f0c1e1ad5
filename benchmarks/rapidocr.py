"""Text detection and text direction of PP-OCR, imported from rapidocr's ONNX files and deployed in integers.

    pip download --no-deps rapidocr-onnxruntime==1.4.4 && unzip rapidocr_onnxruntime-*.whl -d rapidocr
    python benchmarks/rapidocr.py --models rapidocr/rapidocr_onnxruntime/models --out ocr

Pictures are rendered here, with Pillow's own font: lines of words in several sizes and colours on plain, shaded and noisy
grounds for the detector; single lines, half of them upside down, for the classifier of directions. On some of them the imported
networks are calibrated, on others measured: how far the imported float network is from the file in ONNX Runtime, how often the
int8 classifier agrees with the file, and what the text areas of the int8 detector and of the file have in common
(intersection over union of what rapidocr takes for text, above 0.3). Every exported file is verified: its codes, PyTorch's
and those of NumPy's integers. Exit status 1 where a code differs, or a format is refused.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import qat
from qat.backends.torch.ops import TorchOps
from qat.cli import run_script
from qat.console import print_table
from qat.deploy.certificate import Certificate
from qat.errors import QatError
from qat.vocabulary.ops import Array

HALF = (0.5, 0.5, 0.5)  #: mean and std of pixels scaled to 0..1, of all of rapidocr's networks
TEXT = 0.3  #: what of the detector's map is text, in rapidocr
GREY = (
    128  #: beside a short line, in the pixels that the classifier takes; rapidocr has 0 behind the normalisation, 127.5
)
LINE = (
    "Station Exit Ticket Platform 12 Open 24h PARKING Museum Hall Gate B7 No entry Sale 50% Coffee & tea Invoice 2024 Total "
    "19.99 EUR Serial 8841-XK Warning: hot surface Push Pull Mind the step FRAGILE This side up Volume 3 Chapter one Quick "
    "brown fox jumps over lazy dogs Pharmacy +44 20 7946 Speed limit 80 km/h Emergency Room 101 Library"
)
WORDS = LINE.split()


class Files(NamedTuple):
    """A network of rapidocr, and the pictures that it takes.

    Attributes:
        file: in --models.
        shape: (C, H, W) of its pictures.
        calibration, tested, verified: how many pictures each is done on.
        outputs: operations whose values leave, the network's own last; None: that alone.
    """

    file: str
    shape: tuple[int, int, int]
    calibration: int
    tested: int
    verified: int
    outputs: tuple[str, ...] | None = None


#: The classifier's features leave too: two probabilities of each picture are few codes to compare.
CLASSIFIER = Files("ch_ppocr_mobile_v2.0_cls_infer.onnx", (3, 48, 192), 256, 1000, 64, ("MaxPool_0", "Softmax_0"))
DETECTOR = Files("ch_PP-OCRv4_det_infer.onnx", (3, 320, 320), 64, 40, 2)


def words(rng: np.random.Generator, letters: int) -> str:
    """A line of words, about so many letters."""
    line: list[str] = []
    while len(" ".join(line)) < letters:
        line.append(str(rng.choice(WORDS)))
    return " ".join(line)


def ground(rng: np.random.Generator, height: int, width: int) -> tuple[Array, bool]:
    """A background (H, W, 3), real numbers from 0 to 255, and whether it is dark: plain, shaded or with noise."""
    dark = bool(rng.random() < 0.4)
    base = rng.uniform(10, 90, 3) if dark else rng.uniform(150, 245, 3)
    picture = np.broadcast_to(base, (height, width, 3)).copy()
    if rng.random() < 0.5:  # a shade from one corner to the other
        along = np.add.outer(np.linspace(-1, 1, height), np.linspace(-1, 1, width))[:, :, None]
        picture += rng.uniform(-20, 20, 3) * along
    if rng.random() < 0.5:
        picture += rng.normal(0.0, rng.uniform(2, 12), picture.shape)
    return picture, dark


def ink(rng: np.random.Generator, dark: bool) -> tuple[int, int, int]:
    """A colour that can be read on such a ground."""
    red, green, blue = (int(each) for each in (rng.uniform(180, 255, 3) if dark else rng.uniform(0, 80, 3)))
    return red, green, blue


def pixels(picture: Image.Image) -> Array:
    """(3, H, W), uint8, in the order of OpenCV, which rapidocr reads pictures with: blue first."""
    return np.ascontiguousarray(np.asarray(picture, np.uint8)[:, :, ::-1].transpose(2, 0, 1))


def page(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """A picture with lines of text, one below the other, some of them tilted, for the detector."""
    _, height, width = shape
    colours, dark = ground(rng, height, width)
    picture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    top = int(rng.integers(4, 30))
    while True:
        size = int(rng.integers(12, 40))
        font = ImageFont.load_default(size)
        line = words(rng, int(rng.integers(3, 12)))
        left, upper, right, lower = (int(each) for each in font.getbbox(line))
        mask = Image.new("L", (right - left + 4, lower - upper + 4))
        ImageDraw.Draw(mask).text((2 - left, 2 - upper), line, 255, font)
        if rng.random() < 0.3:
            mask = mask.rotate(float(rng.uniform(-6, 6)), Image.Resampling.BILINEAR, expand=True)
        if top + mask.height > height - 4:
            return pixels(picture)
        place = (int(rng.integers(2, max(3, width - mask.width))), top)
        picture.paste(Image.new("RGB", mask.size, ink(rng, dark)), place, mask)
        top += mask.height + int(rng.integers(4, 40))


def line(rng: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Array, int]:
    """A cut-out line of text for the classifier, as rapidocr prepares it, and its class: 1 where it is upside down."""
    _, height, width = shape
    font = ImageFont.load_default(int(rng.integers(18, 60)))
    text = words(rng, int(rng.integers(3, 14)))
    left, upper, right, lower = (int(each) for each in font.getbbox(text))
    across, down = (int(each) for each in rng.integers(1, 8, 2))
    colours, dark = ground(rng, lower - upper + 2 * down, right - left + 2 * across)
    picture = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    ImageDraw.Draw(picture).text((across - left, down - upper), text, ink(rng, dark), font)
    turned = int(rng.integers(0, 2))
    if turned:
        picture = picture.transpose(Image.Transpose.ROTATE_180)
    wide = min(width, -(-height * picture.width // picture.height))
    found = np.full(shape, GREY, np.uint8)
    found[:, :, :wide] = pixels(picture.resize((wide, height), Image.Resampling.BILINEAR))
    return found, turned


class Original:
    """The file itself, in ONNX Runtime."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def __call__(self, images: Array) -> Array:
        """Real numbers, of pixels."""
        parts = [self._run(images[start : start + 8]) for start in range(0, len(images), 8)]
        return np.concatenate(parts)

    def _run(self, images: Array) -> Array:
        given = (images.astype(np.float32) / 255.0 - 0.5) / 0.5
        (found,) = self.session.run(None, {self.name: given.astype(np.float32)})
        return np.asarray(found)


class Measured(NamedTuple):
    """Of one network: what the import found, and what the certificates say.

    Attributes:
        difference: the largest relative difference of the float outputs.
        float_outputs, int8_outputs: of the tested pictures; the first by the file itself.
        certificates: by format; text where it is refused.
    """

    difference: float
    float_outputs: Array
    int8_outputs: Array
    certificates: dict[str, Certificate | str]


def measured(files: Files, pictures: Callable[[int, int], Array], args: argparse.Namespace, out: Path) -> Measured:
    """Import, calibrate and export a network. pictures: of a seed and a number."""
    path = Path(args.models) / files.file
    taken = qat.Input(files.shape, mean=HALF, std=HALF)
    tested = pictures(1, files.tested)
    imported = qat.import_model(path, inputs=taken, input_shape=files.shape, outputs=files.outputs, images=tested[:8])
    print(f"{imported.graph.name}: {len(imported.graph.nodes)} nodes, {imported.difference}")
    images = pictures(0, files.calibration)
    calibrated = qat.calibrate(
        imported.graph,
        imported.params,
        images,
        method=args.method,
        equalize=False,
        bias_correction=False,
        batch_size=8,
        ops=TorchOps(),
    )
    calibrated.save(out / f"{imported.graph.name}.ckpt")
    verified = pictures(2, files.verified)
    certificates: dict[str, Certificate | str] = {}
    for ending in args.formats:
        try:
            found = qat.export(calibrated, out / f"{imported.graph.name}.{ending}", images=verified)
        except QatError as error:
            certificates[ending] = str(error)
            print(f"{ending}: {error}", flush=True)
        else:
            certificates[ending] = found
            print(f"{ending}: {found.summary()}", flush=True)
    backend = qat.backend("torch")
    outputs = backend.predict(backend.lower(calibrated.graph, calibrated.params), tested, batch_size=8)
    int8 = outputs[-1] if isinstance(outputs, tuple) else outputs
    return Measured(imported.difference.relative, Original(path)(tested), int8, certificates)


def several(make: Callable[..., Any], files: Files) -> Callable[[int, int], Array]:
    """Pictures of a seed, as many as asked for."""

    def pictures(seed: int, count: int) -> Array:
        rng = np.random.default_rng(seed)
        return np.stack([make(rng, files.shape) for _ in range(count)])

    return pictures


def overlap(a: Array, b: Array) -> float:
    """Intersection over union of two sets of places; 1 where both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def classified(args: argparse.Namespace, out: Path) -> tuple[Measured, Sequence[str]]:
    """The classifier of directions, and its figures."""
    found = measured(CLASSIFIER, several(lambda rng, shape: line(rng, shape)[0], CLASSIFIER), args, out)
    rng = np.random.default_rng(1)
    labels = np.array([line(rng, CLASSIFIER.shape)[1] for _ in range(CLASSIFIER.tested)])
    by_file, by_int8 = found.float_outputs.argmax(1), found.int8_outputs.argmax(1)
    right = [f"{100 * float((each == labels).mean()):.2f} %" for each in (by_file, by_int8)]
    return found, [*right, f"{100 * float((by_file == by_int8).mean()):.2f} % agree"]


def detected(args: argparse.Namespace, out: Path) -> tuple[Measured, Sequence[str]]:
    """The detector, and its figures."""
    found = measured(DETECTOR, several(page, DETECTOR), args, out)
    by_file, by_int8 = found.float_outputs > TEXT, found.int8_outputs > TEXT
    each = [overlap(a, b) for a, b in zip(by_file, by_int8, strict=True)]
    areas = [f"text on {100 * float(area.mean()):.2f} %" for area in (by_file, by_int8)]
    return found, [*areas, f"IoU {overlap(by_file, by_int8):.4f}, of one picture {min(each):.4f} at least"]


NETWORKS = {"classifier": classified, "detector": detected}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", required=True, help="folder of rapidocr's .onnx files")
    parser.add_argument("--only", choices=tuple(NETWORKS), nargs="+", default=list(NETWORKS), help="these alone")
    parser.add_argument("--formats", nargs="+", default=["onnx", "tflite", "c"], help="endings of the exported files")
    parser.add_argument("--method", default="minmax", help="of the calibration")
    parser.add_argument("--out", help="folder for checkpoints and files (default: a temporary one)")


def run(args: argparse.Namespace) -> int:
    rows, wrong = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(args.out or temporary)
        out.mkdir(parents=True, exist_ok=True)
        for name in args.only:
            found, figures = NETWORKS[name](args, out)
            columns = []
            for certificate in found.certificates.values():
                columns.append("no" if isinstance(certificate, str) else f"{certificate.comparisons[0].codes:,}")
                wrong += isinstance(certificate, str) or not certificate.passed
            rows.append((name, f"{found.difference:.1e}", *figures, *columns))
    print_table(
        "rapidocr's networks; float is the file in ONNX Runtime, the last columns are codes of which none differs",
        ("network", "largest relative difference", "float", "int8", "float and int8", *args.formats),
        rows,
    )
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(run_script(add_arguments, run, __doc__))
