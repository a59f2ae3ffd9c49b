"""How small a true gain an interval would have found: known answers, and studies drawn by hand."""

import numpy as np
import pytest
from scipy import optimize, stats

from ribkit.evaluation.intervals import bootstrap, combined, countable, gain, mean, replicated
from ribkit.evaluation.miou import counts
from ribkit.evaluation.power import detectable, detectable_by_t, detectable_once


def replicas(seeds, images=60, spread=0.1):
    """Gains of the same images by each seed, whose means differ by so much."""
    values = np.random.default_rng(0).normal(0, 1, images)
    moved = stats.norm.ppf((np.arange(seeds) + 0.5) / seeds)
    moved *= spread / moved.std(ddof=1)
    return [(countable(values + one),) for one in moved]


@pytest.mark.parametrize("seeds", [2, 3, 6, 20])
def test_for_few_seeds_it_is_what_the_noncentral_t_distribution_says(seeds):
    limit = stats.t.ppf(0.975, seeds - 1)
    exact = optimize.brentq(lambda d: stats.nct.sf(limit, seeds - 1, d) - 0.8, 0.1, 60)
    found = detectable_by_t(np.array([2.0**2]), np.array([seeds - 1]))
    assert found == pytest.approx(2 * exact, rel=0.015)


def test_for_many_images_and_seeds_it_is_2_8_standard_errors():
    found = detectable_by_t(np.array([0.3**2, 0.4**2]), np.array([10**6, 10**6]))
    assert found == pytest.approx((stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) * 0.5, rel=0.01)


def test_studies_with_that_gain_find_it_8_times_in_10():
    # Each study: 3 seeds whose gains differ by 0.5, one image error of 0.2 that 40 images tell.
    found = detectable_by_t(np.array([0.2**2, 0.5**2 / 3]), np.array([39, 2]))
    random = np.random.default_rng(5)

    def finds():
        points = found + random.normal(0, 0.2) + random.normal(0, 0.5, 3)
        error = 0.2 * np.sqrt(random.chisquare(39) / 39)
        return combined(points, error, 40)[1] > 0

    assert np.mean([finds() for _ in range(3000)]) == pytest.approx(0.8, abs=0.025)


def test_over_images_alone_it_is_2_8_standard_errors_of_the_mean():
    values = np.random.default_rng(0).normal(0, 1, 400)
    found = detectable(mean, [(countable(values),)])
    assert found == pytest.approx(2.8016 * values.std() / 20, rel=0.05)


def test_a_point_that_may_fall_low_needs_a_larger_gain():
    # exp of a mean of 0 with a standard error of 0.5: 1, and one in five times below exp(-0.42)
    values = np.random.default_rng(0).normal(size=100)
    values = 5 * (values - values.mean()) / values.std()
    found = detectable_once(lambda sums: np.exp(mean(sums)), (countable(values),), 0.0)
    assert found == pytest.approx(1 - np.exp(-0.8416 * 0.5), rel=0.05)  # the other end: 0.52


def test_its_draws_are_those_of_the_interval():
    values = np.random.default_rng(1).gamma(0.5, 1, 40)  # skewed: the low end is near, the high far
    point, low, high = bootstrap(mean, countable(values))
    found = detectable(mean, [(countable(values),)])
    assert found == detectable_once(mean, (countable(values),), point - low)
    assert found < detectable_once(mean, (countable(values),), high - point)


def test_more_seeds_find_less():
    parts, found = np.array([0.1, 1.0]), []
    for seeds in (2, 3, 4, 6, 12, 100):
        found.append(detectable_by_t(parts / [1, seeds], np.array([59, seeds - 1])))
    assert found == sorted(found, reverse=True)
    assert found[1] > 1.5 * found[3]  # 3 seeds and 6: more than the square root of two


def test_more_images_find_less_and_it_is_more_than_half_the_interval():
    few, many = (replicas(3, images) for images in (50, 800))
    assert detectable(mean, many) < detectable(mean, few)
    point, low, _ = replicated(mean, few)
    assert detectable(mean, few) > point - low


def test_a_true_gain_moves_the_point_and_not_what_could_be_found():
    values = [each + np.array([3.0, 0.0]) for (each,) in replicas(3)]
    moved = detectable(mean, [(each,) for each in values])
    assert moved == pytest.approx(detectable(mean, replicas(3)))


def test_without_noise_every_gain_is_found():
    same = counts(np.tile([[30, 20], [20, 30]], (10, 1, 1)))
    assert detectable(gain, [(same, same)] * 3) == 0
    assert detectable(gain, [(same, same)]) == 0


def test_one_seed_alone_says_nothing_of_others():
    assert np.isnan(detectable_by_t(np.array([np.nan]), np.array([0])))


def test_it_is_seeded():
    assert detectable(mean, replicas(3)) == detectable(mean, replicas(3))


def test_the_mean_of_one_value_per_image():
    values = np.array([1.0, 2.0, 6.0])
    assert mean(countable(values).sum(axis=0)) == 3


def test_what_one_image_and_one_training_would_find_is_unknown():
    one, other = counts(np.array([[[50, 10], [20, 20]]])), counts(np.array([[[60, 0], [0, 40]]]))
    assert np.isnan(detectable(gain, [(other, one)]))
    assert np.isnan(detectable_by_t(np.array([]), np.array([])))
