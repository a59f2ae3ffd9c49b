"""Images, results and scores that are made up, as the stages read and store them."""

import dataclasses
import inspect
import pkgutil
from importlib import import_module
from types import SimpleNamespace

import numpy as np

import ribkit
from ribkit.data import scenes
from ribkit.evaluation import thresholds
from ribkit.evaluation.miou import counts, miou
from ribkit.evaluation.thresholds import Swept
from ribkit.networks import classifier
from ribkit.networks.trained import TrainedModel
from ribkit.runtime import store
from ribkit.runtime.store import Result

IMAGES = 40


def error(ours, theirs):
    """The largest difference, as a share of their largest value."""
    assert ours.shape == theirs.shape
    largest = theirs.abs().max()  # 0 where no position of a map is positive yet
    return float((ours - theirs).abs().max() / (largest if largest > 0 else 1))


def last_unlabelled(count):
    """Scenes; the last one without a label."""
    found = scenes.generate(0, count, size=48)
    labels = found.labels.copy()
    labels[-1] = False
    return dataclasses.replace(found, labels=labels)


def stored(folder, name="made", **values):
    """A stored result of these values, in ``<folder>/<name>``."""
    result = Result(name, name, folder / name)
    store._write(result, values, {"parameters": {}, "code": "", "seconds": 0.0})
    return result


def registered():
    """The functions of all stages."""
    found = []
    for module in pkgutil.walk_packages(ribkit.__path__, "ribkit."):
        functions = inspect.getmembers(import_module(module.name), inspect.isfunction)
        own = [f for _, f in functions if f.__module__ == module.name]
        found += [f for f in own if hasattr(f, "stage")]
    return found


def has(results, call):
    """Whether a store has the result of a ``partial(stage, **parameters)``."""
    return results._job(call).result.damaged() is None


def run_stage(stage, images, folder, **parameters):
    """What a stage returns; what it keeps of each image goes to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = {"scratch": folder} if stage.resumes else {}
    return stage(images=images, **parameters, **scratch)


def confusions(level, rng_seed=0):
    """Confusions ``(IMAGES, 2, 2)`` whose object is found more the higher the level (points)."""
    base = np.random.default_rng(rng_seed).integers(30, 50, IMAGES)
    made = np.zeros((IMAGES, 2, 2), int)
    made[:, 1, 1], made[:, 1, 0], made[:, 0, 0] = base + level, 100 - base - level, 100
    return made


def pooled(level, rng_seed):
    """The mIoU of `confusions`."""
    return miou(counts(confusions(level, rng_seed)).sum(axis=0))


def swept_from(confusions):
    """A `Swept` of confusions ``(N, 100, n, n)``, all labels in every image."""
    count, n_classes = len(confusions), confusions.shape[-1]
    found = [thresholds.image_rows(range(n_classes), one) for one in confusions]
    return Swept(count, n_classes, **thresholds.concat_rows(found))


PIXELS = SimpleNamespace(pyramid=lambda x: x, heads=lambda x, size: x, stride=1)
"""PSA whose features are the pixels themselves."""


def trained_classifier(weights, precision="float32", backbone="small", file=None):
    """A trained classifier of scenes, as `Study.model` is one."""
    options = {"backbone": backbone, "n_classes": len(scenes.CLASSES), "precision": precision}
    return TrainedModel.of(classifier.trained_network, weights, **options, weights=file)
