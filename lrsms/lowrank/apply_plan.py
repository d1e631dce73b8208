"""Replace the layers of a dense model by factored ones, following a plan; and load dense weights into them."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank import objections
from lrsms.lowrank.attention import LowRankMultiheadAttention, split_state
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.initialization import INITIALIZERS
from lrsms.lowrank.layers import Factored, LowRankEmbedding
from lrsms.lowrank.placement import replace_
from lrsms.lowrank.plan import PlanEntry, RankPlan
from lrsms.lowrank.recurrent import (
    LowRankLSTM,
    LowRankLSTMCell,
    LSTMInput,
    cell_matrix,
    dense_lstm_weights,
    factorize_lstm_weights,
)
from lrsms.lowrank.substitution import substitute, substitute_lstm


def apply_plan_(model: nn.Module, plan: RankPlan) -> nn.Module:
    """Replace every planned layer in place by its factored form, initialized from the layer it replaces.

    From then on ``model`` also loads the state dict of the dense model it was: factors become the truncated SVD of
    the dense weights (:func:`factorize_state`).

    Args:
        model: the dense model the plan was made for.
        plan: ranks per module path; entries with rank None stay as they are.

    Returns:
        ``model`` itself.

    Raises:
        LrsmsError: a layer's weight is made by something else, or used by another layer as well.
    """
    ranks = {entry.module: entry.rank for entry in plan.entries if entry.rank is not None}
    _refuse_what_would_be_wrong(model, plan)
    for entry in plan.entries:
        if entry.reader:
            rank, input_rank = ranks.get(entry.module), ranks.get(f"{entry.module}.input")
            if rank or input_rank:
                _replace_lstm(model, entry, rank, input_rank, plan.config.init)
        elif entry.module in ranks and entry.role != "recurrent_input":  # that came with its LSTM
            _replace(model, entry, plan.config.init)
    accept_dense_weights(model)
    return model


def _refuse_what_would_be_wrong(model: nn.Module, plan: RankPlan) -> None:
    owners: dict[nn.Parameter, int] = {}
    for parameter in (parameter for module in model.modules() for parameter in module._parameters.values()):
        if parameter is not None:
            owners[parameter] = owners.get(parameter, 0) + 1
    for entry in plan.entries:
        if entry.rank is None:
            continue
        layer = model.get_submodule(entry.module.removesuffix(".input"))
        if objections.is_recurrent(layer):
            why = objections.to_recurrent(layer)
        else:
            why = objections.to_its_parameter(layer) or objections.to_its_kind(layer)
        if not why and any(owners[weight] > 1 for weight in layer._parameters.values() if weight is not None):
            why = "its weight is also another layer's"
        if why:
            raise LrsmsError(f"{entry.module}: cannot be factored: {why}; lrsms.factorize_ does what can be done")


def _replace(model: nn.Module, entry: PlanEntry, init: str) -> None:
    assert entry.rank is not None
    dense = model.get_submodule(entry.module)
    layer = substitute(dense, entry.rank, INITIALIZERS[init])
    (layer.gates if isinstance(layer, LowRankLSTMCell) else layer).init_method = init
    replace_(model, dense, layer)


def _replace_lstm(model: nn.Module, entry: PlanEntry, rank: int | None, input_rank: int | None, init: str) -> None:
    parent = model.get_submodule(entry.module.rpartition(".")[0])
    dense, reader = model.get_submodule(entry.module), parent.get_submodule(entry.reader)
    lstm, thin = substitute_lstm(dense, entry.reader, reader, rank, input_rank, INITIALIZERS[init])
    lstm.init_method = init
    replace_(model, dense, lstm)
    replace_(model, reader, thin)


def low_rank_layers(model: nn.Module) -> Iterator[tuple[str, Factored | LowRankLSTM | LSTMInput]]:
    """Path and layer of every factored layer in ``model``; a low-rank LSTM cell counts by its gates."""
    for path, module in model.named_modules():
        projected = isinstance(module, LowRankLSTM) and module.is_projected
        if projected or isinstance(module, (Factored, LSTMInput)):
            yield path, module


def factorize_state(model: nn.Module, state: MutableMapping[str, torch.Tensor], prefix: str = "") -> None:
    """Turn dense weights in ``state`` into the factors that ``model`` has in their place.

    Factors of another rank are multiplied out first. What fits already stays.

    Args:
        model: a model with factored layers.
        state: state dict, changed in place.
        prefix: of the model's keys in it.

    Raises:
        LrsmsError: a dense weight of another shape than the layer's; torch itself would drop it unseen.
    """
    for path, module in model.named_modules(remove_duplicate=False):  # a state dict has every path to a layer
        at = f"{prefix}{path}." if path else prefix
        if isinstance(module, LowRankMultiheadAttention):
            split_state(module, state, at)  # and then its projections, which come after it
        elif isinstance(module, BandedEmbedding):
            module.split_state(state, at)  # and then its bands
        elif isinstance(module, LowRankLSTM):
            _factorize_lstm_state(module, state, at)
        elif isinstance(module, LowRankLSTMCell):
            if f"{at}weight_ih" in state:
                matrix, bias = cell_matrix({n: state.pop(at + n) for n in _CELL_NAMES if at + n in state})
                _put_factors(module.gates, matrix, bias, state, f"{at}gates.")
        elif isinstance(module, Factored):
            if f"{at}weight" in state:
                _put_factors(module, state.pop(f"{at}weight"), state.pop(f"{at}bias", None), state, at)
            elif _of_another_rank(module, state.get(f"{at}0.weight"), state.get(f"{at}1.weight")):
                product = _product(module, state[f"{at}0.weight"], state[f"{at}1.weight"])
                _put_factors(module, product, state.get(f"{at}1.bias"), state, at)


_CELL_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _of_another_rank(layer: Factored, first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    """True for factors that fit the layer in everything but their rank."""
    if first is None or second is None or second.shape == layer[1].weight.shape:
        return False
    in_first = 1 if layer.transposed else 0  # dimension of the rank
    wanted = list(layer[0].weight.shape)
    wanted[in_first] = rank = second.shape[1]
    return list(first.shape) == wanted and second.shape[0] == layer[1].weight.shape[0] and rank != layer.rank


def _product(layer: Factored, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Dense weight of stored factors whose rank is not that of ``layer``."""
    if layer.transposed:
        product = second @ first.T
        return product.T if isinstance(layer, LowRankEmbedding) else product
    return (second.flatten(1) @ first.flatten(1)).reshape(layer.dense_shape)


def _put_factors(layer: Factored, weight: torch.Tensor, bias: torch.Tensor | None, state, at: str) -> None:
    if weight.shape != layer.dense_shape:
        raise LrsmsError(f"{at}weight: {tuple(weight.shape)} in the weights, {tuple(layer.dense_shape)} in the model")
    up, down = INITIALIZERS["svd"](layer.as_matrix(weight), layer.rank)
    if layer.transposed:
        down = down.T
    state[f"{at}0.weight"] = down.reshape(layer[0].weight.shape).to(weight.dtype).contiguous()
    state[f"{at}1.weight"] = up.reshape(layer[1].weight.shape).to(weight.dtype).contiguous()
    if bias is not None:
        state[f"{at}1.bias"] = bias


def _factorize_lstm_state(lstm: LowRankLSTM, state, at: str) -> None:
    names = [name for name in state if name.startswith(at)]
    dense = {name[len(at) :]: state[name] for name in names}
    parent = at.removesuffix(".").rpartition(".")[0]
    reader_key = ".".join(filter(None, (parent, lstm.reader, "weight"))) if lstm.reader else ""
    if "weight_hh_l0" not in dense or (reader_key and reader_key not in state):
        return
    reader, recurrent = state.get(reader_key), dense["weight_hh_l0"]
    if reader is not None and reader.shape[1] != (1 + lstm.bidirectional) * recurrent.shape[1]:
        return  # one of the two came without the other: torch says which
    # Factors beside dense weights are those of the model itself, where a dense state dict was laid over its own.
    projected = recurrent.shape[1] != lstm.hidden_size
    if not projected:
        dense = {name: value for name, value in dense.items() if not name.startswith("weight_hr")}
    elif "weight_hr_l0" not in dense or len(dense["weight_hr_l0"]) != recurrent.shape[1]:
        return  # torch says what does not fit
    taken_in = dense["weight_ih_l0"].shape[1] if "weight_ih_l0" in dense else -1
    thin_input = taken_in != lstm.dense_input_size
    if not thin_input:
        dense.pop("input.weight", None)
    elif "input.weight" not in dense or dense["input.weight"].shape != (taken_in, lstm.dense_input_size):
        return
    if projected == lstm.is_projected and recurrent.shape[1] == lstm.rank and taken_in == lstm.input_size:
        return  # it fits
    for name in names:
        del state[name]
    dense, reader = dense_lstm_weights(dense, reader)
    weights, reader = factorize_lstm_weights(lstm, dense, reader, INITIALIZERS["svd"])
    if reader_key:
        state[reader_key] = reader
    state.update({at + name: value for name, value in weights.items()})


def accept_dense_weights(model: nn.Module) -> None:
    """Have ``model.load_state_dict`` take dense weights, or factors of other ranks, from now on."""
    if not any(_is_ours(hook) for hook in model._load_state_dict_pre_hooks.values()):
        model.register_load_state_dict_pre_hook(_accept_dense_weights)


def accept_dense_weights_no_more(model: nn.Module) -> None:
    """Undo :func:`accept_dense_weights`."""
    hooks = model._load_state_dict_pre_hooks
    for key in [key for key, hook in hooks.items() if _is_ours(hook)]:
        del hooks[key]


def _is_ours(hook) -> bool:
    return getattr(hook, "hook", hook) is _accept_dense_weights


def _accept_dense_weights(module: nn.Module, state_dict: dict, prefix: str, *_) -> None:
    if not hasattr(module, "self_guide"):  # of a training that was guided: see lrsms.lowrank.self_guided
        for name in [name for name in state_dict if name.startswith(f"{prefix}self_guide.")]:
            del state_dict[name]
    factorize_state(module, state_dict, prefix)
