"""Front-ends of auto_avsr (Ma et al. 2023): ResNets (He et al. 2016), of the waveform and of the mouth, at 25 Hz.

Their widths and depths are free, from the reference's ResNet-18 down to what two CPU cores train. Both keep an
utterance apart from its padding: it gives the same features alone and in a padded batch.

Dimensions: B utterances, T video frames of the longest, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from lrsms.avsr.frames import SAMPLES
from lrsms.errors import LrsmsError

RESNET18 = {"channels": (64, 128, 256, 512), "blocks": (2, 2, 2, 2)}
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU}
# Of gray mouth regions in [0, 1]; the reference's.
PIXEL_MEAN, PIXEL_STD = 0.421, 0.165


class AudioResNet(nn.Module):
    """1-D ResNet on the raw waveform: ``(B, T * 640)`` at 16 kHz -> ``(B, T, C of the last stage)``.

    A convolution over 80 samples every 4 and stages that halve the rate from the second on; what is left above 25 per
    second is averaged. The waveform is first brought to mean 0 and variance 1 over the utterance. Convolutions are
    torch's 2-D ones of height 1, which are a third faster on a CPU and can be factored.

    Args:
        channels: of each stage.
        blocks: residual blocks of each stage, two convolutions each.
        stem_kernel, stem_stride: of the first convolution, in samples.
        activation: ``swish`` or ``relu``.

    Raises:
        LrsmsError: a value out of its range, or strides that do not divide a frame's 640 samples.
    """

    def __init__(
        self,
        channels: Sequence[int] = RESNET18["channels"],
        blocks: Sequence[int] = RESNET18["blocks"],
        stem_kernel: int = 80,
        stem_stride: int = 4,
        activation: str = "swish",
    ):
        super().__init__()
        _check(channels, blocks, activation, "audio_frontend")
        stride = stem_stride * 2 ** (len(channels) - 1)
        if stem_stride < 1 or SAMPLES % stride:
            raise LrsmsError(
                f"audio_frontend.stem_stride: {stem_stride}: with {len(channels)} stages {stride} samples become one, "
                f"which does not divide the {SAMPLES} of a video frame"
            )
        if stem_kernel < stem_stride or (stem_kernel - stem_stride) % 2:
            raise LrsmsError(
                f"audio_frontend.stem_kernel: {stem_kernel} is not stem_stride, {stem_stride}, plus an even number"
            )
        padding = (0, (stem_kernel - stem_stride) // 2)
        self.stem = nn.Conv2d(1, channels[0], (1, stem_kernel), (1, stem_stride), padding, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        self.activation = ACTIVATIONS[activation]()
        self.stages = _stages(channels, blocks, (1, 3), activation)
        self.pooled = SAMPLES // stride
        self.features = channels[-1]

    def forward(self, samples: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Features ``(B, T, C)``.

        Args:
            samples: ``(B, T * 640)``.
            real: ``(B, T)``, false behind the end of an utterance; None if no utterance has padding.
        """
        x = _standardized(samples, real)[:, None, None]
        x = x.contiguous(memory_format=torch.channels_last)
        x = _silence_padding(self.activation(self.norm(self.stem(x))), real)
        for stage in self.stages:
            for block in stage:
                x = _silence_padding(block(x, real), real)
        return nn.functional.avg_pool2d(x, (1, self.pooled)).squeeze(2).transpose(1, 2)


class MouthResNet(nn.Module):
    """3-D convolution and a 2-D ResNet on each frame: ``(B, T, height, width)`` -> ``(B, T, C of the last stage)``.

    The 3-D convolution sees 5 frames and 7 x 7 pixels and halves height and width, as does the pooling behind it and
    every stage but the first; what is left of a frame is averaged. Frames of padding are never computed and so are not
    in the statistics of the ResNet's batch normalization.

    Args:
        channels, blocks, activation: as in :class:`AudioResNet`.
        stem_channels: of the 3-D convolution; by default those of the first stage.

    Raises:
        LrsmsError: a value out of its range.
    """

    def __init__(
        self,
        channels: Sequence[int] = RESNET18["channels"],
        blocks: Sequence[int] = RESNET18["blocks"],
        stem_channels: int | None = None,
        activation: str = "swish",
    ):
        super().__init__()
        _check(channels, blocks, activation, "video_frontend")
        stem_channels = channels[0] if stem_channels is None else stem_channels
        self.stem = _FrameConvolution(stem_channels)
        self.norm = nn.BatchNorm2d(stem_channels)
        self.activation = ACTIVATIONS[activation]()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stages = _stages(channels, blocks, (3, 3), activation, inputs=stem_channels)
        self.features = channels[-1]

    def forward(self, regions: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Features ``(B, T, C)``, zero where an utterance has padding.

        Args:
            regions: ``(B, T, height, width)`` in [0, 1].
            real: as in :class:`AudioResNet`.
        """
        batch, frames = regions.shape[:2]
        x = (regions - PIXEL_MEAN) / PIXEL_STD
        if real is not None:
            x = x * real[:, :, None, None]  # as the zeros that the convolution itself adds at the ends
        x = self.pool(self.activation(self.norm(self.stem(x))))  # (B * T, C, height / 4, width / 4)
        x = x if real is None else x[real.flatten()]
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            for block in stage:
                x = block(x)
        x = x.mean((2, 3))
        if real is None:
            return x.unflatten(0, (batch, frames))
        return x.new_zeros(batch, frames, self.features).masked_scatter(real[:, :, None], x)


class _FrameConvolution(nn.Conv3d):
    """3-D convolution of gray pictures over 5 frames and 7 x 7 pixels, every other pixel.

    Computed as a 2-D convolution of every frame with its neighbors as channels: the same sums, and channels last.
    """

    def __init__(self, channels: int):
        super().__init__(1, channels, (5, 7, 7), stride=(1, 2, 2), padding=(2, 3, 3), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, T, height, width)`` to ``(B * T, channels, height / 2, width / 2)``."""
        frames, side, span = self.padding[0], self.padding[1], self.kernel_size[0]
        x = nn.functional.pad(x, (0, 0, 0, 0, frames, frames)).unfold(1, span, 1).flatten(0, 1).permute(0, 3, 1, 2)
        return nn.functional.conv2d(x, self.weight[:, 0], stride=self.stride[1:], padding=side)


class ResidualBlock(nn.Module):
    """Two convolutions and what goes past them: ResNet's basic block.

    Args:
        inputs, outputs: channels.
        kernel: ``(3, 3)`` for pictures; ``(1, 3)`` along a waveform, which has height 1.
        stride: of the first convolution, in every direction in which the kernel extends.
        activation: ``swish`` or ``relu``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int, activation: str):
        super().__init__()
        strides = tuple(stride if size > 1 else 1 for size in kernel)
        padding = tuple(size // 2 for size in kernel)
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, strides, padding, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel, 1, padding, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.activation = ACTIVATIONS[activation]()
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, strides, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """``(N, inputs, height, width)`` to ``(N, outputs, ...)``.

        Args:
            real: ``(N, video frames)`` where the width is time, so that the second convolution sees no padding.
        """
        y = _silence_padding(self.activation(self.norm1(self.conv1(x))), real)
        return self.activation(self.norm2(self.conv2(y)) + self.shortcut(x))


def _silence_padding(x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Zero ``(B, C, 1, positions)`` behind the end of each utterance, a whole number of positions to a frame."""
    if real is None:
        return x
    return x * real.repeat_interleave(x.shape[3] // real.shape[1], 1)[:, None, None]


def _standardized(samples: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """Mean 0 and variance 1 over each utterance's own samples, zeros behind them."""
    if real is None:
        return nn.functional.layer_norm(samples, samples.shape[1:])
    real = real.repeat_interleave(SAMPLES, 1)
    count = real.sum(1, keepdim=True)
    centered = (samples - (samples * real).sum(1, keepdim=True) / count) * real
    return centered * torch.rsqrt(centered.square().sum(1, keepdim=True) / count + 1e-5)


def _stages(
    channels: Sequence[int], blocks: Sequence[int], kernel: tuple[int, int], activation: str, inputs: int | None = None
) -> nn.ModuleList:
    """Residual blocks, a list of each stage; from the second stage on the first block has stride 2."""
    stages, before = nn.ModuleList(), channels[0] if inputs is None else inputs
    for stage, (width, count) in enumerate(zip(channels, blocks)):
        stages.append(nn.ModuleList())
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            stages[-1].append(ResidualBlock(before, width, kernel, stride, activation))
            before = width
    return stages


def _check(channels: Sequence[int], blocks: Sequence[int], activation: str, where: str) -> None:
    for name, numbers in (("channels", channels), ("blocks", blocks)):
        if not numbers or any(not isinstance(number, int) or number < 1 for number in numbers):
            raise LrsmsError(f"{where}.{name}: {numbers!r} is not a list of whole numbers of at least 1, one a stage")
    if len(channels) != len(blocks):
        raise LrsmsError(
            f"{where}: channels has {len(channels)} stages and blocks {len(blocks)}; write one number each for a stage"
        )
    if activation not in ACTIVATIONS:
        raise LrsmsError(f"{where}.activation: {activation!r} is unknown; one of {', '.join(ACTIVATIONS)}")
