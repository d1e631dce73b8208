"""Low-rank LSTMs: what a layer remembers is projected once, for itself and for whoever reads it; and what it takes in.

Prabhavalkar et al. 2016 ("On the compression of recurrent neural networks"): the recurrent matrix of a layer and
the input matrix of the next share one projection, which is torch's ``nn.LSTM(proj_size=rank)`` and so stays on cuDNN.
With ``H`` hidden units, ``W_hh ~ Z P`` and ``W_next ~ Z' P`` with the same ``P (rank, H)``; the layer then hands out
``P h``. After the last layer the reader is a linear layer beside the LSTM, which becomes thinner.

What the first layer reads comes from outside, through a ``tanh`` in ESPnet's LSTMs with projections, and cannot share.
Its input matrices, of both directions one above the other, are factored by themselves: a linear layer before the LSTM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from lrsms.lowrank.layers import LowRankLinear

_OPTIONS = ("num_layers", "bias", "batch_first", "dropout", "bidirectional")


class LSTMInput(nn.Linear):
    """What a low-rank LSTM's first layer takes in, projected to ``rank`` numbers.

    Args:
        in_features: size of the LSTM's input.
        rank: what it is projected to.
        gates: outputs of the matrix that is factored: the gates of all directions.
    """

    def __init__(self, in_features: int, rank: int, gates: int):
        super().__init__(in_features, rank, bias=False)
        self.gates = gates

    @property
    def rank(self) -> int:
        """Inner dimension of the input matrix's factors."""
        return self.out_features

    @property
    def parameters_saved(self) -> int:
        """Weights that factoring has saved here and in the LSTM."""
        return self.in_features * self.gates - self.rank * (self.in_features + self.gates)

    def macs_saved(self, output: torch.Tensor) -> int:
        """Multiply-accumulates saved in the forward pass that made ``output``, the LSTM's included."""
        return output.numel() // self.rank * self.parameters_saved


class LowRankLSTM(nn.LSTM):
    """``nn.LSTM`` whose layers hand out ``rank`` numbers per direction in place of ``hidden_size``.

    Args:
        input_size, hidden_size: as in ``nn.LSTM``.
        rank: size of the projection, below ``hidden_size``; None for none.
        input_rank: rank of the input matrix of the first layer; None for a dense one.
        reader: name of the linear layer beside this one that reads its output; empty if the input alone is factored.
        reader_features: outputs of that layer.
        options: other options of ``nn.LSTM``.
    """

    init_method: str = "svd"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        rank: int | None,
        input_rank: int | None = None,
        reader: str = "",
        reader_features: int = 0,
        **options,
    ):
        super().__init__(input_size if input_rank is None else input_rank, hidden_size, proj_size=rank or 0, **options)
        self.reader, self.reader_features = reader, reader_features
        gates = (1 + self.bidirectional) * 4 * hidden_size
        self.input = None if input_rank is None else LSTMInput(input_size, input_rank, gates)

    def forward(self, input, hx=None):
        """What ``nn.LSTM`` computes, also of a packed sequence."""
        if self.input is None:
            return super().forward(input, hx)
        if isinstance(input, nn.utils.rnn.PackedSequence):
            return super().forward(input._replace(data=self.input(input.data)), hx)
        return super().forward(self.input(input), hx)

    @property
    def rank(self) -> int:
        """Size of the shared projection; that of the hidden units if there is none."""
        return self.proj_size or self.hidden_size

    @property
    def is_projected(self) -> bool:
        """Whether there is a shared projection; else the input alone is factored."""
        return self.proj_size > 0

    @property
    def dense_input_size(self) -> int:
        """Size of the layer's input, before any projection."""
        return self.input_size if self.input is None else self.input.in_features

    @property
    def parameters_saved(self) -> int:
        """Weights that the projection has saved here and in the reader; the input's count by themselves."""
        dense, per_rank = lstm_weights(self, self.reader_features)
        return dense - per_rank * self.rank if self.is_projected else 0

    def macs_saved(self, output) -> int:
        """Multiply-accumulates saved in the forward pass that made ``output``, without the reader's."""
        frames = output[0].data if isinstance(output[0], nn.utils.rnn.PackedSequence) else output[0]
        own = self.parameters_saved - self.reader_features * self._inputs_saved
        return frames.numel() // frames.shape[-1] * own

    def reader_macs_saved(self, output: torch.Tensor) -> int:
        """Multiply-accumulates saved in the reader's pass that made ``output``; the reader may see fewer frames."""
        return output.numel() * self._inputs_saved

    @property
    def _inputs_saved(self) -> int:
        return (1 + self.bidirectional) * (self.hidden_size - self.rank)


def lstm_weights(lstm: nn.LSTM, reader_features: int) -> tuple[int, int]:
    """Weights, without biases and without the first layer's input, of an LSTM and its reader: dense; per rank."""
    directions, hidden, layers = 1 + lstm.bidirectional, lstm.hidden_size, lstm.num_layers
    read = directions * (4 * hidden * layers + (layers - 1) * 4 * hidden * directions + reader_features)
    return read * hidden, read + directions * hidden * layers


class LowRankLSTMCell(nn.Module):
    """``nn.LSTMCell`` with one factored matrix from input and state, side by side, to the four gates.

    Args:
        input_size, hidden_size: as in ``nn.LSTMCell``.
        rank: inner dimension of ``(4 * hidden_size, input_size + hidden_size)``.
        bias: whether the gates have a bias (one: torch's two are added up).
    """

    def __init__(self, input_size: int, hidden_size: int, *, rank: int, bias: bool = True):
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        self.gates = LowRankLinear(input_size + hidden_size, 4 * hidden_size, rank=rank, bias=bias)

    def forward(
        self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``x (batch, input_size)`` and state ``(h, c)``, each ``(batch, hidden_size)``, to the next state.

        Without ``batch`` everywhere as well; no state is a state of zeros.
        """
        if state is None:
            zeros = x.new_zeros(*x.shape[:-1], self.hidden_size)
            state = zeros, zeros
        hidden, cell = state
        gate_in, gate_forget, candidate, gate_out = self.gates(torch.cat((x, hidden), dim=-1)).chunk(4, dim=-1)
        cell = gate_forget.sigmoid() * cell + gate_in.sigmoid() * candidate.tanh()
        return gate_out.sigmoid() * cell.tanh(), cell

    @property
    def biases_saved(self) -> int:
        """Parameters of the dense cell's second bias."""
        return 0 if self.gates.bias is None else self.gates.bias.numel()

    def merged(self) -> nn.LSTMCell:
        """The equivalent dense cell."""
        bias = self.gates.bias
        dense = nn.LSTMCell(self.input_size, self.hidden_size, bias=bias is not None)
        with torch.no_grad():
            product = self.gates.product()
            dense.weight_ih.copy_(product[:, : self.input_size])
            dense.weight_hh.copy_(product[:, self.input_size :])
            if bias is not None:
                dense.bias_ih.copy_(bias)
                dense.bias_hh.zero_()
        return dense.to(product).train(self.training)


def cell_matrix(weights: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gate matrix ``(4 * hidden, input + hidden)`` and bias of a dense cell's state dict."""
    matrix = torch.cat((weights["weight_ih"], weights["weight_hh"]), dim=1)
    bias = weights["bias_ih"] + weights["bias_hh"] if "bias_ih" in weights else None
    return matrix, bias


def low_rank_input_like(dense: nn.LSTM, input_rank: int) -> LowRankLSTM:
    """An LSTM of which the input alone is low-rank; weights not yet set."""
    options = {name: getattr(dense, name) for name in _OPTIONS}
    return LowRankLSTM(dense.input_size, dense.hidden_size, rank=None, input_rank=input_rank, **options).to(
        dense.weight_hh_l0
    )


def low_rank_lstm_like(
    dense: nn.LSTM, reader_name: str, reader: nn.Linear, rank: int | None, input_rank: int | None = None
) -> tuple[LowRankLSTM, nn.Linear]:
    """The low-rank LSTM and its thinner reader; weights not yet set."""
    directions = 1 + dense.bidirectional
    lstm = LowRankLSTM(
        dense.input_size,
        dense.hidden_size,
        rank=rank,
        input_rank=input_rank,
        reader=reader_name,
        reader_features=reader.out_features,
        **{name: getattr(dense, name) for name in _OPTIONS},
    )
    thin = nn.Linear(directions * lstm.rank, reader.out_features, bias=reader.bias is not None)
    return lstm.to(dense.weight_hh_l0), thin.to(reader.weight)


def factorize_lstm_weights(
    lstm: LowRankLSTM,
    weights: Mapping[str, torch.Tensor],
    reader_weight: torch.Tensor | None,
    factorize: Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]],
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """Make the weights of ``lstm`` and of its reader from dense ones.

    Args:
        lstm: the target.
        weights: state dict of the dense ``nn.LSTM``.
        reader_weight: ``(out, directions * hidden)`` of the dense reader; None if the input alone is factored.
        factorize: ``(matrix (out, in), rank) -> (U (out, rank), V (rank, in))``.
    """
    directions, hidden, rank = 1 + lstm.bidirectional, lstm.hidden_size, lstm.rank
    suffixes = ["", "_reverse"][:directions]
    result = {name: value for name, value in weights.items() if "bias" in name}
    result |= _input_weights(lstm, weights, factorize)
    if not lstm.is_projected:
        return {**{name: value for name, value in weights.items() if name not in result}, **result}, reader_weight
    assert reader_weight is not None
    thin_reader = reader_weight.new_empty(reader_weight.shape[0], directions * rank)
    for layer in range(lstm.num_layers):
        last = layer == lstm.num_layers - 1
        # Who reads this layer: the next one (either direction of it), or the linear layer at the end.
        names = [] if last else [f"weight_ih_l{layer + 1}{suffix}" for suffix in suffixes]
        readers = [reader_weight] if last else [weights[name] for name in names]
        projected = (
            [thin_reader] if last else [reader.new_empty(reader.shape[0], directions * rank) for reader in readers]
        )
        for direction, suffix in enumerate(suffixes):
            own = weights[f"weight_hh_l{layer}{suffix}"]
            wide = slice(direction * hidden, (direction + 1) * hidden)
            thin = slice(direction * rank, (direction + 1) * rank)
            stacked = torch.cat([own, *(reader[:, wide] for reader in readers)])
            up, projection = (factor.to(own.dtype) for factor in factorize(stacked, rank))
            result[f"weight_hr_l{layer}{suffix}"] = projection
            result[f"weight_hh_l{layer}{suffix}"] = up[: own.shape[0]]
            for target, part in zip(projected, up[own.shape[0] :].split([reader.shape[0] for reader in readers])):
                target[:, thin] = part
        result.update(zip(names, projected))
    return result, thin_reader


def input_matrix(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """``(directions * 4 * hidden, input)``: the input matrices of an LSTM's first layer, one above the other."""
    names = ("weight_ih_l0", "weight_ih_l0_reverse")
    return torch.cat([weights[name] for name in names if name in weights])


def _input_weights(lstm: LowRankLSTM, weights: Mapping[str, torch.Tensor], factorize) -> dict[str, torch.Tensor]:
    """The weights of the first layer's input projection, from a dense LSTM's."""
    names = [name for name in ("weight_ih_l0", "weight_ih_l0_reverse") if name in weights]
    if lstm.input is None:
        return {name: weights[name] for name in names}
    matrix = input_matrix(weights)
    up, down = (factor.to(matrix.dtype) for factor in factorize(matrix, lstm.input.rank))
    return {**dict(zip(names, up.chunk(len(names)))), "input.weight": down}


def dense_lstm_weights(
    weights: Mapping[str, torch.Tensor], reader_weight: torch.Tensor | None
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
    """Dense weights from those of a low-rank LSTM (its state dict) and of its reader."""
    projection = weights.get("input.weight")
    weights = {
        name: value @ projection if name.startswith("weight_ih_l0") and projection is not None else value
        for name, value in weights.items()
        if name != "input.weight"
    }
    if "weight_hr_l0" not in weights:
        return weights, reader_weight
    assert reader_weight is not None

    def widened(weight: torch.Tensor, layer: int) -> torch.Tensor:
        """A reader of ``layer``'s projections as a reader of its hidden units."""
        names = (f"weight_hr_l{layer}", f"weight_hr_l{layer}_reverse")
        projections = [weights[name] for name in names if name in weights]
        parts = weight.split(projections[0].shape[0], dim=1)
        return torch.cat([part @ projection for part, projection in zip(parts, projections)], dim=1)

    dense, last = {}, 0
    for name, value in weights.items():
        layer = int(name.split("_l")[1].removesuffix("_reverse"))
        last = max(last, layer)
        if name.startswith("weight_hh"):
            value = value @ weights[name.replace("weight_hh", "weight_hr")]
        elif name.startswith("weight_ih") and layer > 0:
            value = widened(value, layer - 1)
        if not name.startswith("weight_hr"):
            dense[name] = value
    return dense, widened(reader_weight, last)


@torch.no_grad()
def merged_lstm(lstm: LowRankLSTM, reader: nn.Linear | None) -> tuple[nn.LSTM, nn.Linear | None]:
    """The equivalent dense LSTM and reader, with weights of their own; no reader if the input alone is factored."""
    directions, hidden = 1 + lstm.bidirectional, lstm.hidden_size
    options = {name: getattr(lstm, name) for name in _OPTIONS}
    dense = nn.LSTM(lstm.dense_input_size, hidden, **options).to(lstm.weight_hh_l0)
    if reader is None:
        dense.load_state_dict(dense_lstm_weights(lstm.state_dict(), None)[0])
        return dense.train(lstm.training), None
    wide = nn.Linear(directions * hidden, reader.out_features, bias=reader.bias is not None).to(reader.weight)
    weights, reader_weight = dense_lstm_weights(lstm.state_dict(), reader.weight)
    dense.load_state_dict(weights)
    wide.load_state_dict({**reader.state_dict(), "weight": reader_weight})
    return dense.train(lstm.training), wide.train(reader.training)
