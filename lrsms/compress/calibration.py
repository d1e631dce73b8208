"""What a model's layers see: the moments of their inputs over calibration utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from lrsms.compress.truncation import Moments
from lrsms.files import atomic_write


class _Sum:
    """Running sums of vectors and of their outer products, over utterances in double precision."""

    def __init__(self):
        self.count, self.total, self.outer = 0, 0.0, 0.0

    def add(self, x: torch.Tensor) -> None:
        x = x.float()
        self.count += len(x)
        self.total = self.total + x.sum(0).double()
        self.outer = self.outer + (x.T @ x).double()  # one utterance's products are exact enough in single

    def moments(self) -> Moments:
        return Moments(self.total / self.count, self.outer / self.count, self.count)


def input_moments(
    model: nn.Module, paths: Iterable[str], run: Callable[[], None]
) -> dict[str, Moments | dict[str, Moments]]:
    """Run calibration utterances through ``model`` and record what the layers at ``paths`` take in.

    Args:
        model: a dense model in evaluation mode.
        paths: of Linear, pointwise Conv1d, Conv2d, Embedding, LSTMCell and LSTM modules; of an LSTM's input, the
            LSTM's and ``.input``.
        run: sends all utterances through the model, one at a time (padding would be counted).

    Returns:
        Path -> moments of the vectors that the layer's matrix is multiplied with; of an LSTM, of the hidden vectors
        of each layer and direction by the name of their recurrent weight.
    """
    sums: dict[str, _Sum | dict[str, _Sum]] = {}
    hooks = []
    lstms = {f"{path}.input": module for path, module in model.named_modules() if isinstance(module, nn.LSTM)}
    for path in paths:
        module = lstms[path] if path in lstms else model.get_submodule(path)
        if isinstance(module, nn.LSTM) and path not in lstms:
            recurrent = {name: _Sum() for name, _ in module.named_parameters() if name.startswith("weight_hh")}
            sums[path] = recurrent
            hooks.append(module.register_forward_pre_hook(_lstm_hook(recurrent), with_kwargs=True))
        else:
            sums[path] = inputs = _Sum()
            hooks.append(module.register_forward_pre_hook(_hook(inputs)))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    result: dict[str, Moments | dict[str, Moments]] = {}
    for path, total in sums.items():
        if isinstance(total, dict):
            result[path] = {name: half.moments() for name, half in total.items() if half.count}
        elif total.count:
            result[path] = total.moments()
    return result


def save_moments(moments: Mapping[str, Moments | Mapping[str, Moments]], path: Path) -> None:
    """Write what :func:`input_moments` has found, for other processes; atomic."""
    plain = {
        path: vars(seen) if isinstance(seen, Moments) else {name: vars(half) for name, half in seen.items()}
        for path, seen in moments.items()
    }
    with atomic_write(path) as unfinished:
        torch.save(plain, unfinished)


def load_moments(path: Path) -> dict[str, Moments | dict[str, Moments]]:
    """What :func:`save_moments` wrote, the same to the last bit."""
    return {
        path: Moments(**values) if "count" in values else {half: Moments(**of) for half, of in values.items()}
        for path, values in torch.load(path, weights_only=True).items()
    }


def _hook(total: _Sum):
    def record(module: nn.Module, inputs: tuple) -> None:
        total.add(_vectors(module, inputs))

    return record


def _vectors(module: nn.Module, inputs: tuple) -> torch.Tensor:
    """The inputs of a layer as the vectors ``(count, in)`` that its matrix is multiplied with."""
    x = inputs[0]
    if isinstance(module, nn.Embedding):
        return nn.functional.one_hot(x.flatten(), module.num_embeddings)
    if isinstance(module, nn.LSTMCell):
        return torch.cat((x, inputs[1][0]), dim=-1)
    if isinstance(module, nn.Conv1d):
        return x.transpose(1, 2).flatten(0, 1)[:: module.stride[0]]
    if isinstance(module, nn.Conv2d):
        patches = nn.functional.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
        return patches.transpose(1, 2).flatten(0, 1)
    return _frames(x)


def _frames(x: torch.Tensor | nn.utils.rnn.PackedSequence) -> torch.Tensor:
    return x.data if isinstance(x, nn.utils.rnn.PackedSequence) else x.flatten(0, -2)


def _lstm_hook(sums: dict[str, _Sum]):
    """Runs the LSTM layer by layer: torch's own forward hands out the last layer only."""

    def record(module: nn.LSTM, inputs: tuple, _) -> None:
        x = inputs[0]
        for layer in range(module.num_layers):
            single = _single_layer(module, layer)
            x, _ = single(x)
            hidden = _frames(x)
            for direction, suffix in enumerate(["", "_reverse"][: 1 + module.bidirectional]):
                part = hidden[:, direction * module.hidden_size : (direction + 1) * module.hidden_size]
                sums[f"weight_hh_l{layer}{suffix}"].add(part)

    return record


def _single_layer(module: nn.LSTM, layer: int) -> nn.LSTM:
    size = getattr(module, f"weight_ih_l{layer}").shape[1]
    single = nn.LSTM(
        size, module.hidden_size, bias=module.bias, batch_first=module.batch_first, bidirectional=module.bidirectional
    )
    with torch.no_grad():
        for name, parameter in single.named_parameters():
            parameter.copy_(getattr(module, name.replace("_l0", f"_l{layer}")))
    return single.eval()
