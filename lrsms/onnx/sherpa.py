"""What sherpa-onnx reads: its ``zipformer2_ctc`` models, whose features are Kaldi's as icefall and Lhotse compute them.

Of its CTC models this is the one whose front-end is what ``kaldi_fbank`` is: samples in [-1, 1], no dither, frames
centered by mirrored edges, a Povey window. (WeNet's are dithered and scaled to 16 bits, NeMo's filters are Slaney's.)
Inputs are ``x (batch, frames, bins)`` and ``x_lens``, outputs log-probabilities and their lengths; blank is token 0.
sherpa-onnx takes an output frame for 40 ms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.onnx.files import optional

MODEL_TYPE = "zipformer2_ctc"
FRAME_SHIFT, FRAME_LENGTH = 0.01, 0.025  # seconds; sherpa-onnx has no option for them
_FRAMES = 4  # feature frames that sherpa-onnx takes an output frame for
_WORD_BEGINS = "▁"


@dataclass(frozen=True)
class Features:
    """Options of sherpa-onnx's feature extractor.

    Attributes:
        sampling_rate: Hz.
        feature_dim: Mel bins.
        low_freq, high_freq: Hz; ``high_freq`` at or below 0 counts from Nyquist.
    """

    sampling_rate: int
    feature_dim: int
    low_freq: float
    high_freq: float

    @classmethod
    def of(cls, frontend: str | None, options: Mapping, where: str) -> Features:
        """Those of a config.

        Args:
            frontend: of the config.
            options: its ``frontend_conf``, complete.
            where: file, for the message.

        Raises:
            LrsmsError: sherpa-onnx cannot compute these features.
        """
        if frontend != "kaldi_fbank":
            raise LrsmsError(
                f"{where}: frontend: {frontend}: sherpa-onnx computes Kaldi's filter banks; train with "
                f"frontend: kaldi_fbank, or use --format onnx and compute the features yourself"
            )
        for key, needed in (("frame_shift", FRAME_SHIFT), ("frame_length", FRAME_LENGTH)):
            if options[key] != needed:
                raise LrsmsError(
                    f"{where}: frontend_conf.{key}: {options[key]:g}: sherpa-onnx computes features with {needed:g} s "
                    f"only; train with that, or use --format onnx"
                )
        return cls(options["fs"], options["num_filters"], options["low_freq"], options["high_freq"])

    @property
    def usual(self) -> bool:
        """Whether ``OfflineRecognizer.from_zipformer_ctc`` has options enough for them."""
        return (self.low_freq, self.high_freq) == (20.0, -400.0)

    @property
    def command_line(self) -> str:
        """Options of the ``sherpa-onnx-offline`` program."""
        options = f"--sample-rate={self.sampling_rate} --feat-dim={self.feature_dim}"
        return options if self.usual else f"{options} --low-freq={self.low_freq:g} --high-freq={self.high_freq:g}"


def repetition(subsampling: int) -> tuple[int, int]:
    """How often encoder frames are repeated so that sherpa-onnx's times are right, as in ``CtcGraph``.

    Args:
        subsampling: feature frames for each encoder frame. Below 4 nothing can be done: times come out too long.
    """
    return (subsampling, _FRAMES) if subsampling > _FRAMES else (1, 1)


def symbols(token_list: Sequence[str], token_type: str | None, where: str) -> str:
    """``tokens.txt`` of sherpa-onnx: a symbol and its number per line.

    Args:
        token_list: of the config; the first is CTC's blank.
        token_type: ``char``, ``word``, ``bpe`` (unigrams included).
        where: file, for the message.

    Raises:
        LrsmsError: a token that cannot be written down.
    """
    lines = []
    for number, token in enumerate(token_list):
        if number == 0:
            symbol = "<blk>"
        elif token == "<space>":
            symbol = _WORD_BEGINS
        elif token_type == "word" and not (token.startswith("<") and token.endswith(">")):
            symbol = _WORD_BEGINS + token
        else:
            symbol = token
        if not symbol or any(character.isspace() for character in symbol):
            raise LrsmsError(f"{where}: token_list: {token!r}: sherpa-onnx's tokens.txt has no way to write it")
        lines.append(f"{symbol} {number}\n")
    return "".join(lines)


def open_recognizer(model: Path, features: Features, threads: int = 1):
    """sherpa-onnx's ``OfflineRecognizer`` on an exported file, ``tokens.txt`` beside it.

    Where the features are the usual ones this is its ``from_zipformer_ctc``, and nothing of this package is needed.

    Raises:
        LrsmsError: sherpa-onnx is not installed or a file is missing.
    """
    sherpa = optional("sherpa_onnx")
    tokens = model.with_name("tokens.txt")
    for path in (model, tokens):
        if not path.exists():  # sherpa-onnx would end the process
            raise LrsmsError(f"{path}: no such file; export with --format sherpa first")
    if features.usual:
        return sherpa.OfflineRecognizer.from_zipformer_ctc(
            str(model),
            str(tokens),
            num_threads=threads,
            sample_rate=features.sampling_rate,
            feature_dim=features.feature_dim,
        )
    parts = optional("sherpa_onnx.offline_recognizer")
    recognizer = sherpa.OfflineRecognizer.__new__(sherpa.OfflineRecognizer)
    config = parts.OfflineRecognizerConfig(
        feat_config=parts.FeatureExtractorConfig(
            sampling_rate=features.sampling_rate,
            feature_dim=features.feature_dim,
            low_freq=features.low_freq,
            high_freq=features.high_freq,
        ),
        model_config=parts.OfflineModelConfig(
            zipformer_ctc=parts.OfflineZipformerCtcModelConfig(model=str(model)),
            tokens=str(tokens),
            num_threads=threads,
        ),
    )
    recognizer.recognizer = parts._Recognizer(config)
    recognizer.config = config
    return recognizer
