"""Sliders over one image's maps, for notebook 03 in JupyterLab: step, threshold, and the labels."""

import io

import ipywidgets as widgets
import numpy as np
from IPython.display import Image, display
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL.Image import Resampling, fromarray

from ribkit.data.images import ImageSet
from ribkit.data.views import resize_maps, resized_image
from ribkit.refinement.stages import label_map
from ribkit.results import style
from ribkit.results.tables import title_of
from ribkit.runtime.store import Result

PIXELS = 320  # of the longer side, at most
SUM = "sum"
WIDE = widgets.Layout(width="600px")  # so that a slider's hundred places can be told apart


def explore(images: ImageSet, grown: Result, threshold: float) -> widgets.Widget:
    """Controls and pictures of the images that `Study.growth` returns with their maps.

    Image, step (the last place is the sum, which is the seed) and threshold, which begins as given;
    map and labels follow.
    """
    steps = max(len(maps) for maps in grown.arrays("step").values())
    names = [title_of(image) for image in images]

    def show(image: int, step: int | str, threshold: float) -> None:
        display(panels(images, grown, image, step, threshold))

    return widgets.interactive(
        show,
        image=widgets.Dropdown(options=[(name, k) for k, name in enumerate(names)], layout=WIDE),
        step=widgets.SelectionSlider(options=[*range(steps), SUM], value=SUM, layout=WIDE),
        threshold=widgets.FloatSlider(threshold, min=0, max=0.99, step=0.01, layout=WIDE),
    )


def panels(images: ImageSet, grown: Result, index: int, step: int | str, threshold: float) -> Image:
    """An image, the highest of its classes' maps, and the labels at a threshold, side by side.

    A step after the end of an adaptation is its last one. Outlined: the objects.
    """
    image = images[index]
    maps = grown.arrays("sum" if step == SUM else "step")[image.name]
    if step != SUM:
        maps = maps[min(step, len(maps) - 1)]
    pixels = resized_image(image.pixels(), PIXELS)
    maps = resize_maps(maps, pixels.shape[:2])
    labels = label_map(maps, image.classes, threshold).astype(int)
    colours = np.array(style.PALETTE)[np.arange(len(images.classes) + 1) % len(style.PALETTE)]
    over = np.where(labels[..., None] > 0, 0.4 * pixels + 153 * colours[labels], pixels)
    mask = fromarray(image.mask()).resize(pixels.shape[1::-1], Resampling.NEAREST)
    outline = np.asarray(mask) % 255 > 0
    title = "map: sum of the steps" if step == SUM else f"map: step {step}" + " (CAM)" * (step == 0)
    shown = {"image": pixels, title: maps.max(axis=0), f"labels above {threshold:.2f}": over / 255}
    with style.styled():
        drawn = Figure((9, 3.4), layout="constrained")
        for axis, (name, picture) in zip(drawn.subplots(1, 3), shown.items(), strict=True):
            axis.imshow(picture, vmin=0, vmax=1, cmap="viridis")
            for colour, width in (("black", 2.4), ("white", 0.8)):  # seen on light and on dark
                axis.contour(outline, [0.5], colors=colour, linewidths=width)
            axis.set(title=name, xticks=[], yticks=[])
        named = [Patch(color=colours[c + 1], label=images.classes[c]) for c in image.classes]
        drawn.legend(handles=named, loc="outside lower right", ncols=len(named))
        file = io.BytesIO()
        drawn.savefig(file, format="png", dpi=96)
    return Image(file.getvalue())
