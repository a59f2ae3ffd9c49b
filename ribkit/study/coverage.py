"""What maps cover of each part of an image: of objects, where on them, and off them, where."""

import numpy as np
import pandas as pd

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.evaluation import regions
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values


def _coverage(results: PerImageResult) -> Values:
    return {"coverage": results.joined()}


@per_image("coverage", "coverage", gather=_coverage, gpu=False)
def cover(image: LabelledImage, maps: np.ndarray, plain: np.ndarray, threshold: float) -> Values:
    """What the maps cover above a threshold: ``coverage``, a row for each image and class.

    ``size``: the object's share of the image's known pixels; and of each part of `parts` the share
    that the class's map covers, NaN where it has no pixel. ``plain``: the image's plain CAM.
    """
    mask, heads = image.mask(), image.heads()
    covered = views.resize_maps(maps, mask.shape) > threshold
    peaked, pixels = views.resize_maps(plain, mask.shape), image.pixels()
    rows = []
    for label, found, score in zip(image.classes + 1, covered, peaked, strict=True):
        each = parts(pixels, mask, label, score, heads)
        sums = np.array([[(found & part).sum(), part.sum()] for part in each.values()])
        with np.errstate(invalid="ignore"):
            shares = dict(zip(each, sums[:, 0] / sums[:, 1], strict=True))
        rows.append({"size": (mask == label).sum() / (mask != views.IGNORE).sum()} | shares)
    names = rows[0] if rows else ()
    table = {name: np.array([row[name] for row in rows]) for name in names}
    return {"class": np.array(image.images.classes)[image.classes]} | table


def parts(
    pixels: np.ndarray,
    mask: np.ndarray,
    label: int,
    plain: np.ndarray,
    heads: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The parts of an image ``(h, w)`` bool that coverage is told of, for one of its classes.

    object: its pixels; near, far: its halves by the plain CAM's peak on it; inside, edge: away from
    its boundary, or at it; on `mini` head and body. outside: all known pixels off it; around, away:
    those at its boundary, and the rest; green, other: of the background's pixels.
    """
    whole, known = mask == label, mask != views.IGNORE
    near, far = regions.halves(whole, plain)
    edge, around = regions.band(whole)
    outside, background = known & ~whole, mask == 0
    found = {"object": whole, "near": near, "far": far, "inside": whole & ~edge, "edge": edge}
    if heads is not None:
        found |= {"head": heads == label, "body": whole & (heads != label)}
    found |= {"outside": outside, "around": outside & around, "away": outside & ~around}
    green = regions.green(pixels)
    return found | {"green": background & green, "other": background & ~green}


def by_image(table: pd.DataFrame) -> pd.DataFrame:
    """Shares of each part that maps cover, a row for each image: means over its classes."""
    return table.drop(columns=["class", "size"]).groupby("image", sort=False).mean()


def beyond(table: pd.DataFrame | pd.Series) -> str:
    """The part of several that stands for the non-discriminative one: body, or the far half."""
    return "body" if "body" in table else "far"
