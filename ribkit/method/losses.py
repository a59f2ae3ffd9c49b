"""The RIB loss: binary cross-entropy without its last activation (Section 3.2), or one put back."""

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
    "none": lambda y: y,
    "sigmoid (BCE)": F.logsigmoid,
    "softmax (CE)": lambda y: F.log_softmax(y, dim=1),
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "ReLU": F.relu,
    "leaky ReLU": F.leaky_relu,
}
"""Last activation -> what becomes of the logits ``(N, C)`` before they are summed.

sigmoid, softmax: the target's part of their cross-entropies, log s(y).
"""


def rib_loss(
    logits: Tensor, labels: Tensor, margin: float | None = None, activation: str = "none"
) -> Tensor:
    r"""Negative sum of the target logits, each clamped at a margin.

    .. math:: L_{\mathrm{RIB}} = - \sum_c t_c \min(m, y_c)

    summed over the rows too (Section 3.2, arXiv:2110.06530). A logit above the margin has no
    gradient.

    Args:
        logits: y, ``(N, C)``, before any activation.
        labels: t, ``(N, C)``, 1 for the target classes, else 0.
        margin: m; None: no margin.
        activation: One of `ACTIVATIONS`, put back after the logits; ``"none"`` is RIB.

    Raises:
        KeyError: For another activation.

    Example:
        >>> logits, labels = torch.tensor([[1.0, 5.0, -2.0]]), torch.tensor([[1.0, 1.0, 0.0]])
        >>> rib_loss(logits, labels).item(), rib_loss(logits, labels, margin=4.0).item()
        (-6.0, -5.0)
    """
    if margin is not None:
        logits = logits.clamp(max=margin)
    return -(ACTIVATIONS[activation](logits) * labels).sum()
