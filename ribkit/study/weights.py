"""Trained networks as files that other programs read: safetensors that say what they are."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ribkit.data.images import BROKEN
from ribkit.networks.architectures import Weights
from ribkit.networks.trained import TrainedModel
from ribkit.runtime.errors import InputError
from ribkit.runtime.files import atomic_write, digest
from ribkit.runtime.keys import describe
from ribkit.runtime.store import Values, stage

METADATA = "ribkit"  # of a file: its network's backbone and classes
MANIFEST = "manifest.json"


def save(path: Path, tensors: Mapping[str, Tensor], backbone: str, classes: Sequence[str]) -> None:
    """Write a network's weights, its backbone and the names of its classes to a file."""
    about = json.dumps({"backbone": backbone, "classes": list(classes)})
    with atomic_write(path) as partial:
        save_file(dict(tensors), partial, {METADATA: about})  # of several, the order varies


def write(
    folder: Path,
    models: Mapping[str, TrainedModel],
    classes: Sequence[str],
    labels: Sequence[Path] = (),
) -> None:
    """Write ``<name>.safetensors`` of each model, and a manifest of these and of label maps.

    The manifest has each file's SHA-256, by its path from the folder; of a model also the function
    that builds the network and its arguments; and the names of the classes, which the outputs stand
    for in this order (DeepLab: after background). labels: files of `export.pseudo_ground_truth`,
    which says beside them what their values stand for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name, model in models.items():
        path, arguments = folder / f"{name}.safetensors", dict(model.options)
        save(path, model.weights, arguments["backbone"], classes)
        built = f"{model.build.__module__}.{model.build.__name__}"
        arguments = {key: describe(value) for key, value in arguments.items()}
        files[path.name] = {"sha256": digest(path), "built by": built, "arguments": arguments}
    for path in labels:
        files[os.path.relpath(path, folder)] = {"sha256": digest(path)}
    with atomic_write(folder / MANIFEST) as partial:
        partial.write_text(json.dumps({"classes": list(classes), "files": files}, indent=1) + "\n")


def read(file: Weights) -> tuple[str, tuple[str, ...]]:
    """Backbone and classes of a classifier by `save`. InputError: it is none."""
    remedy = "give the classifier.safetensors of a folder that ribkit.label wrote"
    try:
        with safe_open(file.path, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})[METADATA])
        return about["backbone"], tuple(about["classes"])
    except (SafetensorError, *BROKEN) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"{file.path} is no classifier ({reason}); {remedy}.") from None


@stage("given-classifier")
def given(file: Weights) -> Values:
    """The ``weights`` in a file by `save`."""
    return {"weights": load_file(file.path)}
