"""What differs between ESPnet 202511 and 202611, and what both say or load too often, in one place."""

import contextlib
import datetime
import importlib
import importlib.util
import logging
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import nn

from lrsms.startup import starts_quickly

_Value = TypeVar("_Value")
_SUBSAMPLING_OUT = ".out"  # 202511: Sequential(Linear, positions); since 202611 the Linear itself
_ASIDE = ".factored_out."


@contextlib.contextmanager
def nothing_printed() -> Iterator[None]:
    """Keep the terminal quiet within this context."""
    # The files, not sys.stdout itself: ESPnet's print_config keeps the sys.stdout of its import as a default argument.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in saved:
            os.dup2(null, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)
        os.close(null)


class _Later(types.ModuleType):
    """Stands for a module until something of it is asked for."""

    def __getattr__(self, name: str):
        if name.startswith("__") and name != "__path__":  # inspect asks every module for its __file__
            raise AttributeError(f"module {self.__name__!r} is not loaded yet, and so has no {name}")
        for other in [key for key, module in sys.modules.items() if isinstance(module, _Later)]:
            if other.split(".")[0] == self.__name__.split(".")[0]:
                del sys.modules[other]
        return getattr(importlib.import_module(self.__name__), name)


def load_later(*names: str) -> None:
    """Have modules loaded when they are first used, where a later ``import`` names them.

    Args:
        names: of modules; a package before its modules. One that is loaded already or not installed is left alone.
    """
    for name in names:
        parent = sys.modules.get(name.partition(".")[0])
        if name not in sys.modules and (isinstance(parent, _Later) or importlib.util.find_spec(name) is not None):
            sys.modules[name] = _Later(name)


# English pronunciation and TTS's text cleaner, which ESPnet imports for every task: they take a fifth to a third of
# its imports' time, and the first asks the network for NLTK's data.
load_later("g2p_en", "tacotron_cleaner", "tacotron_cleaner.cleaners")
if starts_quickly():  # of data and augmentation that ESPnet's own recipes have
    load_later("h5py", "scipy.signal")

with nothing_printed():  # the second says that flash attention is not installed
    try:  # 202611 moved espnet.nets to espnet2.legacy.nets
        from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
        from espnet2.legacy.nets.beam_search import BeamSearch, Hypothesis
        from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule
        from espnet2.legacy.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer as ConformerLayer
        from espnet2.legacy.nets.pytorch_backend.conformer.swish import Swish
        from espnet2.legacy.nets.pytorch_backend.nets_utils import make_pad_mask
        from espnet2.legacy.nets.pytorch_backend.transformer import attention, subsampling
        from espnet2.legacy.nets.pytorch_backend.transformer.decoder_layer import DecoderLayer
        from espnet2.legacy.nets.pytorch_backend.transformer.embedding import PositionalEncoding
        from espnet2.legacy.nets.pytorch_backend.transformer.layer_norm import LayerNorm
        from espnet2.legacy.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
        from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer
    except ImportError:
        from espnet.nets.batch_beam_search import BatchBeamSearch
        from espnet.nets.beam_search import BeamSearch, Hypothesis
        from espnet.nets.pytorch_backend.conformer.convolution import ConvolutionModule
        from espnet.nets.pytorch_backend.conformer.encoder_layer import EncoderLayer as ConformerLayer
        from espnet.nets.pytorch_backend.conformer.swish import Swish
        from espnet.nets.pytorch_backend.nets_utils import make_pad_mask
        from espnet.nets.pytorch_backend.transformer import attention, subsampling
        from espnet.nets.pytorch_backend.transformer.decoder_layer import DecoderLayer
        from espnet.nets.pytorch_backend.transformer.embedding import PositionalEncoding
        from espnet.nets.pytorch_backend.transformer.layer_norm import LayerNorm
        from espnet.nets.pytorch_backend.transformer.positionwise_feed_forward import PositionwiseFeedForward
        from espnet.nets.scorers.ctc import CTCPrefixScorer

MultiHeadedAttention = attention.MultiHeadedAttention
RelPositionMultiHeadedAttention = attention.RelPositionMultiHeadedAttention
CONV2D_SUBSAMPLINGS = tuple(
    getattr(subsampling, name)
    for name in ("Conv2dSubsampling", *(f"Conv2dSubsampling{factor}" for factor in (1, 2, 6, 8)))
)


def seconds(time: datetime.timedelta | Mapping[str, float]) -> float:
    """A duration of ESPnet's reporter, as it stands in ``checkpoint.pth``: 202611 writes a dict."""
    return time["__timedelta_seconds__"] if isinstance(time, Mapping) else time.total_seconds()


def current_names(model: nn.Module, weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """Weights that ESPnet 202511 saved, by the names of the installed ESPnet, whose ``model`` is to take them.

    Since 202611 the linear layer behind the subsampling is ``embed.out``; before it was ``embed.out.0``, of a
    low-rank model ``embed.out.0.0`` and ``embed.out.0.1``. Other names stay.
    """
    renamed = dict(weights)
    for path, module in model.named_modules():
        if not path.endswith(_SUBSAMPLING_OUT) or type(module) is nn.Sequential:
            continue
        old = f"{path}.0."
        if f"{old}0.weight" in renamed or (f"{old}weight" in renamed and f"{path}.1.weight" not in renamed):
            renamed = {_replaced(name, old, f"{path}."): value for name, value in renamed.items()}
    return renamed


def load_factored_subsampling(model: nn.Module) -> None:
    """Have ``model`` load factors of ``embed.out``, its own and those of ESPnet 202511.

    ESPnet 202611 takes ``embed.out.0`` and ``embed.out.1`` of a checkpoint for what 202511 had there, and renames
    them: our two factors have these names as well, so they stand aside meanwhile.
    """
    found = _factored_outs(model)
    if found:
        model.register_load_state_dict_pre_hook(_set_aside)
    for path in found:
        model.get_submodule(path.removesuffix(_SUBSAMPLING_OUT)).register_load_state_dict_pre_hook(_bring_back)


def _set_aside(model: nn.Module, weights: dict, prefix: str, *_) -> None:
    inside = {name.removeprefix(prefix): weights.pop(name) for name in list(weights) if name.startswith(prefix)}
    for name, value in current_names(model, inside).items():
        for path in _factored_outs(model):
            name = _replaced(name, f"{path}.", path.removesuffix(_SUBSAMPLING_OUT) + _ASIDE)
        weights[prefix + name] = value


def _bring_back(subsampling: nn.Module, weights: dict, prefix: str, *_) -> None:
    for name in list(weights):
        renamed = _replaced(name, prefix + _ASIDE[1:], f"{prefix}{_SUBSAMPLING_OUT[1:]}.")
        if renamed != name:
            weights[renamed] = weights.pop(name)


def _factored_outs(model: nn.Module) -> list[str]:
    """Paths of layers behind a subsampling that are two factors: a subclass of ESPnet's Sequential."""
    return [
        path
        for path, module in model.named_modules()
        if path.endswith(_SUBSAMPLING_OUT) and isinstance(module, nn.Sequential) and type(module) is not nn.Sequential
    ]


def _replaced(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


# Of an error rate over no words, early in a training.
for _message in ("Mean of empty slice", "invalid value encountered in scalar divide"):
    warnings.filterwarnings("ignore", category=RuntimeWarning, message=_message, module=r"numpy\.")
# On every forward pass, about a spelling of autocast that is ESPnet's own.
warnings.filterwarnings("ignore", category=FutureWarning, message=r"`torch.cuda.amp.autocast", module=r"espnet2\.")
# At every step of an LSTM decoder, about a list that is ESPnet's own.
logging.getLogger().addFilter(lambda record: "make_pad_mask with a list" not in str(record.msg))
# ESPnet's programs run inside lrsms.espnet.__main__, where typeguard looks for their source.
warnings.filterwarnings("ignore", message="instrumentor did not find the target function")

__all__ = [
    "CONV2D_SUBSAMPLINGS",
    "BatchBeamSearch",
    "BeamSearch",
    "CTCPrefixScorer",
    "ConformerLayer",
    "ConvolutionModule",
    "DecoderLayer",
    "Hypothesis",
    "LayerNorm",
    "MultiHeadedAttention",
    "PositionalEncoding",
    "PositionwiseFeedForward",
    "RelPositionMultiHeadedAttention",
    "Swish",
    "current_names",
    "load_factored_subsampling",
    "make_pad_mask",
    "nothing_printed",
    "seconds",
]
