"""A local Whisper model as an experiment's folder: what training, compression, decoding and export take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from lrsms.espnet.checkpoints.experiment import TOKENS, Experiment
from lrsms.files import copy_into, write_text
from lrsms.whisper.files import TOKENIZER, find_tokenizer, open_whisper
from lrsms.whisper.tokens import END, START, WhisperTokens, token_lines
from lrsms.whisper.vocabulary import cut_tokenizer

# What fine-tuning after compression starts from; ESPnet's own defaults are Adadelta, ten checkpoints, and pictures.
_TRAINING = {
    "optim": "adamw",
    "optim_conf": {"lr": 0.0001, "weight_decay": 0.01},
    "grad_clip": 5.0,
    "max_duration": 60.0,
    "best_model_criterion": [["valid", "acc", "max"]],
    "keep_nbest_models": 1,
    "num_att_plot": 0,
}


def import_whisper(
    model: Path,
    experiment: Experiment,
    audio_context: str = "full",
    language: str = "en",
    vocabulary: int | None = None,
    texts: Iterable[str] = (),
) -> None:
    """Write ``config.yaml``, weights, ``tokens.txt`` and ``tokenizer.json`` of a Whisper model.

    Args:
        model: its file or folder, in the layout of openai-whisper, transformers or CTranslate2, and ``tokenizer.json``.
        experiment: what is written.
        audio_context: of the encoder: ``full``, ``condensed`` or ``clip``.
        language: of the texts that a multilingual model is trained on.
        vocabulary: tokens of text to keep, see :mod:`lrsms.whisper.vocabulary`; None for all. The model then has to be
            trained, for it has never split words so.
        texts: what such a model will recognize is like these.

    Raises:
        LrsmsError: the model cannot be read, an unknown language, or a vocabulary of no possible size.
    """
    file = open_whisper(model)
    sizes, state = file.sizes, dict(file.state)
    tokenizer = find_tokenizer(model)
    tokens = WhisperTokens(tokenizer, sizes.n_vocab)
    tokens.prompt(language, "transcribe", timestamps=False)  # refuses a language that it does not know
    experiment.folder.mkdir(parents=True, exist_ok=True)
    if vocabulary is not None:
        rows = cut_tokenizer(tokenizer, sizes.n_vocab, vocabulary, texts, experiment.folder / TOKENIZER)
        tokenizer, sizes = experiment.folder / TOKENIZER, replace(sizes, n_vocab=len(rows))
        state["decoder.token_embedding.weight"] = state["decoder.token_embedding.weight"][rows]
        tokens = WhisperTokens(tokenizer, sizes.n_vocab)
    write_lang(tokens, tokenizer, experiment.folder)
    config = {
        "encoder": "lowrank_whisper",
        "encoder_conf": {"sizes": sizes.as_dict(), "audio_context": audio_context},
        "decoder": "lowrank_whisper",
        "decoder_conf": {"sizes": sizes.as_dict()},
        "model": "espnet",
        "model_conf": model_options(),
        "ctc_conf": {},
        "input_size": 1,
        "frontend": None,
        "frontend_conf": {},
        "specaug": None,
        "normalize": None,
        "normalize_conf": {},
        "init": None,
        "token_type": "whisper_multilingual" if tokens.multilingual else "whisper_en",
        "token_list": TOKENS,
        "bpemodel": TOKENIZER,
        "use_preprocessor": True,
        "preprocessor_conf": {"whisper_language": language, "whisper_task": "transcribe"},
        "output_dir": str(experiment.folder),
        **_TRAINING,
    }
    experiment.write(config, {espnet_name(name): value.contiguous() for name, value in state.items()})


def espnet_name(name: str) -> str:
    """The name in ESPnet's model of a weight of openai-whisper: ``encoder.conv1`` is ``encoder.encoders.conv1``."""
    part, _, rest = name.partition(".")
    return f"{part}.{part}s.{rest}"


def model_options() -> dict:
    """``model_conf`` of a Whisper model: attention alone, and its own tokens around a text."""
    return {
        "ctc_weight": 0.0,
        "lsm_weight": 0.0,
        "length_normalized_loss": False,
        "sym_sos": START,
        "sym_eos": END,
        "report_cer": False,
        "report_wer": False,
    }


def write_lang(tokens: WhisperTokens, tokenizer: Path, folder: Path) -> None:
    """Leave ``tokens.txt`` and ``tokenizer.json`` in ``folder``, which exists."""
    write_text(folder / TOKENS, token_lines(tokens.token_list))
    copy_into(tokenizer, folder, TOKENIZER)
