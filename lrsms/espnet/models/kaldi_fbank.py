"""Kaldi-compatible log-Mel filter banks as an ESPnet front-end."""

from __future__ import annotations

import humanfriendly
import torch
from espnet2.asr.frontend.abs_frontend import AbsFrontend

from lrsms.espnet.compat import make_pad_mask


class KaldiFbank(AbsFrontend):
    """``frontend: kaldi_fbank``: Lhotse's torch layer, so that a model also runs if Kaldi features are computed.

    Args:
        fs: sampling rate in Hz; ESPnet's recipes write it as ``16k``.
        num_filters: Mel bins.
        frame_length: window in seconds.
        frame_shift: hop in seconds.
        dither: standard deviation of the noise added to samples in [-1, 1]; 0 keeps decoding deterministic.
        low_freq, high_freq: band in Hz; ``high_freq`` below or at 0 counts from Nyquist.
    """

    def __init__(
        self,
        fs: int | str = 16000,
        num_filters: int = 80,
        frame_length: float = 0.025,
        frame_shift: float = 0.01,
        dither: float = 0.0,
        low_freq: float = 20.0,
        high_freq: float = -400.0,
    ):
        super().__init__()
        from lhotse.features.kaldi.layers import Wav2LogFilterBank  # half a second: only if a config names it

        fs = humanfriendly.parse_size(fs) if isinstance(fs, str) else fs
        self.num_filters = num_filters
        self.hop, self.window = round(frame_shift * fs), round(frame_length * fs)
        self.fbank = Wav2LogFilterBank(
            sampling_rate=fs,
            num_filters=num_filters,
            frame_length=frame_length,
            frame_shift=frame_shift,
            dither=dither,
            low_freq=low_freq,
            high_freq=high_freq,
        )
        # Lhotse keeps the window and the Mel matrix as frozen parameters, which ESPnet's `init:` would overwrite.
        for module in self.fbank.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.data, persistent=False)

    def output_size(self) -> int:
        """Features per frame."""
        return self.num_filters

    def forward(self, input: torch.Tensor, input_lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Waveforms ``(batch, samples)`` and lengths in samples to features ``(batch, frames, bins)`` and frames.

        As in Kaldi without ``snip_edges``: one frame per hop, rounded to the nearest, here at least one. The edge is
        mirrored for each utterance where it ends, so that padding in a batch changes nothing.
        """
        padded = torch.nn.functional.pad(input.float(), (0, self.window))  # room for the longest one's mirror image
        with torch.autocast(device_type=input.device.type, enabled=False):
            features = self.fbank(self._mirror_ends(padded, input_lengths))
        lengths = torch.div(input_lengths + self.hop // 2, self.hop, rounding_mode="floor").clamp(min=1)
        features = features[:, : int(lengths.max())]
        return features.masked_fill(make_pad_mask(lengths, features, 1), 0.0), lengths

    def _mirror_ends(self, waveform: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Write each utterance's mirror image behind its end, if it has padding."""
        position = torch.arange(waveform.size(1), device=waveform.device)[None]
        end = lengths.to(waveform.device)[:, None]
        mirrored = torch.where(position < end, position, (2 * end - 1 - position).clamp(min=0))
        return waveform.gather(1, mirrored)
