"""Pooling class maps to logits (Section 3.2): GAP, the global maximum, and the paper's GNDRP."""

import torch
from torch import Tensor

from ribkit.method.settings import Settings


def gap(cam: Tensor) -> Tensor:
    r"""Global average pooling: logits ``(N, C)``, each the mean of its class's map.

    .. math:: y_c = \frac{1}{|U|} \sum_{u \in U} S_c(u)

    Section 2 of the paper (arXiv:2110.06530): what the classifier is trained with.

    Args:
        cam: Signed class maps ``(N, C, H, W)``.

    Example:
        >>> gap(torch.tensor([[[[10.0, 4.0], [1.0, -3.0]]]])).tolist()
        [[3.0]]
    """
    return cam.mean(dim=(2, 3))


def gmp(cam: Tensor) -> Tensor:
    r"""Global maximum pooling: logits ``(N, C)``, each the maximum of its class's map.

    .. math:: y_c = \max_u S_c(u)

    The paper's comparison with GAP and GNDRP (arXiv:2110.06530).

    Args:
        cam: Signed class maps ``(N, C, H, W)``.

    Example:
        >>> gmp(torch.tensor([[[[10.0, 4.0], [1.0, -3.0]]]])).tolist()
        [[10.0]]
    """
    return cam.amax(dim=(2, 3))


def gndrp(cam: Tensor, labels: Tensor, tau: float, variant: str = "paper") -> Tensor:
    r"""Global non-discriminative region pooling of the classes present; GAP for the absent ones.

    .. math::
        y_c = \frac{1}{|Q_c|} \sum_{u \in Q_c} S_c(u),
        \qquad Q_c = \{u : M_c(u) / \max_v M_c(v) \le \tau\}

    with :math:`S_c = w_c \cdot f` the signed map and :math:`M_c = \mathrm{ReLU}(S_c)`. Section 3.2
    of the paper (arXiv:2110.06530). The discriminative part gets no gradient.

    Args:
        cam: Signed class maps ``(N, C, H, W)``.
        labels: ``(N, C)``, 1 where the class is present, else 0.
        tau: A position is in the region up to this share of the map's maximum, in [0, 1].
        variant: ``"paper"``: the ReLU map decides, a map without a positive value keeps every
            position, and a region without a position pools to 0. ``"official"``, the released
            code: the signed map decides, strictly below tau, and the sum over the region is
            divided by the number of *all* positions, so that a map negative everywhere keeps
            nothing and gets no gradient.

    Returns:
        Logits ``(N, C)``.

    Raises:
        KeyError: For another variant.

    Example:
        >>> cam = torch.tensor([[[[10.0, 4.0], [1.0, -2.0]]]])
        >>> gndrp(cam, torch.ones(1, 1), 0.4).tolist()  # (4 + 1 - 2) / 3
        [[1.0]]
        >>> gndrp(cam, torch.ones(1, 1), 0.4, "official").tolist()  # (1 - 2) / 4
        [[-0.25]]
    """
    kept = region(cam, tau, variant)
    if variant == "paper":
        pooled = (cam * kept).sum(dim=(2, 3)) / kept.sum(dim=(2, 3)).clamp(min=1)
    else:
        pooled = (cam * kept).mean(dim=(2, 3))
    return torch.where(labels.bool(), pooled, gap(cam))


def region(cam: Tensor, tau: float, variant: str = "paper") -> Tensor:
    r"""The non-discriminative region Q of `gndrp`, ``(..., H, W)`` bool; it carries no gradient.

    .. math:: Q_c = \{u : M_c(u) / \max_v M_c(v) \le \tau\}

    Section 3.2 of the paper (arXiv:2110.06530).

    Args:
        cam: Signed class maps ``(..., H, W)``.
        tau: Share of a map's maximum, in [0, 1].
        variant: ``"paper"`` (ReLU map, ``<=``) or ``"official"`` (signed map, ``<``).

    Example:
        >>> region(torch.tensor([[10.0, 4.0, 1.0, -3.0]]), 0.4).tolist()
        [[False, True, True, True]]
    """
    signed = cam.detach()
    decides = {"paper": signed.relu(), "official": signed}[variant]
    peak = decides.amax(dim=(-2, -1), keepdim=True)
    if variant == "paper":
        return decides <= tau * peak
    return decides / peak < tau


def pool_maps(maps: Tensor, labels: Tensor, settings: Settings) -> Tensor:
    """Pool signed class maps ``(N, C, h, w)`` to logits ``(N, C)``, as the settings say."""
    if settings.pooling == "gap":
        return gap(maps)
    if settings.pooling == "gmp":
        return gmp(maps)
    if settings.variant.gndrp_classes is not None:
        labels = labels.clone()
        labels[:, settings.variant.gndrp_classes :] = 0
    return gndrp(maps, labels, settings.tau, settings.variant.gndrp)
