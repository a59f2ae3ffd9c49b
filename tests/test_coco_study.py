"""A small folder in COCO's format goes through the whole study: all notebooks, all claims."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools import mask as rle

from ribkit import scenes
from ribkit.claims import CLAIMS

ROOT = Path(__file__).parent.parent
SMALL = {
    "backbone": "small", "network_backbone": "small", "pretext_scenes": 64, "pretext_epochs": 1,
    "epochs": 1, "batch": 8, "rate": 0.01, "momentum": 0.9, "crop": 64, "long_sides": "64,64",
    "score_images": 6, "tune_images": 4, "pool_images": 8, "pool_side": 64, "map_stride": 1,
    "scale_sets": "1.0", "steps": 2, "rates": "1e-5", "others": 2,
    "irn.epochs": 1, "irn.batch": 4, "irn.crop": 64, "irn.stride": 2, "irn.radius": 4,
    "psa.epochs": 1, "psa.batch": 4, "psa.crop": 64, "psa.stride": 4, "psa.radius": 3,
    "network.iterations": 4, "network.batch": 2, "network.crop": 64, "network.aspp_rates": "1,2",
    "test_scales": "1.0", "toy_seeds": 2, "toy_train": 24, "toy_test": 12, "toy_steps": 4,
    "ablations.images": 3, "ablations.taus": 0.4, "ablations.steps": 1, "ablations.rates": 3.0,
    "ablations.margins": 0.0, "ablations.others": 1,
}  # fmt: skip


def write_coco(root, classes):
    """Scenes as COCO has photographs; object k of a scene is of some category of ``classes``."""
    (root / "annotations").mkdir(parents=True)
    for split, seed, count in (("train", 1, 16), ("val", 2, 4)):
        (root / f"{split}2014").mkdir()
        images, annotations = [], []
        for index in range(count):
            scene = scenes.draw(seed, index, 64)
            name = f"COCO_{split}2014_{index:012d}.jpg"
            Image.fromarray(scene.image).save(root / f"{split}2014" / name, quality=95)
            images.append({"id": index, "file_name": name, "height": 64, "width": 64})
            for value in np.unique(scene.mask[scene.mask > 0]).tolist():
                found = rle.encode(np.asfortranarray((scene.mask == value).astype(np.uint8)))
                category = (value + 8 * index) % classes
                annotations.append(
                    {"id": len(annotations), "image_id": index, "category_id": 10 + category}
                    | {"iscrowd": 0, "segmentation": found | {"counts": found["counts"].decode()}}
                )
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": 10 + k, "name": f"class {k}"} for k in range(classes)]
        (root / f"annotations/instances_{split}2014.json").write_text(json.dumps(content))


@pytest.mark.parametrize("classes", [3, 80])
def test_coco_runs_the_whole_study(classes, tmp_path):
    write_coco(tmp_path / "data", classes)
    for part in ("ribkit", "notebooks"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    words = [word for pair in SMALL.items() for word in ("--set", "{}={}".format(*pair))]
    command = [sys.executable, "-m", "ribkit.reproduce", "--profile", "coco", "--data", "data"]
    settings = {"PYTHONPATH": str(tmp_path), "RIBKIT_DEVICE": "cpu", "RIBKIT_PROGRESS": ""}
    done = subprocess.run(
        command + words,
        cwd=tmp_path,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "build" / "coco-changed"
    assert len(list(folder.glob("*.ipynb"))) == 7
    table = pd.read_csv(folder / "figures" / "claims.csv", keep_default_na=False)
    assert len(table) == len(CLAIMS)
    assert f"6 further to make labels for, {classes} classes" in done.stdout
    network = pd.read_csv(folder / "figures" / "network.csv")
    assert network["images"].unique().tolist() == [4]
