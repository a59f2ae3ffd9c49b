"""Network = frozen part | adapted part | 1x1 classifier without bias, for any GAP classifier.

The paper's classifier (Section 2): a CNN f at output stride 16, maps w_c . f(x), global average
pooling. RIB moves the upper layers only, so the lower ones are a function to be computed once. One
function, `from_classifier`, makes all networks of the study out of ordinary classifiers: it takes
the last strides out, finds the maps whose average the last linear layer reads, and cuts the graph.
"""

import contextlib
import copy
import io
import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from ribkit.data import views
from ribkit.networks.convolutions import ConvNorm, ReLU6, fold
from ribkit.runtime.errors import InputError, first_line

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's, for [0, 255]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
SIDE = 128  # of the image with which a classifier is looked at
DILATED = ("dilation", "padding", "_reversed_padding_repeated_twice")  # of a convolution
WRAPPERS = (DataParallel, DistributedDataParallel, AveragedModel)


class Network(nn.Module):
    """A classifier in three parts. Batch norm uses its stored statistics, always.

    frozen: pixels ``(N, 3, H, W)``, normalised -> features. adapted: features -> ``(N, D, h, w)``.
    classifier: 1x1 convolution without bias -> signed class maps ``(N, C, h, w)``.
    mean, std: of the pixels, per channel, for values in [0, 255].
    precision: None, or ``torch.bfloat16``: autocast up to the classifier (frozen features are kept
    in it; weights, gradients, class maps and what follows stay as they are).
    """

    precision: torch.dtype | None = None

    def __init__(
        self,
        frozen: nn.Module,
        adapted: nn.Module,
        classifier: nn.Conv2d,
        mean: Sequence[float] = (0.0,) * 3,
        std: Sequence[float] = (1.0,) * 3,
    ):
        super().__init__()
        self.frozen, self.adapted, self.classifier = frozen, adapted, classifier
        self.mean, self.std = tuple(mean), tuple(std)
        self.frozen.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Network":  # whatever is asked for
        return super().train(False)

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, self.precision, enabled=self.precision is not None)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The frozen part: pixels ``(N, 3, H, W)`` in [0, 255] -> frozen features."""
        with self._autocast(pixels):
            return self.frozen(views.normalise(pixels, self.mean, self.std))

    def last_features(self, features: Tensor) -> Tensor:
        """Frozen features -> those ``(N, c, h, w)`` that the classifier weighs."""
        with self._autocast(features):
            x = self.adapted(features)
        return x.to(self.classifier.weight.dtype)

    def maps(self, features: Tensor) -> Tensor:
        """Frozen features -> signed class maps ``(N, C, h, w)``."""
        return self.classifier(self.last_features(features))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> signed class maps ``(N, C, h, w)``."""
        return self.maps(self.features(pixels))

    def adaptable(self) -> "Network":
        """A copy to adapt: shares the frozen part, owns the rest."""
        upper = copy.deepcopy(self.adapted), copy.deepcopy(self.classifier)
        network = Network(self.frozen, *upper, self.mean, self.std)
        network.precision = self.precision
        return network

    def with_classes(self, n_classes: int, rng_seed: int) -> "Network":
        """A copy with a new classifier for ``n_classes``: normal weights of deviation 0.01."""
        network = self.adaptable()
        network.classifier = _unfilled(self.classifier.in_channels, n_classes)
        generator = torch.Generator().manual_seed(rng_seed)
        nn.init.normal_(network.classifier.weight, std=0.01, generator=generator)
        return network


def _unfilled(inputs: int, outputs: int) -> nn.Conv2d:
    """A classifier without weights, so that none are drawn."""
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, 1, bias=False)


@contextlib.contextmanager
def seeded(rng_seed: int) -> Iterator[None]:
    """Within this, torch draws on the CPU by the seed; its generators are as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng_seed)
        yield


class _Tracer(fx.Tracer):
    """Keeps every convolution whole, also those of subclasses."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        ours = isinstance(module, nn.Conv2d | ConvNorm | ReLU6)
        return ours or super().is_leaf_module(module, name)


def from_classifier(
    model: nn.Module,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
    *,
    frozen_stride: int = 8,
    output_stride: int = 16,
) -> Network:
    """Make a `Network` of a classifier that ends in global average pooling and one linear layer.

    The linear layer may be a 1x1 convolution; its bias is dropped. Raises InputError for a
    classifier of another kind.

    Args:
        model: The classifier, on any device and of any precision, also within DataParallel or
            compiled by torch.compile; it is left as it is. The network is float32 on the CPU.
        mean: Of the pixels, per channel, in [0, 255].
        std: Of the pixels, per channel.
        frozen_stride: The frozen part ends at the last, narrowest place of this stride where one
            tensor carries everything: after layer2 of a ResNet, as in the official code.
        output_stride: Strided convolutions beyond it lose their stride, what follows is dilated.
    """
    model = _unwrapped(model)
    try:
        if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
            raise InputError("it is no torch.nn.Module, or one that hides its layers")
        model = copy.deepcopy(model).cpu().float().eval()
        with contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints a trace of its errors
            traced = fx.GraphModule(model, _Tracer().trace(model))
            _dilate(traced, output_stride)
            fold(traced)
            ShapeProp(traced).propagate(torch.zeros(1, 3, SIDE, SIDE))
            weight, end = _head(traced)
            cut = _cut(traced, end, frozen_stride)
    except Exception as error:
        reason = first_line(error.__cause__ or error)[:160]  # ShapeProp's own error is no reason
        raise InputError(
            f"{type(model).__name__} does not suit ({reason}); use a classifier of RGB images that "
            "ends in global average pooling and one linear layer."
        ) from error
    classifier = _unfilled(*weight.shape[::-1])
    classifier.weight.data = weight[:, :, None, None].clone()
    start = next(node for node in traced.graph.nodes if node.op == "placeholder")
    return Network(_part(traced, start, cut), _part(traced, cut, end), classifier, mean, std)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module that DataParallel, an averaged model or torch.compile wraps."""
    while True:
        if isinstance(model, WRAPPERS):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile's
            model = model._orig_mod
        else:
            return model


@torch.no_grad()
def _head(traced: fx.GraphModule) -> tuple[Tensor, fx.Node]:
    """The last linear layer's weight ``(C, D)``, and the maps whose average it reads, tried out.

    A 1x1 convolution is a linear layer too, before or behind the pooling. Its bias is taken off.
    """
    head = end = maps = None
    for node in traced.graph.nodes:
        layer = traced.get_submodule(node.target) if node.op == "call_module" else None
        linear = isinstance(layer, nn.Linear | nn.Conv2d)
        if linear and getattr(layer, "kernel_size", (1, 1)) == (1, 1):
            head, end = layer, maps  # of the last such layer, in the end
        if _is_map(node):
            maps = node
    if end and head.weight[0].numel() == _shape(end)[1]:
        head.bias, weight = None, head.weight.detach().flatten(1)
        run = fx.Interpreter(traced, garbage_collect_values=False)
        pixels = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        logits = run.run(pixels)
        ours = run.env[end].mean(dim=(2, 3)) @ weight.T
        as_many = isinstance(logits, Tensor) and logits.flatten(1).shape == ours.shape
        if as_many and (ours - logits.flatten(1)).abs().max() <= 1e-3 * ours.abs().max():
            return weight, end
    raise InputError("its outputs are no linear layer of the average of its last maps")


def _dilate(traced: fx.GraphModule, output_stride: int) -> None:
    """Take the strides of convolutions beyond ``output_stride`` out; dilate what follows each.

    Pooling layers keep their strides: a network that goes on by pooling stays as coarse, and so
    does one that pools beside such a convolution, which is left as it is.
    """
    ShapeProp(traced).propagate(torch.zeros(1, 3, SIDE, SIDE))
    removed: dict[fx.Node, int] = {}  # by how much strides were taken out before a node
    changes = []
    for node in traced.graph.nodes:
        factor = max((removed[n] for n in node.all_input_nodes), default=1)
        conv = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(conv, nn.Conv2d):
            stride = _stride(node.args[0]) // factor
            if factor > 1 and conv.kernel_size != (1, 1):
                for name in DILATED:
                    sides = getattr(conv, name)
                    if not isinstance(sides, str):  # padding "same" follows by itself
                        changes.append((conv, name, tuple(side * factor for side in sides)))
            if conv.stride[0] > 1 and stride * conv.stride[0] > output_stride:
                factor *= conv.stride[0]
                changes.append((conv, "stride", (1, 1)))
        joined = [n for n in node.all_input_nodes if _shape(n)[2:] == _shape(node)[2:]]
        if _is_map(node) and any(removed[n] < factor for n in joined):
            return
        removed[node] = factor
    for change in changes:
        setattr(*change)


def _stride(maps: fx.Node) -> int:
    """Of maps against the image, to a power of two: without padding they are smaller."""
    return 2 ** round(math.log2(SIDE / _shape(maps)[-1]))


def _cut_nodes(traced: fx.GraphModule) -> Iterator[fx.Node]:
    """The nodes that alone feed everything after them, and whose value is ``(N, C, H, W)``."""
    nodes = list(traced.graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    last_user = 0  # of all nodes so far
    for node in nodes:
        alone = last_user <= position[node] and node.op not in ("placeholder", "get_attr", "output")
        last_user = max([last_user, *(position[user] for user in node.users)])
        if alone and len(_shape(node)) == 4:
            yield node


def _shape(node: fx.Node) -> tuple[int, ...]:
    """Of the node's value, as `ShapeProp` met it; empty for what is no tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _is_map(node: fx.Node) -> bool:
    """Whether the node's value is ``(N, C, H, W)`` with more than one position."""
    return len(_shape(node)) == 4 and _shape(node)[2:] != (1, 1)


def _cut(traced: fx.GraphModule, end: fx.Node, stride: int) -> fx.Node:
    """The last of the narrowest cut nodes of this stride before ``end``."""
    before = itertools.takewhile(lambda node: node is not end, _cut_nodes(traced))
    fits = [node for node in before if _stride(node) == stride]
    if not fits:
        raise InputError(f"no single tensor carries everything at stride {stride}")
    return min(reversed(fits), key=lambda node: _shape(node)[1])


def _part(traced: fx.GraphModule, first: fx.Node, last: fx.Node) -> fx.GraphModule:
    """The graph from the value of ``first`` to that of ``last``, as a module of its own."""
    graph, copies = fx.Graph(), {}
    nodes = list(traced.graph.nodes)
    copies[first] = graph.placeholder("x")
    for node in nodes[nodes.index(first) + 1 : nodes.index(last) + 1]:
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[last])
    part = fx.GraphModule(traced, graph)
    part.delete_all_unused_submodules()
    return part


class FeaturePyramid(nn.Module):
    """A network's feature levels, fine to coarse, which IRN and PSA read.

    A level is the last tensor that alone carries everything before the network gets wider (after
    the pooling and each of the four stages of a ResNet), and the end of the adapted part. Each has
    its number in ``strides`` and ``channels``.
    """

    def __init__(self, network: Network):
        super().__init__()
        self.mean, self.std = network.mean, network.std
        whole = nn.Sequential(network.frozen, network.adapted)
        self.trunk = fx.GraphModule(whole, _Tracer().trace(whole))
        pixels = torch.zeros(1, 3, SIDE, SIDE, device=next(network.parameters()).device)
        with torch.no_grad():
            ShapeProp(self.trunk).propagate(pixels)
        runs = itertools.groupby(_cut_nodes(self.trunk), _shape)
        ends = [list(run)[-1] for _, run in runs]  # the last one of each shape
        widths = [_shape(node)[1] for node in ends]
        wider = [after > before for before, after in itertools.pairwise(widths)]
        levels = list(itertools.compress(ends, [*wider, True]))
        self.strides = [SIDE // _shape(node)[-1] for node in levels]
        self.channels = [_shape(node)[1] for node in levels]
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
