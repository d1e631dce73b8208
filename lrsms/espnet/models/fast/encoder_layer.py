"""A Conformer block that adds each module's output to its input in one pass, and a decoder's block.

ESPnet's multiplies it by one before, or by one and then by a half: passes over all activations of their own, in
training twice. The weights of both blocks are rounded for autocast at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lrsms.espnet.compat import ConformerLayer, DecoderLayer, mask_of_convolution
from lrsms.espnet.models.fast.rounding import rounded_weights
from lrsms.espnet.models.fast.switch import plain_wanted


class FastConformerLayer(ConformerLayer):
    """ESPnet's Conformer ``EncoderLayer``; stochastic depth, a cache and concatenation are left to ESPnet's code."""

    def forward(self, x_input, mask, cache=None):
        """As ESPnet's: ``(batch, frames, features)``, with positional embedding ``(1, 2 * frames - 1, features)``."""
        skips = self.training and self.stochastic_depth_rate > 0
        if cache is not None or self.concat_after or skips or plain_wanted() or not isinstance(x_input, tuple):
            return super().forward(x_input, mask, cache)
        if torch.compiler.is_compiling():  # which rounds and adds in kernels of its own
            return self._forward(x_input, mask)
        with rounded_weights(self):
            return self._forward(x_input, mask)

    def _forward(self, x_input: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor):
        x, positions = x_input
        if self.feed_forward_macaron is not None:
            x = self._add(x, self.norm_ff_macaron, self.feed_forward_macaron, self.ff_scale)
        x = self._add(x, self.norm_mha, lambda y: self.self_attn(y, y, y, positions, mask))
        if self.conv_module is not None:
            x = self._add(x, self.norm_conv, lambda y: self.conv_module(y, **mask_of_convolution(self, mask)))
        x = self._add(x, self.norm_ff, self.feed_forward, self.ff_scale)
        if self.conv_module is not None:
            x = self.norm_final(x)
        return (x, positions), mask

    def _add(self, x: torch.Tensor, norm: nn.Module, module: Callable, scale: float = 1.0) -> torch.Tensor:
        y = torch.add(x, self.dropout(module(norm(x) if self.normalize_before else x)), alpha=scale)
        return y if self.normalize_before else norm(y)


class FastDecoderLayer(DecoderLayer):
    """ESPnet's Transformer ``DecoderLayer``."""

    def forward(self, *args, **kwargs):
        """As ESPnet's."""
        if plain_wanted() or torch.compiler.is_compiling():
            return super().forward(*args, **kwargs)
        with rounded_weights(self):
            return super().forward(*args, **kwargs)
