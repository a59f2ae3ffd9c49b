"""What always holds of the formulas, whatever the numbers. Why it must is one line above each."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from fabricated import PIXELS
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from ribkit.data import views
from ribkit.evaluation import intervals
from ribkit.evaluation.miou import confusion, counts, iou, mean_iou, miou
from ribkit.evaluation.thresholds import sweep
from ribkit.method import adaptation, cam, losses, pooling
from ribkit.method.settings import NO_MARGIN, VARIANTS, Settings
from ribkit.networks.backbone import Network
from ribkit.refinement import psa, random_walk, saliency
from ribkit.results import tables_toy

always = settings(max_examples=50)


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "DRAWS", 100)
        yield


SEEDS = st.integers(0, 10**6)
SIDES = st.integers(1, 7)
RADII = st.integers(1, 5)
BETAS = st.floats(0, 20)


def drawn(*size, rng_seed=0):
    """Uniform numbers in [0, 1), in double precision."""
    return torch.rand(*size, generator=torch.Generator().manual_seed(rng_seed), dtype=torch.double)


def with_walls(edge, rng_seed):
    """Some of an edge map's pixels made 0 or 1, its ends."""
    kind = drawn(*edge.shape, rng_seed=rng_seed)
    return edge.where(kind > 0.2, 0).where(kind < 0.8, 1)


# ---- CAM --------------------------------------------------------------------------------------
def small_network():
    """A convolution of stride 4 whose maps of an image and of its horizontal flip differ."""
    torch.manual_seed(0)
    frozen = nn.Conv2d(3, 4, 4, stride=4)
    adapted = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 5, 3, padding=1))
    return Network(frozen, adapted, nn.Conv2d(5, 2, 1, bias=False))


# The mirrored pair is the pair with its rows swapped, so the sum m0 + flip(m1) becomes
# m1 + flip(m0), which is its horizontal flip. Resizing and the maximum commute with mirrors.
@always
@given(SEEDS, st.sampled_from([(16, 16), (32, 16), (16, 48)]), st.sampled_from([1, 4]))
def test_a_mirrored_photograph_has_the_mirrored_cam(rng_seed, size, stride):
    network, labels = small_network(), torch.ones(2)
    pixels = 255 * drawn(3, *size, rng_seed=rng_seed).float()

    def maps(image):
        pairs = views.scaled_pairs(image, (1.0, 0.5))
        features = {scale: network.features(pair) for scale, pair in pairs.items()}
        return cam.multi_scale(adaptation.cam_maps(network, features, labels), size, stride)

    torch.testing.assert_close(maps(pixels.flip(-1)), maps(pixels).flip(-1), atol=1e-5, rtol=0)


# 0 <= m <= max m, and max m / (max m + 1e-5) <= 1; bilinear weights are not negative.
@always
@given(SEEDS, st.floats(0, 1e4), st.sampled_from([(1, 1), (9, 20), (33, 16)]))
def test_normalised_maps_lie_between_0_and_1(rng_seed, height, size):
    raw = {
        scale: height * drawn(2, 3, 5, rng_seed=rng_seed + k) for k, scale in enumerate((1.0, 0.5))
    }
    for found in (
        cam.normalise(raw[1.0]),
        cam.multi_scale(raw, size),
        cam.multi_scale(raw, size, 4),
    ):
        assert found.min() >= 0
        assert found.max() <= 1


# ---- GNDRP ------------------------------------------------------------------------------------
numbers = st.floats(-100, 100, allow_subnormal=False).map(lambda v: round(v, 3))
maps_of_6 = st.lists(numbers, min_size=6, max_size=6)
negative_maps = maps_of_6.map(lambda values: [-0.001 - abs(v) for v in values])


def batch(values):
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 3)


# M / max M <= 1 < tau where the maximum is positive.
@always
@given(maps_of_6, st.floats(1.001, 10))
def test_above_one_tau_keeps_all_so_official_gndrp_is_gap(values, tau):
    found = batch([*values[:5], 0.001 + abs(values[5])])
    torch.testing.assert_close(
        pooling.gndrp(found, torch.ones(1, 1), tau, "official"), pooling.gap(found)
    )


# ReLU(M) <= max ReLU(M) <= tau max ReLU(M), whatever the signs, and at tau = 1 already.
@always
@given(maps_of_6 | negative_maps, st.just(1.0) | st.floats(1, 10))
def test_from_one_on_paper_gndrp_is_gap_also_without_a_positive_value(values, tau):
    found = batch(values)
    torch.testing.assert_close(
        pooling.gndrp(found, torch.ones(1, 1), tau, "paper"), pooling.gap(found)
    )


# M / max M does not change with the scale; powers of two scale without rounding.
@always
@given(maps_of_6, st.floats(0.0, 1.0), st.sampled_from(list(VARIANTS)))
def test_the_region_does_not_depend_on_the_scale_of_a_map(values, tau, variant):
    found = batch(values)[0]
    assert torch.equal(pooling.region(found, tau, variant), pooling.region(8 * found, tau, variant))


# ---- the margin -------------------------------------------------------------------------------
# min(inf, y) = y, and its gradient is y's.
@always
@given(
    arrays(np.float64, (2, 3), elements=numbers),
    arrays(np.float64, (2, 3), elements=st.sampled_from([0.0, 1.0])),
    st.sampled_from([math.inf, NO_MARGIN]),
)
def test_without_a_margin_the_loss_is_the_plain_sum(logits, labels, margin):
    given_logits, target = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    loss = losses.rib_loss(given_logits, target, margin)
    loss.backward()
    assert loss.item() == pytest.approx(-(logits * labels).sum(), abs=1e-9)
    assert torch.equal(given_logits.grad, -target)
    for name in losses.ACTIVATIONS:
        found = losses.rib_loss(given_logits, target, margin, name)
        assert found.equal(losses.rib_loss(given_logits, target, None, name))


# No logit clamped, no sum of logits beyond it: neither variant can tell 1e9 from infinity.
@settings(always, max_examples=10)
@given(SEEDS, st.sampled_from(list(VARIANTS)), st.sampled_from(["gap", "gndrp"]))
def test_no_margin_is_an_infinite_margin_to_an_adaptation(rng_seed, variant, kind):
    network, labels = small_network(), torch.tensor([1.0, 0.0])
    pixels = 255 * drawn(3, 16, 16, rng_seed=rng_seed).float()
    features = {1.0: network.features(views.scaled_pairs(pixels, (1.0,))[1.0])}
    nothing = torch.zeros(0, *features[1.0].shape[1:]), torch.zeros(0, 2)
    own = Settings(pooling=kind, steps=3, lr=1e-5, variant=VARIANTS[variant], margin=math.inf)
    found = [
        adaptation.adapt(network, features, labels, lambda step: nothing, chosen)
        for chosen in (own, dataclasses.replace(own, margin=NO_MARGIN))
    ]
    assert found[0].reason == found[1].reason != "margin"
    assert found[0].logits == found[1].logits
    assert torch.equal(found[0].maps[1.0], found[1].maps[1.0])


# ---- walks ------------------------------------------------------------------------------------
# Affinities depend on a pair and its path alone, and paths of mirrored pairs are mirrored paths.
@always
@given(SIDES, SIDES, SEEDS, RADII, BETAS, st.integers(0, 4))
def test_a_mirrored_walk_walks_to_the_mirror_image(height, width, rng_seed, radius, beta, steps):
    edge = with_walls(drawn(height, width, rng_seed=rng_seed), rng_seed + 1)
    maps = drawn(2, height, width, rng_seed=rng_seed + 2)
    ways = (radius, beta, steps)
    mirrored = random_walk.propagate(maps.flip(-1), edge.flip(-1), *ways).flip(-1)
    torch.testing.assert_close(random_walk.propagate(maps, edge, *ways), mirrored)


def psa_walk(maps, features, radius, beta, steps):
    """PSA's walk behind a background, with pixels for features."""
    affinity = psa.predict(PIXELS, features, radius)
    return random_walk.walk(psa.background(maps, 4.0), affinity, beta, steps)


# exp(-|f_i - f_j|) knows nothing of places.
@always
@given(SIDES, SIDES, SEEDS, RADII, BETAS, st.integers(0, 4))
def test_a_mirrored_psa_walk_too(height, width, rng_seed, radius, beta, steps):
    features, maps = (
        drawn(3, height, width, rng_seed=rng_seed),
        drawn(2, height, width, rng_seed=rng_seed + 1),
    )
    mirrored = psa_walk(maps.flip(-1), 3 * features.flip(-1), radius, beta, steps).flip(-1)
    torch.testing.assert_close(psa_walk(maps, 3 * features, radius, beta, steps), mirrored)


# The rows of D^-1 A^beta sum to 1, and (1 - 0) c = c.
@always
@given(SIDES, SIDES, st.floats(0, 1e3), RADII, BETAS, st.integers(0, 8))
def test_where_there_are_no_edges_a_constant_map_stays(height, width, c, radius, beta, steps):
    maps = torch.full((2, height, width), c, dtype=torch.double)
    walked = random_walk.propagate(maps, torch.zeros(height, width), radius, beta, steps)
    torch.testing.assert_close(walked, maps)


# Rows sum to 1 whatever the affinities: the walk itself keeps constants, edges or not.
@always
@given(SIDES, SIDES, SEEDS, RADII, BETAS, st.integers(0, 8))
def test_the_walk_itself_keeps_a_constant_whatever_the_edges(
    height, width, rng_seed, radius, beta, steps
):
    edge = with_walls(drawn(height, width, rng_seed=rng_seed), rng_seed + 1)
    ones = torch.ones(1, height, width, dtype=torch.double)
    affinity = random_walk.edge_affinity(edge, radius)
    torch.testing.assert_close(random_walk.walk(ones, affinity, beta, steps), ones)


# A weighted mean is no more than its largest value, and 0 <= 1 - edge <= 1.
@always
@given(SIDES, SIDES, SEEDS, RADII, BETAS, st.integers(0, 8))
def test_no_walk_raises_a_maximum(height, width, rng_seed, radius, beta, steps):
    edge = with_walls(drawn(height, width, rng_seed=rng_seed), rng_seed + 1)
    maps = 10 * drawn(2, height, width, rng_seed=rng_seed + 2) ** 8  # peaked
    walked = random_walk.propagate(maps, edge, radius, beta, steps)
    assert (walked.amax(dim=(1, 2)) <= maps.amax(dim=(1, 2)) * (1 + 1e-12)).all()
    assert walked.min() >= 0
    behind = psa_walk(maps / 10, drawn(3, height, width, rng_seed=rng_seed), radius, beta, steps)
    before = psa.background(maps / 10, 4.0)
    assert (behind.amax(dim=(1, 2)) <= before.amax(dim=(1, 2)) * (1 + 1e-12)).all()


# ---- mIoU -------------------------------------------------------------------------------------
CLASSES = 5
labelled = arrays(np.uint8, (4, 6), elements=st.integers(0, CLASSES - 1))
with_ignored = arrays(np.uint8, (4, 6), elements=st.sampled_from([0, 1, 2, 3, CLASSES - 1, 255]))


# Renaming permutes rows and columns alike: counts and IoUs move with their classes, and a mean
# over classes does not know their order.
@always
@given(labelled, with_ignored, st.permutations(range(CLASSES)))
def test_miou_does_not_depend_on_the_order_of_classes(prediction, target, order):
    renamed = np.full(256, 255, np.uint8)
    renamed[:CLASSES] = order
    before = confusion(prediction, target, CLASSES)
    after = confusion(renamed[prediction], renamed[target], CLASSES)
    assert (after[np.ix_(order, order)] == before).all()
    assert (counts(after)[:, order] == counts(before)).all()
    np.testing.assert_array_equal(iou(counts(after))[order], iou(counts(before)))
    assert miou(counts(after)) == pytest.approx(miou(counts(before)), nan_ok=True)
    assert mean_iou(after) == pytest.approx(mean_iou(before), nan_ok=True)


# {pixels above t} shrinks as t grows: each class's predictions fall, the background's rise.
@always
@given(SEEDS, st.sampled_from([(), (2,), (0, 3)]), with_ignored)
def test_a_higher_threshold_never_predicts_more_of_a_class(rng_seed, class_indices, target):
    maps = drawn(len(class_indices), 4, 6, rng_seed=rng_seed).float()
    labels, found = sweep(maps, np.array(class_indices), target)
    predicted, hits = counts(found)[:, 2], counts(found)[:, 0]
    own = labels > 0
    for falling in (predicted[:, own], hits[:, own], -predicted[:, ~own], -hits[:, ~own]):
        assert (np.diff(falling, axis=0) <= 0).all()
    assert (predicted.sum(axis=1) == (target != 255).sum()).all()


# ---- saliency ---------------------------------------------------------------------------------
# What agrees with the saliency is kept, and what is 255 stays 255.
@always
@given(
    with_ignored, arrays(np.float64, (4, 6), elements=st.sampled_from([0, 0.3, 1])), st.floats(0, 1)
)
def test_saliency_cuts_out_once(labels, salient, threshold):
    once = saliency.combine(labels, salient, threshold)
    assert (saliency.combine(once, salient, threshold) == once).all()
    assert ((once == labels) | (once == saliency.IGNORE)).all()


# ---- intervals --------------------------------------------------------------------------------
@st.composite
def replicas(draw, most=3):
    """Counts of two methods on the same 1 to 6 images, by 1 to ``most`` trainings; few pixels, so
    that ties, empty classes and classes of one image are common."""
    images, n = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    size = (draw(st.integers(1, most)), 2, images, n, n)
    matrices = draw(arrays(np.int64, size, elements=st.sampled_from([0, 0, 0, 1, 5])))
    assume(matrices.sum(axis=(2, 3, 4)).all())  # mIoU of no pixels is no number
    return [tuple(counts(one) for one in pair) for pair in matrices]


@st.composite
def lonely(draw):
    """Each image has a class of its own, found nowhere: draws miss some, and score better."""
    images = draw(st.integers(10, 20))
    matrices = np.zeros((images, images + 1, images + 1), np.int64)
    matrices[:, 0, 0] = draw(st.integers(100, 1000))
    matrices[range(images), range(1, images + 1), 0] = 1
    after = counts(matrices)
    return [(after, counts(matrices[::-1]))]


def holds(interval, images=2):
    """An interval has its point; that of one image alone has no ends."""
    point, low, high = interval
    return low <= point <= high if images > 1 else bool(np.isnan([low, high]).all())


# A percentile interval is stretched to its point; the others are a point and so much either way.
@always
@given(replicas() | lonely())
def test_every_interval_over_counts_holds_its_point_estimate(every):
    images = len(every[0][0])
    assert holds(intervals.bootstrap(miou, every[0][0]), images)
    assert holds(intervals.bootstrap(intervals.gain, *every[0]), images)
    assert holds(intervals.replicated(intervals.gain, every), images + len(every) - 1)
    assert all(holds(one, images) for one in intervals.simultaneous(intervals.gain, every))


values = arrays(np.float64, st.integers(1, 8), elements=st.sampled_from([0.0, 0.1, 1 / 3, -7.0]))
equal_values = st.builds(np.full, st.integers(1, 30), st.sampled_from([0.1, 1 / 3, -7.7]))


# The same, with one value, equal values, and sums that round.
@always
@given(values | equal_values)
def test_every_interval_over_numbers_holds_its_point_estimate(found):
    assert holds(intervals.bootstrap_mean(found), len(found))
    if len(found) > 1:
        for images in (1, 2, 50):
            assert holds(intervals.combined(found, 0.1, images))
            assert holds(intervals.combined(found, 0.0, images))
        row = tables_toy.interval(found)
        assert holds((row["mean"], row["low"], row["high"]))
