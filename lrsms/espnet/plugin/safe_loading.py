"""The one door through which ESPnet opens a model that someone else may have made: such a model is data.

ESPnet unpickles checkpoints with ``weights_only=False`` and builds whatever class a ``config.yaml`` names. Here its
four ways of reading a ``.pth`` file (building from file, ``--init_param``, resuming, averaging the best epochs) are
wrapped once for the whole process, whoever calls them: first the config and the weights are read without executing
anything, and what is not data is refused with a sentence; then ESPnet reads, with torch's own switch set that allows
weights alone.

The config is that of a recognizer or a language model, whose classes are known here. ESPnet's other tasks (synthesis,
enhancement, diarization, ...) have classes of their own: of their models, the checkpoint alone is looked at first.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from lrsms.defaults import WHISPER_TYPES
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import (
    REPORTER_TYPES,
    check_finite,
    read_checkpoint,
    read_weights,
    rename_epochs,
)
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compat import current_names, restore_durations
from lrsms.espnet.config import named_file, named_places, read_yaml

TRUST = "LRSMS_TRUST_CONFIG"

# ESPnet's classes that consist of their options and of weights in the checkpoint. The others fetch or open a second
# model when they are built (S3PRL, Hugging Face, fairseq, Whisper), which may execute code of its author's.
_SELF_CONTAINED = {
    "frontend": {"default", "sliding_window", "wav2vec_cnn"},
    "encoder": {
        *("conformer", "transformer", "transformer_multispkr", "contextual_block_transformer"),
        *("contextual_block_conformer", "vgg_rnn", "rnn", "longformer", "branchformer", "e_branchformer"),
        *("multiconv_conformer", "torchaudiohubert"),
    },
    "postencoder": {"length_adaptor"},
    "decoder": {
        *("transformer", "lightweight_conv", "lightweight_conv2d", "dynamic_conv", "dynamic_conv2d", "rnn"),
        *("transducer", "mlm", "linear_decoder"),
    },
    "lm": {"seq_rnn", "transformer"},
}
# Module of an ESPnet task -> its registry whose classes are listed above; a task that inherits it is read likewise.
_KNOWN_TASKS = {"espnet2.tasks.asr": "encoder_choices", "espnet2.tasks.lm": "lm_choices"}
_TOKEN_TYPES = {"char", "word", "bpe", "phn", None}
_LONGEST_LIST = 64 << 20  # bytes
_TORCH_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_switch = threading.RLock()


def trusted() -> bool:
    """Whether the user vouches for the origin of every config: ``LRSMS_TRUST_CONFIG=1``."""
    return os.environ.get(TRUST, "").lower() in ("1", "true", "yes")


def check_config(path: Path, task: Any) -> dict:
    """Read a trained model's ``config.yaml`` as data.

    Args:
        path: the file.
        task: the ESPnet task that will build a model of it.

    Returns:
        Its content.

    Raises:
        LrsmsError: unreadable or not such a config, or it names a class, tokenizer or file by which building the model
            would reach outside its folder. ``LRSMS_TRUST_CONFIG=1`` lifts the latter.
    """
    config = read_yaml(path)
    if not config:
        raise LrsmsError(f"{path}: empty; a trained model's folder has the config.yaml that ESPnet saved with it")
    for choices in task.class_choices_list:
        if choices.name in ("encoder", "lm") and choices.name not in config:
            raise LrsmsError(f"{path}: not a config that ESPnet saved with such a model: it has no {choices.name}")
    if not trusted():
        for choices in task.class_choices_list:
            _check_class(path, choices, config)
        _check_tokens(path, config, task)
    return config


def _refuse(path: Path, what: str, why: str) -> LrsmsError:
    return LrsmsError(
        f"{path}: {what}: refused, {why}; if you know where this file comes from and trust it, set {TRUST}=1"
    )


def _check_class(path: Path, choices, config: Mapping) -> None:
    name = config.get(choices.name, choices.default)
    if name is None or choices.name not in _SELF_CONTAINED:
        return
    if not isinstance(name, str) or name.lower() not in {*choices.classes, "none", "null", "nil"}:
        raise LrsmsError(f"{path}: {choices.name}: {name!r} is unknown; one of {', '.join(choices.classes)}")
    cls = choices.classes.get(name.lower())
    # A class that is not ESPnet's was put into the registry by code that runs here already.
    if cls is None or not cls.__module__.startswith("espnet") or name.lower() in _SELF_CONTAINED[choices.name]:
        return
    if name.lower() == "fused" and _is_fused_of_defaults(config.get("frontend_conf")):
        return
    raise _refuse(path, f"{choices.name}: {name}", "it opens a further model, which may execute code on loading")


def _is_fused_of_defaults(options: object) -> bool:
    parts = options.get("frontends") if isinstance(options, Mapping) else None
    return isinstance(parts, list) and all(
        isinstance(part, Mapping) and part.get("frontend_type") == "default" for part in parts
    )


def _check_tokens(path: Path, config: Mapping, task: Any) -> None:
    kind = config.get("token_type")
    known = _TOKEN_TYPES | set(WHISPER_TYPES if config.get("decoder") == "lowrank_whisper" else ())
    if not isinstance(kind, str | None) or kind not in known:
        raise _refuse(path, f"token_type: {kind}", "its tokenizer is fetched from elsewhere")
    tokens = config.get("token_list")
    if isinstance(tokens, str):
        _find_tokens(path, tokens, finds_tokens(task))


def _find_tokens(path: Path, name: str, anywhere: bool) -> Path:
    """The token list that a config names: a file of its recipe, two folders above, that looks like one.

    Args:
        path: the config.
        name: of the list, as the config has it.
        anywhere: it may lie wherever :func:`lrsms.espnet.config.named_file` looks; otherwise ESPnet opens ``name``.
    """
    recipe = path.absolute().parent.parent.parent.resolve()
    places = [Path(name)]
    if anywhere:
        places = named_places(name, path.parent)
    found = [place for place in places if place.is_file()]
    inside = [place for place in found if place.resolve().is_relative_to(recipe)]
    if found and not inside:
        raise _refuse(path, f"token_list: {name}", "it is a file outside the model's recipe")
    if not found:
        raise LrsmsError(f"{path}: token_list: none of {', '.join(map(str, places))} is found")
    if not _has_special_tokens(inside[0]):
        raise _refuse(path, f"token_list: {name}", f"{inside[0]} is no list of tokens: it has none of {_SPECIAL}")
    return inside[0]


_SPECIAL = "<blank>, <unk>, <sos/eos>"
_OF_WHISPER = "<|startoftranscript|>"  # whose lists have none of these


def _has_special_tokens(path: Path) -> bool:
    with path.open("rb") as file:
        lines = file.read(_LONGEST_LIST).split(b"\n")
    return any(token.encode() in lines for token in (*_SPECIAL.split(", "), _OF_WHISPER))


def finds_tokens(task: Any) -> bool:
    """Whether ``task`` takes a file that a config names from wherever it is found (:mod:`.register`)."""
    return any(choices.name == "encoder" for choices in task.class_choices_list)


def find_tokens(path: Path, name: str) -> Path:
    """The token list that a speech model's ``config.yaml`` names, wherever the working directory is.

    Raises:
        LrsmsError: it is not found; or, unless configs are trusted, outside the model's recipe, or no list of tokens.
    """
    return named_file("token_list", name, path.parent) if trusted() else _find_tokens(path, name, anywhere=True)


@contextmanager
def weights_only() -> Iterator[None]:
    """Within this context ``torch.load`` executes nothing, whatever its caller asks for (torch's own switch)."""
    with _switch, torch.serialization.safe_globals(REPORTER_TYPES):
        before = os.environ.get(_TORCH_SWITCH)
        os.environ[_TORCH_SWITCH] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_TORCH_SWITCH]
            else:
                os.environ[_TORCH_SWITCH] = before


def install(abs_task) -> None:
    """Wrap ESPnet's readers of ``.pth`` files. Calling it again changes nothing.

    Args:
        abs_task: the module ``espnet2.tasks.abs_task``.
    """
    from espnet2.train import trainer

    task = abs_task.AbsTask
    if getattr(task, "_lrsms_door", False):
        return
    task.build_model_from_file = classmethod(_building_from_file(task.build_model_from_file.__func__))
    abs_task.load_pretrained_model = _initializing(abs_task.load_pretrained_model)
    trainer.Trainer.resume = staticmethod(_resuming(trainer.Trainer.resume))
    trainer.average_nbest_models = _averaging(trainer.average_nbest_models)
    task._lrsms_door = True


def _building_from_file(build_model_from_file):
    @functools.wraps(build_model_from_file)
    def build(cls, config_file=None, model_file=None, device="cpu"):
        if config_file is None and model_file is None:
            return build_model_from_file(cls, config_file, model_file, device)
        if not _is_known(cls):
            if model_file is not None:
                read_checkpoint(Path(model_file))
            return build_model_from_file(cls, config_file, model_file, device)
        path = Path(config_file) if config_file is not None else Experiment.of(Path(model_file)).config_file
        config = check_config(path, cls)
        weights = None if model_file is None else read_weights(Path(model_file))
        try:
            with nullcontext() if trusted() else weights_only():  # a further model may be more than weights
                model, args = build_model_from_file(cls, path, model_file, device)
        except LrsmsError:
            raise
        except Exception as error:  # a config of another version, task or author fails in ESPnet in every way
            reason = " ".join(str(error).split())[:500]
            raise LrsmsError(
                f"{model_file or path}: ESPnet cannot build the model that {path} describes with it "
                f"({type(error).__name__}: {reason})"
            ) from error
        if weights is not None and not config.get("use_adapter"):  # an adapter's checkpoint may hold no more than it
            _check_complete(model, weights, Path(model_file), path)
        return model, args

    return build


def _is_known(task: Any) -> bool:
    """Whether the classes that ``task`` chooses among are those of a recognizer or a language model."""
    registries = [getattr(sys.modules.get(module), name, None) for module, name in _KNOWN_TASKS.items()]
    return any(choices is registry for choices in task.class_choices_list for registry in registries)


def _check_complete(model: torch.nn.Module, weights: Mapping, checkpoint: Path, config: Path) -> None:
    """ESPnet loads non-strictly: weights that are not in the file would stay random."""
    weights = current_names(model, weights)
    missing = [name for name, _ in model.named_parameters() if name not in weights]
    renamed = any("frontend.upstream" in name for name in weights)  # ESPnet itself renames those of old S3PRL models
    if missing and not renamed:
        raise LrsmsError(
            f"{checkpoint} lacks {len(missing)} weights that {config} needs, such as {missing[0]}; it holds "
            f"{len(weights)} others: open it with the config.yaml it was trained with"
        )


def _averaging(average_nbest_models):
    """The epochs may lie in a folder that came from elsewhere, whose training goes on here."""

    @functools.wraps(average_nbest_models)
    def average(output_dir, *args, **kwargs):
        for path in sorted(Path(output_dir).glob("*epoch.pth")):
            read_weights(path)
        with weights_only():
            return average_nbest_models(output_dir, *args, **kwargs)

    return average


def _initializing(load_pretrained_model):
    @functools.wraps(load_pretrained_model)
    def load(init_param, *args, **kwargs):
        if not init_param.split(":", 1)[0]:
            raise LrsmsError(f"init_param: {init_param!r}: names no file; write FILE or FILE:source:target")
        read_weights(Path(init_param.split(":", 1)[0]))
        with weights_only():
            return load_pretrained_model(init_param, *args, **kwargs)

    return load


def _resuming(resume):
    @functools.wraps(resume)
    def go_on(checkpoint, model, reporter, *args, **kwargs):
        state = read_checkpoint(Path(checkpoint))
        if isinstance(state, Mapping) and isinstance(state.get("model"), Mapping):
            check_finite(state["model"], str(checkpoint))
        with weights_only():
            resume(checkpoint, model, reporter, *args, **kwargs)
        restore_durations(reporter)
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            rename_epochs(Path(checkpoint).parent, model, reporter.stats)

    return go_on
