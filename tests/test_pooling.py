import pytest
import torch

from ribkit.method.pooling import gap, gndrp, pool_maps, region
from ribkit.method.settings import PAPER, Settings

VARIANTS = ("paper", "official")
TAU = 0.4


def one_map(values):
    """A 2 x 2 map as a batch of one image and one class."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 2, 2)


def pooled(values, variant, label=1.0, tau=TAU):
    return gndrp(one_map(values), torch.tensor([[label]]), tau, variant).item()


def gradient(values, variant, tau=TAU):
    cam = one_map(values).requires_grad_()
    gndrp(cam, torch.ones(1, 1), tau, variant).sum().backward()
    return cam.grad.flatten().tolist()


def test_gap_is_the_mean_over_positions():
    assert gap(one_map([10, 4, 1, -3])).item() == 3
    assert gap(torch.arange(24.0).view(2, 3, 2, 2)).tolist() == [
        [1.5, 5.5, 9.5],
        [13.5, 17.5, 21.5],
    ]


@pytest.mark.parametrize(("pooling", "logit"), [("gap", 3), ("gmp", 10), ("gndrp", 2 / 3)])
def test_settings_say_how_maps_are_pooled(pooling, logit):
    settings = Settings(pooling, variant=PAPER)
    found = pool_maps(one_map([10, 4, 1, -3]), torch.ones(1, 1), settings)
    assert found.item() == pytest.approx(logit)


# The maximum is 10, so 4 lies exactly at tau: the paper keeps it, the official code does not.
@pytest.mark.parametrize(
    ("values", "paper", "official"),
    [
        pytest.param([10, 4, 1, -3], (4 + 1 - 3) / 3, (1 - 3) / 4, id="a value at tau"),
        pytest.param([10, 3, 2, 1], (3 + 2 + 1) / 3, (3 + 2 + 1) / 4, id="all positive"),
        pytest.param([10, 9, 8, 1], 1.0, 1 / 4, id="one value is kept"),
        pytest.param([-1, -2, -3, -6], -3.0, 0.0, id="negative everywhere"),
        pytest.param([5, 5, 5, 5], 0.0, 0.0, id="constant: nothing is kept"),
        pytest.param([0, -1, -3, -4], -2.0, -2.0, id="maximum 0"),
        pytest.param([0, 0, 0, 0], 0.0, 0.0, id="zero everywhere"),
    ],
)
def test_gndrp_of_a_present_class_by_hand(values, paper, official):
    assert pooled(values, "paper") == pytest.approx(paper, abs=1e-12)
    assert pooled(values, "official") == pytest.approx(official, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_absent_classes_are_pooled_by_gap(variant):
    assert pooled([10, 4, 1, -3], variant, label=0.0) == 3
    cam = torch.tensor([[10.0, 4, 1, -3], [10, 4, 1, -3]]).view(1, 2, 2, 2)
    mixed = gndrp(cam, torch.tensor([[1.0, 0.0]]), TAU, variant)
    assert mixed[0, 0] != 3
    assert mixed[0, 1] == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_images_of_a_batch_do_not_see_each_other(variant):
    random = torch.Generator().manual_seed(0)
    cam = torch.randn(5, 3, 4, 6, generator=random)
    labels = (torch.rand(5, 3, generator=random) < 0.5).float()
    alone = [gndrp(c[None], t[None], TAU, variant)[0] for c, t in zip(cam, labels, strict=True)]
    torch.testing.assert_close(gndrp(cam, labels, TAU, variant), torch.stack(alone))


def test_only_kept_positions_get_a_gradient():
    third = pytest.approx(1 / 3)
    assert gradient([10, 4, 1, -3], "paper") == [0, third, third, third]
    assert gradient([10, 4, 1, -3], "official") == [0, 0, 0.25, 0.25]


def test_a_map_negative_everywhere_gets_gradient_from_the_paper_only():
    assert gradient([-1, -2, -3, -6], "paper") == [0.25] * 4
    assert gradient([-1, -2, -3, -6], "official") == [0] * 4


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_constant_positive_map_gets_no_gradient(variant):
    assert gradient([5, 5, 5, 5], variant) == [0] * 4


def test_the_region_is_what_gndrp_keeps():
    cam = one_map([10, 4, 1, -3])[0]
    assert region(cam, TAU, "paper").flatten().tolist() == [False, True, True, True]
    assert region(cam, TAU, "official").flatten().tolist() == [False, False, True, True]


def test_another_variant_is_refused():
    with pytest.raises(KeyError):
        gndrp(one_map([1, 2, 3, 4]), torch.ones(1, 1), TAU, "other")
