"""Convolutions with channels last: a Conformer's convolution module, those of subsampling and of mouth and waveform.

ESPnet turns ``(batch, frames, channels)`` into ``(batch, channels, frames)`` for them. On a CPU oneDNN's depthwise
and strided kernels are several times faster when channels stay last, and a pointwise convolution is a linear layer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from lrsms.espnet.compat import ConvolutionModule, mask_padded_frames
from lrsms.espnet.models.fast.switch import plain_wanted
from lrsms.lowrank.hooks import hooked_within
from lrsms.lowrank.layers import LowRankConv1d, LowRankConv2d


class FastConvolutionModule(ConvolutionModule):
    """ESPnet's ``ConvolutionModule`` without transposes."""

    def forward(self, x: torch.Tensor, mask_pad: torch.Tensor | None = None) -> torch.Tensor:
        """``(batch, frames, channels)`` to the same shape.

        ``mask_pad (batch, 1, frames)`` is True for a frame and False for padding; None for no mask.
        """
        convolutions = (self.pointwise_conv1, self.depthwise_conv, self.pointwise_conv2)
        linear = isinstance(self.pointwise_conv1, PointwiseLinear)
        known = all(map(_pointwise, convolutions[::2]))
        if not linear and (plain_wanted() or not known or hooked_within(*convolutions)):
            return super().forward(x) if mask_pad is None else super().forward(x, mask_pad)
        batch, frames, channels = x.shape
        x = F.glu(_as_linear(self.pointwise_conv1, x), dim=-1)
        if mask_pad is not None:
            x = mask_padded_frames(x.transpose(1, 2), mask_pad).transpose(1, 2)
        x = _depthwise(self.depthwise_conv, x)
        x = self.activation(self.norm(x.reshape(-1, channels)))  # statistics over frames of all utterances
        return _as_linear(self.pointwise_conv2, x.view(batch, frames, channels))


def _pointwise(convolution: nn.Module) -> bool:
    return type(convolution) in (nn.Conv1d, LowRankConv1d)


class PointwiseLinear(nn.Sequential):
    """A pointwise convolution as linear layers, ``(..., in)`` to ``(..., out)``: torch quantizes those alone."""


def pointwise_as_linear_(model: nn.Module) -> None:
    """Turn the pointwise convolutions of fast convolution modules into linear layers; names of weights change."""
    for module in model.modules():
        if isinstance(module, FastConvolutionModule):
            for name in ("pointwise_conv1", "pointwise_conv2"):
                convolution = getattr(module, name)
                if _pointwise(convolution):
                    setattr(module, name, PointwiseLinear(*map(_linear_like, _layers(convolution))))


def _linear_like(convolution: nn.Conv1d) -> nn.Linear:
    linear = nn.Linear(convolution.in_channels, convolution.out_channels, bias=convolution.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(convolution.weight.squeeze(-1))
        if convolution.bias is not None:
            linear.bias.copy_(convolution.bias)
    return linear.to(convolution.weight).train(convolution.training)


def _layers(convolution: nn.Conv1d | LowRankConv1d) -> tuple[nn.Module, ...]:
    return tuple(convolution) if isinstance(convolution, LowRankConv1d) else (convolution,)


def _as_linear(convolution: nn.Conv1d | LowRankConv1d | PointwiseLinear, x: torch.Tensor) -> torch.Tensor:
    """``(..., in)`` to ``(..., out)`` by the weights of a pointwise convolution."""
    if isinstance(convolution, PointwiseLinear):
        return convolution(x)
    for layer in _layers(convolution):
        x = F.linear(x, layer.weight.squeeze(-1), layer.bias)
    return x


def _depthwise(convolution: nn.Conv1d, x: torch.Tensor) -> torch.Tensor:
    """Depthwise convolution of ``(batch, frames, channels)`` over frames."""
    if x.device.type != "cpu" or type(convolution) not in (nn.Conv1d, MaskedConv1d):  # another subclass may do more
        return convolution(x.transpose(1, 2)).transpose(1, 2)
    if (mask := getattr(convolution, "padding_mask", None)) is not None:
        x = x.masked_fill(mask[:, :, None], 0.0)
    image = x.transpose(1, 2).unsqueeze(2)  # (batch, channels, 1, frames) with channels last in memory
    weight = convolution.weight.unsqueeze(2)
    padding = (0, convolution.padding[0])
    image = F.conv2d(image, weight, convolution.bias, padding=padding, groups=convolution.groups)
    return image.squeeze(2).transpose(1, 2)


class MaskedConv1d(nn.Conv1d):
    """A Conformer's depthwise convolution that sees zeros where an utterance has padding.

    ESPnet's sees what the layers before made of the padding, so that the last frames of an utterance depend on the
    batch it is in.

    Args:
        like: the convolution it stands for; weights are not taken over.
    """

    def __init__(self, like: nn.Conv1d):
        super().__init__(
            like.in_channels,
            like.out_channels,
            like.kernel_size,
            padding=like.padding,
            groups=like.groups,
            bias=like.bias is not None,
        )
        self.padding_mask: torch.Tensor | None = None  # (batch, frames), for one forward pass

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, channels, frames)`` to the same."""
        return super().forward(x if self.padding_mask is None else x.masked_fill(self.padding_mask[:, None], 0.0))


class FastConv2d(nn.Conv2d):
    """A convolution of an audio-visual front-end's ResNet, channels last, on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, in, height, width)`` to ``(batch, out, height', width')``."""
        if x.device.type != "cpu" or plain_wanted():
            return super().forward(x)
        if self.kernel_size == (1, 1):
            x = x[:, :, :: self.stride[0], :: self.stride[1]].permute(0, 2, 3, 1)
            return F.linear(x, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        # Few channels in pictures: oneDNN's own gradient of the weights is as fast, or faster.
        few = self.kernel_size[0] > 1 and min(self.in_channels, self.out_channels) < 128
        if few or not (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x)
        x = _Convolution.apply(x, self.weight, self.stride, self.padding)
        return x if self.bias is None else x + self.bias.to(x.dtype)[:, None, None]


class FastConv2dStack(nn.Sequential):
    """The Conv2d and ReLU of ESPnet's ``Conv2dSubsampling`` classes, channels last, on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(batch, 1, frames, bins)`` to ``(batch, channels, frames', bins')``."""
        if x.device.type != "cpu" or plain_wanted() or hooked_within(self):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self:
            # In place: a convolution's backward does not ask for its output.
            x = F.relu(x, inplace=True) if isinstance(layer, nn.ReLU) else _convolve(layer, x)
        return x


def stack_is_known(stack: nn.Module) -> bool:
    """True for what :class:`FastConv2dStack` computes: plain strided convolutions, each followed by a ReLU."""
    if type(stack) is not nn.Sequential or len(stack) % 2:
        return False
    convolutions = [layer[0] if isinstance(layer, LowRankConv2d) else layer for layer in stack[::2]]
    return all(type(layer) is nn.ReLU for layer in stack[1::2]) and all(
        type(layer) is nn.Conv2d
        and (layer.padding, layer.dilation, layer.groups) == ((0, 0), (1, 1), 1)
        and layer.padding_mode == "zeros"
        for layer in convolutions
    )


def _convolve(layer: nn.Conv2d | LowRankConv2d, x: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, LowRankConv2d):
        x = _convolve(layer[0], x).permute(0, 2, 3, 1)
        return F.linear(x, layer[1].weight.flatten(1), layer[1].bias).permute(0, 3, 1, 2)
    if layer.in_channels == 1:
        return _convolve_one_channel(layer, x)
    x = _Convolution.apply(x, layer.weight, layer.stride, (0, 0))
    return x if layer.bias is None else x + layer.bias.to(x.dtype)[:, None, None]


def _convolve_one_channel(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """A matrix of patches times the kernels: the patches are few numbers, and the result has its channels last."""
    height, width = (
        (size - kernel) // stride + 1 for size, kernel, stride in zip(x.shape[2:], layer.kernel_size, layer.stride)
    )
    patches = F.unfold(x, layer.kernel_size, stride=layer.stride).transpose(1, 2)  # (batch, positions, kernel area)
    x = F.linear(patches, layer.weight.flatten(1), layer.bias)
    return x.view(x.shape[0], height, width, -1).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    """Convolution, channels last; the gradient of the weights by one matrix product for each kernel position.

    oneDNN is fast at the output and at the gradient of the input in this layout, and slow at that of the weights.
    """

    @staticmethod
    def forward(
        ctx, x: torch.Tensor, weight: torch.Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            ctx.weight_dtype, x, weight = weight.dtype, x.to(dtype), weight.to(dtype)
        else:
            ctx.weight_dtype = weight.dtype
        weight = weight.contiguous(memory_format=torch.channels_last)
        ctx.stride, ctx.padding = stride, padding
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.to(x.dtype).contiguous(memory_format=torch.channels_last)
        of_input = of_weight = None
        if ctx.needs_input_grad[0]:
            of_input = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1, (True, False, False)
            )[0]
        if ctx.needs_input_grad[1]:
            of_weight = _gradient_of_weight(x, gradient, weight.shape, ctx.stride, ctx.padding).to(ctx.weight_dtype)
        return of_input, of_weight, None, None


def _gradient_of_weight(x: torch.Tensor, gradient: torch.Tensor, shape: torch.Size, stride, padding) -> torch.Tensor:
    """``(out, in, kernel, kernel)`` from ``x (batch, in, h, w)`` and the output's gradient, both channels last."""
    out_channels, in_channels, kernel_height, kernel_width = shape
    height, width = gradient.shape[2:]
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    gradient = gradient.permute(0, 2, 3, 1).reshape(-1, out_channels).t()
    result = x.new_empty(kernel_height, kernel_width, out_channels, in_channels)
    for row in range(kernel_height):
        rows = slice(row, row + (height - 1) * stride[0] + 1, stride[0])
        for column in range(kernel_width):
            columns = slice(column, column + (width - 1) * stride[1] + 1, stride[1])
            torch.mm(gradient, x[:, rows, columns].reshape(-1, in_channels), out=result[row, column])
    return result.permute(2, 3, 0, 1)
