"""Trained networks as files that other programs read: safetensors, and what each is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file

from ribkit.networks.trained import TrainedModel
from ribkit.runtime.files import atomic_write, digest
from ribkit.runtime.keys import describe

MANIFEST = "manifest.json"


def write(folder: str | Path, models: Mapping[str, TrainedModel], classes: Sequence[str]) -> Path:
    """Write ``<name>.safetensors`` of each model, and a manifest; return the manifest's path.

    The manifest has for each file its SHA-256, the function that builds the network and its
    arguments; and the names of the classes, which the outputs stand for in this order (DeepLab:
    after background).
    """
    folder, files = Path(folder), {}
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        path = folder / f"{name}.safetensors"
        with atomic_write(path) as partial:
            save_file({key: tensor.contiguous() for key, tensor in model.weights.items()}, partial)
        built = f"{model.build.__module__}.{model.build.__name__}"
        arguments = {key: describe(value) for key, value in model.options}
        files[path.name] = {"sha256": digest(path), "built by": built, "arguments": arguments}
    manifest = folder / MANIFEST
    with atomic_write(manifest) as partial:
        partial.write_text(json.dumps({"classes": list(classes), "files": files}, indent=1) + "\n")
    return manifest
