"""The feature levels of a network, which IRN and PSA read."""

import itertools

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ribkit.data import views
from ribkit.networks.backbone import SIDE, Network, Tracer, cut_nodes, value_shape


class FeaturePyramid(nn.Module):
    """A network's feature levels, fine to coarse, with the ``strides`` and ``channels`` of each.

    A level is the last tensor that alone carries everything before the network gets wider (after
    the pooling and each of the four stages of a ResNet), and the end of the adapted part.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.mean, self.std = network.mean, network.std
        whole = nn.Sequential(network.frozen, network.adapted)
        self.trunk = fx.GraphModule(whole, Tracer().trace(whole))
        pixels = torch.zeros(1, 3, SIDE, SIDE, device=next(network.parameters()).device)
        with torch.no_grad():
            ShapeProp(self.trunk).propagate(pixels)
        runs = itertools.groupby(cut_nodes(self.trunk), value_shape)
        ends = [list(run)[-1] for _, run in runs]  # the last one of each shape
        widths = [value_shape(node)[1] for node in ends]
        wider = [after > before for before, after in itertools.pairwise(widths)]
        levels = list(itertools.compress(ends, [*wider, True]))
        self.strides = [SIDE // value_shape(node)[-1] for node in levels]
        self.channels = [value_shape(node)[1] for node in levels]
        output = next(node for node in self.trunk.graph.nodes if node.op == "output")
        output.args = (levels,)
        self.trunk.recompile()
        self.eval()

    def train(self, mode: bool = True) -> "FeaturePyramid":  # whatever is asked for
        return super().train(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> levels, ``(N, channels, H / stride, W / stride)``.

        Sides are rounded up, or as the network's own padding has it.
        """
        return self.trunk(views.normalise(pixels, self.mean, self.std))
