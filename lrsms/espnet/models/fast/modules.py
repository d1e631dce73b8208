"""Put the fast forms in place of ESPnet's modules: a module keeps its weights and its name, and changes its class."""

from __future__ import annotations

import sys

import torch
from torch import nn

from lrsms.avsr.frontends import AudioResNet, MouthResNet
from lrsms.errors import LrsmsError
from lrsms.espnet import compat
from lrsms.espnet.models.fast.attention import FastAttention, FastRelPositionAttention, mark_memory_attention
from lrsms.espnet.models.fast.convolution import FastConv2d, FastConv2dStack, FastConvolutionModule, stack_is_known
from lrsms.espnet.models.fast.dropout import FastDropout
from lrsms.espnet.models.fast.encoder_layer import FastConformerLayer, FastDecoderLayer

FAST_CHOICES = (True, False, "compile")
_FAST = {
    compat.RelPositionMultiHeadedAttention: FastRelPositionAttention,
    compat.MultiHeadedAttention: FastAttention,
    compat.ConvolutionModule: FastConvolutionModule,
    compat.ConformerLayer: FastConformerLayer,
    compat.DecoderLayer: FastDecoderLayer,
    nn.Dropout: FastDropout,
}


def make_fast_(part: nn.Module, fast: bool | str = True, where: str = "fast") -> nn.Module:
    """Change the classes of the modules in ``part`` that have a fast form, in place; no weight changes its name.

    Args:
        part: an encoder or decoder of ESPnet, dense or factored.
        fast: True; False to leave it as it is; ``compile`` to have torch compile its blocks as well, for any length.
        where: the key's full name for error messages.

    Returns:
        ``part`` itself.

    Raises:
        LrsmsError: ``fast`` is something else.
    """
    if fast not in FAST_CHOICES or (isinstance(fast, int) and not isinstance(fast, bool)):
        raise LrsmsError(f"{where}: {fast!r} is unknown; choose one of true, false, compile")
    if not fast:
        return part
    for module in list(part.modules()):
        if type(module) in _FAST:
            module.__class__ = _FAST[type(module)]
        elif isinstance(module, (AudioResNet, MouthResNet)):
            for layer in module.stages.modules():
                if type(layer) is nn.Conv2d:
                    layer.__class__ = FastConv2d
        for name, child in module.named_children():
            if isinstance(child, compat.Swish):
                setattr(module, name, nn.SiLU())
            elif name == "conv" and type(module) in compat.CONV2D_SUBSAMPLINGS and stack_is_known(child):
                child.__class__ = FastConv2dStack
    mark_memory_attention(part)
    if fast == "compile":
        _compile_blocks(part, where)
    return part


def _compile_blocks(part: nn.Module, where: str) -> None:
    """Compile each block by itself: they share one graph, and lengths may change without a new one."""
    blocks = [block for name in ("encoders", "decoders") for block in getattr(part, name, None) or ()]
    try:
        torch.compile(_probe, dynamic=True)(torch.ones(3))
    except Exception as error:  # whatever keeps torch from compiling here: no C++ compiler, an unknown platform
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        print(f"{where}: compile: torch cannot compile on this machine ({reason}); going on without", file=sys.stderr)
        return
    for block in blocks:
        block.compile(dynamic=True)


def _probe(x: torch.Tensor) -> torch.Tensor:
    return x + 1
