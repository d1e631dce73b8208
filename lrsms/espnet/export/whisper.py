"""A trained Whisper experiment as others open it: openai-whisper, transformers, sherpa-onnx."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.files import copy_into, write_text
from lrsms.lowrank import low_rank_layers
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.merge import merge_
from lrsms.onnx.files import PRECISIONS, add_metadata, open_session, optional, quantize, write_graph
from lrsms.whisper import graphs
from lrsms.whisper.dimensions import ENGLISH_VOCABULARY, Dimensions
from lrsms.whisper.files import TOKENIZER
from lrsms.whisper.tokens import NO_TIMESTAMPS, START, WhisperTokens
from lrsms.whisper.write import write_openai, write_transformers

FORMS = ("openai", "transformers", "sherpa")
_FRAMES = 500  # of the example
_TOLERANCE = 2e-3  # of logits, in float32


@dataclass(frozen=True)
class WhisperExport:
    """What :func:`export_whisper` wrote.

    Attributes:
        folder: of the files.
        form: one of :data:`FORMS`.
        merged, factored: layers that became dense, and that are two factors there.
        difference: of ``sherpa``, largest one of logits to torch's, in float32.
        notes: sentences for the user.
    """

    folder: Path
    form: str
    merged: int
    factored: int
    difference: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def summary(self) -> str:
        """What a user is told."""
        files = sorted(path for path in self.folder.iterdir() if path.suffix in (".pt", ".safetensors", ".onnx"))
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.2f} MB" for path in files)
        lines = [f"{self.folder}: {sizes}", f"{self.merged} layers merged, {self.factored} kept factored"]
        if self.difference is not None:
            lines.append(f"largest difference of logits: {self.difference:.1e}")
        return "\n".join([*lines, *self.notes])


def export_whisper(
    experiment: Experiment, folder: Path, *, form: str, merge: str = "none", precisions: Sequence[str] = PRECISIONS
) -> WhisperExport:
    """Write a model.

    Args:
        experiment: trained, of a Whisper model.
        folder: created if missing.
        form: ``openai``, ``model.pt``; ``transformers``, ``model.safetensors`` and the files beside it; both dense, for
            their classes know no factors. ``sherpa``: ``encoder.onnx``, ``decoder.onnx``, those in int8, and
            ``tokens.txt``, for sherpa-onnx's ``OfflineRecognizer.from_whisper``.
        merge: of ``sherpa``, ``none``, or ``all`` to make its layers dense.
        precisions: of ``sherpa``, of ``fp32`` and ``int8``.

    Raises:
        LrsmsError: not a Whisper model, an unknown form or precision, a package is missing, or the graphs compute
            something else than the model.
    """
    if not experiment.is_whisper:
        raise LrsmsError(f"{experiment.config_file}: token_type: {experiment.token_type}: not a Whisper model")
    if form not in FORMS:
        raise LrsmsError(f"form: {form!r} is unknown; one of {', '.join(FORMS)}")
    if merge not in ("none", "all"):
        raise LrsmsError(f"merge: {merge!r}: of a Whisper model, all or none of the layers are merged")
    for precision in precisions:
        if precision not in PRECISIONS:
            raise LrsmsError(f"precisions: {precision!r} is unknown; any of {', '.join(PRECISIONS)}")
    model, _ = experiment.load()
    model.eval().requires_grad_(False)
    merged = merge_(model) if form != "sherpa" or merge == "all" else []
    factored = len(dict(low_rank_layers(model)))
    folder.mkdir(parents=True, exist_ok=True)
    tokens, tokenizer = experiment.tokenizer, experiment.bpemodel
    assert isinstance(tokens, WhisperTokens) and tokenizer is not None
    sizes, context = model.encoder.sizes, model.encoder.audio_context
    if form == "sherpa":
        difference = _write_sherpa(model, tokens, folder, precisions)
        call = "sherpa_onnx.OfflineRecognizer.from_whisper(encoder='encoder.onnx', decoder='decoder.onnx', "
        notes = [f"{call}tokens='tokens.txt')"]
        return WhisperExport(folder, form, len(merged), factored, difference, notes)
    state = {f"encoder.{name}": value for name, value in model.encoder.encoders.state_dict().items()}
    decoder = model.decoder.decoders.state_dict()
    if isinstance(model.decoder.decoders.token_embedding, BandedEmbedding):
        decoder = {name: value for name, value in decoder.items() if not name.startswith("token_embedding.")}
        decoder["token_embedding.weight"] = model.decoder.decoders.token_embedding.weight
    state |= {f"decoder.{name}": value for name, value in decoder.items()}
    if form == "openai":
        write_openai(folder / "model.pt", sizes, state, context)
        copy_into(tokenizer, folder, TOKENIZER)
    else:
        write_transformers(folder, sizes, state, tokenizer, context)
    notes = []
    if context == "clip":
        notes.append("it was trained on clips of their own length: others' 30 s of padding are new to it")
    if form == "openai" and sizes.n_vocab < ENGLISH_VOCABULARY:
        notes.append(
            "its vocabulary is not openai-whisper's, whose own tokenizer reads its numbers wrongly: use tokenizer.json"
        )
    return WhisperExport(folder, form, len(merged), factored, None, notes)


def _write_sherpa(model: nn.Module, tokens: WhisperTokens, folder: Path, precisions: Sequence[str]) -> float:
    for package in ("onnx", "onnxruntime"):
        optional(package)
    sizes: Dimensions = model.encoder.sizes
    condensed = sizes.n_audio_ctx if model.encoder.audio_context == "condensed" else None
    encoder = graphs.EncoderGraph(model.encoder.encoders, model.decoder.decoders, model.encoder.audio_context).eval()
    decoder = graphs.DecoderGraph(model.decoder.decoders, condensed).eval()
    mel = torch.randn(1, sizes.n_mels, _FRAMES, generator=torch.Generator().manual_seed(0))
    cross = encoder(mel)
    caches = torch.zeros(2, sizes.n_text_layer, 1, sizes.n_text_ctx, sizes.n_text_state)
    prompt = torch.tensor([tokens.prompt("en", "transcribe", timestamps=False)])
    example = (prompt, caches[0], caches[1], *cross, torch.zeros(1, dtype=torch.long))
    _graph(encoder, (mel,), folder / "encoder.onnx", graphs.ENCODER_NAMES, graphs.ENCODER_AXES)
    _graph(decoder, example, folder / "decoder.onnx", graphs.DECODER_NAMES, graphs.DECODER_AXES)
    add_metadata(folder / "encoder.onnx", metadata(sizes, tokens))
    lines = [f"{base64.b64encode(tokens.bytes_of(number)).decode()} {number}\n" for number in range(_texts(tokens))]
    write_text(folder / "tokens.txt", "".join(lines))
    difference = _difference(encoder, decoder, folder, mel, prompt, caches)
    if difference > _TOLERANCE:
        raise LrsmsError(f"{folder}: the graphs' logits differ from the model's by {difference:.1e}")
    for name in ("encoder", "decoder") if "int8" in precisions else ():
        quantize(folder / f"{name}.onnx", folder / f"{name}.int8.onnx")
    if "fp32" not in precisions:
        for name in ("encoder", "decoder"):
            (folder / f"{name}.onnx").unlink()
    return difference


def _graph(module: nn.Module, example: tuple, path: Path, names: tuple, axes: Mapping) -> None:
    inputs, outputs = names
    write_graph(module, example, path, inputs=inputs, outputs=outputs, dynamic=axes)


def _texts(tokens: WhisperTokens) -> int:
    """Tokens of text: those before the special ones."""
    return tokens.end


def metadata(sizes: Dimensions, tokens: WhisperTokens) -> dict[str, object]:
    """What sherpa-onnx wants to know, by the names of its ``scripts/whisper/export-onnx.py``."""
    silent = "<|nospeech|>" if "<|nospeech|>" in tokens.token_list else "<|nocaptions|>"
    sequence = tokens.prompt("en", "transcribe", timestamps=True)
    return {
        "model_type": "whisper",
        "version": "1",
        "maintainer": "k2-fsa",
        **sizes.as_dict(),
        "sot_sequence": _joined(sequence),
        "all_language_tokens": _joined(tokens.languages.values()),
        "all_language_codes": _joined(tokens.languages),
        "sot": tokens.id(START),
        "sot_index": sequence.index(tokens.id(START)),
        "eot": tokens.end,
        "blank_id": tokens.never_first[0],
        "is_multilingual": int(tokens.multilingual),
        "no_speech": tokens.id(silent),
        "non_speech_tokens": _joined(tokens.annotations),
        "transcribe": tokens.id("<|transcribe|>"),
        "translate": tokens.id("<|translate|>"),
        "sot_prev": tokens.id("<|startofprev|>"),
        "sot_lm": tokens.id("<|startoflm|>"),
        "no_timestamps": tokens.id(NO_TIMESTAMPS),
    }


def _joined(values) -> str:
    return ",".join(map(str, values))


def _difference(
    encoder: nn.Module, decoder: nn.Module, folder: Path, mel: torch.Tensor, prompt: torch.Tensor, caches: torch.Tensor
) -> float:
    """Of logits, graphs against model: a prompt, then two tokens, on a shorter recording than the example."""
    mel = mel[:, :, : _FRAMES // 2 + 1]
    sessions = [open_session(folder / f"{name}.onnx") for name in ("encoder", "decoder")]
    cross = sessions[0].run(None, {"mel": mel.numpy()})
    memory = encoder.memory(mel)
    state = decoder.decoder.begin(memory, decoder.counts(memory.shape[1]))
    keys, values = caches.numpy()
    largest, offset = 0.0, 0
    for tokens in (prompt, prompt[:, :1] * 0 + 7, prompt[:, :1] * 0 + 11):
        position = torch.tensor([offset]).numpy()
        inputs = dict(zip(graphs.DECODER_NAMES[0], (tokens.numpy(), keys, values, *cross, position)))
        logits, keys, values = sessions[1].run(None, inputs)
        expected = decoder.decoder(tokens, state)
        largest = max(largest, float((torch.from_numpy(logits) - expected).abs().max()))
        offset += tokens.shape[1]
    return largest
