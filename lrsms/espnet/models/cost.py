"""Parameters and multiply-accumulates of an ESPnet model, as it is and as it would be dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from lrsms.espnet.models.fast import plain_paths
from lrsms.lowrank import LowRankLSTM, LowRankLSTMCell, low_rank_layers
from lrsms.lowrank.tied import TiedOutput

_SECONDS = 10
NOMINAL_TOKENS_PER_SECOND = 4.0  # if no corpus is at hand: sub-words of English


@dataclass(frozen=True)
class Cost:
    """Size and work of a model.

    Attributes:
        parameters: all trainable parameters.
        dense_parameters: the same with every factored layer dense.
        macs_per_second: multiply-accumulates per second of audio of encoder, CTC output and one teacher-forced pass
            of the decoder, on a 10 s utterance; the front-end is left out.
        dense_macs_per_second: the same with every factored layer dense.
    """

    parameters: int
    dense_parameters: int
    macs_per_second: float
    dense_macs_per_second: float


def cost(model: nn.Module, fs: int, tokens_per_second: float) -> Cost:
    """Measure ``model``.

    Args:
        model: an ``ESPnetASRModel`` on the CPU; left as it was.
        fs: sampling rate in Hz.
        tokens_per_second: mean token rate of the corpus, the decoder's share of the work.
    """
    parameters = trainable_parameters(model)
    saved = dict(low_rank_layers(model))
    dense_parameters = parameters + sum(layer.parameters_saved for layer in saved.values())
    dense_parameters += sum(cell.biases_saved for cell in model.modules() if isinstance(cell, LowRankLSTMCell))
    macs, saved_macs = _count_macs(model, fs, tokens_per_second, saved)
    return Cost(parameters, dense_parameters, macs / _SECONDS, (macs + saved_macs) / _SECONDS)


def trainable_parameters(model: nn.Module) -> int:
    """Trainable parameters that the finished model keeps: a guide that training drops is not counted."""
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and ".self_guide." not in name
    )


def _count_macs(model, fs: int, tokens_per_second: float, factored: dict) -> tuple[float, float]:
    """MACs of one 10 s utterance, and those that its factored layers save."""
    saved = 0

    def count_saved(layer, _, output):
        nonlocal saved
        saved += layer.macs_saved(output)

    def count_saved_by_reader(lstm: LowRankLSTM):
        def count(reader, _, output):
            nonlocal saved
            saved += lstm.reader_macs_saved(output)

        return count

    def count_saved_by_output(output: TiedOutput, inputs: tuple, logits):
        nonlocal saved
        saved += output.macs_saved(inputs[1], logits)

    hooks = [layer.register_forward_hook(count_saved) for layer in factored.values()]
    for module in model.modules():
        if isinstance(module, TiedOutput):
            hooks.append(module.register_forward_hook(count_saved_by_output))
    for path, layer in factored.items():
        if isinstance(layer, LowRankLSTM):
            reader = model.get_submodule(f"{path.rpartition('.')[0]}.{layer.reader}")
            hooks.append(reader.register_forward_hook(count_saved_by_reader(layer)))
    from torch.utils.flop_counter import FlopCounterMode  # brings Triton

    with _removed(hooks):
        features = _features(model, fs)
        with FlopCounterMode(display=False) as counter:
            _forward(model, *features, tokens_per_second)
    return counter.get_total_flops() / 2, saved


def positions(model: nn.Module, fs: int, tokens_per_second: float) -> dict[str, float]:
    """Output positions per second of audio of every layer: what its weights are multiplied with to give MACs.

    Args:
        model: an ``ESPnetASRModel`` on the CPU; left as it was.
        fs, tokens_per_second: as in :func:`cost`.

    Returns:
        By path; of an LSTM's input, too, as a plan names it.
    """
    counts: dict[str, float] = {path: 0.0 for path, _ in model.named_modules()}

    def counter(path: str):
        def count(module, _, output):
            output = output[0] if isinstance(output, tuple) else output
            if isinstance(output, nn.utils.rnn.PackedSequence):
                counts[path] += output.data.shape[0] / _SECONDS
            elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
                counts[path] += output.numel() / output.shape[1] / _SECONDS
            elif isinstance(output, torch.Tensor) and output.dim():
                counts[path] += output.numel() / output.shape[-1] / _SECONDS

        return count

    with _removed([module.register_forward_hook(counter(path)) for path, module in model.named_modules()]):
        _forward(model, *_features(model, fs), tokens_per_second)
    lstms = [path for path, module in model.named_modules() if isinstance(module, nn.LSTM)]
    return counts | {f"{path}.input": counts[path] for path in lstms}


@contextmanager
def _removed(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks in any case: ESPnet's default activations are modules that all models share."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def rows_in_decoding(path: str, frames: int = 200, beam: int = 10) -> int:
    """Rows of the input of a model's layer while beam search decodes.

    Args:
        path: of the layer in an ``ESPnetASRModel``.
        frames: of the utterance, after subsampling; 200 are eight seconds for most encoders.
        beam: hypotheses.
    """
    of_memory = path.endswith(("src_attn.linear_k", "src_attn.linear_v"))  # once for an utterance
    return beam if path.startswith("decoder.") and not of_memory else frames


def speech_for(model: nn.Module, waveform: torch.Tensor) -> torch.Tensor:
    """What ``model`` takes as ``speech`` for waveforms ``(batch, samples)``: they, or an audio-visual array."""
    return model.encoder.dummy_input(waveform) if hasattr(model.encoder, "dummy_input") else waveform


@torch.no_grad()
def _features(model, fs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder sees of a 10 s utterance, and its length in frames."""
    with _evaluating(model):
        speech = speech_for(model, torch.randn(1, _SECONDS * fs, generator=torch.Generator().manual_seed(0)) * 0.1)
        features, lengths = model._extract_feats(speech, torch.tensor([speech.shape[1]]))
        if model.normalize is not None:
            features, lengths = model.normalize(features, lengths)
        if model.preencoder is not None:
            features, lengths = model.preencoder(features, lengths)
    return features, lengths


@torch.no_grad()
def _forward(model, features: torch.Tensor, lengths: torch.Tensor, tokens_per_second: float) -> None:
    """Encoder, CTC output and one teacher-forced pass of the decoder."""
    with _evaluating(model):
        encoded, _, _ = model.encoder(features, lengths)
        if model.ctc is not None:
            model.ctc.log_softmax(encoded)
        if model.decoder is not None:
            count = max(1, round(_SECONDS * tokens_per_second))
            tokens = torch.ones(1, count, dtype=torch.long, device=encoded.device)
            # One utterance without padding; a model on the meta device could not say how long it is.
            model.decoder(encoded, torch.tensor([encoded.shape[1]]), tokens, torch.tensor([count]))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with plain_paths():  # whose layers all run, and are seen to
            yield
    finally:
        model.train(training)
