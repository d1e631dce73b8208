"""Whisper as an encoder and a decoder of ESPnet's model, built from a local file.

ESPnet's own ``encoder: whisper`` and ``decoder: whisper`` download by a model's name through openai-whisper. These take
a path, need no further package, have the same parameter names (``encoders.*``, ``decoders.*``), and give in a batch
what they give one by one. As there, the encoder takes waveforms: ``input_size: 1``, ``frontend: null``,
``normalize: null``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from espnet2.asr.decoder.abs_decoder import AbsDecoder
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from torch import Tensor
from torch.nn import functional as F

from lrsms.errors import LrsmsError
from lrsms.lowrank.initialization import initialization_skipped
from lrsms.whisper import silence
from lrsms.whisper.dimensions import HOP, SAMPLING_RATE, Dimensions
from lrsms.whisper.files import WhisperFile, open_whisper
from lrsms.whisper.mel import LogMel
from lrsms.whisper.model import AudioEncoder, TextDecoder

CONTEXTS = ("full", "condensed", "clip")


class WhisperEncoder(AbsEncoder):
    """Waveforms to Whisper's encoder output.

    Args:
        input_size: 1, a waveform.
        whisper_model: local file of openai-whisper, transformers or CTranslate2, or its folder.
        sizes: in place of the file, or of what it says, when weights come from a checkpoint; see
            :class:`lrsms.whisper.dimensions.Dimensions`.
        audio_context: ``full``, silence up to 30 s as Whisper was trained; ``condensed``, the same with few positions
            for that silence, so that a clip of 4 s is a fifth of the work; or ``clip``, none of it, which a model has
            to be trained for.
    """

    def __init__(
        self,
        input_size: int = 1,
        whisper_model: str | None = None,
        sizes: Mapping | None = None,
        audio_context: str = "full",
    ):
        super().__init__()
        where = "encoder_conf"
        if input_size != 1:
            raise LrsmsError("encoder: lowrank_whisper takes waveforms: write input_size: 1 and frontend: null")
        if audio_context not in CONTEXTS:
            raise LrsmsError(
                f"{where}.audio_context: {audio_context!r} is unknown; choose one of {', '.join(CONTEXTS)}"
            )
        self.sizes, file = _open(whisper_model, sizes, where)
        self.audio_context = audio_context
        self.log_mel = LogMel(self.sizes.n_mels)
        self.encoders = AudioEncoder(self.sizes)
        if file is not None:
            self.encoders.load_state_dict(file.part("encoder"))

    def output_size(self) -> int:
        return self.sizes.n_audio_state

    def output_frames(self, samples: int) -> int:
        """Frames that the encoder makes of ``samples`` samples."""
        if self.audio_context == "full":
            return self.sizes.n_audio_ctx
        own = ((samples + HOP - 1) // HOP + 1) // 2
        if self.audio_context == "clip":
            return own
        return min(own + silence.NEAR, self.sizes.n_audio_ctx) + silence.POSITIONS

    def forward(self, xs_pad: Tensor, ilens: Tensor, prev_states=None) -> tuple[Tensor, Tensor, None]:
        """``(B, samples)`` at 16 kHz and their lengths to ``(B, S, D)`` and theirs.

        Raises:
            LrsmsError: a clip longer than the positions, 30 s.
        """
        longest = 2 * HOP * self.sizes.n_audio_ctx
        if int(ilens.max()) > longest:
            raise LrsmsError(
                f"Whisper hears at most {longest / SAMPLING_RATE:g} s at a time, not "
                f"{int(ilens.max()) / SAMPLING_RATE:.1f} s; leave longer cuts out, or have the recording cut at pauses"
            )
        if self.audio_context == "full":
            xs_pad = F.pad(xs_pad, (0, longest - xs_pad.shape[1]))
            ilens = torch.full_like(ilens, longest)
        if self.audio_context == "condensed":
            xs_pad = F.pad(xs_pad, (0, (2 * silence.NEAR + silence.SILENT) * HOP))
            mel, _ = self.log_mel(xs_pad, torch.full_like(ilens, xs_pad.shape[1]))
            counts = [self.output_frames(samples) for samples in ilens.tolist()]
            lengths = torch.tensor(counts, device=mel.device)
            return self.encoders.condensed(mel, lengths - silence.POSITIONS), lengths, None
        mel, frames = self.log_mel(xs_pad, ilens)
        equal = bool((frames == mel.shape[2]).all())
        return self.encoders(mel, None if equal else frames), (frames + 1) // 2, None


class WhisperDecoder(AbsDecoder):
    """Whisper's decoder; its output is tied to its token embedding.

    Args:
        vocab_size: of the token list, which must be the model's.
        encoder_output_size: width of the encoder.
        whisper_model, sizes: as for :class:`WhisperEncoder`.
        bands: of the vocabulary, each to be factored by itself: where one ends and the next begins. Compression makes
            them and puts the likely tokens first, see :mod:`lrsms.lowrank.banded`; empty for one table.

    Attributes:
        audio_context: the encoder's, which the model's building tells it.
    """

    audio_context = "full"

    def __init__(
        self,
        vocab_size: int,
        encoder_output_size: int,
        whisper_model: str | None = None,
        sizes: Mapping | None = None,
        bands: Sequence[int] = (),
    ):
        super().__init__()
        self.sizes, file = _open(whisper_model, sizes, "decoder_conf")
        if vocab_size != self.sizes.n_vocab:
            raise LrsmsError(
                f"token_list: has {vocab_size:,} tokens, the Whisper model {self.sizes.n_vocab:,}; take the tokens of "
                f"its own tokenizer.json"
            )
        if encoder_output_size != self.sizes.n_text_state:
            raise LrsmsError(
                f"decoder_conf: width {self.sizes.n_text_state}, but the encoder's is {encoder_output_size}"
            )
        self.decoders = TextDecoder(self.sizes, bands)
        if file is not None:
            self.decoders.load_state_dict(file.part("decoder"))

    def forward(self, hs_pad: Tensor, hlens: Tensor, ys_in_pad: Tensor, ys_in_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``(B, L, V)`` after each of ``ys_in_pad (B, L)``.

        Raises:
            LrsmsError: more tokens than the decoder has positions.
        """
        if ys_in_pad.shape[1] > self.sizes.n_text_ctx:
            raise LrsmsError(
                f"a text of {ys_in_pad.shape[1]} tokens, prompt included: Whisper's decoder takes "
                f"{self.sizes.n_text_ctx}"
            )
        counts = self.counts(hs_pad, hlens)
        # In float32, as a loss over so many tokens needs it where the rest is bfloat16.
        return self.decoders(ys_in_pad, self.decoders.begin(hs_pad, counts)).float(), ys_in_lens

    def counts(self, memory: Tensor, lengths: Tensor) -> Tensor | None:
        """For how many positions of 30 s each of ``memory (B, S, D)`` stands, ``(B, S)``; None if each is itself."""
        lengths = lengths.to(memory.device)
        if self.audio_context == "condensed":
            return silence.counts(lengths - silence.POSITIONS, self.sizes.n_audio_ctx, memory.shape[1])
        if bool((lengths == memory.shape[1]).all()):
            return None
        return torch.arange(memory.shape[1], device=memory.device) < lengths[:, None]

    def score(self, ys, state, x):
        """For ESPnet's search, which knows none of Whisper's rules: see :mod:`lrsms.whisper.search`."""
        counts = self.counts(x[None], torch.tensor([len(x)]))
        return self.decoders(ys[None], self.decoders.begin(x[None], counts))[0, -1].log_softmax(-1), None


def _open(model: str | None, sizes: Mapping | None, where: str) -> tuple[Dimensions, WhisperFile | None]:
    """Sizes, and the file if its weights are wanted: not where a checkpoint brings them."""
    if sizes is not None:
        known = Dimensions.parse(sizes, f"{where}.sizes")
        if model is None or initialization_skipped():
            return known, None
    if model is None:
        raise LrsmsError(
            f"{where}: write whisper_model: a local file of openai-whisper (*.pt), transformers (model.safetensors) or "
            f"CTranslate2 (model.bin); nothing is downloaded"
        )
    file = open_whisper(Path(model))
    if sizes is not None and file.sizes != known:
        raise LrsmsError(f"{where}.sizes: not those of {file.path}; leave them out")
    return file.sizes, file
