"""Make the factored layer that stands for a dense one: its interface, its bias, its gradients switched as before."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from lrsms.lowrank.initialization import initialization_skipped, set_factors_
from lrsms.lowrank.layers import Factored, LowRankEmbedding, LowRankTiedLinear, factored_like, matrix_shape
from lrsms.lowrank.own_forward import LowRankOwnForward, casts
from lrsms.lowrank.recurrent import (
    LowRankLSTM,
    LowRankLSTMCell,
    cell_matrix,
    factorize_lstm_weights,
    low_rank_input_like,
    low_rank_lstm_like,
)

Factorizer = Callable[[torch.Tensor, int], tuple[torch.Tensor, torch.Tensor]]
"""``(matrix (out, in), rank) -> (U (out, rank), V (rank, in))``."""


def has_own_forward(module: nn.Module) -> bool:
    """Whether a module with a matrix is neither one of torch's layers nor a convolution made from one."""
    return type(module) not in (nn.Linear, nn.Embedding, nn.LSTMCell) and not isinstance(module, nn.Conv1d | nn.Conv2d)


def dense_matrix(dense: nn.Module) -> torch.Tensor:
    """The matrix ``(out, in)`` behind a layer that is factored by itself."""
    if isinstance(dense, nn.LSTMCell):
        return cell_matrix(dense.state_dict())[0]
    weight = dense.weight.detach()
    return weight.T if isinstance(dense, nn.Embedding) else weight.flatten(1)


def layer_shape(module: nn.Module) -> tuple[int, int]:
    """``(out, in)`` of :func:`dense_matrix`."""
    shape = None if has_own_forward(module) else matrix_shape(module, wide=True)
    return shape or (module.weight.shape[0], module.weight.shape[1])


@torch.no_grad()
def substitute(dense: nn.Module, rank: int, factorizer: Factorizer) -> nn.Module:
    """The factored form of a layer with one matrix.

    Args:
        dense: a Linear, Conv1d, Conv2d, Embedding or LSTMCell, or a module with a forward of its own that
            :func:`lrsms.lowrank.own_forward.why_not_linear` has no objection to.
        rank: inner dimension.
        factorizer: makes the factors; not called within :func:`lrsms.lowrank.skip_initialization`.

    Returns:
        A layer with factors of its own and the very bias of ``dense``; an LSTM cell's bias is new, the sum of two.
    """
    if isinstance(dense, nn.LSTMCell):
        return _cell(dense, rank, factorizer)
    if has_own_forward(dense):
        layer: Factored = LowRankOwnForward(dense, rank=rank, casts=casts(dense))
    else:
        layer = factored_like(dense, rank)
    weight = dense.weight.detach()
    if not initialization_skipped():
        set_factors_(layer, *factorizer(layer.as_matrix(weight), rank), weight)
    if getattr(dense, "bias", None) is not None:
        layer[1].bias = dense.bias
    _switch(layer, dense.weight.requires_grad)
    return layer


def _cell(dense: nn.LSTMCell, rank: int, factorizer: Factorizer) -> LowRankLSTMCell:
    cell = LowRankLSTMCell(dense.input_size, dense.hidden_size, rank=rank, bias=dense.bias).to(dense.weight_hh)
    if not initialization_skipped():
        matrix, bias = cell_matrix(dense.state_dict())
        cell.gates.set_factors(*factorizer(matrix, rank))
        if bias is not None:
            cell.gates.bias.copy_(bias)
            cell.gates.bias.requires_grad_(dense.bias_hh.requires_grad)
    _switch(cell.gates, dense.weight_hh.requires_grad)
    return cell


def _switch(layer: Factored, requires_grad: bool) -> None:
    for factor in (layer[0].weight, layer[1].weight):
        factor.requires_grad_(requires_grad)


def tied_to(first: Factored, dense: nn.Module) -> Factored:
    """The factored form of a layer whose dense weight is also that of the layer ``first`` stands for.

    Args:
        first: a LowRankLinear or LowRankEmbedding: its parameters are used.
        dense: a Linear or Embedding.
    """
    if isinstance(first, LowRankEmbedding) and isinstance(dense, nn.Linear):
        return LowRankTiedLinear(first, dense.bias)
    layer = factored_like(dense, first.rank)
    layer[0].weight, layer[1].weight = first[0].weight, first[1].weight
    if getattr(dense, "bias", None) is not None:
        layer[1].bias = dense.bias
    return layer


def substitute_lstm(
    dense: nn.LSTM,
    reader_name: str,
    reader: nn.Linear | None,
    rank: int | None,
    input_rank: int | None,
    factorizer: Factorizer,
) -> tuple[LowRankLSTM, nn.Linear | None]:
    """The low-rank form of an LSTM, and its thinner reader where the LSTM's projection is shared with it.

    Args:
        dense: torch's LSTM.
        reader_name, reader: the linear layer beside it that reads its output; empty and None if its input alone is
            factored.
        rank, input_rank: of the shared projection and of what the first layer takes in; None for dense.
        factorizer: makes the factors, first those of the input.
    """
    if reader is None:
        assert rank is None and input_rank is not None
        lstm, thin = low_rank_input_like(dense, input_rank), None
    else:
        lstm, thin = low_rank_lstm_like(dense, reader_name, reader, rank, input_rank)
    if not initialization_skipped():
        wide = None if reader is None else reader.weight.data
        weights, reader_weight = factorize_lstm_weights(lstm, dense.state_dict(), wide, factorizer)
        lstm.load_state_dict(weights)
        if reader is not None and thin is not None:
            thin.load_state_dict({**reader.state_dict(), "weight": reader_weight})
    for parameter in lstm.parameters():
        parameter.requires_grad_(dense.weight_hh_l0.requires_grad)
    if reader is not None and thin is not None:
        thin.weight.requires_grad_(reader.weight.requires_grad)
        if reader.bias is not None:
            thin.bias = reader.bias
    return lstm, thin
