"""A small folder in COCO's format goes through the whole study: all notebooks, all claims."""

import json

import numpy as np
import pandas as pd
from PIL import Image
from pycocotools import mask as rle
from small_study import SMALL, SmallStudy

from ribkit.data import scenes
from ribkit.results.claims import CLAIMS

SETTINGS = SMALL | {
    "backbone": "small", "network_backbone": "small", "classifier.lr": 0.01,
    "classifier.momentum": 0.9, "classifier.crop": 64,
    "classifier.long_sides": "64,64", "bank_side": 64, "map_stride": 1,
    "irn.crop": 64, "irn.stride": 2, "irn.radius": 4,
    "psa.crop": 64, "psa.stride": 4, "psa.radius": 3, "network.crop": 64, "test_scales": "1.0",
}  # fmt: skip


def write_coco(root, classes):
    """Scenes as COCO has photographs; object k of a scene is of some category of ``classes``."""
    (root / "annotations").mkdir(parents=True)
    for split, rng_seed, count in (("train", 1, 16), ("val", 2, 4)):
        (root / f"{split}2014").mkdir()
        images, annotations = [], []
        for index in range(count):
            scene = scenes.draw(rng_seed, index, 64)
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


def test_coco_runs_the_whole_study(tmp_path):
    write_coco(tmp_path / "data", classes=80)
    code, out, err = SmallStudy(tmp_path, SETTINGS, "coco", "data").run()
    assert code == 0, err
    (folder,) = (tmp_path / "build").glob("coco-*/")
    assert len(list(folder.glob("*.ipynb"))) == 7
    table = pd.read_csv(folder / "figures" / "claims.csv", keep_default_na=False)
    assert len(table) == len(CLAIMS)
    assert "6 further to make labels for, 80 classes" in out
    network = pd.read_csv(folder / "figures" / "network.csv")
    assert network["images"].unique().tolist() == [4]
