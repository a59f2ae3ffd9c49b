"""`official` agrees with numbers that the official implementation produced (CPU, float32).

The arrays lie in the folder named by RIBKIT_GOLDEN, by default tests/golden. An error is
max |a - b| / max |b|; 1e-5 is to be met, the walk 1e-4 (5e-4 in float32), CRF 0.1 % of the pixels.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fabricated import error
from torch import nn

from ribkit.method import adaptation, cam, pooling
from ribkit.method.settings import OFFICIAL, Settings
from ribkit.networks.backbone import Network
from ribkit.refinement import crf, random_walk

FOLDER = Path(os.environ.get("RIBKIT_GOLDEN") or Path(__file__).parent / "golden")
RUNS = sorted(path.stem for path in FOLDER.glob("rib_*.npz"))


def load(name):
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {k: torch.as_tensor(v) if v.ndim else v.item() for k, v in arrays.items()}


def network(state, prefix="state."):
    convolution = {"kernel_size": 5, "stride": 4, "padding": 2}
    frozen, adapted = nn.Conv2d(3, 8, **convolution), nn.Conv2d(8, 16, bias=True, **convolution)
    classifier = nn.Conv2d(16, 20, 1, bias=False)
    for module, name in ((frozen, "frozen"), (adapted, "conv"), (classifier, "classifier")):
        for key, tensor in module.named_parameters():
            tensor.data = state[f"{prefix}{name}.{key}"].clone()
    return Network(nn.Sequential(frozen, nn.ReLU()), nn.Sequential(adapted, nn.ReLU()), classifier)


def setup(golden):
    settings = Settings(
        pooling=golden["pooling"],
        tau=golden["tau"],
        steps=golden["K"],
        lr=golden["lr"],
        n_others=golden["B"],
        margin=golden["stop_th"],
        area_level=golden["explode_th"],
        area_ratio=golden["explode_ratio"],
        weight_decay=golden["weight_decay"],
        variant=OFFICIAL,
    )
    net = network(golden)
    views = {scale: net.features(golden[f"view.{scale}"]) for scale in (1.0, 0.5, 1.5, 2.0)}

    def others(step):
        return net.features(golden["others"][step]), golden["others_labels"][step]

    return net, views, golden["labels"][0], others, settings


def test_the_folder_holds_the_arrays():
    assert (FOLDER / "gndrp.npz").is_file(), FOLDER
    assert RUNS, FOLDER


def test_pooling():
    golden = load("gndrp")
    ours = pooling.gndrp(golden["cam"], golden["labels"], golden["tau"], "official")
    assert error(ours, golden["pooled"]) <= 1e-5
    assert error(pooling.gap(golden["cam"]), golden["gap"]) <= 1e-5


@pytest.mark.parametrize("name", RUNS)
def test_adaptation(name):
    golden = load(name)
    net, views, labels, others, settings = setup(golden)
    adapted = adaptation.adapt(net, views, labels, others, settings)
    assert adapted.steps == golden["steps"]
    assert (adapted.reason != "steps") == golden["stopped"]

    size = tuple(golden["view.1.0"].shape[-2:])
    assert labels.nonzero().flatten().tolist() == golden["final_keys"].tolist()
    assert error(cam.multi_scale(adapted.maps, size, stride=4), golden["final_cam"]) <= 1e-5
    assert error(cam.multi_scale(adapted.maps, size), golden["final_high_res"]) <= 1e-5


@pytest.mark.parametrize("name", RUNS)
def test_accumulated_maps_and_final_weights(name):
    golden = load(name)
    net, views, labels, others, settings = setup(golden)
    reason = adaptation.adapt(net, views, labels, others, settings).reason
    present = golden["final_keys"]
    net = net.adaptable()
    steps = adaptation.trajectory(net, views, labels, others, settings)
    total = 0
    for index in range(golden["steps"]):
        total = total + next(steps).maps[1.0]
        assert error(total, golden[f"accumulated.{index}.scale1"][present]) <= 1e-5
    if (
        reason != "area"
    ):  # an area stop makes no update; any other step's update comes with the next
        next(steps)
    final = network(golden, "final_state.")
    for (key, ours), theirs in zip(
        net.state_dict().items(), final.state_dict().values(), strict=True
    ):
        assert error(ours, theirs) <= 1e-5, key


def test_the_trained_weights_are_left_as_they_are():
    golden = load(RUNS[0])
    net, views, labels, others, settings = setup(golden)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    adaptation.adapt(net, views, labels, others, dataclasses.replace(settings, steps=2))
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


def cases(name):
    """The runs in one file, by the part of the names before the first point."""
    path = FOLDER / f"{name}.npz"
    return sorted({key.split(".")[0] for key in np.load(path, allow_pickle=False).files})


@pytest.mark.parametrize(("kind", "most"), [(torch.double, 1e-4), (torch.float, 5e-4)], ids=str)
@pytest.mark.parametrize("case", cases("random_walk"))
def test_random_walk(case, kind, most):
    golden = load("random_walk")
    cam_, edge = (golden[f"{case}.{name}"].to(kind) for name in ("cam", "edge"))
    settings = [int(golden[f"{case}.{name}"]) for name in ("radius", "beta", "exp_times")]
    walked = random_walk.propagate(cam_, edge[0], *settings)
    assert error(walked, golden[f"{case}.walk"].to(kind).view_as(walked)) < most


@pytest.mark.parametrize("case", cases("crf"))
def test_crf_on_labels(case):
    golden = load("crf")
    image, labels, theirs = (
        golden[f"{case}.{name}"].numpy() for name in ("image", "labels", "refined")
    )
    refined = crf.refine_labels(image, labels, int(labels.max()) + 1)
    assert (refined != theirs).mean() <= 0.001
