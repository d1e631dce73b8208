"""What a model's layers see: the moments of their inputs over calibration utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from lrsms.lowrank.own_forward import with_weight
from lrsms.lowrank.substitution import has_own_forward
from lrsms.lowrank.tied import Tied, tied_outputs
from lrsms.lowrank.truncation import Moments


class _Sum:
    """Running sums of vectors and of their outer products, over utterances in double precision."""

    def __init__(self):
        self.count, self.total = 0, 0.0
        self.outer: torch.Tensor | float = 0.0

    def add(self, x: torch.Tensor) -> None:
        """Count vectors ``(count, in)``."""
        x = x.float()
        self.count += len(x)
        self.total = self.total + x.sum(0).double()
        product = x.T @ x  # one utterance's are exact enough in single precision
        if isinstance(self.outer, torch.Tensor):
            self.outer += product  # in place: a wide layer's sum is larger than all else that an utterance moves
        else:
            self.outer = product.double()

    def add_tokens(self, tokens: torch.Tensor, size: int) -> None:
        """Count one-hot vectors, whose second moment is diagonal."""
        seen = torch.bincount(tokens.flatten(), minlength=size).double()
        self.count += tokens.numel()
        self.total, self.outer = self.total + seen, self.outer + seen

    def moments(self) -> Moments:
        return Moments(self.total / self.count, self.outer / self.count, self.count)


class _OutputSum(_Sum):
    """The same of an output over tokens, and how likely it made each of those of an embedding."""

    def __init__(self, tied: Tied):
        super().__init__()
        self.tokens, self.likely = tied.tokens, 0.0

    def record(self, module: nn.Module, inputs: tuple, logits: torch.Tensor) -> None:
        """Hook of the output."""
        self.add(_frames(inputs[0]))
        likely = logits.softmax(-1).flatten(0, -2).sum(0).double()
        self.likely = self.likely + (likely if self.tokens is None else likely[self.tokens])

    def moments(self) -> Moments:
        return replace(super().moments(), rows=self.likely / self.count)


def input_moments(
    model: nn.Module, paths: Iterable[str], run: Callable[[], None]
) -> dict[str, Moments | dict[str, Moments]]:
    """Run calibration utterances through ``model`` and record what the layers at ``paths`` take in.

    Args:
        model: a dense model in evaluation mode.
        paths: of Linear, pointwise Conv1d, Conv2d, Embedding, LSTMCell and LSTM modules; of an LSTM's input, the
            LSTM's and ``.input``. Of an embedding that is an output as well, what the output takes in is recorded.
        run: sends all utterances through the model, one at a time (padding would be counted).

    Returns:
        Path -> moments of the vectors that the layer's matrix is multiplied with; of an LSTM, of the hidden vectors
        of each layer and direction by the name of their recurrent weight.
    """
    sums: dict[str, _Sum | dict[str, _Sum]] = {}
    hooks = []
    lstms = {f"{path}.input": module for path, module in model.named_modules() if isinstance(module, nn.LSTM)}
    outputs = tied_outputs(model)
    for path in paths:
        if path in outputs:
            sums[path] = output = _OutputSum(outputs[path])
            hooks.append(model.get_submodule(outputs[path].output).register_forward_hook(output.record))
            continue
        module = lstms[path] if path in lstms else model.get_submodule(path)
        if isinstance(module, nn.LSTM) and path not in lstms:
            recurrent = {name: _Sum() for name, _ in module.named_parameters() if name.startswith("weight_hh")}
            sums[path] = recurrent
            hooks.append(module.register_forward_pre_hook(_lstm_hook(recurrent), with_kwargs=True))
        else:
            sums[path] = inputs = _Sum()
            hooks.append(module.register_forward_pre_hook(_hook(inputs), with_kwargs=True))
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


def _hook(total: _Sum):
    def record(module: nn.Module, inputs: tuple, named: dict) -> None:
        inputs = inputs or tuple(named.values())
        if isinstance(module, nn.Embedding):
            total.add_tokens(inputs[0], module.num_embeddings)
        else:
            total.add(_vectors(module, inputs))

    return record


def _vectors(module: nn.Module, inputs: tuple) -> torch.Tensor:
    """The inputs of a layer as the vectors ``(count, in)`` that its matrix is multiplied with."""
    x = inputs[0]
    if isinstance(module, nn.LSTMCell):
        state = inputs[1] if len(inputs) > 1 and inputs[1] is not None else None
        hidden = x.new_zeros(*x.shape[:-1], module.hidden_size) if state is None else state[0]
        return torch.cat((x, hidden), dim=-1).flatten(0, -2)
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return _patches(module, x)
    if not isinstance(module, nn.LSTM) and has_own_forward(module):
        eye = torch.eye(module.weight.shape[1], dtype=module.weight.dtype, device=module.weight.device)
        x = with_weight(module, eye, None)(x)  # what it does before it multiplies
    return _frames(x)


def _patches(module: nn.Conv1d | nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    """What a convolution's kernel sees at each position of the output."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    flat = isinstance(module, nn.Conv1d)
    x = F.pad(x if x.dim() == len(module.kernel_size) + 2 else x[None], module._reversed_padding_repeated_twice, mode)
    kernel, dilation, stride = (
        (1, *value) if flat else value for value in (module.kernel_size, module.dilation, module.stride)
    )
    patches = F.unfold(x[:, :, None] if flat else x, kernel, dilation, 0, stride)
    return patches.transpose(1, 2).flatten(0, 1)


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
