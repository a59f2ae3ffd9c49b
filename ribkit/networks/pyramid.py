"""The feature levels of a network, which IRN and PSA read."""

import itertools

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ribkit.data import views
from ribkit.networks.backbone import Network, Tracer, cut_nodes, value_shape


class FeaturePyramid(nn.Module):
    """A network's feature levels, fine to coarse: for IRN and PSA.

    A level is the last tensor that alone carries everything before the network gets wider (after
    the pooling and each of the four stages of a ResNet), and the end of the adapted part.

    Attributes:
        strides: Of each level.
        channels: Of each level.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.mean, self.std = network.mean, network.std
        whole = nn.Sequential(network.frozen, network.adapted)
        self.trunk = fx.GraphModule(whole, Tracer().trace(whole))
        like = next(network.parameters())
        with torch.no_grad():
            ShapeProp(self.trunk).propagate(torch.zeros(1, 3, 128, 128, device=like.device))
        runs = [list(run) for _, run in itertools.groupby(cut_nodes(self.trunk), value_shape)]
        ends = [run[-1] for run in runs]  # the last one of each shape
        widths = [value_shape(node)[1] for node in ends]
        wider = [after > before for before, after in itertools.pairwise(widths)]
        levels = list(itertools.compress(ends, [*wider, True]))
        self.strides = [128 // value_shape(node)[-1] for node in levels]
        self.channels = [value_shape(node)[1] for node in levels]
        output = next(node for node in self.trunk.graph.nodes if node.op == "output")
        output.args = (levels,)
        self.trunk.recompile()
        self.eval()

    def train(self, mode: bool = True) -> "FeaturePyramid":
        """Batch norm and dropout stay in evaluation mode whatever is asked for."""
        return super().train(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> levels, ``(N, channels, H / stride, W / stride)``.

        Sides are rounded up, or as the network's own padding has it.
        """
        return self.trunk(views.normalise(pixels, self.mean, self.std))
