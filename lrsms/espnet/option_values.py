"""What options of a training YAML take, where ESPnet itself would notice late, or not at all.

ESPnet's parser converts what stands on the command line and takes a YAML's values as they are: a number that is text,
a negative ``grad_clip`` or label smoothing of 5 then trains something else, or fails in the middle of the training.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lrsms.errors import number_hint
from lrsms.typed_config import Count, Number, Positive, Share, WholeNumber, expected

Rate = Annotated[float, Meta(ge=0, lt=1, description="a number from 0 to below 1")]
Bound = Annotated[float, Meta(gt=0, description="a number above 0")]  # infinity included
Odd = Annotated[int, Meta(ge=1, description="an odd number: an even kernel would change the number of frames")]
NotZero = Annotated[float, Meta(gt=0, le=1, description="a number above 0 and at most 1")]
Files = Annotated[list[str], Meta(description="a list of files, such as [exp/x/valid.acc.ave.pth]")]
Names = Annotated[list[str], Meta(description="a list of module paths, such as [encoder.embed]")]
Best = Annotated[Count | list[Count], Meta(description="a whole number of at least 1, or a list of them")]
Betas = Annotated[list[Rate], Meta(min_length=2, max_length=2, description="two numbers from 0 to below 1")]
Phase = Literal["train", "valid"]
Criteria = Annotated[
    list[tuple[Phase, str, Literal["min", "max"]]],
    Meta(min_length=1, description="a list of [train or valid, a statistic, min or max], such as [[valid, acc, max]]"),
]
Criterion = Annotated[
    tuple[Phase, str, Literal["min", "max"]],
    Meta(description="[train or valid, a statistic, min or max], such as [valid, loss, min]"),
]
Statistic = Annotated[tuple[Phase, str], Meta(description="[train or valid, a statistic], such as [valid, loss]")]

# Option, dotted if it lies in a block -> what it takes. Others are checked by the type that ESPnet's parser gives them.
TYPES: dict[str, Any] = {
    "max_epoch": Count,
    "keep_nbest_models": Best,
    "best_model_criterion": Criteria,
    "early_stopping_criterion": Criterion,
    "val_scheduler_criterion": Statistic,
    "patience": WholeNumber | None,
    "grad_clip": Bound,
    "grad_clip_type": Bound,
    "accum_grad": Count,
    "log_interval": Count | None,
    "num_workers": WholeNumber,
    "num_att_plot": WholeNumber,
    "nbest_averaging_interval": WholeNumber,
    "seed": WholeNumber,
    "ngpu": WholeNumber,
    "input_size": Count | None,
    "init_param": Files,
    "freeze_param": Names,
    "max_duration": Positive,
    "num_buckets": Count,
    "warmup_epochs": WholeNumber,
    "distill_weight": NotZero,
    "distill_temperature": Positive,
    "distill_encoder_weight": Annotated[float, Meta(ge=0, le=1e300, description="a number of at least 0")],
    "batch_size": Count,
    "batch_bins": Count,
    "model_conf.ctc_weight": Share,
    "model_conf.interctc_weight": Rate,
    "model_conf.lsm_weight": Rate,
    "optim_conf.lr": Positive,
    "optim_conf.eps": Positive,
    "optim_conf.weight_decay": Annotated[float, Meta(ge=0, le=1e300, description="a number of at least 0")],
    "optim_conf.betas": Betas,
    "optim_conf.momentum": Rate,
    "scheduler_conf.warmup_steps": Annotated[float, Meta(ge=1, le=1e300, description="a number of at least 1")],
    "scheduler_conf.T_max": Count,
    "scheduler_conf.step_size": Count,
    "scheduler_conf.gamma": Positive,
}
_WITHOUT_WARMUP = ("cosineannealingwarmuprestarts", "exponentialdecaywarmup")  # 0 is their default
_OF_PARTS = {
    **dict.fromkeys(("output_size", "attention_heads", "num_blocks", "linear_units", "num_layers"), Count),
    **dict.fromkeys(("cnn_module_kernel", "cgmlp_conv_kernel", "merge_conv_kernel"), Odd),
    **dict.fromkeys(
        ("dropout_rate", "positional_dropout_rate", "attention_dropout_rate", "self_attention_dropout_rate"), Rate
    ),
    "src_attention_dropout_rate": Rate,
}
TYPES |= {f"{part}.{option}": kind for part in ("encoder_conf", "decoder_conf") for option, kind in _OF_PARTS.items()}

_Finite = Annotated[float, Meta(ge=-1e300, le=1e300, description="a number")]
_One = Annotated[int, Meta(ge=1, le=1, description="1: utterances are decoded one by one")]
# Options of a decoding YAML, arguments of ESPnet's Speech2Text.
DECODING: dict[str, Any] = {
    "beam_size": Count,
    "nbest": Count,
    "batch_size": _One,
    "ctc_weight": Share,
    "lm_weight": Number,
    "ngram_weight": Number,
    "penalty": _Finite,
    "maxlenratio": _Finite,  # below 0, the length itself
    "minlenratio": Number,
    "normalize_length": bool,
    "streaming": bool,
    "time_sync": bool,
    "dtype": Annotated[
        Literal["float16", "float32", "float64", "bfloat16"], Meta(description="float16, bfloat16, float32 or float64")
    ],
}


def wrong_decoding(options: Mapping) -> Iterator[tuple[str, str]]:
    """Values of a decoding YAML that :data:`DECODING` does not take: the option, and the value with what would be."""
    for option, kind in DECODING.items():
        if option in options and not _takes(kind, options[option]):
            yield option, _expecting(options[option], kind)


def _expecting(value: object, kind: Any) -> str:
    return f"{value!r}: expected {expected(kind)}{number_hint(value)}"


def wrong_values(config: Mapping) -> Iterator[tuple[tuple[str, ...], str]]:
    """Values that :data:`TYPES` does not take.

    Args:
        config: a training configuration; a list where one number is meant is left to ESPnet's class.

    Yields:
        The way to the option, such as ``("optim_conf", "lr")``, and the value with what would be right.
    """
    for dotted, kind in TYPES.items():
        block, _, option = dotted.rpartition(".")
        holder = config.get(block) if block else config
        if not isinstance(holder, Mapping) or option not in holder:
            continue
        value = holder[option]
        if (
            dotted == "scheduler_conf.warmup_steps"
            and value == 0
            and str(config.get("scheduler")).lower() in _WITHOUT_WARMUP
        ):
            continue
        if block in ("encoder_conf", "decoder_conf") and isinstance(value, list | str):
            continue
        if not _takes(kind, value):
            yield (*filter(None, (block,)), option), _expecting(value, kind)


def wrong_heads(config: Mapping, classes: Mapping[str, type]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Numbers of attention heads that do not divide the encoder's width, as :func:`wrong_values` yields them.

    Args:
        config: a training configuration.
        classes: class of ``encoder`` and ``decoder``, whose options have defaults.
    """
    width = _option(config, classes, "encoder", "output_size")
    behind = config.get("postencoder") not in (None, "none")  # the decoder sees another width then
    for part in ("encoder",) if behind else ("encoder", "decoder"):
        heads = _option(config, classes, part, "attention_heads")
        if isinstance(heads, int) and isinstance(width, int) and heads > 0 and width % heads:
            named = "attention_heads" in (config.get(f"{part}_conf") or {})
            keys = (f"{part}_conf", "attention_heads") if named else ("encoder_conf", "output_size")
            fitting = ", ".join(str(number) for number in range(1, min(width, 16) + 1) if width % number == 0)
            yield keys, f"{heads} attention heads of the {part} do not divide its width, {width}; {fitting} would"


def _option(config: Mapping, classes: Mapping[str, type], part: str, option: str) -> object:
    if part not in classes:
        return None
    parameter = inspect.signature(classes[part]).parameters.get(option)
    return (config.get(f"{part}_conf") or {}).get(option, getattr(parameter, "default", None))


def _takes(kind: Any, value: object) -> bool:
    if kind is Odd and isinstance(value, int) and value % 2 == 0:
        return False
    if isinstance(value, float) and value != value:
        return False
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def wrong_value(action: argparse.Action, value: object) -> str | None:
    """What is wrong with a YAML's value of an option of ESPnet's parser, and what would be right; None if nothing is.

    Text is fine if the parser, which converts it, can.
    """
    kind = getattr(action.type, "__name__", "")
    if action.nargs in ("*", "+", 2, 3) or isinstance(action, argparse._AppendAction):
        return None if isinstance(value, list | tuple | type(None)) else f"{value!r}: expected a list"
    if value is None and (action.default is None or kind.endswith("none") or kind == "<lambda>"):
        return None
    if type(action).__name__ == "NestedDictAction":
        return None if isinstance(value, Mapping | None) else f"{value!r}: expected a mapping of options"
    converted = _converted(action.type, value) if isinstance(value, str) and action.type is not None else value
    if action.choices is not None:
        names = ", ".join("null" if choice is None else str(choice) for choice in action.choices)
        return None if converted in action.choices else f"{value!r} is unknown; one of {names}"
    for ending, right, description in _KINDS:
        if kind.startswith(ending):
            return None if right(converted) else f"{value!r}: expected {description}{number_hint(value)}"
    return None


def _converted(convert: Any, text: str) -> object:
    try:
        return convert(text)
    except (ValueError, TypeError, argparse.ArgumentTypeError):
        return _Wrong


class _Wrong:
    """Text that the parser cannot convert."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("int", _is_whole, "a whole number"),
    ("float", _is_number, "a number"),
    ("str2bool", lambda value: isinstance(value, bool), "true or false"),
)
