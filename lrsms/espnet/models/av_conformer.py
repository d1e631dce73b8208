"""``encoder: av_conformer``: an audio-visual Conformer after auto_avsr (Ma et al. 2023), in ESPnet's terms.

It takes the frame-synchronous array of :mod:`lrsms.avsr.frames` as ESPnet's ``speech`` (``input_size: 640 + region *
region``, no front-end, no normalization), splits it, and gives 25 frames a second: a front-end and a Conformer for each
stream, then an MLP on both outputs side by side. The low-rank form is a row of :mod:`lrsms.espnet.models.role_table`.

Dimensions: B utterances, T video frames of the longest, D ``output_size``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
from espnet2.asr.encoder.abs_encoder import AbsEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from torch import nn

from lrsms.avsr.frames import FRAME_SHIFT, SAMPLES, SAMPLING_RATE, missing, row_size, split
from lrsms.avsr.frontends import AudioResNet, MouthResNet
from lrsms.errors import LrsmsError
from lrsms.espnet.config import check_keys
from lrsms.espnet.models.fast import make_fast_
from lrsms.espnet.models.fast.convolution import MaskedConv1d
from lrsms.espnet.models.kaldi_fbank import KaldiFbank

STREAMS = ("audio", "video")
MODALITIES = (*STREAMS, "audiovisual")


class AudioFilterBank(nn.Module):
    """Log-Mel filter banks every 10 ms, four of them to a video frame: ``(B, T * 640)`` -> ``(B, T, 4 * filters)``.

    AV-HuBERT's sound (Shi et al. 2022), each band at mean 0 and variance 1 over the utterance. Nothing is learned here:
    for corpora too small to learn filters of the waveform from.

    Args:
        num_filters: Mel bins.

    Raises:
        LrsmsError: ``num_filters`` is not a whole number of at least 1.
    """

    _PER_FRAME = 4

    def __init__(self, num_filters: int = 40):
        super().__init__()
        if isinstance(num_filters, bool) or not isinstance(num_filters, int) or num_filters < 1:
            raise LrsmsError(f"audio_frontend.num_filters: {num_filters!r} is not a whole number of at least 1")
        with torch.device("cpu"):  # Lhotse computes its tables with numpy, where a plan is made on `meta` too
            self.fbank = KaldiFbank(SAMPLING_RATE, num_filters, frame_shift=FRAME_SHIFT / self._PER_FRAME)
        self.features = self._PER_FRAME * num_filters

    def forward(self, samples: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        """Features ``(B, T, 4 * filters)``, zero where an utterance has padding.

        Args:
            samples: ``(B, T * 640)``.
            real: ``(B, T)``, false behind the end of an utterance; None if no utterance has padding.
        """
        batch, frames = samples.shape[0], samples.shape[1] // SAMPLES
        if samples.is_meta:
            return samples.new_empty(batch, frames, self.features)
        counts = samples.new_full((batch,), frames, dtype=torch.long) if real is None else real.sum(1)
        bands = self.fbank(samples, counts * SAMPLES)[0]
        bands = nn.functional.pad(bands, (0, 0, 0, frames * self._PER_FRAME - bands.shape[1]))
        if real is None:
            real = samples.new_ones(batch, frames, dtype=torch.bool)
        real = real.repeat_interleave(self._PER_FRAME, 1)[:, :, None]
        count = real.sum(1, keepdim=True)
        centered = (bands - (bands * real).sum(1, keepdim=True) / count) * real
        bands = centered * torch.rsqrt(centered.square().sum(1, keepdim=True) / count + 1e-5)
        return bands.reshape(batch, frames, self.features)


FRONTENDS: dict[str, dict[str, type[nn.Module]]] = {
    "audio": {"resnet": AudioResNet, "fbank": AudioFilterBank},
    "video": {"resnet": MouthResNet},
}


class AVConformerEncoder(AbsEncoder):
    """Audio, video or audio-visual encoder: ``(B, T, 640 + height * width)`` -> ``(B, T, D)``.

    A stream whose part is all zeros over an utterance is missing: its Conformer's output is zeros before the fusion,
    and nothing is computed for it. Training with ``modality_dropout`` makes such utterances, and so one checkpoint
    decodes with both streams and with either one. Padding changes no output, in the convolutions neither.

    Args:
        input_size: 640 + height * width of the mouth region.
        output_size: D, of both Conformers and of the whole.
        modality: ``audio``, ``video`` or ``audiovisual``; a stream that is not of it is not looked at.
        region: height and width of the mouth region in pixels, one number for a square.
        modality_dropout: probabilities ``{audio: p, video: q}`` that training drops one stream of an utterance.
        audio_frontend: ``type: resnet`` (default) and options of :class:`~lrsms.avsr.frontends.AudioResNet`, or
            ``type: fbank`` and those of :class:`AudioFilterBank`.
        video_frontend: options of :class:`~lrsms.avsr.frontends.MouthResNet`.
        fusion_units: width of the MLP behind both Conformers.
        attention_heads, linear_units, num_blocks, dropout_rate, positional_dropout_rate, attention_dropout_rate,
            macaron_style, cnn_module_kernel, pos_enc_layer_type, selfattention_layer_type: of both Conformers, as in
            ESPnet's ``ConformerEncoder``.
        fast: whether to take the fast paths of :mod:`lrsms.espnet.models.fast`.

    Raises:
        LrsmsError: an option out of its range, or a region that does not fit ``input_size``.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int = 256,
        modality: str = "audiovisual",
        region: int | Sequence[int] = 88,
        modality_dropout: Mapping[str, float] | None = None,
        audio_frontend: Mapping | None = None,
        video_frontend: Mapping | None = None,
        fusion_units: int = 2048,
        attention_heads: int = 4,
        linear_units: int = 2048,
        num_blocks: int = 6,
        dropout_rate: float = 0.1,
        positional_dropout_rate: float = 0.1,
        attention_dropout_rate: float = 0.0,
        macaron_style: bool = True,
        cnn_module_kernel: int = 31,
        pos_enc_layer_type: str = "rel_pos",
        selfattention_layer_type: str = "rel_selfattn",
        fast: bool | str = True,
    ):
        super().__init__()
        self.region = _region(region, input_size)
        if modality not in MODALITIES:
            raise LrsmsError(f"encoder_conf.modality: {modality!r} is unknown; one of {', '.join(MODALITIES)}")
        self.modality = modality
        self.modality_dropout = _modality_dropout(modality_dropout, modality)
        conformer = {
            "output_size": output_size,
            "attention_heads": attention_heads,
            "linear_units": linear_units,
            "num_blocks": num_blocks,
            "dropout_rate": dropout_rate,
            "positional_dropout_rate": positional_dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "macaron_style": macaron_style,
            "cnn_module_kernel": cnn_module_kernel,
            "pos_enc_layer_type": pos_enc_layer_type,
            "selfattention_layer_type": selfattention_layer_type,
        }
        options = {"audio": audio_frontend, "video": video_frontend}
        for name in self.streams:
            setattr(self, name, Stream(_frontend(name, options[name]), conformer))
        if modality == "audiovisual":
            self.fusion = Fusion(2 * output_size, fusion_units, output_size)
        self._output_size = output_size
        self.fast = fast
        make_fast_(self, fast, "encoder_conf.fast")

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that the modality takes."""
        return STREAMS if self.modality == "audiovisual" else (self.modality,)

    def output_size(self) -> int:
        """D."""
        return self._output_size

    def dummy_input(self, waveform: torch.Tensor) -> torch.Tensor:
        """An array ``(B, T, input_size)`` of waveforms ``(B, samples)`` and even gray, to measure the model with."""
        frames = -(-waveform.shape[1] // SAMPLES)
        samples = nn.functional.pad(waveform, (0, frames * SAMPLES - waveform.shape[1])).unflatten(1, (frames, SAMPLES))
        return torch.cat((samples, samples.new_full((len(waveform), frames, self.region[0] * self.region[1]), 0.5)), 2)

    def forward(
        self, xs_pad: torch.Tensor, ilens: torch.Tensor, prev_states: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode a batch.

        Args:
            xs_pad: ``(B, T, input_size)``.
            ilens: ``(B,)`` lengths in frames.
            prev_states: not used; ESPnet's signature.

        Returns:
            ``(B, T, D)``, lengths ``(B,)``, None.
        """
        lengths = torch.as_tensor(ilens, device=xs_pad.device)
        real = None
        if any(length < xs_pad.shape[1] for length in (ilens.tolist() if isinstance(ilens, torch.Tensor) else ilens)):
            real = torch.arange(xs_pad.shape[1], device=xs_pad.device) < lengths[:, None]
        inputs = dict(zip(STREAMS, split(xs_pad, *self.region)))
        if self.modality != "audiovisual":
            return getattr(self, self.modality)(inputs[self.modality], real), lengths, None
        present = self._present(inputs)
        encoded = [_where_present(getattr(self, name), inputs[name], present[name], real) for name in STREAMS]
        return self.fusion(torch.cat(encoded, 2), real), lengths, None

    def _present(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Per stream ``(B,)``: whether an utterance has it, and training has not dropped it."""
        present = {name: ~missing(inputs[name]) for name in STREAMS}
        if self.training and any(self.modality_dropout.values()):
            both = present["audio"] & present["video"]
            draw = torch.rand(len(both)).to(both.device)  # one number for both streams: never both are dropped
            audio, video = self.modality_dropout["audio"], self.modality_dropout["video"]
            present["audio"] = present["audio"] & ~(both & (draw < audio))
            present["video"] = present["video"] & ~(both & (draw >= audio) & (draw < audio + video))
        return present


class Stream(nn.Module):
    """Front-end and Conformer of one stream.

    Args:
        frontend: makes ``(B, T, frontend.features)``.
        conformer: options of ESPnet's ``ConformerEncoder``.
    """

    def __init__(self, frontend: nn.Module, conformer: Mapping):
        super().__init__()
        self.frontend = frontend
        self.conformer = ConformerEncoder(frontend.features, input_layer="linear", rel_pos_type="latest", **conformer)
        for layer in self.conformer.encoders:
            layer.conv_module.depthwise_conv = MaskedConv1d(layer.conv_module.depthwise_conv)

    def forward(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """Encode ``(B, ...)`` to ``(B, T, D)``; ``real (B, T)``: false behind an end, None if nothing is padded."""
        features = self.frontend(x, real)
        padding = features.new_zeros(features.shape[:2], dtype=torch.bool) if real is None else ~real
        convolutions = [layer.conv_module.depthwise_conv for layer in self.conformer.encoders]
        try:
            for convolution in convolutions:
                convolution.padding_mask = None if real is None else padding
            return self.conformer(features, (~padding).sum(1), masks=padding)[0]
        finally:
            for convolution in convolutions:
                convolution.padding_mask = None


class Fusion(nn.Module):
    """The reference's MLP: linear, batch normalization, ReLU, linear, on every frame; padding is left out.

    Args:
        inputs, units, outputs: sizes of the three layers of neurons.
    """

    def __init__(self, inputs: int, units: int, outputs: int):
        super().__init__()
        self.hidden = nn.Linear(inputs, units)
        self.norm = nn.BatchNorm1d(units)
        self.output = nn.Linear(units, outputs)

    def forward(self, x: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
        """``(B, T, inputs)`` to ``(B, T, outputs)``, zero behind an utterance's end."""
        frames = x.flatten(0, 1) if real is None else x[real]
        frames = self.output(torch.relu(self.norm(self.hidden(frames))))
        if real is None:
            return frames.unflatten(0, x.shape[:2])
        return frames.new_zeros(*x.shape[:2], frames.shape[1]).masked_scatter(real[:, :, None], frames)


def check_model(model: nn.Module) -> None:
    """Refuse what ESPnet would do to the array on its way to the encoder.

    Raises:
        LrsmsError: ``normalize`` or ``specaug`` in the config of an audio-visual model.
    """
    if not isinstance(model.encoder, AVConformerEncoder):
        return
    for option in ("normalize", "specaug"):
        if getattr(model, option, None) is not None:
            raise LrsmsError(
                f"{option}: an audio-visual encoder takes samples and pixels, which are neither normalized nor masked "
                f"as features are; write {option}: null"
            )


def _where_present(stream: Stream, x: torch.Tensor, present: torch.Tensor, real: torch.Tensor | None) -> torch.Tensor:
    """The stream's output ``(B, T, D)``, zeros for utterances that lack it."""
    if x.is_meta or torch.compiler.is_exporting():  # no value to decide by
        return stream(x, real) * present[:, None, None]
    if present.all():
        return stream(x, real)
    frames = x.shape[1] // SAMPLES if x.dim() == 2 else x.shape[1]
    zeros = x.new_zeros(len(x), frames, stream.conformer.output_size())
    if present.any():
        encoded = stream(x[present], None if real is None else real[present])
        return zeros.to(encoded.dtype).index_copy(0, present.nonzero()[:, 0], encoded)
    if torch.is_grad_enabled():
        # Distributed training waits for a gradient of every parameter.
        zeros = zeros + 0.0 * sum(parameter.sum() for parameter in stream.parameters())
    return zeros


def _region(region: int | Sequence[int], input_size: int) -> tuple[int, int]:
    sides = (region, region) if isinstance(region, int) else tuple(region)
    if len(sides) != 2 or any(not isinstance(side, int) or side < 1 for side in sides):
        raise LrsmsError(f"encoder_conf.region: {region!r} is not a size in pixels; write 88, or [height, width]")
    if row_size(*sides) != input_size:
        raise LrsmsError(
            f"encoder_conf.region: {region} makes rows of {row_size(*sides)} numbers, {SAMPLES} samples and "
            f"{sides[0]} x {sides[1]} pixels, but input_size is {input_size}; write input_size: {row_size(*sides)}"
        )
    return sides


def _modality_dropout(probabilities: Mapping[str, float] | None, modality: str) -> dict[str, float]:
    where = "encoder_conf.modality_dropout"
    probabilities = dict(probabilities or {})
    check_keys(probabilities, STREAMS, where)
    if probabilities and modality != "audiovisual":
        raise LrsmsError(f"{where}: modality: {modality} has one stream; leave it out")
    chances = {name: float(probabilities.get(name, 0.0)) for name in STREAMS}
    if min(chances.values()) < 0 or sum(chances.values()) > 1:
        raise LrsmsError(f"{where}: {probabilities} are not probabilities of at least 0 that add up to at most 1")
    return chances


def _frontend(name: str, options: Mapping | None) -> nn.Module:
    where, options = f"encoder_conf.{name}_frontend", dict(options or {})
    kind, kinds = options.pop("type", "resnet"), FRONTENDS[name]
    if kind not in kinds:
        raise LrsmsError(f"{where}.type: {kind!r} is unknown; one of {', '.join(kinds)}")
    check_keys(options, inspect.signature(kinds[kind]).parameters, where)
    return kinds[kind](**options)
