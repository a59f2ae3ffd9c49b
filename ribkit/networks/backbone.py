"""Network = frozen part | adapted part | 1x1 classifier without bias, for any GAP classifier.

The paper's classifier (Section 2): a CNN f at output stride 16, maps w_c . f(x), global average
pooling. RIB moves the upper layers only, so the lower ones are a function to be computed once. One
function, `from_classifier`, makes all networks of the study out of ordinary classifiers: it finds
the pooling and the last linear layer, takes the last stride out and cuts the graph in two.
"""

import contextlib
import copy
import io
import itertools
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ribkit.data import views
from ribkit.runtime.errors import InputError

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's, for [0, 255]
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


class Network(nn.Module):
    """A classifier in three parts. Batch norm uses its stored statistics, always.

    frozen: pixels ``(N, 3, H, W)``, normalised -> features. adapted: features -> ``(N, D, h, w)``.
    classifier: 1x1 convolution without bias -> signed class maps ``(N, C, h, w)``.
    mean, std: of the pixels, per channel, for values in [0, 255].

    precision: None, or ``torch.bfloat16``: of the passes up to the classifier (autocast: frozen
    features are kept in it; weights, gradients, class maps and what follows stay as they are).
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

    def train(self, mode: bool = True) -> "Network":
        """Batch norm and dropout stay in evaluation mode whatever is asked for."""
        return super().train(False)

    def _autocast(self, like: Tensor) -> torch.autocast:
        return torch.autocast(like.device.type, self.precision, enabled=self.precision is not None)

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The frozen part: pixels ``(N, 3, H, W)`` in [0, 255] -> frozen features."""
        with self._autocast(pixels):
            return self.frozen(views.normalise(pixels, self.mean, self.std))

    def maps(self, features: Tensor) -> Tensor:
        """Frozen features -> signed class maps ``(N, C, h, w)``."""
        with self._autocast(features):
            x = self.adapted(features)
        return self.classifier(x.to(self.classifier.weight.dtype))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> signed class maps ``(N, C, h, w)``."""
        return self.maps(self.features(pixels))

    def adaptable(self) -> "Network":
        """A copy to adapt: shares the frozen part, owns the rest."""
        upper = (copy.deepcopy(self.adapted), copy.deepcopy(self.classifier))
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
    """A classifier whose weights are still to be set, so that none are drawn."""
    return nn.utils.skip_init(nn.Conv2d, inputs, outputs, 1, bias=False)


@contextlib.contextmanager
def seeded(rng_seed: int) -> Iterator[None]:
    """Within this, weights that torch draws on the CPU come of the seed.

    Afterwards torch's own generator is where it was; those of GPUs are left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng_seed)
        yield


class Tracer(fx.Tracer):
    """Keeps every convolution whole, also those of subclasses."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Conv2d) or super().is_leaf_module(module, name)


def from_classifier(
    model: nn.Module,
    mean: Sequence[float] = IMAGENET[0],
    std: Sequence[float] = IMAGENET[1],
    *,
    frozen_stride: int = 8,
    output_stride: int = 16,
) -> Network:
    """Make a `Network` of a classifier that ends in global average pooling and one linear layer.

    The linear layer's bias is dropped.

    Args:
        model: The classifier; it is left as it is.
        mean: Of the pixels, per channel, in [0, 255].
        std: Of the pixels, per channel.
        frozen_stride: The frozen part ends at the last, narrowest place of this stride where one
            tensor carries everything: after layer2 of a ResNet, as in the official code.
        output_stride: Strided convolutions beyond it lose their stride, what follows is dilated.

    Returns:
        The network, with the model's own classes.

    Raises:
        InputError: The classifier is of another kind.
    """
    model = copy.deepcopy(model).eval()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints a trace of its errors
            traced = fx.GraphModule(model, Tracer().trace(model))
            linear, end = _head(traced)
            _dilate(traced, output_stride)
            ShapeProp(traced).propagate(torch.zeros(1, 3, 128, 128))
            cut = _cut(traced, end, 128 // frozen_stride)
    except Exception as error:
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise InputError(
            f"{type(model).__name__} does not suit ({reason}); use one that "
            "ends in global average pooling and one linear layer, for example torchvision's "
            "resnet50 or efficientnet_b0."
        ) from error
    classifier = _unfilled(linear.in_features, linear.out_features)
    classifier.weight.data = linear.weight.data[:, :, None, None].clone()
    start = next(node for node in traced.graph.nodes if node.op == "placeholder")
    return Network(_part(traced, start, cut), _part(traced, cut, end), classifier, mean, std)


def _head(traced: fx.GraphModule) -> tuple[nn.Linear, fx.Node]:
    """The last linear layer, and the node whose average it reads."""
    modules = dict(traced.named_modules())
    node = next(n for n in traced.graph.nodes if n.op == "output").args[0]
    refusal = InputError("its last layers are others")
    linear = modules.get(node.target) if isinstance(node, fx.Node) else None
    if not isinstance(linear, nn.Linear):
        raise refusal
    node = node.args[0]
    while isinstance(node, fx.Node):
        module = modules.get(node.target) if node.op == "call_module" else None
        if _is_pool(node, module):
            return linear, node.args[0]
        if not _keeps_values(node, module):
            break
        node = node.args[0]
    raise refusal


def _is_pool(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether this is a global average."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return module.output_size in (1, (1, 1))
    if node.target is F.adaptive_avg_pool2d:
        return node.args[1] in (1, (1, 1), [1, 1])
    axes = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    return node.target in ("mean", torch.mean) and axes in ([2, 3], (2, 3), [-2, -1], (-2, -1))


def _keeps_values(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether a pooled vector passes unchanged (in evaluation)."""
    reshaping = (torch.flatten, torch.squeeze, F.dropout, "flatten", "squeeze", "view", "reshape")
    return isinstance(module, (nn.Flatten, nn.Dropout, nn.Identity)) or node.target in reshaping


def _dilate(traced: fx.GraphModule, output_stride: int) -> None:
    """Take the strides of convolutions beyond ``output_stride`` out; dilate what follows each.

    Pooling layers keep their strides: a network that goes on by pooling stays as coarse.
    """
    side = 128
    ShapeProp(traced).propagate(torch.zeros(1, 3, side, side))
    removed: dict[fx.Node, int] = {}  # by how much strides were taken out before a node
    for node in traced.graph.nodes:
        factor = max((removed[n] for n in node.all_input_nodes), default=1)
        conv = traced.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(conv, nn.Conv2d):
            stride = side // node.args[0].meta["tensor_meta"].shape[-1] // factor
            if factor > 1 and conv.kernel_size[0] > 1:
                conv.dilation = (factor, factor)
                conv.padding = tuple(p * factor for p in conv.padding)
            if conv.stride[0] > 1 and stride * conv.stride[0] > output_stride:
                factor *= conv.stride[0]
                conv.stride = (1, 1)
        removed[node] = factor


def cut_nodes(traced: fx.GraphModule) -> Iterator[fx.Node]:
    """The nodes that alone feed everything after them, and whose value is ``(N, C, H, W)``."""
    nodes = list(traced.graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    last_user = 0  # of all nodes so far
    for node in nodes:
        alone = last_user <= position[node] and node.op not in ("placeholder", "get_attr", "output")
        last_user = max([last_user, *(position[user] for user in node.users)])
        if alone and len(value_shape(node)) == 4:
            yield node


def value_shape(node: fx.Node) -> tuple[int, ...]:
    """Of the node's value, as `ShapeProp` met it; empty for what is no tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def _cut(traced: fx.GraphModule, end: fx.Node, side: int) -> fx.Node:
    """The last of the narrowest cut nodes of this map size before ``end``."""
    before = set(itertools.takewhile(lambda node: node is not end, traced.graph.nodes))
    fits = [n for n in cut_nodes(traced) if n in before and value_shape(n)[-1] == side]
    if not fits:
        raise InputError(f"no single tensor of {side} x {side} for an image of 128 x 128 pixels")
    return min(reversed(fits), key=lambda node: value_shape(node)[1])


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
