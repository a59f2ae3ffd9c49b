"""Sliders over one image's maps, for notebook 03 in JupyterLab: step, threshold, and the labels."""

import io

import ipywidgets as widgets
import numpy as np
from IPython.display import Image, display
from matplotlib.figure import Figure

from ribkit.data.images import ImageSet
from ribkit.data.views import resize_maps, resized_image
from ribkit.refinement.stages import label_map
from ribkit.results import style
from ribkit.runtime.store import Result

PIXELS = 320  # of the longer side, at most
SUM = "sum"


def explore(images: ImageSet, grown: Result) -> widgets.Widget:
    """A row of controls and pictures of the images that `Study.growth` returns with their maps.

    Which image, which step of its adaptation (the last place is the sum, which is the seed), which
    threshold: the map and the labels follow as one drags.
    """
    steps = max(len(maps) for maps in grown.arrays("step").values())

    def show(image: int, step: int | str, threshold: float) -> None:
        display(panels(images, grown, image, step, threshold))

    return widgets.interactive(
        show,
        image=widgets.Dropdown(options=list(zip(images.ids, range(len(images)), strict=True))),
        step=widgets.SelectionSlider(options=[*range(steps), SUM], value=SUM),
        threshold=widgets.FloatSlider(0.3, min=0, max=0.99, step=0.01),
    )


def panels(images: ImageSet, grown: Result, index: int, step: int | str, threshold: float) -> Image:
    """An image, the highest of its classes' maps, and the labels at a threshold, side by side.

    A step after the end of an adaptation is its last one.
    """
    image = images[index]
    maps = grown.arrays("sum" if step == SUM else "step")[image.name]
    if step != SUM:
        maps = maps[min(step, len(maps) - 1)]
    pixels = resized_image(image.pixels(), PIXELS)
    maps = resize_maps(maps, pixels.shape[:2])
    labels = label_map(maps, image.classes, threshold)
    colours = 255 * np.array(style.PALETTE)[labels.astype(int) % len(style.PALETTE)]
    over = np.where(labels[..., None] > 0, (pixels + colours) / 2, pixels).astype(np.uint8)
    shown = {"image": pixels, f"map, step {step}": maps.max(axis=0)}
    shown[f"labels above {threshold:.2f}"] = over
    with style.styled():
        drawn = Figure((9, 3.2), layout="constrained")
        for axis, (title, picture) in zip(drawn.subplots(1, 3), shown.items(), strict=True):
            axis.imshow(picture, vmin=0, vmax=1, cmap="viridis")
            axis.set(title=title, xticks=[], yticks=[])
        file = io.BytesIO()
        drawn.savefig(file, format="png", dpi=96)
    return Image(file.getvalue())
