"""How many frames a model's encoder makes of an utterance, learned by asking it."""

from __future__ import annotations

import torch
from torch import nn

from lrsms.espnet.models.cost import speech_for


def encoder_frames(model: nn.Module, samples: int) -> int:
    """Frames that the encoder of an ESPnet model returns for ``samples`` samples; 0 where that is too short for it."""
    try:
        return _encode(model, samples)
    except Exception as error:  # TooShortUttError and, from convolutions, RuntimeError: both mean "too short"
        if type(error).__name__ == "TooShortUttError" or isinstance(error, RuntimeError):
            return 0
        raise


def _encode(model: nn.Module, samples: int) -> int:
    speech = speech_for(model, torch.zeros(1, samples))
    return int(model.encode(speech, torch.tensor([speech.shape[1]]))[1])


class EncoderLength:
    """``samples -> encoder frames`` without running the encoder each time.

    Encoders that can say it (``output_frames``) are asked. Of others, subsampling makes
    ``floor((samples - offset) / step)`` frames. Step and offset are found by running the model on a few lengths of
    silence; where other lengths contradict the formula, every length is asked for by itself.

    Args:
        model: an ESPnet model with ``encode(waveform, lengths)``.
        fs: sampling rate in Hz.
    """

    def __init__(self, model: nn.Module, fs: int):
        self.model, self.training = model, model.training
        self.known = getattr(model.encoder, "output_frames", None)
        if self.known is not None:
            return
        model.eval()
        with torch.no_grad():
            _encode(model, 2 * fs)  # two seconds are too short for none: what fails here is not the length
            first, second = encoder_frames(model, fs), encoder_frames(model, 2 * fs)
            hop = fs // 100
            self.step = max(1, round(fs / max(1, second - first) / hop)) * hop
            self.offset = self._first_sample_of(fs, first) - first * self.step
            probes = [fs // 2 + 37, fs + 1234, 3 * fs // 2 + 555, 2 * fs]
            self.exact = all(self._formula(count) == encoder_frames(model, count) for count in probes)
        model.train(self.training)

    def _first_sample_of(self, upper: int, frames: int) -> int:
        """Smallest number of samples, at most ``upper``, that makes ``frames`` frames (bisection)."""
        low, high = max(0, upper - 2 * self.step), upper
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if encoder_frames(self.model, middle) >= frames else (middle, high)
        return high

    def _formula(self, samples: int) -> int:
        return max(0, (samples - self.offset) // self.step)

    def __call__(self, samples: int) -> int:
        """Frames for an utterance of ``samples`` samples."""
        if self.known is not None:
            return self.known(samples)
        if self.exact:
            return self._formula(samples)
        self.model.eval()
        with torch.no_grad():
            frames = encoder_frames(self.model, samples)
        self.model.train(self.training)
        return frames
