"""IRN and PSA: what they learn from, by hand on 6 x 6 positions, and their training."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ribkit.data import scenes
from ribkit.networks.backbone import seeded
from ribkit.networks.configs import AffinityConfig
from ribkit.networks.trained import TrainedModel
from ribkit.refinement import affinity, irn, psa, random_walk

ROW = [0, 0, 1, 1, 255, 2]


@pytest.fixture
def labels():
    """Six equal rows: two of background, two of class 1, one not sure, one of class 2."""
    return torch.tensor([ROW] * 6)[None]


def test_confident_labels_by_hand():
    # rows: the map at a high threshold; columns: at a low one
    foreground = np.repeat([[0], [0], [1], [1], [2], [2]], 6, axis=1)
    background = np.tile([0, 1, 2, 0, 1, 2], (6, 1))
    found = affinity.confident(foreground, background)
    assert found.dtype == np.uint8
    assert found.tolist() == [
        [0, 255, 255, 0, 255, 255],
        [0, 255, 255, 0, 255, 255],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [2, 2, 2, 2, 2, 2],
        [2, 2, 2, 2, 2, 2],
    ]


def test_pairs_by_hand(labels):
    counts = {
        offset: [int(kinds[kind].sum()) for kind in affinity.KINDS]
        for offset, kinds in affinity.pairs(labels, 2)
    }
    # background, foreground, negative; a row has one of each to its right, 5 rows have one below
    assert counts == {
        (0, 1): [6, 6, 6],
        (1, -1): [5, 5, 5],
        (1, 0): [10, 15, 0],
        (1, 1): [5, 5, 5],
    }


def test_means_are_over_all_that_was_added():
    means = affinity.Means(torch.device("cpu"))
    means.add("negative", torch.tensor([1.0, 5.0]), torch.tensor([True, False]))
    means.add("negative", torch.tensor([[2.0, 3.0]]), torch.tensor([[True, True]]))
    assert float(means["negative"]) == 2
    assert float(means["background"]) == 0


def test_labels_on_the_grid_are_those_in_the_middle_of_its_cells():
    fine = torch.arange(36).view(1, 6, 6)
    assert affinity.downsample_labels(fine, 3).tolist() == [[[7, 10], [25, 28]]]
    assert affinity.downsample_labels(fine[:, :5, :5], 4).shape == (1, 2, 2)


def boundary_loss(edge, labels, radius):
    return affinity.affinity_loss(partial(random_walk.path_affinity, edge), labels, radius)


def feature_loss(features, labels, radius):
    return affinity.affinity_loss(partial(psa.pair_affinity, features), labels, radius)


def test_boundary_loss_by_hand(labels):
    # a = 1/2 for every pair: -log a = -log(1 - a) = log 2, and the three parts weigh 1 together
    half = boundary_loss(torch.full((1, 6, 6), 0.5), labels, 2)
    assert float(half) == pytest.approx(math.log(2), rel=1e-4)
    # a wall on the second column: all pairs that touch it have a = 0
    wall = torch.zeros(1, 6, 6)
    wall[..., 1] = 1
    # background: all but the column's 5 pairs within column 0 touch it, 21 of 26; foreground: none;
    # negative: all 16, as they should
    zero, one = -math.log(1e-5), -math.log(1 + 1e-5)
    expected = (21 * zero + 5 * one) / 26 / 4 + one / 4 + one / 2
    assert float(boundary_loss(wall, labels, 2)) == pytest.approx(expected, rel=1e-4)


def test_displacement_loss_by_hand(labels):
    # no displacement: 31 foreground pairs, with |dy| + |dx| of 6 * 1 + 15 * 1 + 5 * 2 + 5 * 2 = 41
    nothing = irn.displacement_loss(torch.zeros(1, 2, 6, 6), labels, 2)
    assert float(nothing) == pytest.approx(41 / (2 * 31) / 2)
    # all point at one place, as they should on an object: there the loss is 0, on background it
    # is the same 6 * 1 + 10 * 1 + 5 * 2 + 5 * 2 = 36 over 26 pairs
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    pointing = -torch.stack([rows, columns])[None]
    assert float(irn.displacement_loss(pointing, labels, 2)) == pytest.approx(36 / (2 * 26) / 2)


def test_psa_loss_by_hand(labels):
    # two channels that differ by log 2 from column to column: a = 1/2 across, 1 within columns
    features = (torch.arange(6.0) * math.log(2)).expand(1, 2, 6, 6)
    log2, same = math.log(2), -math.log(1 + 1e-5)
    background = (16 * log2 + 10 * same) / 26
    foreground = (16 * log2 + 15 * same) / 31
    expected = (background + foreground) / 4 + log2 / 2
    assert float(feature_loss(features, labels, 2)) == pytest.approx(expected, rel=1e-3)


def test_psa_background_score():
    maps = torch.tensor([[[0.5, 1.0]], [[0.25, 0.0]]])
    assert psa.background(maps, 2.0).tolist() == [[[0.25, 0]], [[0.5, 1]], [[0.25, 0]]]
    assert psa.background(torch.zeros(0, 1, 2), 16).tolist() == [[[1, 1]]]


@pytest.mark.parametrize("only", [0, 1, 255])
def test_labels_of_one_kind_only_give_a_finite_loss(only):
    labels = torch.full((1, 6, 6), only)
    edge = torch.full((1, 6, 6), 0.5, requires_grad=True)
    shift = torch.zeros(1, 2, 6, 6, requires_grad=True)
    loss = boundary_loss(edge, labels, 3) + irn.displacement_loss(shift, labels, 3)
    loss = loss + feature_loss(shift, labels, 3)
    loss.backward()
    assert loss.isfinite()
    assert shift.grad.isfinite().all()


# ---- networks -----------------------------------------------------------------------------------
TRAINING = AffinityConfig(stride=2, radius=3, epochs=2, batch=2, lr=0.05, momentum=0.9, crop=48)


@pytest.fixture(scope="module")
def images():
    return scenes.generate(5, 4)


def trained(method, images, scratch):
    """A network that learned from the images' masks, built anew around its weights."""
    begun = {"backbone": "small", "training": TRAINING}
    made = method.train(
        scratch=scratch, parts=((images, None),), n_labels=9, long_side=None, **begun
    )
    assert made["history"]["epoch"].tolist() == [1, 2]
    assert made["weights"].keys() == method.Heads([16, 32]).state_dict().keys()
    return TrainedModel.of(method.build, made["weights"], **begun).load()


def pixels_of(images):
    return torch.from_numpy(images.image(0)).permute(2, 0, 1).float()


def test_irn_learns_boundaries_and_displacements(images, tmp_path, monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    network, pixels = trained(irn, images, tmp_path), pixels_of(images)
    edge, shift = irn.predict(network, pixels)
    assert (edge.shape, shift.shape) == ((32, 32), (2, 32, 32))
    assert 0 <= edge.min() <= edge.max() <= 1
    mirrored, _ = irn.predict(network, pixels.flip(-1))
    torch.testing.assert_close(mirrored.flip(-1), edge, atol=1e-4, rtol=1e-4)
    assert network.heads.mean.abs().sum() > 0  # of displacements, over the training images
    untrained = irn.build(backbone="small", training=TRAINING)
    assert not torch.equal(irn.predict(untrained, pixels)[0], edge)


def test_boundaries_are_of_the_mean_logit_of_image_and_flip():
    # by hand: left and right logits of the image 0 and 3, of its flip, turned back, 0 and 1
    heads = SimpleNamespace(
        boundary=lambda levels, size: levels[0][:, 0] * torch.tensor([1.0, 3.0]),
        displacement=lambda levels, size: levels[0][:, :2],
    )
    network = SimpleNamespace(pyramid=lambda pixels: [pixels], heads=heads, stride=1)
    pixels = torch.tensor([0.0, 1.0]).expand(3, 1, 2)
    edge, shift = irn.predict(network, pixels)
    torch.testing.assert_close(edge, torch.tensor([[0.0, 2.0]]).sigmoid())
    assert shift.tolist() == pixels[:2].tolist()  # of the image alone


def test_displacements_of_the_training_images_sum_to_nothing_once_they_are_calibrated():
    with seeded(0):
        heads, images = irn.Heads([3]), [(torch.rand(3, 8, 8), None) for _ in range(2)]
    network = SimpleNamespace(pyramid=lambda pixels: [pixels], stride=1)
    heads.calibrate(network, images)
    with torch.no_grad():
        shifts = [heads.displacement([pixels[None]], (8, 8)) for pixels, _ in images]
    assert heads.mean.abs().min() > 1e-3
    assert sum(shifts).mean(dim=(0, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-6)


def test_irn_learns_by_both_of_its_losses(labels):
    heads = irn.Heads([3])
    heads.boundary = lambda levels, size: torch.zeros(1, *size)  # logits of 0.5
    heads.displacement = lambda levels, size: torch.zeros(1, 2, *size)
    both = boundary_loss(torch.full((1, 6, 6), 0.5), labels, 3)
    both = both + irn.displacement_loss(torch.zeros(1, 2, 6, 6), labels, 3)
    torch.testing.assert_close(heads.loss([], labels, 3), both)


def test_psa_learns_affinities(images, tmp_path, monkeypatch):
    monkeypatch.setenv("RIBKIT_DEVICE", "cpu")
    network, pixels = trained(psa, images, tmp_path), pixels_of(images)
    dense = psa.predict(network, pixels[:, :10, :8], 3).to_dense()
    assert dense.shape == (20, 20)
    assert torch.equal(dense, dense.T)
    assert (dense.diagonal() == 1).all()


@pytest.mark.parametrize("method", [irn, psa])
def test_the_backbone_stays_as_it_is_and_the_state_is_that_of_the_heads(method):
    network = method.build(backbone="small", training=TRAINING)
    assert network.state_dict().keys() == network.heads.state_dict().keys()
    assert not any(p.requires_grad for p in network.pyramid.parameters())
    groups = network.heads.parameter_groups(TRAINING)
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in network.heads.parameters()}
    assert len(grouped) == len(list(network.heads.parameters()))
    with torch.no_grad():
        for parameter in network.heads.parameters():
            parameter.zero_()
    other = method.build(backbone="small", training=TRAINING)
    other.load_state_dict(network.state_dict())
    assert all((p == 0).all() for p in other.heads.parameters())


def test_irns_displacements_learn_faster():
    groups = irn.build(backbone="small", training=TRAINING).heads.parameter_groups(TRAINING)
    assert [group["lr_mult"] for group in groups] == [1.0, TRAINING.displacement_lr_mult]
