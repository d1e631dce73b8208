"""Knowledge distillation in fine-tuning (Hinton et al. 2015): the model also learns what the original thinks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment

_OUTPUTS = ("output_layer", "output", "decoders.token_output")  # of ESPnet's decoders, and Whisper's


def attach_teacher(
    model: nn.Module,
    checkpoint: Path,
    weight: float,
    temperature: float = 1.0,
    encoder_weight: float = 0.0,
    decoder_weight: float = 0.0,
) -> None:
    """Have ``model``'s training loss pull its CTC and decoder outputs towards those of a teacher.

    ``loss = (1 - weight) * loss + weight * T^2 * KL(teacher | student)``, the divergence summed over frames and tokens
    of an utterance as ESPnet's loss is, CTC and decoder weighed by ``ctc_weight``. With ``encoder_weight`` comes
    ``encoder_weight * |student - teacher|^2 / |teacher|^2`` of the encoders' outputs, the "hint" of Romero et al. 2015:
    where hours are few, each frame says more than a label. ``decoder_weight`` does the same for what the decoders'
    output layers take in, and so keeps the meaning of an output layer that is not trained. Evaluation is not changed.

    Args:
        model: an ``ESPnetASRModel``; its ``forward`` is wrapped. The teacher is no part of its state.
        checkpoint: weights of the teacher, with ``config.yaml`` beside it; of the same tokens and subsampling.
        weight: between 0 and 1.
        temperature: of both softmaxes.
        encoder_weight: at least 0; above it, both encoders must give outputs of one shape.
        decoder_weight: at least 0; above it, both must have decoders of one width.

    Raises:
        LrsmsError: the teacher has other tokens or another width, there is no decoder to draw, or a weight is out of
            range.
    """
    if not 0 < weight <= 1:
        raise LrsmsError(f"distill_weight: {weight!r} is not above 0 and at most 1")
    hints = {"encoder": encoder_weight, "decoder": decoder_weight}
    for part, of_part in hints.items():
        if not 0 <= of_part < math.inf:
            raise LrsmsError(f"distill_{part}_weight: {of_part!r} is not a number of at least 0")
    teacher = Experiment.of(checkpoint).load()[0]
    widths = [one.encoder.output_size() for one in (model, teacher)] if encoder_weight else [0, 0]
    if widths[0] != widths[1]:
        raise LrsmsError(
            f"distill_encoder_weight: the encoder of {checkpoint} is {widths[1]} wide, this one {widths[0]}; remove it"
        )
    if decoder_weight and None in (_output_layer(model), _output_layer(teacher)):
        raise LrsmsError(f"distill_decoder_weight: this model or that of {checkpoint} has no decoder; remove it")
    if teacher.token_list != model.token_list:
        raise LrsmsError(f"distill_from: {checkpoint} has other tokens than the model to train")
    teacher = teacher.eval().requires_grad_(False)
    plain = model.forward
    ctc_weight = model.ctc_weight

    def forward(speech, speech_lengths, text, text_lengths, **others):
        if not model.training:
            return plain(speech, speech_lengths, text, text_lengths, **others)
        with _outputs(model) as student:
            loss, stats, count = plain(speech, speech_lengths, text, text_lengths, **others)
        with torch.no_grad(), _outputs(teacher.to(speech.device)) as wanted:
            teacher(speech, speech_lengths, text.clone(), text_lengths, **others)
        hint = 0.0
        for part, of_part in hints.items():
            if of_part:
                own, its = student[f"{part}_states"], wanted[f"{part}_states"]
                if own[0].shape != its[0].shape:
                    raise LrsmsError(
                        f"distill_{part}_weight: the {part} of {checkpoint} gives {tuple(its[0].shape)}, this one "
                        f"{tuple(own[0].shape)}; remove it"
                    )
                drawn = of_part * _relative_error(own, its)
                stats[f"loss_{part}"] = drawn.detach()
                hint = hint + drawn
        shares = {"ctc": ctc_weight, "decoder": 1 - ctc_weight}
        divergence = sum(
            shares[name] * _divergence(student[name], wanted[name], temperature)
            for name in shares.keys() & student.keys() & wanted.keys()
        )
        stats["loss_distill"] = divergence.detach()
        return (1 - weight) * loss + weight * divergence + hint, stats, count

    model.forward = forward


@contextmanager
def _outputs(model: nn.Module):
    """States of encoder and decoder, and logits of CTC and decoder, with their lengths, as they pass by."""
    logits: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def encoder(_, __, output) -> None:
        encoded = output[0][0] if isinstance(output[0], tuple) else output[0]  # with those of layers between
        logits["encoder_states"] = (encoded, output[1])

    def ctc(_, __, output) -> None:
        if output.dim() == 3:
            logits["ctc"] = (output, logits["encoder_states"][1])

    def decoder(_, inputs, output) -> None:
        lengths = inputs[3]  # what ESPnet's TransformerDecoder returns as lengths are none
        logits["decoder"] = (output[0], lengths)
        if states:
            logits["decoder_states"] = (states.pop(), lengths)
            states.clear()

    states: list[torch.Tensor] = []
    hooks = [model.encoder.register_forward_hook(encoder)]
    if model.ctc is not None:
        hooks.append(model.ctc.ctc_lo.register_forward_hook(ctc))
    if model.decoder is not None:
        hooks.append(model.decoder.register_forward_hook(decoder))
        layer = _output_layer(model)
        if layer is not None:
            hooks.append(layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])))
    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()


def _output_layer(model: nn.Module) -> nn.Module | None:
    """The last layer of the decoder; None without a decoder, or with one that is not known."""
    modules = dict(model.decoder.named_modules()) if model.decoder is not None else {}
    return next((modules[name] for name in _OUTPUTS if name in modules), None)


def _divergence(student: tuple, wanted: tuple, temperature: float) -> torch.Tensor:
    """KL per utterance: ``(batch, positions, tokens)`` logits, summed over the positions that are no padding."""
    logits, lengths = student
    positions = _own(logits, lengths)
    log_student = (logits / temperature).log_softmax(-1)
    log_teacher = (wanted[0] / temperature).log_softmax(-1)
    each = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * each.masked_fill(~positions, 0.0).sum() / len(logits)


def _relative_error(student: tuple, wanted: tuple) -> torch.Tensor:
    """``|student - wanted|^2 / |wanted|^2`` over the ``(batch, frames, width)`` that are no padding."""
    own = _own(*student)[:, :, None]
    squares = (student[0] - wanted[0]).float().square().masked_fill(~own, 0.0).sum()
    return squares / wanted[0].float().square().masked_fill(~own, 0.0).sum()


def _own(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``(batch, positions)``: no padding."""
    return torch.arange(values.shape[1], device=values.device)[None] < lengths.to(values.device)[:, None]
