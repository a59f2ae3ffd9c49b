"""RIB: adapt the classifier to one image by maximising its target logits (Section 3.2, Algorithm).

From the trained weights, K steps of SGD on the image's views and on B other images that share no
class with it; the maps of all steps are summed, then normalised once. The lower layers stay frozen,
so their features are computed once; the upper ones and the classifier are adapted
(`ribkit.networks.backbone`). Where the formulas and the released code part, a
`ribkit.method.settings.Variant` says which way is taken.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ribkit.method import cam, pooling
from ribkit.method.aggregation import Adapted, Step, aggregate
from ribkit.method.losses import rib_loss
from ribkit.method.settings import Settings
from ribkit.networks.backbone import Network

Views = Mapping[float, Tensor]
"""Scale -> frozen features ``(2, c, h, w)`` of an image and of its horizontal flip."""
Others = Callable[[int], tuple[Tensor, Tensor]]
"""Step -> frozen features ``(B, c, h, w)`` and labels ``(B, C)`` of the other images."""


def adapt(
    network: Network, views: Views, labels: Tensor, others: Others, settings: Settings
) -> Adapted:
    r"""RIB for one image: the summed maps of an adaptation from the trained weights.

    .. math:: M_c = \textstyle\sum_{k=0}^{K} M_c(x; \theta_k)

    Section 3.2 of the paper (arXiv:2110.06530): `trajectory`, summed by `aggregate` (by the
    official code up to K - 1).

    Args:
        network: The trained one, left as it is.
        views: Scale -> frozen features ``(2, c, h, w)`` of the image and its horizontal flip.
        labels: ``(C,)`` of the image, 1 where the class is present, else 0.
        others: Step -> frozen features and labels of the other images, as `OtherImageSampler`.
        settings: Pooling, K, learning rate, variant and so on.

    Returns:
        Raw maps for `cam.multi_scale`, and how the adaptation went.

    Raises:
        InputError: Where the trained network's logits are not finite.

    Example:
        >>> head = torch.nn.Conv2d(1, 1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(head.weight)  # M = w x, with w = 1
        >>> network = Network(torch.nn.Identity(), torch.nn.Identity(), head)
        >>> views = {1.0: torch.tensor([[[[0.0, 4.0]]], [[[4.0, 0.0]]]])}
        >>> nobody = lambda step: (torch.zeros(0, 1, 1, 2), torch.zeros(0, 1))
        >>> settings = Settings("gap", steps=2, lr=0.0125, weight_decay=0.0)
        >>> result = adapt(network, views, torch.ones(1), nobody, settings)
        >>> result.logits, result.maps[1.0].tolist()  # w = 1, then 1.5
        ([2.0, 3.0], [[[0.0, 20.0]]])
    """
    steps = trajectory(network.adaptable(), views, labels, others, settings)
    return aggregate(steps, labels, settings)


def trajectory(
    network: Network, views: Views, labels: Tensor, others: Others, settings: Settings
) -> Iterator[Step]:
    r"""Yield steps 0..K of one adaptation; a step's update is made when the next is asked for.

    .. math:: \theta_{k+1} = \theta_k - \eta (1 - k / K)^{0.9} \nabla L_{\mathrm{RIB}}(\theta_k)

    The loss sums over the image's rows (its views at scales from 1 on, and their flips) and over
    the others, each with its own labels. Section 3.2 of the paper (arXiv:2110.06530); SGD with
    momentum and weight decay, the classifier's rate is 10 times that of the layers below it.

    Args:
        network: The trained one; it is changed in place (pass `Network.adaptable`).
        views: See `adapt`.
        labels: ``(C,)`` of the image, 1 where the class is present, else 0.
        others: See `adapt`.
        settings: Pooling, K, learning rate, variant and so on.

    Example:
        >>> head = torch.nn.Conv2d(1, 1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(head.weight)  # M = w x, with w = 1
        >>> network = Network(torch.nn.Identity(), torch.nn.Identity(), head)
        >>> views = {1.0: torch.tensor([[[[0.0, 4.0]]], [[[4.0, 0.0]]]])}
        >>> nobody = lambda step: (torch.zeros(0, 1, 1, 2), torch.zeros(0, 1))
        >>> settings = Settings("gap", steps=2, lr=0.0125, weight_decay=0.0)
        >>> steps = trajectory(network, views, torch.ones(1), nobody, settings)
        >>> [round(step.logits.mean().item(), 2) for step in steps]
        [2.0, 3.0, 3.54]
    """
    variant = settings.variant
    present = labels.nonzero().flatten()
    optimiser, lr_scale = _optimiser(network, settings), 1.0
    for step in range(settings.steps + 1):
        last = step == settings.steps
        maps, logits = _forward(network, views, labels, settings, learns=not last)
        maps = {scale: cam.flip_sum(signed[:, present]) for scale, signed in maps.items()}
        yield Step(maps, logits.detach())
        if last:
            return
        drawn = others(step if variant.resample_others_each_step else 0)
        loss = _loss(network, logits, labels, drawn, settings)
        if settings.match_first_update and step == 0:
            plain = _loss(network, logits, labels, drawn, replace(settings, activation="none"))
            lr_scale = _update_norm_ratio(loss, plain, optimiser)
        _update(optimiser, loss, lr_scale * (1 - step / settings.steps) ** settings.poly_power)


def adapt_set(
    network: Network,
    images: Iterable[tuple[Views, Tensor, Others]],
    count: int,
    settings: Settings,
) -> Network:
    r"""One adaptation for a whole set: each image in turn moves the same weights by one step.

    .. math:: \theta_{i+1} = \theta_i - \eta (1 - i / N)^{0.9} \nabla L_{\rm RIB}(x_i; \theta_i)

    An ablation of the paper's adaptation image by image (Section 3.2, arXiv:2110.06530).

    Args:
        network: The trained one, left as it is; a copy is adapted and returned.
        images: Views, labels and others of each image, see `adapt`.
        count: N, the number of images; the learning rate falls over them.
        settings: As of `adapt`; ``steps`` is not used.

    Example:
        >>> head = torch.nn.Conv2d(1, 1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(head.weight)  # M = w x, with w = 1
        >>> network = Network(torch.nn.Identity(), torch.nn.Identity(), head)
        >>> nobody = lambda step: (torch.zeros(0, 1, 1, 2), torch.zeros(0, 1))
        >>> image = {1.0: torch.full((2, 1, 1, 2), 2.0)}, torch.ones(1), nobody
        >>> settings = Settings("gap", lr=0.0125, weight_decay=0.0)
        >>> adapt_set(network, [image], 1, settings).classifier.weight.item()
        1.5
    """
    network = network.adaptable()
    optimiser = _optimiser(network, settings)
    for turn, (views, labels, others) in enumerate(images):
        _, logits = _forward(network, views, labels, settings, learns=True)
        loss = _loss(network, logits, labels, others(turn), settings)
        _update(optimiser, loss, (1 - turn / count) ** settings.poly_power)
    return network


def cam_maps(network: Network, views: Views, labels: Tensor) -> dict[float, Tensor]:
    """CAM of one image: the raw maps of the trained weights, as the first step of `trajectory`."""
    present = labels.nonzero().flatten()
    with torch.no_grad():
        return {s: cam.flip_sum(network.maps(f)[:, present]) for s, f in views.items()}


def _forward(
    network: Network, views: Views, labels: Tensor, settings: Settings, learns: bool
) -> tuple[dict[float, Tensor], Tensor]:
    """Signed maps of each view, without gradient, and the pooled rows that enter the loss."""
    maps, pooled = {}, []
    for scale, features in views.items():
        in_loss = scale >= 1 or settings.variant.loss_on_half_scale
        with torch.set_grad_enabled(in_loss and learns):
            signed = network.maps(features)
        maps[scale] = signed.detach()
        if in_loss:
            pooled.append(pooling.pool_maps(signed, labels.expand(2, -1), settings))
    return maps, torch.cat(pooled)


def _loss(
    network: Network, logits: Tensor, labels: Tensor, others: tuple, settings: Settings
) -> Tensor:
    """The loss of the image's own rows, which `_forward` pools, and of the other images."""
    features, other_labels = others
    rows, targets = [logits], [labels.expand(len(logits), -1)]
    if len(features):
        rows.append(pooling.pool_maps(network.maps(features), other_labels, settings))
        targets.append(other_labels)
    margin = settings.margin if settings.variant.clamp_at_margin else None
    return rib_loss(torch.cat(rows), torch.cat(targets), margin, settings.activation)


def _optimiser(network: Network, settings: Settings) -> torch.optim.SGD:
    groups = []
    for part, lr_mult in ((network.adapted, 1.0), (network.classifier, settings.head_lr_mult)):
        params = [p for p in part.parameters() if p.requires_grad]
        if params:
            groups.append({"params": params, "base_lr": settings.lr * lr_mult})
    momentum, decay = settings.variant.momentum, settings.weight_decay
    return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, weight_decay=decay)


def _update(optimiser: torch.optim.SGD, loss: Tensor, factor: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = group["base_lr"] * factor
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def _update_norm_ratio(loss: Tensor, reference: Tensor, optimiser: torch.optim.SGD) -> float:
    """Length of lr times gradient of the reference over that of the loss; 1 if that has none."""
    lengths = []
    for value in (loss, reference):
        total = 0.0
        for group in optimiser.param_groups:
            parts = torch.autograd.grad(value, group["params"], retain_graph=True)
            total += group["base_lr"] ** 2 * sum(float(part.square().sum()) for part in parts)
        lengths.append(total**0.5)
    return lengths[1] / lengths[0] if lengths[0] > 0 else 1.0
