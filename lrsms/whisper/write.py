"""Write a Whisper model as others open it: openai-whisper's ``*.pt`` and transformers' folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from lrsms.errors import LrsmsError
from lrsms.files import atomic_write, copy_into, write_json
from lrsms.whisper.dimensions import Dimensions
from lrsms.whisper.files import CONTEXT_KEY, TOKENIZER
from lrsms.whisper.tokens import END, NO_TIMESTAMPS, START, WhisperTokens
from lrsms.whisper.transformers import config_of, to_transformers
from lrsms.whisper.weights import check


def write_openai(path: Path, sizes: Dimensions, state: Mapping[str, Tensor], audio_context: str = "full") -> None:
    """What ``whisper.load_model(path)`` opens.

    Args:
        path: of the ``.pt`` file.
        sizes: of the model.
        state: dense weights by openai-whisper's names.
        audio_context: what the model was trained with, for this package; openai-whisper does not look at it.

    Raises:
        LrsmsError: the weights are not those of such a model.
    """
    check(state, sizes, str(path))
    weights = {name: value.contiguous() for name, value in state.items()}
    content = {"dims": sizes.as_dict(), "model_state_dict": weights, CONTEXT_KEY: audio_context}
    with atomic_write(path) as unfinished:
        torch.save(content, unfinished)


def write_transformers(
    folder: Path, sizes: Dimensions, state: Mapping[str, Tensor], tokenizer: Path, audio_context: str = "full"
) -> None:
    """What ``WhisperForConditionalGeneration.from_pretrained(folder)`` and ``WhisperProcessor`` open.

    Args:
        folder: receives ``model.safetensors``, ``config.json``, ``generation_config.json``,
            ``preprocessor_config.json``, ``tokenizer.json`` and ``tokenizer_config.json``.
        sizes, state, audio_context: as for :func:`write_openai`.
        tokenizer: the model's ``tokenizer.json``.

    Raises:
        LrsmsError: the weights are not those of such a model, or safetensors is not installed.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise LrsmsError(f"{folder}: to write it, install safetensors: pip install lrsms[whisper]") from error
    check(state, sizes, str(folder))
    tokens = WhisperTokens(tokenizer, sizes.n_vocab)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.contiguous() for name, value in to_transformers(state).items()}
    with atomic_write(folder / "model.safetensors") as unfinished:
        save_file(weights, unfinished, metadata={"format": "pt"})
    special = {
        "bos_token_id": tokens.end,
        "eos_token_id": tokens.end,
        "pad_token_id": tokens.end,
        "decoder_start_token_id": tokens.id(START),
    }
    write_json(folder / "config.json", config_of(sizes) | special | {CONTEXT_KEY: audio_context})
    write_json(folder / "generation_config.json", special | _generation(tokens, sizes))
    write_json(folder / "preprocessor_config.json", _features(sizes))
    copy_into(tokenizer, folder, TOKENIZER)
    kept = {
        "tokenizer_class": "WhisperTokenizer",
        "eos_token": END,
        "bos_token": END,
        "unk_token": END,
        "pad_token": END,
    }
    write_json(folder / "tokenizer_config.json", kept)


def _generation(tokens: WhisperTokens, sizes: Dimensions) -> dict:
    common = {
        "suppress_tokens": tokens.never_said,
        "begin_suppress_tokens": tokens.never_first,
        "no_timestamps_token_id": tokens.id(NO_TIMESTAMPS),
        "max_initial_timestamp_index": 50,
        "max_length": sizes.n_text_ctx,
        "is_multilingual": tokens.multilingual,
    }
    if not tokens.multilingual:
        return common
    return common | {
        "lang_to_id": {f"<|{code}|>": number for code, number in tokens.languages.items()},
        "task_to_id": {task: tokens.id(f"<|{task}|>") for task in ("transcribe", "translate")},
    }


def _features(sizes: Dimensions) -> dict:
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": sizes.n_mels,
        "sampling_rate": 16000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": sizes.n_audio_ctx // 50,
        "n_samples": sizes.n_audio_ctx * 320,
        "nb_max_frames": sizes.n_audio_ctx * 2,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }
