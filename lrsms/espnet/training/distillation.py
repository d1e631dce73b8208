"""Knowledge distillation in fine-tuning (Hinton et al. 2015): the model also learns what the original thinks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment

# Options of the task, with the values that they have where there is no teacher.
DEFAULTS = {"distill_weight": 0.5, "distill_temperature": 1.0, "distill_encoder_weight": 0.0}


def attach_teacher(
    model: nn.Module, checkpoint: Path, weight: float, temperature: float = 1.0, encoder_weight: float = 0.0
) -> None:
    """Have ``model``'s training loss pull its CTC and decoder outputs towards those of a teacher.

    ``loss = (1 - weight) * loss + weight * T^2 * KL(teacher | student)``, the divergence summed over frames and tokens
    of an utterance as ESPnet's loss is, CTC and decoder weighed by ``ctc_weight``. With ``encoder_weight`` comes
    ``encoder_weight * |student - teacher|^2 / |teacher|^2`` of the encoders' outputs, the "hint" of Romero et al. 2015:
    where hours are few, each frame says more than a label. Evaluation is not changed.

    Args:
        model: an ``ESPnetASRModel``; its ``forward`` is wrapped. The teacher is no part of its state.
        checkpoint: weights of the teacher, with ``config.yaml`` beside it; of the same tokens and subsampling.
        weight: between 0 and 1.
        temperature: of both softmaxes.
        encoder_weight: at least 0; above it, both encoders must give outputs of one shape.

    Raises:
        LrsmsError: the teacher has other tokens or another encoder width, the decoder of one of them is none that
            attends, or a weight is out of range.
    """
    if not 0 < weight <= 1:
        raise LrsmsError(f"distill_weight: {weight!r} is not above 0 and at most 1")
    if not 0 <= encoder_weight < math.inf:
        raise LrsmsError(f"distill_encoder_weight: {encoder_weight!r} is not a number of at least 0")
    teacher = Experiment.of(checkpoint).load()[0]
    widths = [one.encoder.output_size() for one in (model, teacher)] if encoder_weight else [0, 0]
    if widths[0] != widths[1]:
        raise LrsmsError(
            f"distill_encoder_weight: the encoder of {checkpoint} is {widths[1]} wide, this one {widths[0]}; remove it"
        )
    for whose, one in (("the model to train", model), (str(checkpoint), teacher)):
        if getattr(one, "use_transducer_decoder", False) or getattr(one, "use_linear_decoder", False):
            raise LrsmsError(
                f"distill_from: {checkpoint}: the decoder of {whose} is {type(one.decoder).__name__}, which does not "
                "attend; distil from and to decoders such as transformer, rnn and lowrank_transformer, or CTC alone"
            )
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
        if encoder_weight:
            hint = encoder_weight * _relative_error(student["encoder"], wanted["encoder"])
            stats["loss_encoder"] = hint.detach()
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
    """Outputs of the encoder, and logits of CTC and decoder, with their lengths, as they pass by."""
    logits: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def encoder(_, __, output) -> None:
        encoded = output[0][0] if isinstance(output[0], tuple) else output[0]  # with those of layers between
        logits["encoder"] = (encoded, output[1])

    def ctc(_, __, output) -> None:
        if output.dim() == 3 and "encoder" in logits:  # not within the encoder, which may condition on its layers' CTC
            logits.setdefault("ctc", (output, logits["encoder"][1]))  # what comes after it is of layers between

    def decoder(_, inputs, output) -> None:
        logits["decoder"] = (output[0], inputs[3])  # what ESPnet's TransformerDecoder returns as lengths are none

    hooks = [model.encoder.register_forward_hook(encoder)]
    if model.ctc is not None:
        hooks.append(model.ctc.ctc_lo.register_forward_hook(ctc))
    if model.decoder is not None:
        hooks.append(model.decoder.register_forward_hook(decoder))
    try:
        yield logits
    finally:
        for hook in hooks:
            hook.remove()


def _divergence(student: tuple, wanted: tuple, temperature: float) -> torch.Tensor:
    """KL per utterance: ``(batch, positions, tokens)`` logits, summed over the positions that are no padding."""
    logits, lengths = student
    positions = _own(logits, lengths)
    log_student = (logits.float() / temperature).log_softmax(-1)  # in bfloat16 they would differ by roundings alone
    log_teacher = (wanted[0].float() / temperature).log_softmax(-1)
    each = (log_teacher.exp() * (log_teacher - log_student)).sum(-1)
    return temperature**2 * each.masked_fill(~positions, 0.0).sum() / len(logits)


def _relative_error(student: tuple, wanted: tuple) -> torch.Tensor:
    """``|student - wanted|^2 / |wanted|^2`` over the ``(batch, frames, width)`` that are no padding."""
    own = _own(*student)[:, :, None]
    squares = (student[0].float() - wanted[0].float()).square().masked_fill(~own, 0.0).sum()
    return squares / wanted[0].float().square().masked_fill(~own, 0.0).sum()


def _own(values: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """``(batch, positions)``: no padding."""
    return torch.arange(values.shape[1], device=values.device)[None] < lengths.to(values.device)[:, None]
