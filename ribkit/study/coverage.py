"""What maps cover of each part of an image: of objects, where on them, and off them, where."""

import numpy as np
import pandas as pd

from ribkit.data import views
from ribkit.data.images import LabelledImage
from ribkit.evaluation import measures, regions
from ribkit.runtime.per_image import PerImageResult, per_image
from ribkit.runtime.store import Values

TOLD = ("head", "body", "near", "far")  # parts of which the AUC is taken


def _coverage(results: PerImageResult) -> Values:
    return {"coverage": results.joined()}


@per_image("coverage", "coverage", gather=_coverage, gpu=False)
def cover(image: LabelledImage, maps: np.ndarray, plain: np.ndarray, threshold: float) -> Values:
    """What the maps cover above a threshold: ``coverage``, a row for each image and class.

    ``size``: the object's share of the image's known pixels; and of each part of `parts` the share
    that the class's map covers, NaN where it has no pixel. ``auc far`` and others: how well the map
    tells that part from what is off the object, whatever the threshold (`measures.auc`).
    ``plain``: the image's plain CAM.
    """
    mask, heads = image.mask(), image.heads()
    both = (views.resize_maps(each, mask.shape) for each in (maps, plain))
    pixels, rows = image.pixels(), []
    for label, shown, score in zip(image.classes + 1, *both, strict=True):
        each = parts(pixels, mask, label, score, heads)
        found, outside = shown > threshold, shown[each["outside"]]
        sums = np.array([[(found & part).sum(), part.sum()] for part in each.values()])
        with np.errstate(invalid="ignore"):
            row = dict(zip(each, sums[:, 0] / sums[:, 1], strict=True))
        told = {f"auc {name}": shown[each[name]] for name in TOLD if name in each}
        row |= {name: measures.auc(inside, outside) for name, inside in told.items()}
        rows.append({"size": (mask == label).sum() / (mask != views.IGNORE).sum()} | row)
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
