"""Text from sound: a trained model, wherever it comes from, applied to any recording."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from lrsms.avsr.frames import FRAME_SHIFT, pack
from lrsms.data.audio import check_finite, read_audio, resample
from lrsms.data.pauses import Piece, Splitter
from lrsms.data.transcripts import Segment, Transcript, Word, join_overlapping
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.checkpoints.unpack import is_pack, unpack
from lrsms.espnet.checkpoints.whisper_experiment import import_whisper
from lrsms.espnet.inference.ctc_alignment import token_times, words_of
from lrsms.espnet.inference.open import check_beam, check_options, open_recognizer, read_options
from lrsms.espnet.inference.whisper_recognizer import WhisperRecognizer
from lrsms.espnet.models.av_region import encoder_region
from lrsms.espnet.models.encoder_lengths import encoder_frames
from lrsms.whisper.files import is_whisper_file, open_whisper

_DEFAULTS = {"beam_size": 10, "ctc_weight": 0.5}  # those of conf/decode.yaml
_HOP = 0.01  # seconds; subsampling makes frames of a multiple of it


class Recognizer:
    """A trained model that turns recordings into text.

    Examples:
        >>> from lrsms import Recognizer
        >>> recognizer = Recognizer("exp/train_lrsms")
        >>> print(recognizer("speech.wav").text)

    Dense, low-rank, merged and compressed experiments open alike, and so does what ESPnet packed. A recording longer
    than ``max_seconds`` is cut at its pauses; if there is none, pieces overlap by three seconds and their words are
    joined by CTC's times. An audio-visual model hears the sound alone.

    Args:
        model: an experiment's folder with ``config.yaml`` and weights, an archive of ``espnet2.bin.pack``, or a Whisper
            model as openai-whisper, transformers or CTranslate2 have it, with ``tokenizer.json`` beside it.
        checkpoint: file name in the folder; default ``valid.acc.ave.pth``, or else the only average (``*.ave.pth``) or
            the only ``.pth`` file.
        decode: options of ESPnet's ``Speech2Text``, or a YAML file of them, such as ``conf/decode.yaml``; default a
            beam of 10 with CTC and attention weighed alike.
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, or ``int8``: torch's dynamic quantization.
        max_seconds: longest piece that is recognized in one go; about the longest utterance of the training is right.
        min_pause: seconds; if a recording is cut, it is cut at every pause of this length.

    Attributes:
        sampling_rate: in Hz, of what the model hears; recordings at other rates are resampled.

    Raises:
        LrsmsError: no such model, one that is damaged, incomplete or would execute code, or an unknown option.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        checkpoint: str | None = None,
        decode: Mapping | str | Path | None = None,
        device: str = "cpu",
        precision: str = "fp32",
        max_seconds: float = 20.0,
        min_pause: float = 0.5,
    ):
        if not max_seconds >= 1:
            raise LrsmsError(f"max_seconds: {max_seconds}: must be at least 1")
        if not min_pause > 0:
            raise LrsmsError(f"min_pause: {min_pause}: must be above 0")
        self._files, experiment, of_language_model = _locate(Path(model), checkpoint)
        try:
            self._region = _region(experiment)
            options = of_language_model | _bpe_model(experiment) | _options(decode, experiment)
            self._recognizer = open_recognizer(experiment, options, precision, device=device)
            self._tokenizer = experiment.tokenizer
        except LrsmsError as error:  # of an archive's files, which have been copied elsewhere
            raise LrsmsError(str(error).replace(str(experiment.folder), str(model))) from error
        self._model = self._recognizer.asr_model
        self.sampling_rate = experiment.sampling_rate
        overlap = 3.0 if self._has_ctc else 0.0  # without times, nothing could join the words of two pieces
        self._split = Splitter(self.sampling_rate, max_seconds, min_pause, overlap)
        self._shift: float | None = None

    def __call__(
        self,
        audio: str | Path | BinaryIO | np.ndarray,
        sampling_rate: int | None = None,
        *,
        channel: int | None = None,
        name: str = "",
        progress: Callable[[float], None] | None = None,
    ) -> Transcript:
        """Recognize one recording.

        Args:
            audio: a file of any format, sampling rate and number of channels that libsndfile reads, an open one, or
                samples ``(samples,)`` in [-1, 1].
            sampling_rate: of samples, in Hz; default the model's own.
            channel: which one of a file, from 0; default the mean of all.
            name: what to call the recording in messages.
            progress: called with the seconds of sound done since it was last called.

        Returns:
            Text, words with times, duration. Silence, and what is too short for the model, has no text.

        Raises:
            LrsmsError: the recording cannot be read, or holds NaN.
        """
        began = time.perf_counter()
        if isinstance(audio, np.ndarray | torch.Tensor):
            samples = self._from_array(audio, sampling_rate, name or "samples")
        else:
            source = Path(audio) if isinstance(audio, str | Path) else audio
            samples = read_audio(source, self.sampling_rate, channel, name)
        done = 0
        segments: list[Segment] = []
        for piece in self._split(samples):
            segments = _appended(segments, self._segment(samples, piece), piece, self._tokenizer.separator)
            if progress is not None:
                progress((piece.end - done) / self.sampling_rate)
            done = piece.end
        if progress is not None:
            progress((len(samples) - done) / self.sampling_rate)
        seconds = time.perf_counter() - began
        return Transcript(tuple(segments), len(samples) / self.sampling_rate, seconds, self._tokenizer.separator)

    @property
    def _has_ctc(self) -> bool:
        return getattr(self._model, "ctc", None) is not None

    def _from_array(self, audio: np.ndarray | torch.Tensor, rate: int | None, name: str) -> np.ndarray:
        samples = np.asarray(audio)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise LrsmsError(
                f"{name}: {samples.dtype} of shape {samples.shape}; give floating-point samples (samples,) in [-1, 1]"
            )
        rate = rate or self.sampling_rate
        check_finite(samples, rate, name)
        return resample(samples, rate, self.sampling_rate)

    @torch.inference_mode()
    def _segment(self, samples: np.ndarray, piece: Piece) -> Segment:
        start, end = piece.start / self.sampling_rate, piece.end / self.sampling_rate
        speech = samples[piece.start : piece.end]
        if self._region is not None:
            speech = pack(speech, None, size=self._region)
        batch = torch.from_numpy(np.ascontiguousarray(speech))[None].to(self._recognizer.device)
        try:
            if isinstance(self._recognizer, WhisperRecognizer):
                return Segment(self._recognizer(batch[0])[0][0], start, end)
            encoded = self._model.encode(batch, torch.tensor([batch.shape[1]], device=batch.device))[0]
            encoded = encoded[0] if isinstance(encoded, tuple) else encoded  # beside it: what inner layers say
            text, tokens, ids = self._recognizer._decode_single_sample(encoded[0])[0][:3]
        except Exception as error:  # convolutions say "too short" with a RuntimeError
            short = isinstance(error, RuntimeError) and end - start < 0.5
            if short or type(error).__name__ == "TooShortUttError":
                return Segment("", start, end)
            raise
        words = self._words(encoded, tokens, ids, start) if self._has_ctc else ()
        return Segment(text if text is not None else " ".join(tokens), start, end, words)

    def _words(self, encoded: torch.Tensor, tokens: list[str], ids: list[int], start: float) -> tuple[Word, ...]:
        scores = self._model.ctc.log_softmax(encoded)[0]
        timed = token_times(scores, [int(number) for number in ids], tokens, self._frame_shift)
        words = words_of(timed, pieces=self._tokenizer.are_pieces)
        return tuple(Word(word.token, start + word.start, start + word.end) for word in words)

    @property
    def _frame_shift(self) -> float:
        """Seconds between the encoder's frames, learned by asking it."""
        if self._region is not None:
            return FRAME_SHIFT
        if self._shift is None:
            with torch.device(self._recognizer.device):
                first, second = (encoder_frames(self._model, seconds * self.sampling_rate) for seconds in (2, 12))
            self._shift = max(1, round(10 / (second - first) / _HOP)) * _HOP if second > first else _HOP
        return self._shift


def _locate(model: Path, checkpoint: str | None) -> tuple[tempfile.TemporaryDirectory | None, Experiment, dict]:
    """Where an archive was unpacked, the experiment, and options of ``Speech2Text`` for a language model beside it."""
    if is_whisper_file(model):
        files = tempfile.TemporaryDirectory(prefix="lrsms-")
        experiment = Experiment(Path(files.name))
        import_whisper(model, experiment, open_whisper(model).audio_context)
        return files, experiment, {}
    if is_pack(model):
        files = tempfile.TemporaryDirectory(prefix="lrsms-")
        unpacked = unpack(model, Path(files.name))
        of_language_model = {key: path for key, path in unpacked.items() if key.startswith("lm_")}
        return files, Experiment.of(unpacked["asr_model_file"]), of_language_model
    if not model.is_dir():
        raise LrsmsError(f"{model}: neither an experiment's folder nor an archive of espnet2.bin.pack")
    experiment = Experiment(model) if checkpoint is None else Experiment(model, checkpoint)
    if checkpoint is None and not experiment.weights.exists():
        averages = [name for name in experiment.checkpoints if name.endswith(".ave.pth")]
        for names in (averages, experiment.checkpoints):
            if len(names) == 1:
                return None, Experiment(model, names[0]), {}
    experiment.check()
    return None, experiment, {}


def _options(decode: Mapping | str | Path | None, experiment: Experiment) -> dict:
    """Of ``Speech2Text``; by default what the model has (CTC, decoder) and a beam that its token list allows."""
    tokens, trained = experiment.config.get("token_list"), experiment.ctc_weight
    count = len(tokens) if isinstance(tokens, list) else None
    if decode is None and experiment.is_whisper:
        return {}
    if decode is None:
        weight = {"ctc_weight": trained} if trained in (0, 1) else {}
        beam = {} if count is None else {"beam_size": max(1, min(_DEFAULTS["beam_size"], count - 1))}
        return _DEFAULTS | weight | beam
    where = str(decode) if isinstance(decode, str | Path) else "decode"
    options = read_options(Path(decode)) if isinstance(decode, str | Path) else check_options(decode, where)
    if count is not None:
        check_beam(options.get("beam_size", 20), count, where)
    return options


def _bpe_model(experiment: Experiment) -> dict:
    """Where the sub-word model is: configs name it from the recipe's folder, which need not be the current one."""
    path = experiment.bpemodel
    return {} if path is None else {"bpemodel": str(path)}


def _region(experiment: Experiment) -> tuple[int, int] | None:
    region = encoder_region(experiment.config)
    if region is not None and experiment.options("encoder_conf").get("modality") == "video":
        raise LrsmsError(f"{experiment.config_file}: encoder_conf.modality: video: a model that hears nothing")
    return region


def _appended(segments: list[Segment], segment: Segment, piece: Piece, separator: str) -> list[Segment]:
    if not piece.overlaps or not segments:
        return [*segments, segment]
    return [*segments[:-1], join_overlapping(segments[-1], segment, separator)]
