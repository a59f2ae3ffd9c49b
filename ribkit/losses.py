"""The RIB loss: binary cross-entropy without its last activation (Section 3.2).

L = - sum over rows and classes of t_c min(m, y_c)
"""

from torch import Tensor


def rib_loss(logits: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
    """Negative sum of the target logits, each clamped at ``margin`` if there is one.

    logits, labels: ``(N, C)``. Returns a scalar. A logit above the margin has no gradient.
    """
    if margin is not None:
        logits = logits.clamp(max=margin)
    return -(logits * labels).sum()
