"""Put our classes into ESPnet's registries and our checks around its model loading."""

from __future__ import annotations

import argparse
import functools
import logging
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from espnet2.asr.encoder.contextual_block_conformer_encoder import ContextualBlockConformerEncoder
from espnet2.asr.encoder.contextual_block_transformer_encoder import ContextualBlockTransformerEncoder
from espnet2.tasks import asr
from espnet2.torch_utils.initialize import initialize
from torch import nn

from lrsms.espnet.checkpoints.checkpoint import check_fits
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.config import accept_base, named_file
from lrsms.espnet.models.av_conformer import AVConformerEncoder, check_model
from lrsms.espnet.models.ctc_rank import factorize_ctc
from lrsms.espnet.models.fast.allocator import keep_freed_memory
from lrsms.espnet.models.kaldi_fbank import KaldiFbank
from lrsms.espnet.models.rank_targets import build_low_rank
from lrsms.espnet.models.role_table import LOW_RANK_DECODERS, LOW_RANK_ENCODERS
from lrsms.espnet.plugin import optimizer_hooks, whisper_text
from lrsms.espnet.plugin.safe_loading import find_tokens
from lrsms.fsa import import_k2
from lrsms.lowrank import Factored, LowRankLSTMCell, skip_initialization
from lrsms.lowrank.initialization import initialization_skipped, initialize_
from lrsms.lowrank.recurrent import cell_matrix
from lrsms.startup import is_command

# (config file, checkpoint) that ESPnet is about to load into the model it builds.
_loading: ContextVar[tuple[Path, Path] | None] = ContextVar("loading", default=None)

_BATCHES = "it makes batches of Lhotse cuts; with ESPnet's own data write batch_type: numel and batch_bins: {}"
_VERB = "it is for training from Lhotse cuts: python -m lrsms.bin.train, ./run.sh --stage 3"
# Option of lrsms.espnet.training.task.ASRTask -> what a user of ESPnet's own ASRTask is told.
_OF_OUR_TASK = dict.fromkeys(
    (
        *("train_cuts", "valid_cuts", "av_conf", "warmup_epochs"),
        *("distill_from", "distill_weight", "distill_temperature", "distill_encoder_weight"),
    ),
    _VERB,
) | {
    "max_duration": _BATCHES.format("seconds times sampling rate, in samples"),
    "num_buckets": _BATCHES.format("as many samples as a batch may hold"),
}


def register() -> None:
    """Make ``lowrank_*``, ``av_conformer`` and ``kaldi_fbank`` names for a config. Calling it again changes nothing."""
    asr.encoder_choices.classes.update(LOW_RANK_ENCODERS)
    asr.encoder_choices.classes["av_conformer"] = AVConformerEncoder
    asr.decoder_choices.classes.update(LOW_RANK_DECODERS)
    asr.frontend_choices.classes["kaldi_fbank"] = KaldiFbank
    task = asr.ASRTask
    if not getattr(task, "_lrsms_registered", False):
        # Speech2Text names ASRTask itself, so a subclass would not be asked: wrap its methods in place.
        task.build_model = classmethod(_building(task.build_model.__func__))
        task.build_model_from_file = classmethod(_loading_checked(task.build_model_from_file.__func__))
        task.build_optimizers = classmethod(_with_aids(task.build_optimizers.__func__))
        task.build_preprocess_fn = classmethod(_with_whisper_text(task.build_preprocess_fn.__func__))
        task.get_parser = classmethod(_explaining(task.get_parser.__func__))
        task._lrsms_registered = True


def _recognizes_speech(task: Any) -> bool:
    """Whether ``task`` has the encoders of ``ASRTask``: spoken language understanding inherits it, with its own."""
    return asr.encoder_choices in task.class_choices_list


def _explaining(get_parser):
    """Take a training YAML with ``base:``, and say what to write in place of the options that only our task has."""

    @functools.wraps(get_parser)
    def build(cls):
        parser = get_parser(cls)
        if not _recognizes_speech(cls):
            return parser
        refuse = parser.error

        def error(message: str):
            key = message.removeprefix("unrecognized arguments: ").split(" ")[0]
            refuse(f"{message}; {_OF_OUR_TASK[key]}" if key in _OF_OUR_TASK else message)

        parser.error = error
        accept_base(parser)
        return parser

    return build


def _building(build_model):
    """Add what ESPnet's ``build_model`` lacks.

    Ratios that follow from a target, a low-rank CTC output, factors that follow ``init:``, and the check of a
    checkpoint.
    """

    @functools.wraps(build_model)
    def build(cls, args):
        if not _recognizes_speech(cls):
            return build_model(cls, args)
        if (getattr(args, "ctc_conf", None) or {}).get("ctc_type") == "brctc":
            import_k2("ctc_conf.ctc_type: brctc")
        loading = _loading.get()
        if loading is not None:
            _find_statistics(args, loading[0].parent)
            if isinstance(args.token_list, str):
                args.token_list = str(find_tokens(loading[0], args.token_list))
        whisper = whisper_text.Options(args, loading and loading[0].parent) if whisper_text.is_whisper(args) else None
        model = build_low_rank(args, lambda options: build_model(cls, options))
        if whisper is not None:
            whisper.restore(args, model)
        check_model(model)
        _warn_of_streaming(model)
        factorize_ctc(model)
        fast = any(getattr(part, "fast", False) for part in (model.encoder, model.decoder))
        if fast and not getattr(args, "ngpu", 0) and is_command():
            keep_freed_memory()
        if getattr(args, "init", None) is not None:
            _initialize_factors_as(args.init, model)
        if loading is not None:
            check_fits(model, *loading)
        return model

    return build


def _with_whisper_text(build_preprocess_fn):
    """Whisper's tokens from its local ``tokenizer.json``; ESPnet would ask openai-whisper for them."""

    @functools.wraps(build_preprocess_fn)
    def build(cls, args, train):
        if args.use_preprocessor and whisper_text.is_whisper(args):
            return whisper_text.preprocessor(args)
        return build_preprocess_fn(cls, args, train)

    return build


def _find_statistics(args: argparse.Namespace, folder: Path) -> None:
    """``normalize: global_mvn`` opens its statistics when it is built, whichever the working directory is."""
    options = getattr(args, "normalize_conf", None) or {}
    if args.normalize == "global_mvn" and isinstance(options.get("stats_file"), str):
        path = named_file("normalize_conf.stats_file", options["stats_file"], folder)
        args.normalize_conf = {**options, "stats_file": str(path)}


def _warn_of_streaming(model: nn.Module) -> None:
    """ESPnet's streaming recognizer cuts the sound where its own front-end's windows fit; others lose frames there."""
    streaming = isinstance(
        getattr(model, "encoder", None), (ContextualBlockConformerEncoder, ContextualBlockTransformerEncoder)
    )
    if streaming and isinstance(model.frontend, KaldiFbank):
        logging.warning(
            "frontend: kaldi_fbank loses a frame between chunks in espnet2.bin.asr_inference_streaming; "
            "to stream, train with frontend: default and normalize: global_mvn"
        )


def _with_aids(build_optimizers):
    """Training aids act after each step of the optimizer."""

    @functools.wraps(build_optimizers)
    def build(cls, args, model):
        optimizers = build_optimizers(cls, args, model)
        if not _recognizes_speech(cls):
            return optimizers
        optimizer_hooks.install(model, optimizers[0])
        return optimizers

    return build


def _loading_checked(build_model_from_file):
    """ESPnet loads weights non-strictly and without a word: have the checkpoint compared with the model first."""

    @functools.wraps(build_model_from_file)
    def build(cls, config_file=None, model_file=None, device="cpu"):
        if model_file is None or not _recognizes_speech(cls):
            return build_model_from_file(cls, config_file, model_file, device)
        config = Path(config_file) if config_file is not None else Experiment.of(Path(model_file)).config_file
        token = _loading.set((config, Path(model_file)))
        try:
            with skip_initialization():
                return build_model_from_file(cls, config_file, model_file, device)
        finally:
            _loading.reset(token)

    return build


def _initialize_factors_as(init: str, model: nn.Module) -> None:
    """`init: xavier_uniform` and its like have overwritten the factors: make them again from such a dense layer.

    The weights of a low-rank LSTM have just been set as those of any LSTM.
    """
    if initialization_skipped():
        return
    for path, module in model.named_modules():
        if not isinstance(module, (Factored, LowRankLSTMCell)) or path.endswith(".gates"):
            continue
        dense = module.merged()
        initialize(nn.ModuleList([dense]), init)  # in a list: ESPnet knows biases by a dot before their name
        if isinstance(module, LowRankLSTMCell):
            initialize_(module.gates, *cell_matrix(dense.state_dict()), module.gates.init_method)
        else:
            initialize_(module, dense.weight.data, None, module.init_method)
