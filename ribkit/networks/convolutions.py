"""Convolutions that are quick where an adaptation spends its time, with exact gradients."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": the odd pixel goes to the right and bottom."""

    def pads(self, x: Tensor) -> list[tuple[int, int]]:
        """Zeros above and below, left and right."""
        totals = []
        for axis in (0, 1):
            size, stride = x.shape[2 + axis], self.stride[axis]
            extent = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            totals.append(max((-(-size // stride) - 1) * stride + extent - size, 0))
        return [(total // 2, total - total // 2) for total in totals]

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        height, width = self.pads(x)
        inside = [height[0], width[0]]
        if height[0] != height[1] or width[0] != width[1]:
            x, inside = F.pad(x, [*width, *height]), [0, 0]
        return convolve(x, weight, bias, self.stride, inside, self.dilation, self.groups)


class ConvNorm(nn.Module):
    """A convolution with the batch norm behind it, whose stored statistics are constants.

    Both are one convolution, with weights w g / s and bias b - m g / s (s: the deviation, m: the
    mean). Their gradients are those of w, g and b, and no pass over the activations is left.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d):
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        conv, norm = self.conv, self.norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        mean = norm.running_mean if conv.bias is None else norm.running_mean - conv.bias
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - mean * scale
        own_padding = conv.padding_mode != "zeros" or isinstance(conv.padding, str)
        if own_padding or isinstance(conv, SameConv2d):
            return conv._conv_forward(x, weight, bias)
        return convolve(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)


class ReLU6(nn.Module):
    """``min(max(x, 0), 6)`` in place."""

    def forward(self, x: Tensor) -> Tensor:
        return _ReLU6.apply(x)


def fold(traced: fx.GraphModule) -> None:
    """Make each convolution and the batch norm behind it one `ConvNorm`; activations in place.

    A convolution does not need its output for its gradient, so the activation behind may take it.
    """
    calls = [node for node in traced.graph.nodes if node.op == "call_module"]
    once = {target for target, times in Counter(n.target for n in calls).items() if times == 1}
    for node in calls:
        before = node.args[0]
        if before not in calls or len(before.users) > 1 or not {node.target, before.target} <= once:
            continue
        own, feeds = traced.get_submodule(node.target), traced.get_submodule(before.target)
        if isinstance(own, nn.BatchNorm2d) and isinstance(feeds, nn.Conv2d):
            if own.affine and own.track_running_stats:
                traced.set_submodule(before.target, ConvNorm(feeds, own))
                node.replace_all_uses_with(before)
                traced.graph.erase_node(node)
        elif isinstance(own, nn.ReLU | nn.ReLU6) and isinstance(feeds, ConvNorm):
            if isinstance(own, nn.ReLU6):
                traced.set_submodule(node.target, ReLU6())
            else:
                own.inplace = True
    traced.delete_all_unused_submodules()
    traced.recompile()


def convolve(x, weight, bias, stride, padding, dilation, groups) -> Tensor:
    """``F.conv2d``; depthwise and 1x1 convolutions of stride 1 are made quicker on a CPU."""
    if x.device.type == "cpu" and tuple(stride) == (1, 1):
        whole = all(pad % step == 0 for pad, step in zip(padding, dilation, strict=True))
        if groups == x.shape[1] == weight.shape[0] and groups > 1 and whole:
            return _Depthwise.apply(x, weight, bias, padding, dilation)
        if groups == 1 and weight.shape[2:] == (1, 1) and not any(padding):
            return _Pointwise.apply(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class _ReLU6(torch.autograd.Function):
    """In place. Torch's own keeps a copy of its input, which its gradient does not need."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x.clamp_(0, 6)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(gradient, *ctx.saved_tensors, 0.0, 6.0)


class _Pointwise(torch.autograd.Function):
    """A 1x1 convolution as matrix products of ``(pixels, channels)``, which lie channels last."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        pixels, weight = _pixels(x), weight.flatten(1)
        ctx.save_for_backward(pixels, weight)
        ctx.biased = bias is not None
        found = pixels @ weight.T if bias is None else torch.addmm(bias, pixels, weight.T)
        found.resize_(len(x), *x.shape[2:], len(weight))  # a view could not be changed in place
        return found.transpose_(2, 3).transpose_(1, 2)

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        pixels, weight = ctx.saved_tensors
        changes = _pixels(gradient)
        to_x = None
        if ctx.needs_input_grad[0]:
            shape = len(gradient), *gradient.shape[2:], -1
            to_x = (changes @ weight).view(shape).permute(0, 3, 1, 2)
        to_weight = (changes.T @ pixels)[..., None, None]
        return to_x, to_weight, changes.sum(dim=0) if ctx.biased else None


def _pixels(x: Tensor) -> Tensor:
    """``(N, C, H, W)`` -> ``(N * H * W, C)``, which is no copy where channels lie last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of stride 1, channels last, whose input's gradient is one too."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, padding, dilation) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        ctx.padding, ctx.dilation, ctx.biased = padding, dilation, bias is not None
        return F.conv2d(x, weight, bias, 1, padding, dilation, x.shape[1])

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        sides = zip(weight.shape[2:], ctx.dilation, ctx.padding, strict=True)
        turned = [step * (kernel - 1) - pad for kernel, step, pad in sides]
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        to_x = F.conv2d(gradient, weight.flip(-1, -2), None, 1, turned, ctx.dilation, x.shape[1])
        to_weight = _to_weight(x, gradient, weight, ctx.padding, ctx.dilation)
        return to_x, to_weight, gradient.sum(dim=(0, 2, 3)) if ctx.biased else None, None, None


def _to_weight(x: Tensor, gradient: Tensor, weight: Tensor, padding, dilation) -> Tensor:
    """A depthwise weight's gradient by oneDNN's quick kernels: undilated, three columns at most.

    So the pixels of each phase of the dilation are an image of their own, and five columns are
    three and three with one in common: of images moved by one pixel to the left and to the right.
    """
    channels, _, rows, columns = weight.shape
    padding = [pad // step for pad, step in zip(padding, dilation, strict=True)]
    wide = columns == 5 and padding[1] == 2
    own = (_phases(t, dilation, int(wide), weight.dtype) for t in (x, gradient))
    (pixels, size), (changes, _) = own
    count = len(pixels) - 2 * wide

    def products(moved: int, columns: int) -> Tensor:
        images = pixels[moved : moved + count].view(size).permute(0, 3, 1, 2)
        middle = changes[wide : wide + count].view(size).permute(0, 3, 1, 2)
        pad = (padding[0], padding[1] - wide)
        kernel = (channels, 1, rows, columns)
        return nn.grad.conv2d_weight(images, kernel, middle, padding=pad, groups=channels)

    if not wide:
        return products(0, columns)
    return torch.cat([products(0, 3)[..., :2], products(2, 3)], dim=-1)


def _phases(x: Tensor, dilation, margin: int, dtype: torch.dtype) -> tuple[Tensor, tuple[int, ...]]:
    """``(N, C, H, W)`` as images of each phase, with ``margin`` zeros at the sides of each row.

    Pixels ``(margin + count + margin, C)``, and the images' shape ``(n, h, w, C)``.
    """
    short = [-side % step for side, step in zip(x.shape[2:], dilation, strict=True)]
    if any(short):
        x = F.pad(x, (0, short[1], 0, short[0]))
    x = x.permute(0, 2, 3, 1).unflatten(2, (-1, dilation[1])).unflatten(1, (-1, dilation[0]))
    x = x.permute(0, 2, 4, 1, 3, 5)
    (*most, width, channels), count = x.shape, x.shape[:3].numel()
    if not margin:
        return x.reshape(-1, channels).to(dtype), (count, x.shape[3], width, channels)
    height, width = most[-1], width + 2 * margin
    pixels = x.new_empty(count * height * width + 2 * margin, channels, dtype=dtype)
    pixels[:margin], pixels[-margin:] = 0, 0
    images = pixels[margin:-margin].view(*most, width, channels)
    images[..., :margin, :], images[..., -margin:, :] = 0, 0
    images[..., margin:-margin, :] = x
    return pixels, (count, height, width, channels)
