"""What differs between ESPnet 202511 and 202611, and what both say or load too often, in one place."""

import contextlib
import datetime
import importlib
import importlib.machinery
import importlib.util
import inspect
import logging
import os
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import nn

from lrsms.startup import starts_quickly

_Value = TypeVar("_Value")


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
        if name not in sys.modules and (isinstance(parent, _Later) or _is_installed(name)):
            sys.modules[name] = _Later(name)


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package that is not
        return False


# English pronunciation and TTS's text cleaner, which ESPnet imports for every task: they take a fifth to a third of
# its imports' time, and the first asks the network for NLTK's data.
load_later("g2p_en", "tacotron_cleaner", "tacotron_cleaner.cleaners")
if starts_quickly():  # of data and augmentation that ESPnet's own recipes have
    load_later("h5py", "scipy.signal")

with nothing_printed():  # the second says that flash attention is not installed
    try:  # 202611 moved espnet.nets to espnet2.legacy.nets
        from espnet2.legacy.nets.batch_beam_search import BatchBeamSearch
        from espnet2.legacy.nets.beam_search import BeamSearch, Hypothesis
        from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule, mask_padded_frames
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

        mask_padded_frames = None  # a convolution is not given a mask

MultiHeadedAttention = attention.MultiHeadedAttention
RelPositionMultiHeadedAttention = attention.RelPositionMultiHeadedAttention
CONV2D_SUBSAMPLINGS = tuple(
    getattr(subsampling, name)
    for name in ("Conv2dSubsampling", *(f"Conv2dSubsampling{factor}" for factor in (1, 2, 6, 8)))
)
_SUBSAMPLINGS = CONV2D_SUBSAMPLINGS + tuple(getattr(subsampling, f"Conv1dSubsampling{factor}") for factor in (1, 2, 3))


def seconds(time: datetime.timedelta | Mapping[str, float]) -> float:
    """A duration of ESPnet's reporter, as it stands in ``checkpoint.pth``: 202611 writes a dict."""
    return time["__timedelta_seconds__"] if isinstance(time, Mapping) else time.total_seconds()


def current_names(model: nn.Module, weights: Mapping[str, _Value]) -> dict[str, _Value]:
    """Weights that either version of ESPnet saved, by the names of the installed one, whose ``model`` is to take them.

    Since 202611 the linear layer behind the subsampling is ``embed.out`` and its positions are ``embed.pos_enc``;
    before they were ``embed.out.0`` and ``embed.out.1``. The two factors of a low-rank layer are ``.0`` and ``.1`` of
    the layer's own name. Other names stay. Where both versions' names are there, as in ESPnet's ``--init_param``,
    which adds a file's weights to the model's own, those of the other version are the file's.
    """
    renamed = dict(weights)
    for path, module in model.named_modules():
        if isinstance(module, _SUBSAMPLINGS):
            _rename(module, renamed, f"{path}." if path else "")
    return renamed


def current_paths(model: nn.Module, by_path: Mapping[str, _Value]) -> dict[str, _Value]:
    """What either version of ESPnet knows by a layer's path, by the paths of the installed one's dense ``model``."""
    renamed = dict(by_path)
    for path, module in model.named_modules():
        if isinstance(module, _SUBSAMPLINGS):
            ours, theirs = (f"{path}.out{end}" for end in ((".0", "") if _positions_inside(module) else ("", ".0")))
            if theirs in renamed:
                renamed[ours] = renamed.pop(theirs)
    return renamed


def load_either_versions_names(model: nn.Module) -> None:
    """Have ``model`` take weights of either version before other hooks of it look at them."""
    model.register_load_state_dict_pre_hook(_take_current_names)


def _take_current_names(model: nn.Module, weights: dict, prefix: str, *_) -> None:
    inside = {name: weights.pop(name) for name in list(weights) if name.startswith(prefix)}
    inside = {name.removeprefix(prefix): value for name, value in inside.items()}
    weights.update((prefix + name, value) for name, value in current_names(model, inside).items())


def _load_subsampling(module: nn.Module, weights: dict, prefix: str, *arguments) -> None:
    """In place of the method of 202611's subsampling classes, which takes two factors for 202511's layer and positions.

    202511's classes have none, and do not know names of later versions.
    """
    _rename(module, weights, prefix)
    nn.Module._load_from_state_dict(module, weights, prefix, *arguments)


def _positions_inside(module: nn.Module) -> bool:
    """Whether positions are the second part of ``out``, as 202511 has them."""
    return type(module.out) is nn.Sequential


def _rename(module: nn.Module, weights: dict, prefix: str) -> None:
    """Give the weights of one subsampling module its own names, in place."""
    at = (f"{prefix}out.", f"{prefix}pos_enc.")
    inside = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(at)}
    renamed = _positions_in(inside) if _positions_inside(module) else _positions_out(inside)
    if renamed is not None:
        for name in inside:
            del weights[prefix + name]
        weights.update((prefix + name, value) for name, value in renamed.items())
    # A training that was guided keeps the dense weight by the layer's path: see lrsms.lowrank.self_guided.
    part, _, name = prefix.rstrip(".").rpartition(".")
    guide = f"{part}.self_guide.weights.{name}/out".lstrip(".")
    ours, theirs = (f"{guide}{end}" for end in (("/0", "") if _positions_inside(module) else ("", "/0")))
    if theirs in weights:
        weights[ours] = weights.pop(theirs)


def _positions_in(weights: Mapping[str, _Value]) -> dict[str, _Value] | None:
    """Names of 202611 as 202511's; None where they are that already."""
    dense = "out.weight" in weights
    if not dense and not {"out.0.weight", "out.1.weight"} <= weights.keys():
        return None
    linear = ("out.weight", "out.bias") if dense else ("out.0.weight", "out.1.weight", "out.1.bias")
    kept = {name: value for name, value in weights.items() if _is_of_positions(name, "out.1.")}
    kept |= {_replaced(name, "out.", "out.0."): weights[name] for name in linear if name in weights}
    return kept | {
        _replaced(name, "pos_enc.", "out.1."): value for name, value in weights.items() if name.startswith("pos_enc.")
    }


def _positions_out(weights: Mapping[str, _Value]) -> dict[str, _Value] | None:
    """Names of 202511 as 202611's; None where they are that already."""
    factored = "out.0.0.weight" in weights
    dense = "out.0.bias" in weights or "out.0.weight" in weights and "out.1.weight" not in weights
    if not factored and not dense:
        return None
    linear = ("out.0.0.weight", "out.0.1.weight", "out.0.1.bias") if factored else ("out.0.weight", "out.0.bias")
    kept = {name: value for name, value in weights.items() if name.startswith("pos_enc.")}
    kept |= {_replaced(name, "out.0.", "out."): weights[name] for name in linear if name in weights}
    return kept | {
        _replaced(name, "out.1.", "pos_enc."): value
        for name, value in weights.items()
        if _is_of_positions(name, "out.1.")
    }


def _is_of_positions(name: str, at: str) -> bool:
    return name.startswith(at) and name.removeprefix(at) not in ("weight", "bias")


def _replaced(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(old) else name


for _class in _SUBSAMPLINGS:
    _class._load_from_state_dict = _load_subsampling


def restore_durations(reporter) -> None:
    """Have ESPnet's ``reporter`` hold the durations of a checkpoint as it makes them, whichever version wrote it."""
    for epoch in reporter.stats.values():
        for part in epoch.values():
            if isinstance(part.get("time"), Mapping):
                part["time"] = datetime.timedelta(seconds=seconds(part["time"]))


def mask_of_convolution(layer: nn.Module, mask: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
    """What a Conformer ``layer`` gives its convolution beside its input: since 202611 the mask of frames."""
    return {"mask_pad": mask} if getattr(layer, "_conv_takes_mask", False) else {}


def window_of_ctc(scorer: CTCPrefixScorer) -> int:
    """Frames to each side that a search gives to CTC's prefix scores, 0 for all; 202611 has the choice."""
    return getattr(scorer, "window_margin", 0)


def exact_scores(options: Mapping) -> dict:
    """Options of ``Speech2Text`` that have CTC score prefixes over the whole utterance, unless ``options`` say else.

    202611 looks at 100 frames to each side by default: with it, a model's text would depend on the version.
    """
    known = inspect.signature(CTCPrefixScorer).parameters
    return ({"ctc_window_margin": 0} if "window_margin" in known else {}) | dict(options)


def _count_edits(first: Sequence, second: Sequence) -> int:
    from kaldialign import edit_distance

    numbers: dict = {}
    first, second = ([numbers.setdefault(one, len(numbers)) for one in some] for some in (first, second))
    return edit_distance(first, second)["total"]


def provide_editdistance() -> None:
    """Give ESPnet the package by which it counts errors while it trains: 202611 does not require it any more."""
    if importlib.util.find_spec("editdistance") is None:
        module = types.ModuleType("editdistance", "The one function of the package that ESPnet calls.")
        module.__spec__ = importlib.machinery.ModuleSpec("editdistance", None)
        vars(module)["eval"] = _count_edits
        sys.modules["editdistance"] = module


provide_editdistance()

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
    "current_paths",
    "exact_scores",
    "load_either_versions_names",
    "make_pad_mask",
    "mask_of_convolution",
    "mask_padded_frames",
    "nothing_printed",
    "restore_durations",
    "seconds",
    "window_of_ctc",
]
