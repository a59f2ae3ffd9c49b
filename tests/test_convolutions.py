"""Convolutions against torch's plain ones: values and gradients, padding, folded batch norms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx, nn

from ribkit.networks.convolutions import ConvNorm, SameConv2d, convolve, fold


def gradients(output, *inputs):
    """Of a weighted sum, so that every output counts differently."""
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    return torch.autograd.grad((output * weights).sum(), inputs)


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.double).requires_grad_()


@settings(max_examples=40)
@given(
    kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]), dilation=st.integers(1, 3),
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)), depthwise=st.booleans(),
)  # fmt: skip
def test_same_padding_is_tensorflows(kernel, stride, dilation, size, depthwise):
    groups = 4 if depthwise else 1
    options = {"stride": stride, "dilation": dilation, "groups": groups, "bias": False}
    conv = SameConv2d(4, 4, kernel, **options).double()
    x = drawn(2, 4, *size)
    pads = []
    for side in reversed(size):
        total = max((-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(x, pads), conv.weight, None, stride, 0, dilation, groups)
    found = conv(x)
    assert found.shape[2:] == tuple(-(-side // stride) for side in size)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(
        gradients(found, x, conv.weight), gradients(expected, x, conv.weight), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_torch(kernel, dilation, groups, layout):
    x, bias = drawn(3, 6, 8, 7), drawn(6, seed=1)
    weight = drawn(6, 6 // groups, kernel, kernel, seed=2)
    pad = [dilation * (kernel - 1) // 2] * 2
    how = ((1, 1), pad, (dilation, dilation), groups)
    expected = F.conv2d(x, weight, bias, *how)
    found = convolve(x.contiguous(memory_format=layout), weight, bias, *how)
    torch.testing.assert_close(found, expected)
    inputs = (x, weight, bias)
    for ours, theirs in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_batch_norm_is_the_convolution_and_the_norm(bias):
    conv, norm = nn.Conv2d(3, 5, 3, 2, 1, bias=bias).double(), nn.BatchNorm2d(5).double().eval()
    for k, tensor in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
        tensor.data = torch.rand(5, generator=torch.Generator().manual_seed(k)).double() + 0.1
    x = drawn(2, 3, 9, 8)
    folded = ConvNorm(conv, norm)
    torch.testing.assert_close(folded(x), norm(conv(x)))
    inputs = (x, *folded.parameters())
    pairs = zip(gradients(folded(x), *inputs), gradients(norm(conv(x)), *inputs), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


class Shared(nn.Module):
    """One activation called twice, one convolution whose output is used twice."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.second, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.relu, self.own = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.own(self.norm(self.first(x)))
        y = self.second(x)
        return self.relu(y + self.other(y)) + self.relu(x)


def test_only_what_is_called_once_and_used_once_is_folded():
    model = Shared().eval()
    x = torch.randn(2, 3, 4, 4)
    expected = model(x)
    traced = fx.symbolic_trace(model)
    fold(traced)
    torch.testing.assert_close(traced(x), expected)
    kinds = {name: type(module) for name, module in traced.named_modules() if name}
    assert kinds["first"] is ConvNorm
    assert kinds["second"] is nn.Conv2d
    assert kinds["other"] is nn.BatchNorm2d
    assert "norm" not in kinds
    assert traced.own.inplace
    assert not traced.relu.inplace
