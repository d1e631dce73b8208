"""Whisper's log-Mel frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrsms.whisper.dimensions import HOP, SAMPLING_RATE, WINDOW


class LogMel(nn.Module):
    """Waveforms to log-Mel frames, 100 per second.

    Args:
        n_mels: bins.
    """

    def __init__(self, n_mels: int):
        super().__init__()
        import torchaudio.functional  # takes a second

        filters = torchaudio.functional.melscale_fbanks(
            WINDOW // 2 + 1, 0.0, SAMPLING_RATE / 2, n_mels, SAMPLING_RATE, norm="slaney", mel_scale="slaney"
        )
        self.register_buffer("filters", filters.T.contiguous(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Frames ``(B, n_mels, T)`` and their numbers ``(B,)``.

        The range of a clip is 8 decades below its own loudest bin, as Whisper was trained; silence behind a clip
        changes nothing within it.

        Args:
            samples: ``(B, samples)`` at 16 kHz, zero behind each clip's own.
            lengths: ``(B,)`` samples.
        """
        frames = (lengths + HOP - 1) // HOP
        padded = F.pad(samples, (0, WINDOW))  # no reflection of a clip's end, which a batch would not have
        spectrum = torch.stft(padded, WINDOW, HOP, window=self.window, return_complex=True)
        power = spectrum[..., : int(frames.max())].abs().square()
        with torch.autocast(samples.device.type, enabled=False):  # the range of power is more than 16 bits tell apart
            log = (self.filters @ power).clamp_min(1e-10).log10()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - 8.0)
        return (log + 4.0) / 4.0, frames
