"""Intervals: what they hold, how wide they are, and how often they hold the truth."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ribkit.evaluation import intervals
from ribkit.evaluation.intervals import bootstrap, gain, images_needed, replicated, simultaneous
from ribkit.evaluation.miou import counts, iou, miou


def correlated(count=60, rng_seed=0):
    """Counts of two methods on the same images: images differ much, methods by a little."""
    random = np.random.default_rng(rng_seed)
    right = random.integers(20, 90, count)
    better = np.minimum(right + random.integers(1, 4, count), 100)
    matrices = [np.zeros((count, 2, 2), np.int32) for _ in range(2)]
    for matrix, hits in zip(matrices, (better, right), strict=True):
        matrix[:, 1, 1], matrix[:, 1, 0], matrix[:, 0, 0] = hits, 100 - hits, 100
    return [counts(matrix) for matrix in matrices]


def test_a_paired_interval_is_narrower_on_correlated_images():
    after, before = correlated()
    point, low, high = bootstrap(gain, after, before)
    assert 0 < low < point < high
    assert point == miou(after.sum(axis=0)) - miou(before.sum(axis=0))
    alone = [bootstrap(miou, c) for c in (after, before)]
    unpaired = np.hypot(*(h - low_ for _, low_, h in alone))
    assert high - low < unpaired / 4


def test_an_interval_holds_its_point_estimate():
    for rng_seed in range(5):
        for matrices in correlated(rng_seed=rng_seed):
            point, low, high = bootstrap(miou, matrices)
            assert low < point < high


def test_an_interval_is_reproducible_and_seeded(monkeypatch):
    (after, before) = correlated()
    assert bootstrap(gain, after, before) == bootstrap(gain, after, before)
    of_0 = bootstrap(gain, after, before)
    monkeypatch.setattr(intervals, "RNG_SEED", 1)
    assert bootstrap(gain, after, before) != of_0


def test_an_interval_is_as_wide_as_the_theory_of_means_says():
    # With a constant union the IoU of class 1 is a mean of the images' hits.
    hits = np.random.default_rng(0).integers(0, 101, 400)
    matrices = np.zeros((400, 2, 2), int)
    matrices[:, 1, 1], matrices[:, 1, 0] = hits, 100 - hits
    _, low, high = bootstrap(lambda c: iou(c)[..., 1], counts(matrices))
    assert high - low == pytest.approx(2 * 1.96 * hits.std() / 20, rel=0.1)


def test_equal_images_have_an_interval_of_no_width():
    point, low, high = bootstrap(miou, np.tile([[3, 2], [4, 2], [3, 3]], (10, 1, 1)))
    assert low == pytest.approx(point) == high


def test_the_gain_of_a_method_over_itself_is_zero():
    after, _ = correlated()
    assert bootstrap(gain, after, after) == (0, 0, 0)


# ---- how often they hold the truth: fabricated images whose truth is known ----------------------
def drawn(random, count, shift=0.0):
    """Counts ``(count, 3, 2)`` of images of 1,000 pixels, half of them object.

    The share of the object that is found is 0.6 + shift on average over all possible images.
    """
    hits = np.round(1000 * random.beta(6, 4, count) + 1000 * shift).clip(0, 1000)
    matrices = np.zeros((count, 2, 2))
    matrices[:, 1, 1], matrices[:, 1, 0], matrices[:, 0, 0] = hits, 1000 - hits, 1000
    return counts(matrices)


def truth(shift=0.0):
    """The mIoU of infinitely many images of `drawn`."""
    found = 0.6 + shift
    return 100 * (found + 1 / (2 - found)) / 2


def share(covered):
    return np.mean(list(covered))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(intervals, "DRAWS", 500)


@pytest.mark.usefixtures("quick")
def test_the_interval_over_images_holds_the_truth_95_times_in_100():
    random = np.random.default_rng(1)

    def covers():
        _, low, high = bootstrap(miou, drawn(random, 60))
        return low <= truth() <= high

    assert 0.91 <= share(covers() for _ in range(400)) <= 0.985


def _moved(before, pixels):
    """`drawn`, so many more pixels of the object found: what background loses."""
    after = before.copy()
    after[:, 0, 1] = (after[:, 0, 1] + pixels).clip(0, 1000)
    after[:, 2] = np.stack([2000 - after[:, 0, 1], after[:, 0, 1]], axis=-1)
    return after


def paired(random, count, shift):
    """Two methods on the same images, the second's object found more by ``shift`` on average."""
    before = drawn(random, count)
    moved = np.round(1000 * shift + random.normal(0, 30, count))
    return _moved(before, moved), before


@pytest.mark.usefixtures("quick")
def test_the_interval_over_images_and_seeds_holds_the_truth_95_times_in_100():
    random, count, spread = np.random.default_rng(2), 60, 0.02
    true = truth(0.03) - truth()

    def once():
        before = drawn(random, count)
        replicas = []
        for _ in range(3):
            moved = 1000 * (0.03 + random.normal(0, spread)) + random.normal(0, 20, count)
            replicas.append((_moved(before, moved.round()), before))
        _, low, high = replicated(gain, replicas)
        _, narrow, wide = bootstrap(gain, *replicas[0])
        return low <= true <= high, narrow <= true <= wide

    both, over_images = np.mean([once() for _ in range(300)], axis=0)
    assert 0.91 <= both <= 0.995
    assert over_images < 0.6  # one seed's images alone say nothing of other seeds


@pytest.mark.parametrize(("seeds", "images", "least"), [(2, 48, 87), (3, 437, 92), (6, 480, 94)])
def test_how_often_few_trainings_hold_the_truth_is_what_the_protocol_says(seeds, images, least):
    """Of errors over seeds and over images in ratios from 0 to 10, estimated anew each time."""
    random, held = np.random.default_rng(0), []
    freedoms = np.array([images, seeds]) - 1
    for ratio in (0, 0.3, 1, 3, 10):
        parts = np.array([1, ratio])
        estimated = parts * random.chisquare(freedoms, (20_000, 2)) / freedoms
        off = np.abs(random.normal(0, np.sqrt(parts.sum()), 20_000))
        held.append(100 * np.mean(off <= intervals.half_width(estimated, freedoms)))
    assert least <= min(held) < least + 1.5
    assert 94.5 <= max(held) <= 95.7
    protocol = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
    assert f"{seeds} trainings in {least} to 95 of 100" in " ".join(protocol.split())


@pytest.mark.usefixtures("quick")
def test_simultaneous_intervals_hold_all_truths_at_once_95_times_in_100():
    random = np.random.default_rng(3)

    def once():
        family = [paired(random, 80, 0.0) for _ in range(8)]
        corrected = simultaneous(gain, family)
        plain = [bootstrap(gain, *pair) for pair in family]
        return [all(low <= 0 <= high for _, low, high in found) for found in (corrected, plain)]

    corrected, plain = np.mean([once() for _ in range(200)], axis=0)
    assert 0.9 <= corrected <= 0.99
    assert plain < 0.8  # eight chances to be wrong


def test_a_family_of_one_is_hardly_wider_than_the_interval_alone():
    pair = paired(np.random.default_rng(4), 100, 0.01)
    ((_, low, high),) = simultaneous(gain, [pair])
    _, alone_low, alone_high = bootstrap(gain, *pair)
    assert high - low == pytest.approx(alone_high - alone_low, rel=0.1)


def test_a_comparison_of_a_method_with_itself_does_not_disturb_its_family():
    pair = paired(np.random.default_rng(5), 50, 0.02)
    same, other = simultaneous(gain, [(pair[1], pair[1]), pair])
    assert same == (0, 0, 0)
    assert other == simultaneous(gain, [pair])[0]


def test_combined_by_hand():
    # Seeds 1, 2, 3: variance 1, over three 1/3. Without image error: t of 2 degrees of freedom.
    point, low, high = intervals.combined(np.array([1.0, 2.0, 3.0]), 0.0, 50)
    assert point == 2
    assert high - point == pytest.approx(4.302653 * np.sqrt(1 / 3), rel=1e-5)
    assert point - low == pytest.approx(high - point)
    # Seeds that agree: the images' error alone, t of 49 degrees of freedom.
    _, low, high = intervals.combined(np.array([2.0, 2.0, 2.0]), 0.5, 50)
    assert (high - low) / 2 == pytest.approx(2.009575 * 0.5, rel=1e-5)
    assert intervals.combined(np.array([2.0, 2.0]), 0.0, 50) == (2, 2, 2)


# ---- other images and other trainings -----------------------------------------------------------
def valued(values):
    """Counts of `intervals.mean`: one replica on as many images as there are values."""
    return (intervals.countable(np.asarray(values, float)),)


def test_trainings_that_are_alike_leave_the_error_over_images():
    values = np.random.default_rng(0).normal(size=400)
    _, low, high = replicated(intervals.mean, [valued(values)] * 3)
    assert (high - low) / 2 == pytest.approx(1.965927 * values.std() / 20, rel=0.05)


def test_by_t_by_hand():
    # one squared error of 4, of 9 degrees of freedom: t 2.262157 times 2
    point, low, high = intervals.by_t(1.0, np.array([4.0]), np.array([9]))
    assert (point, high - point) == pytest.approx((1, 2 * 2.262157), rel=1e-6)
    assert point - low == pytest.approx(high - point)
    # equal parts of 4 each: twice the sum of one's, (1 + 1)^2 / (1 / 4 + 1 / 4) = 8
    _, low, high = intervals.by_t(0.0, np.array([1.0, 1.0]), np.array([4, 4]))
    assert (high - low) / 2 == pytest.approx(2.306004 * np.sqrt(2), rel=1e-6)
    assert intervals.by_t(3.0, np.zeros(2), np.array([4, 4])) == (3, 3, 3)


def test_one_replica_is_the_interval_over_images():
    pair = paired(np.random.default_rng(6), 30, 0.02)
    assert replicated(gain, [pair]) == bootstrap(gain, *pair)


def test_an_interval_does_not_depend_on_how_many_draws_are_held_at_once(monkeypatch):
    pair = paired(np.random.default_rng(7), 30, 0.02)
    values = np.random.default_rng(8).random(30)
    once = bootstrap(gain, *pair), intervals.bootstrap_mean(values)
    monkeypatch.setattr(intervals, "BLOCK", 7 * 30)
    again = bootstrap(gain, *pair), intervals.bootstrap_mean(values)
    assert again[0] == once[0]
    assert again[1] == pytest.approx(once[1], rel=1e-12)


def test_images_needed_by_hand():
    # error 1 on 100 images; wanted 1 / (1.96 + 0.8416) = 0.3569, so 100 * 2.8016 ** 2
    assert images_needed(1.0, 100) == 785


# ---- a point estimate outside its draws ---------------------------------------------------------
def test_an_interval_holds_its_point_estimate_where_every_draw_is_better():
    # 20 images, each with a class of its own that is found nowhere: mIoU is 100 / 21, but a draw
    # misses a third of the classes, and with them their IoU of 0.
    matrices = np.zeros((20, 21, 21))
    matrices[:, 0, 0] = 1000
    for i in range(20):
        matrices[i, i + 1, 0] = 1e-6
    found = counts(matrices)
    _, values = intervals.resample(miou, found)
    point, low, high = bootstrap(miou, found)
    assert point == pytest.approx(100 / 21, rel=1e-6)
    assert values.min() > point
    assert (low, high) == (point, np.percentile(values, 97.5))
    # replicas: so much either way
    point, low, high = replicated(miou, [(found,), (found,)])
    assert point - low == pytest.approx(high - point)


def test_the_mean_of_equal_numbers_holds_itself_though_sums_round():
    for count in range(2, 30):
        point, low, high = intervals.bootstrap_mean(np.full(count, 0.1))
        assert low <= point <= high


def test_one_image_tells_nothing_of_others_so_the_seeds_error_counts_alone():
    # Seeds 1, 2, 3: variance 1, over three 1/3; t of 2 degrees of freedom.
    for error in (0.0, 1e-16, np.nan):
        point, low, high = intervals.combined(np.array([1.0, 2.0, 3.0]), error, 1)
        assert point == 2
        assert high - point == pytest.approx(4.302653 * np.sqrt(1 / 3), rel=1e-5)
        assert point - low == pytest.approx(high - point)


def test_one_image_tells_a_family_nothing():
    (after, before) = (each[:1] for each in correlated())
    ((point, *ends),) = simultaneous(gain, [(after, before)])
    assert point == bootstrap(gain, after, before)[0]
    assert np.isnan(ends).all()


def test_one_image_and_one_training_tell_nothing():
    one = counts(np.array([[[50, 10], [20, 20]]]))
    other = counts(np.array([[[60, 0], [0, 40]]]))
    for found in (bootstrap(gain, other, one), replicated(gain, [(other, one)])):
        assert found[0] == pytest.approx(gain(other[0], one[0]))
        assert np.isnan(found[1:]).all()
    assert np.isnan(intervals.by_t(1.0, np.array([]), np.array([]))[1:]).all()


# ---- p ------------------------------------------------------------------------------------------
def test_trainings_of_alike_images_have_the_p_of_students_test():
    values = [0.3, 1.1, 0.8, -0.1]  # one for each training: its images are alike
    found = intervals.p_value(intervals.mean, [valued(np.full(9, value)) for value in values])
    assert found == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_p_of_one_training_by_hand(monkeypatch):
    monkeypatch.setattr(intervals, "resample", lambda *_: (1.5, np.array([-1.0, 0.0, 1.0, 2.0])))
    counts = valued(np.ones(2))
    assert intervals.p_value(intervals.mean, [counts]) == 1  # 2 of 4: 6 / 5
    above = (1.5, np.array([1.0, 1.0, 1.0, 2.0]))
    for sign in (-1, 1):
        monkeypatch.setattr(intervals, "resample", lambda *_, s=sign: (s * 1.5, s * above[1]))
        assert intervals.p_value(intervals.mean, [counts]) == pytest.approx(2 / 5)


@pytest.mark.parametrize("trainings", [1, 3])
def test_p_is_below_a_twentieth_where_zero_lies_outside_the_interval(trainings):
    random = np.random.default_rng(0)
    for shift in np.linspace(-1, 1, 41):
        values = random.normal(shift, 1, (trainings, 30))
        replicas = [valued(each) for each in values]
        _, low, high = replicated(intervals.mean, replicas)
        outside = low > 0 or high < 0
        assert (intervals.p_value(intervals.mean, replicas) < 0.05) == outside


def test_what_tells_nothing_of_others_has_no_p(monkeypatch):
    one = valued(np.ones(1))
    assert np.isnan(intervals.p_value(intervals.mean, [one]))
    assert np.isnan(intervals.p_by_t(1.0, np.array([np.nan]), np.array([0])))
    assert np.isnan(intervals.p_by_t(1.0, np.array([]), np.array([])))
    half = np.repeat([np.nan, 1.0], 10)  # draws of which only these are a number
    monkeypatch.setattr(intervals, "resample", lambda *_: (1.0, half))
    some = valued(np.ones(2))
    assert intervals.p_value(intervals.mean, [some]) == pytest.approx(2 / 11)
    monkeypatch.setattr(intervals, "resample", lambda *_: (1.0, half[:10]))
    assert np.isnan(intervals.p_value(intervals.mean, [some]))
    nothing = np.zeros(2), np.array([9, 2])
    assert (intervals.p_by_t(1.0, *nothing), intervals.p_by_t(0.0, *nothing)) == (0, 1)
