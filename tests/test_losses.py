import math

import pytest
import torch

from ribkit.losses import rib_loss

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
