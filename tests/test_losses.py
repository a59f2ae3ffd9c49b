import math

import pytest
import torch

from ribkit.method.losses import ACTIVATIONS, rib_loss

LOGITS = torch.tensor([[1.0, 5.0, -2.0], [3.0, 7.0, 100.0]], dtype=torch.float64)
LABELS = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)


def gradient(margin):
    logits = LOGITS.clone().requires_grad_()
    rib_loss(logits, LABELS, margin).backward()
    return logits.grad.tolist()


def test_the_loss_is_the_negative_sum_of_the_target_logits():
    assert rib_loss(LOGITS, LABELS).item() == -(1 + 5 + 7)


def test_each_target_logit_is_clamped_at_the_margin():
    assert rib_loss(LOGITS, LABELS, 4.0).item() == -(1 + 4 + 4)
    assert rib_loss(LOGITS, LABELS, 6.0).item() == -(1 + 5 + 6)


def test_an_infinite_margin_is_no_margin():
    assert rib_loss(LOGITS, LABELS, math.inf) == rib_loss(LOGITS, LABELS)
    assert gradient(math.inf) == gradient(None)


def test_targets_below_the_margin_have_gradient_minus_one_and_all_else_none():
    assert gradient(None) == [[-1, -1, 0], [0, -1, 0]]
    assert gradient(4.0) == [[-1, 0, 0], [0, 0, 0]]


def test_other_classes_do_not_count():
    changed = LOGITS + 9 * (1 - LABELS)
    assert rib_loss(changed, LABELS, 4.0) == rib_loss(LOGITS, LABELS, 4.0)


@pytest.mark.parametrize("margin", [None, 4.0])
def test_no_label_no_loss(margin):
    assert rib_loss(LOGITS, torch.zeros_like(LABELS), margin).item() == 0


def with_activation(name, y=0.5):
    """Loss and gradient of one target logit y beside another class's 0."""
    logits = torch.tensor([[y, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = rib_loss(logits, torch.tensor([[1.0, 0.0]]), activation=name)
    loss.backward()
    return loss.item(), -logits.grad[0, 0].item()


@pytest.mark.parametrize(
    ("name", "value", "slope"),
    [
        ("none", 0.5, 1),
        ("sigmoid (BCE)", -math.log(1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))),
        ("softmax (CE)", -math.log(1 + math.exp(-0.5)), 1 / (1 + math.exp(0.5))),
        ("tanh", math.tanh(0.5), 1 - math.tanh(0.5) ** 2),
        ("softsign", 0.5 / 1.5, 1 / 1.5**2),
        ("ReLU", 0.5, 1),
        ("leaky ReLU", 0.5, 1),
    ],
)
def test_an_activation_put_back_by_hand(name, value, slope):
    loss, gradient = with_activation(name)
    assert -loss == pytest.approx(value)
    assert gradient == pytest.approx(slope)


def test_saturating_activations_lose_the_gradient_of_large_logits_and_others_do_not():
    slopes = {name: with_activation(name, 12.0)[1] for name in ACTIVATIONS}
    lost = {name for name, slope in slopes.items() if slope < 0.01}
    assert lost == {"sigmoid (BCE)", "softmax (CE)", "tanh", "softsign"}
    below = {name: with_activation(name, -12.0)[1] for name in ("none", "ReLU", "leaky ReLU")}
    assert below == {"none": 1, "ReLU": 0, "leaky ReLU": 0.01}
