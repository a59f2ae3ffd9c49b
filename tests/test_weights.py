"""Trained networks as files for other programs."""

import json

import torch
from fabricated import stored, trained_classifier
from safetensors.torch import load_file

from ribkit.data import export, scenes
from ribkit.networks import classifier
from ribkit.networks.architectures import Weights
from ribkit.runtime.files import digest
from ribkit.study import weights


def test_weights_are_written_with_what_builds_their_network(tmp_path):
    network = classifier.build("small", len(scenes.CLASSES), rng_seed=0)
    kept = stored(tmp_path, weights=network.state_dict()).tensors("weights")
    model = trained_classifier(kept)
    weights.write(tmp_path / "w", {"cls": model}, scenes.CLASSES)
    manifest = json.loads((tmp_path / "w" / weights.MANIFEST).read_text())
    read = load_file(tmp_path / "w" / "cls.safetensors")
    assert read.keys() == kept.keys()
    assert all(torch.equal(read[key], kept[key]) for key in read)
    (file,) = manifest["files"].values()
    assert file["sha256"] == digest(tmp_path / "w" / "cls.safetensors")
    assert file["built by"] == "ribkit.networks.classifier.trained_network"
    assert file["arguments"]["backbone"] == "small"
    assert manifest["classes"] == list(scenes.CLASSES)
    backbone, classes = weights.read(Weights(tmp_path / "w" / "cls.safetensors"))
    assert (backbone, classes) == ("small", tuple(scenes.CLASSES))


def test_the_manifest_has_the_label_maps_of_the_run_too(tmp_path):
    images = scenes.generate(0, 2)
    masks = {name: images.mask(i) for i, name in enumerate(images.ids)}
    written = export.pseudo_ground_truth(tmp_path / "labels", [(images, masks)], "train")
    assert written == [tmp_path / f"labels/SegmentationClass/{name}.png" for name in images.ids]
    weights.write(tmp_path / "w", {}, scenes.CLASSES, written)
    files = json.loads((tmp_path / "w" / weights.MANIFEST).read_text())["files"]
    assert [(tmp_path / "w" / name).resolve() for name in files] == written
    assert [file["sha256"] for file in files.values()] == [digest(path) for path in written]
