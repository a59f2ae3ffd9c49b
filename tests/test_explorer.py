"""The sliders of notebook 03, over made-up maps."""

import io

import numpy as np
import pytest
from fabricated import stored
from PIL import Image

from ribkit.data import scenes
from ribkit.results import explorer


@pytest.fixture
def grown(tmp_path):
    """Two scenes, with maps of two and of three steps that rise from step to step."""
    images = scenes.generate(1, 2, size=48)
    shown = images.labels.sum(axis=1)
    steps = {
        name: np.stack([np.full((n, 48, 48), 0.2 * (k + 1), np.float16) for k in range(count)])
        for name, n, count in zip(images.ids, shown, (2, 3), strict=True)
    }
    sums = {name: maps[-1] for name, maps in steps.items()}
    return images, stored(tmp_path, "growth", step=steps, sum=sums)


def test_controls_offer_every_image_step_and_threshold(grown):
    images, _ = grown
    image, step, threshold, _ = explorer.explore(*grown, 0.4).children
    assert [name.split(", ")[0] for name, _ in image.options] == list(images.ids)
    assert [name.count(", ") for name, _ in image.options] == images.labels.sum(axis=1).tolist()
    assert step.options == (0, 1, 2, "sum")
    assert (threshold.min, threshold.value, threshold.max) == (0, 0.4, 0.99)


def drawn(picture):
    return np.asarray(Image.open(io.BytesIO(picture.data)).convert("RGB")).astype(int)


def test_the_labels_follow_the_threshold_and_the_step(grown):
    above, below = (drawn(explorer.panels(*grown, 0, 0, t)) for t in (0.3, 0.1))
    assert (above != below).any()  # 0.2 everywhere: all labelled, or nothing
    assert (drawn(explorer.panels(*grown, 0, 1, 0.3)) != above).any()
    last, after = (explorer.panels(*grown, 0, step, 0.3) for step in (1, 2))
    thirds = (drawn(each)[60:] for each in (last, after))  # below the titles
    assert np.array_equal(*thirds)  # a step after the end is the last one


def test_objects_are_outlined_in_white_on_the_map(grown):
    shown = drawn(explorer.panels(*grown, 0, 0, 0.3))
    a_map = shown[60:290, 300:560]  # of one colour
    assert (a_map.min(axis=-1) > 200).mean() > 0.001
