import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ribkit.method import adaptation, aggregation, cam, pooling
from ribkit.method.settings import OFFICIAL, PAPER, Settings, Variant
from ribkit.networks.backbone import Network

POLY = [1, 0.909, 0.818, 0.725, 0.631, 0.536, 0.438, 0.338, 0.235, 0.126]  # (1 - k / 10) ** 0.9
IMAGE = torch.tensor([[[[1.0, 3.0]]]])
TARGET = torch.ones(1)


def two_numbers(a=1.0, w=2.0):
    """A network of two numbers: its only map is w a x."""
    adapted, classifier = nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False)
    nn.init.constant_(adapted.weight, a)
    nn.init.constant_(classifier.weight, w)
    return Network(nn.Identity(), adapted, classifier)


def mirrored(*scales):
    """The view [1, 3] and its horizontal flip, mean 2, at each scale."""
    pair = torch.cat([IMAGE, IMAGE.flip(-1)])
    return {scale: pair for scale in scales}


def nobody(step):
    return torch.zeros(0, 1, 1, 2), torch.zeros(0, 1)


def numbers(network):
    return network.adapted.weight.item(), network.classifier.weight.item()


def variant(base=OFFICIAL, **switches):
    return dataclasses.replace(base, **switches)


def official(**settings):
    return Settings(**({"pooling": "gap", "margin": 1e9, "area_ratio": 1.0} | settings))


# ---- steps ------------------------------------------------------------------------------------
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_two_steps_by_hand(momentum):
    # Others: one image [5, 5]. L = -(2 + 2 + 5) w a, so dL/da = -9 w, dL/dw = -9 a.
    network = two_numbers(a=1.0, w=2.0)
    settings = official(
        steps=2, lr=0.01, weight_decay=0.5, variant=variant(momentum=momentum), head_lr_mult=10.0
    )
    steps = adaptation.trajectory(
        network, mirrored(1.0), TARGET, lambda k: (torch.full((1, 1, 1, 2), 5.0), TARGET[None]),
        settings,
    )  # fmt: skip
    assert next(steps).logits.flatten().tolist() == [4, 4]
    next(steps)
    # gradients with weight decay: -9 * 2 + .5 * 1 = -17.5 and -9 * 1 + .5 * 2 = -8
    a, w = 1 + 0.01 * 17.5, 2 + 0.1 * 8
    assert numbers(network) == pytest.approx((a, w))
    last = next(steps)
    factor = (1 - 1 / 2) ** 0.9
    velocity_a = momentum * -17.5 + (-9 * w + 0.5 * a)
    velocity_w = momentum * -8 + (-9 * a + 0.5 * w)
    a, w = a - 0.01 * factor * velocity_a, w - 0.1 * factor * velocity_w
    assert numbers(network) == pytest.approx((a, w))
    assert last.logits.flatten().tolist() == pytest.approx([2 * a * w] * 2)
    assert list(steps) == []


def test_the_rate_falls_by_the_poly_schedule():
    network = two_numbers()
    network.adapted.weight.requires_grad_(False)  # the classifier's gradient is then constant: -4
    settings = official(lr=0.001, weight_decay=0.0, variant=variant(momentum=0.0))
    steps = adaptation.trajectory(network, mirrored(1.0), TARGET, nobody, settings)
    weights = [numbers(network)[1] for _ in steps]
    moved = [after - before for before, after in pairwise(weights)]
    assert len(moved) == 10
    assert [m / (0.01 * 4) for m in moved] == pytest.approx(POLY, abs=6e-4)


def test_maps_are_raw_and_those_of_the_classes_present():
    adapted, classifier = nn.Identity(), nn.Conv2d(1, 3, 1, bias=False)
    classifier.weight.data = torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1, 1)
    network = Network(nn.Identity(), adapted, classifier)
    labels = torch.tensor([0.0, 1.0, 1.0])
    others = (torch.zeros(0, 1, 1, 2), torch.zeros(0, 3))
    step = next(adaptation.trajectory(network, mirrored(1.0), labels, lambda k: others, official()))
    assert step.maps[1.0].tolist() == [[[0, 0]], [[4, 12]]]
    assert step.logits.tolist() == [[2, -2, 4]] * 2


def test_rib_without_steps_is_cam():
    network, views = two_numbers(), mirrored(1.0, 0.5)
    plain = adaptation.cam_maps(network, views, TARGET)
    for base in (PAPER, OFFICIAL):
        settings = official(steps=0, variant=base)
        adapted = adaptation.adapt(network, views, TARGET, nobody, settings)
        assert adapted.steps == 1
        assert all(torch.equal(adapted.maps[scale], plain[scale]) for scale in views)


def test_the_trained_network_is_left_as_it_is():
    network = two_numbers()
    adaptation.adapt(network, mirrored(1.0), TARGET, nobody, official(lr=0.1))
    assert numbers(network) == (1, 2)


def test_the_optimiser_starts_fresh_for_each_image():
    network = two_numbers()
    settings = official(lr=0.01, variant=variant(momentum=0.9))
    first, again = (
        adaptation.adapt(network, mirrored(1.0), TARGET, nobody, settings) for _ in range(2)
    )
    assert first.logits == again.logits


def count_updates(monkeypatch, settings):
    made = []

    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            made.append(1)
            return super().step(closure)

    monkeypatch.setattr(torch.optim, "SGD", Counting)
    result = adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, nobody, settings)
    return result, len(made)


def test_official_sums_k_maps_and_skips_the_update_that_nobody_sees(monkeypatch):
    result, updates = count_updates(monkeypatch, official(steps=3, lr=1e-3))
    assert (result.steps, result.reason, updates) == (3, "steps", 2)


def test_paper_sums_the_map_after_the_last_update_too(monkeypatch):
    settings = official(steps=3, lr=1e-3, variant=PAPER)
    result, updates = count_updates(monkeypatch, settings)
    assert (result.steps, result.reason, updates) == (4, "steps", 3)


@pytest.mark.parametrize("base", [PAPER, OFFICIAL])
def test_the_result_is_the_plain_sum_of_the_steps_maps(base):
    settings, views = official(steps=3, lr=1e-2, variant=base), mirrored(1.0, 0.5)
    steps = list(adaptation.trajectory(two_numbers(), views, TARGET, nobody, settings))
    result = adaptation.adapt(two_numbers(), views, TARGET, nobody, settings)
    for scale in views:
        total = sum(step.maps[scale] for step in steps[: result.steps])
        torch.testing.assert_close(result.maps[scale], total)


# ---- stops ------------------------------------------------------------------------------------
def test_official_ends_once_the_sum_of_the_target_logits_exceeds_the_margin(monkeypatch):
    # At the first step the two rows' logits are 4 each.
    result, updates = count_updates(monkeypatch, official(margin=7.99, lr=1e-3))
    assert (result.steps, result.reason, updates) == (1, "margin", 0)
    assert result.logits == [4]
    result, _ = count_updates(monkeypatch, official(margin=8.0, lr=1e-3))
    assert (result.steps, result.reason) == (2, "margin")


def test_the_margin_is_held_against_the_absolute_sum():
    network = two_numbers(w=-2.0)
    result = adaptation.adapt(network, mirrored(1.0), TARGET, nobody, official(margin=7.99))
    assert (result.steps, result.reason) == (1, "margin")


def test_the_margin_counts_every_row_of_every_scale_in_the_loss():
    settings = official(margin=16.1, lr=1e-9, steps=2)
    for scales, reason in (((1.0, 1.5), "steps"), ((1.0, 1.5, 2.0), "margin")):
        views = mirrored(*scales, 0.5)
        result = adaptation.adapt(two_numbers(), views, TARGET, nobody, settings)
        assert result.reason == reason


def test_paper_does_not_end_at_the_margin():
    settings = official(margin=1.0, steps=3, variant=PAPER)
    assert adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, nobody, settings).steps == 4


def test_one_adaptation_for_the_set_learns_from_the_others_too():
    # L = -(2 + 2 + 5) w, so w = 1 + 0.125 * 9
    network, settings = two_numbers(w=1.0), official(lr=0.0125, weight_decay=0.0)
    network.adapted.weight.requires_grad_(False)
    five = torch.full((1, 1, 1, 2), 5.0), TARGET[None]
    image = mirrored(1.0), TARGET, lambda turn: five
    assert numbers(adaptation.adapt_set(network, [image], 1, settings)) == (1, 2.125)
    assert numbers(network) == (1, 1)


@pytest.mark.parametrize(("margin", "moves"), [(3.0, False), (5.0, True)])
def test_paper_takes_no_gradient_of_a_logit_beyond_the_margin(margin, moves):
    network = two_numbers()  # whose logits are 4
    settings = official(margin=margin, steps=1, lr=0.1, weight_decay=0.0, variant=PAPER)
    assert len(list(adaptation.trajectory(network, mirrored(1.0), TARGET, nobody, settings))) == 2
    assert (numbers(network) != (1, 2)) == moves


def test_official_ends_by_area_at_the_second_step_and_adds_only_its_map_at_scale_1(monkeypatch):
    # Every pixel of [1, 3] + its horizontal flip is at the maximum: the area is 1 from the start.
    settings, views = official(area_ratio=0.7, lr=1e-3), mirrored(0.5, 1.0, 1.5)
    result = adaptation.adapt(two_numbers(), views, TARGET, nobody, settings)
    first, second, _ = zip(
        range(3),
        adaptation.trajectory(two_numbers(), views, TARGET, nobody, settings),
        strict=False,
    )
    assert (result.steps, result.reason, result.areas) == (2, "area", [1, 1])
    torch.testing.assert_close(result.maps[1.0], first[1].maps[1.0] + second[1].maps[1.0])
    torch.testing.assert_close(result.maps[0.5], first[1].maps[0.5])
    torch.testing.assert_close(result.maps[1.5], first[1].maps[1.5])
    _, updates = count_updates(monkeypatch, settings)
    assert updates == 1


def test_the_area_stop_goes_before_the_margin_stop():
    settings = official(area_ratio=0.7, lr=0.05, margin=8.5)
    result = adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, nobody, settings)
    assert (result.steps, result.reason) == (2, "area")
    assert 2 * result.logits[-1] > 8.5


def test_the_area_must_exceed_its_ratio():
    settings = official(area_ratio=1.0, steps=3)
    assert adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, nobody, settings).steps == 3


@pytest.mark.parametrize("base", [PAPER, OFFICIAL], ids=["paper", "official"])
def test_a_run_that_diverges_ends_before_its_first_map_that_is_no_number(base):
    settings = official(lr=1e12, steps=9, margin=float("inf"), variant=variant(base, momentum=0.0))
    result = adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, nobody, settings)
    assert result.reason == "diverged"
    assert 1 <= result.steps < 9
    assert all(torch.tensor(result.logits).isfinite())
    assert result.maps[1.0].isfinite().all()


def test_a_pixel_is_covered_if_any_map_exceeds_its_share_of_its_own_maximum():
    maps = torch.tensor([[[10.0, 3.0, 0.0, 2.0]], [[0.0, 0.0, 0.5, 0.1]]])
    assert aggregation.covered(maps, 0.3) == 0.5  # 3 is at 0.3, not above
    assert aggregation.covered(maps, 0.25) == 0.75
    assert aggregation.covered(torch.zeros(1, 2, 2), 0.3) == 0


class Waits(TorchDispatchMode):
    """Counts the operations for which Python waits for the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        name = operation.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"):
            self.names.append(name)
        return operation(*arguments, **(keywords or {}))


@pytest.mark.parametrize("base", [PAPER, OFFICIAL], ids=["paper", "official"])
def test_a_step_waits_for_the_device_once(base, monkeypatch):
    transfers, original = [], torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: transfers.append(1) or original(self))

    def waits(steps):
        transfers.clear()
        settings = official(steps=steps, lr=1e-4, variant=base, pooling="gndrp")
        with Waits() as seen:
            result = adaptation.adapt(two_numbers(), mirrored(1.0, 0.5), TARGET, nobody, settings)
        return result.steps, len(transfers), len(seen.names)

    (few, few_transfers, few_waits), (many, many_transfers, many_waits) = waits(2), waits(7)
    assert many_transfers - few_transfers == many - few == 5
    assert many_waits == few_waits  # what an image needs once


# ---- variants ---------------------------------------------------------------------------------
def three_classes():
    """A network, views and others for which every switch matters."""
    torch.manual_seed(1)
    adapted = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU())
    network = Network(nn.Identity(), adapted, nn.Conv2d(6, 3, 1, bias=False))
    network.classifier.weight.data.abs_()
    views = {scale: torch.rand(2, 2, 6, 6) for scale in (0.5, 1.0, 2.0)}
    features = torch.rand(5, 4, 2, 6, 6)

    def others(step):
        return features[step], torch.tensor([0.0, 1.0, 0.0]).expand(4, -1)

    return network, views, torch.tensor([1.0, 0.0, 1.0]), others


def outcome(switches, margin):
    settings = Settings(lr=5e-3, steps=4, margin=margin, area_ratio=0.6, variant=switches)
    network, views, labels, others = three_classes()
    return adaptation.adapt(network, views, labels, others, settings)


CHANGES = {
    "clamp_at_margin": lambda on: not on,
    "gndrp": lambda name: {"paper": "official", "official": "paper"}[name],
    "gndrp_classes": lambda _: 1,
    "sum_last_map": lambda on: not on,
    "loss_on_half_scale": lambda on: not on,
    "stop_by_area": lambda on: not on,
    "momentum": lambda value: 0.5,
    "resample_others_each_step": lambda on: not on,
}


@pytest.mark.parametrize("base", [PAPER, OFFICIAL], ids=["paper", "official"])
@pytest.mark.parametrize("switch", CHANGES)
def test_each_switch_of_a_variant_changes_something(switch, base):
    base = variant(base, stop_by_area=switch == "stop_by_area")  # else it hides later steps
    changed = variant(base, **{switch: CHANGES[switch](getattr(base, switch))})
    margin = 0.02 if switch == "clamp_at_margin" else 1e9
    before, after = outcome(base, margin), outcome(changed, margin)
    different = [not torch.equal(before.maps[s], after.maps[s]) for s in before.maps]
    assert any(different)
    assert outcome(base, margin).logits == before.logits


def test_every_switch_that_acts_on_an_adaptation_is_ablated_above():
    names = {field.name for field in dataclasses.fields(Variant)}
    assert names == set(CHANGES)


def test_the_two_variants_are_those_of_the_table_of_differences():
    assert (PAPER.gndrp, OFFICIAL.gndrp) == ("paper", "official")
    assert (PAPER.momentum, OFFICIAL.momentum) == (0.9, 1e-4)
    assert (PAPER.clamp_at_margin, OFFICIAL.clamp_at_margin) == (True, False)
    assert (PAPER.sum_last_map, OFFICIAL.sum_last_map) == (True, False)
    assert (PAPER.stop_by_area, OFFICIAL.stop_by_area) == (False, True)
    assert PAPER.gndrp_classes is OFFICIAL.gndrp_classes is None  # the bug is off unless asked for
    defaults = Settings()
    assert (defaults.steps, defaults.lr, defaults.n_others, defaults.tau) == (10, 8e-6, 20, 0.4)
    assert (defaults.margin, defaults.area_level, defaults.area_ratio) == (600, 0.3, 0.7)


def test_the_mask_may_cover_the_first_classes_only():
    maps = torch.tensor([[10.0, 1.0], [10.0, 1.0]]).view(1, 2, 1, 2)
    labels = torch.ones(1, 2)
    everything = pooling.pool_maps(maps, labels, Settings())
    one = pooling.pool_maps(maps, labels, Settings(variant=variant(gndrp_classes=1)))
    assert everything.tolist() == [[0.5, 0.5]]
    assert one.tolist() == [[0.5, 5.5]]
    assert labels.tolist() == [[1, 1]]


def test_others_drawn_once_are_asked_for_at_step_0_only():
    asked = []

    def others(step):
        asked.append(step)
        return nobody(step)

    for fresh, expected in ((True, [0, 1]), (False, [0, 0])):
        asked.clear()
        settings = official(steps=3, variant=variant(resample_others_each_step=fresh))
        adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, others, settings)
        assert asked == expected


def test_a_run_merges_into_a_normalised_map():
    result = adaptation.adapt(two_numbers(), mirrored(1.0), TARGET, nobody, official(lr=1e-3))
    merged = cam.multi_scale(result.maps, (16, 32))
    assert merged.shape == (1, 16, 32)
    assert 0.99 < merged.max() < 1


def first_move(**changes):
    """How far the first update moves the two numbers, in all."""
    network = two_numbers()
    before = torch.tensor(numbers(network))
    settings = official(lr=1e-3, steps=3, weight_decay=0.0, **changes)
    steps = adaptation.trajectory(network, mirrored(1.0), torch.ones(1), nobody, settings)
    next(steps), next(steps)
    return float((torch.tensor(numbers(network)) - before).norm())


def test_a_matched_rate_moves_the_weights_as_far_as_without_an_activation():
    alone = first_move()
    assert first_move(activation="tanh") < 0.9 * alone
    assert first_move(activation="tanh", match_first_update=True) == pytest.approx(alone, rel=1e-4)
    assert first_move(match_first_update=True) == pytest.approx(alone, rel=1e-6)


def test_the_last_map_is_that_of_the_last_step_alone():
    settings = official(lr=1e-3, steps=3, margin=1e9)
    views, labels = mirrored(1.0), torch.ones(1)
    steps = list(adaptation.trajectory(two_numbers().adaptable(), views, labels, nobody, settings))
    last = adaptation.adapt(
        two_numbers(), views, labels, nobody, dataclasses.replace(settings, last_map=True)
    )
    assert torch.equal(last.maps[1.0], steps[2].maps[1.0])


def test_the_last_map_is_of_one_step_at_every_scale_also_where_the_area_stops():
    maps = [{1.0: torch.full((1, 1, 2), k), 2.0: torch.full((1, 1, 2), 10 * k)} for k in (1.0, 2.0)]
    steps = (aggregation.Step(each, torch.ones(2, 1)) for each in maps)
    settings = official(steps=3, area_ratio=0.5, last_map=True)
    result = aggregation.aggregate(steps, TARGET, settings)
    assert (result.reason, result.steps) == ("area", 2)
    assert {scale: each.tolist() for scale, each in result.maps.items()} == {
        1.0: [[[2.0, 2.0]]], 2.0: [[[20.0, 20.0]]],
    }  # fmt: skip
