"""Whisper's own search around a trained experiment, with what is used here of ESPnet's ``Speech2Text``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.whisper.search import Hypothesis, SearchOptions, repeats_itself, search
from lrsms.whisper.tokens import WhisperTokens

_KNOWN = ("beam_size", "nbest", "whisper", "ctc_weight", "bpemodel")
Result = tuple[str, list[str], list[int], Hypothesis]  # text, tokens, their numbers, and the hypothesis itself


class WhisperRecognizer:
    """A trained model that turns speech into text by Whisper's rules.

    Args:
        experiment: of the model.
        options: of a decoding YAML: ``beam_size`` (default 1, greedy), ``nbest``, and ``whisper:``, see
            :class:`lrsms.whisper.search.SearchOptions`.
        device: ``cpu``, ``cuda`` or ``cuda:<number>``.

    Attributes:
        asr_model: the ``ESPnetASRModel`` in evaluation mode.
        device: as given.

    Raises:
        LrsmsError: an option that Whisper's search does not have.
    """

    def __init__(self, experiment: Experiment, options: Mapping, device: str = "cpu"):
        where = str(experiment.config_file)
        for key, value in options.items():
            if key not in _KNOWN or (key == "ctc_weight" and value):
                raise LrsmsError(
                    f"{where}: decoding with {key}: {value!r}: Whisper has no CTC, and its search takes beam_size, "
                    f"nbest and whisper: {{{', '.join(SearchOptions.__dataclass_fields__)}}}"
                )
        self.options = SearchOptions.parse(options.get("whisper"), f"{where}: whisper")
        self.beam_size, self.nbest = options.get("beam_size", 1), options.get("nbest", 1)
        tokens = experiment.tokenizer
        assert isinstance(tokens, WhisperTokens)
        self.tokens = tokens
        self.tokens.prompt(self._language, self.options.task, self.options.timestamps)  # refuses what it does not know
        model, _ = experiment.load()
        self.asr_model: nn.Module = model.to(device).eval()
        self.device = device

    @property
    def _language(self) -> str:
        return "en" if self.options.language == "detect" else self.options.language

    @torch.no_grad()
    def __call__(self, speech: np.ndarray | torch.Tensor) -> list[Result]:
        """The best texts of ``speech (samples,)`` at 16 kHz, best first."""
        found = self._heard(speech)
        threshold = self.options.compression_ratio_threshold
        if self.asr_model.encoder.audio_context == "condensed" and repeats_itself(found[0][0], threshold):
            with self._silence_in_full():
                found = self._heard(speech)
        return found

    @contextmanager
    def _silence_in_full(self) -> Iterator[None]:
        parts = self.asr_model.encoder, self.asr_model.decoder
        for part in parts:
            part.audio_context = "full"
        try:
            yield
        finally:
            for part in parts:
                part.audio_context = "condensed"

    def _heard(self, speech: np.ndarray | torch.Tensor) -> list[Result]:
        samples = torch.as_tensor(speech, dtype=torch.float32, device=self.device)[None]
        encoded, _ = self.asr_model.encode(samples, torch.tensor([samples.shape[1]], device=self.device))
        return self._decode_single_sample(encoded[0])

    def _decode_single_sample(self, encoded: torch.Tensor) -> list[Result]:
        """The same from the encoder's output ``(S, D)``; ESPnet's name of it."""
        decoder, memory = self.asr_model.decoder, encoded[None]
        counts = decoder.counts(memory, torch.tensor([len(encoded)]))
        found = search(decoder.decoders, memory, self.tokens, self.options, self.beam_size, counts)[: self.nbest]
        return [self._result(hypothesis) for hypothesis in found]

    def _result(self, hypothesis: Hypothesis) -> Result:
        ids = list(hypothesis.tokens)
        return self.tokens.decode(ids), [self.tokens.token_list[number] for number in ids], ids, hypothesis
