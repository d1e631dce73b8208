"""Names and sizes of transformers' ``WhisperForConditionalGeneration`` and openai-whisper's, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lrsms.errors import LrsmsError
from lrsms.whisper.dimensions import Dimensions
from lrsms.whisper.weights import expected

# openai-whisper's size -> transformers' key of config.json
CONFIG_KEYS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
# Parts of names, openai-whisper's first; the inner ones before those that they begin with.
_PARTS = (
    ("cross_attn_ln", "encoder_attn_layer_norm"),
    ("attn_ln", "self_attn_layer_norm"),
    ("mlp_ln", "final_layer_norm"),
    ("cross_attn.", "encoder_attn."),
    ("attn.", "self_attn."),
    ("query.", "q_proj."),
    ("key.", "k_proj."),
    ("value.", "v_proj."),
    ("out.", "out_proj."),
    ("mlp.0.", "fc1."),
    ("mlp.2.", "fc2."),
)
_TOP = {
    "ln_post.": "layer_norm.",
    "ln.": "layer_norm.",
    "positional_embedding": "embed_positions.weight",
    "token_embedding.": "embed_tokens.",
}
_TIED = "proj_out.weight"


def to_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by transformers' names; the tied output, which its files leave out as well, is not repeated."""
    return {_renamed(name): value for name, value in state.items()}


def from_transformers(state: Mapping[str, Tensor], sizes: Dimensions, where: str) -> dict[str, Tensor]:
    """Weights by openai-whisper's names.

    Raises:
        LrsmsError: a name that the model does not have, or an output that is not the embedding.
    """
    theirs = {_renamed(name): name for name in expected(sizes)}
    found = {}
    for name, value in state.items():
        full = name if name.startswith(("model.", "proj_out.")) else f"model.{name}"
        if full == _TIED:
            embedding = state.get("model.decoder.embed_tokens.weight")
            if embedding is not None and not embedding.equal(value):
                raise LrsmsError(f"{where}: {_TIED} is not the embedding's weight; Whisper's output is tied to it")
        elif full in theirs:
            found[theirs[full]] = value
        else:
            raise LrsmsError(f"{where}: {name} is not a weight of Whisper")
    return found


def read_sizes(config: Path) -> Dimensions:
    """Sizes from transformers' ``config.json``.

    Raises:
        LrsmsError: as :func:`read_config`, or a size is missing.
    """
    values = read_config(config)
    return Dimensions.parse({name: values.get(key) for name, key in CONFIG_KEYS.items()}, str(config))


def read_config(config: Path) -> dict:
    """Content of transformers' ``config.json``.

    Raises:
        LrsmsError: it is not found, no JSON, or of another model.
    """
    if not config.is_file():
        raise LrsmsError(f"{config}: not found; it belongs beside model.safetensors and says the model's sizes")
    try:
        values = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LrsmsError(f"{config}: not JSON: {error}") from error
    if not isinstance(values, dict) or values.get("model_type") != "whisper":
        raise LrsmsError(f"{config}: model_type is not whisper")
    return values


def config_of(sizes: Dimensions) -> dict:
    """What transformers' ``config.json`` says of these sizes; the numbers of special tokens are the caller's."""
    config = {CONFIG_KEYS[name]: value for name, value in sizes.as_dict().items()}
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        **config,
        "encoder_ffn_dim": 4 * sizes.n_audio_state,
        "decoder_ffn_dim": 4 * sizes.n_text_state,
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def _renamed(name: str) -> str:
    part, _, rest = name.partition(".")
    block = re.match(r"blocks\.(\d+)\.", rest)
    if block is None:
        for ours, theirs in _TOP.items():
            if rest.startswith(ours):
                rest = theirs + rest[len(ours) :]
                break
        return f"model.{part}.{rest}"
    inner = rest[block.end() :]
    for ours, theirs in _PARTS:
        if inner.startswith(ours):
            inner = theirs + inner[len(ours) :]
            break
    for ours, theirs in _PARTS[5:9]:
        head, dot, tail = inner.partition(".")
        if dot and tail.startswith(ours):
            inner = f"{head}.{theirs}{tail[len(ours) :]}"
            break
    return f"model.{part}.layers.{block[1]}.{inner}"
