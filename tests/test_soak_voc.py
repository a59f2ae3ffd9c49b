"""The paper's networks, ResNet-50 and ResNet-101, go through the whole study on small photographs.

Their weights are random, so rates are such that nothing explodes, and no number means anything.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from skimage import data
from small_study import SMALL, SmallStudy
from torchvision import models

from ribkit.data import scenes, voc
from ribkit.networks.architectures import imagenet_weights
from ribkit.results.claims import CLAIMS

pytestmark = pytest.mark.soak
SIDE = 96
SPLITS = {"train_aug": range(16), "train": range(12), "val": range(16, 24)}
LOW = 1e-9
SETTINGS = SMALL | {
    "classifier.lr": LOW, "lrs": LOW, "classifier.crop": SIDE,
    "classifier.long_sides": f"64,{SIDE}", "bank_side": 64,
    "irn.lr": LOW, "irn.crop": SIDE, "psa.lr": LOW, "psa.crop": SIDE, "psa.stride": 8,
    "network.lr": LOW, "network.crop": SIDE, "scale_sets": "0.5,1.0", "test_scales": "1.0",
}  # fmt: skip


def write_voc(root):
    """Two dozen crops of a photograph with objects on them, of VOC's first eight classes."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    photograph, random, labels = data.chelsea(), np.random.default_rng(0), {}
    for index in range(24):
        height, width = random.integers(SIDE - 20, SIDE + 1, 2)
        top, left = random.integers(0, (len(photograph) - height, photograph.shape[1] - width))
        scene = scenes.draw(0, index, SIDE)
        pixels = photograph[top : top + height, left : left + width].copy()
        mask = scene.mask[:height, :width]
        pixels[mask > 0] = scene.image[:height, :width][mask > 0]
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{index:03d}.jpg", quality=95)
        voc.write_mask(root, f"{index:03d}", mask)
        labels[f"{index:03d}"] = [voc.CLASSES[value - 1] for value in np.unique(mask[mask > 0])]
    voc.write_labels(root, voc.CLASSES, labels)
    for split, indices in SPLITS.items():
        voc.write_list(root, split, [f"{index:03d}" for index in indices])


def write_weights(torch_home):
    """Random ones, where torch keeps those that it has fetched."""
    (torch_home / "hub" / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    for name in ("resnet50", "resnet101"):
        place = torch_home / "hub" / "checkpoints" / imagenet_weights(name).path.name
        torch.save(models.get_model(name).state_dict(), place)


def test_voc_runs_the_whole_study(tmp_path, figures):
    write_voc(tmp_path / "data")
    write_weights(tmp_path / "torch")
    study = SmallStudy(tmp_path, SETTINGS, "voc", "data", TORCH_HOME=str(tmp_path / "torch"))
    code, out, err = study.run()
    assert code == 0, err
    assert "6 images to score, 16 to train on, 4 to tune on, 6 further" in out
    (folder,) = study.build.glob("voc-*/")
    assert len(list(folder.glob("*.ipynb"))) == 7
    table = pd.read_csv(folder / "figures" / "claims.csv", keep_default_na=False)
    assert len(table) == len(CLAIMS)
    network = pd.read_csv(folder / "figures" / "network.csv")
    assert network["images"].unique().tolist() == [8]
    figures["notebooks of voc with ResNet-50 and ResNet-101"] = 7
