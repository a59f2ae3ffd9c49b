"""The RIB loss: binary cross-entropy without its last activation (Section 3.2).

L = - sum over rows and classes of t_c min(m, y_c)

and, to ask what the missing activation is worth (RQ1), the same with one put back.
"""

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

sigmoid, softmax: the target's part of their cross-entropies, log s(y), which saturate above only.
tanh, softsign: saturate on both sides. ReLU, leaky ReLU: one-sided, they never saturate above.
"""


def rib_loss(
    logits: Tensor, labels: Tensor, margin: float | None = None, activation: str = "none"
) -> Tensor:
    """Negative sum of the target logits, each clamped at ``margin`` if there is one.

    logits, labels: ``(N, C)``. activation: one of `ACTIVATIONS`. Returns a scalar. A logit above
    the margin has no gradient. Raises KeyError for another activation.
    """
    if margin is not None:
        logits = logits.clamp(max=margin)
    return -(ACTIVATIONS[activation](logits) * labels).sum()
