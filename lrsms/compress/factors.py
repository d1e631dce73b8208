"""Every layer's factors, computed once, kept on disk by content; a candidate model is made by slicing them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from lrsms.compress.space import Layer
from lrsms.files import atomic_write
from lrsms.lowrank import LowRankEmbedding, LowRankLSTMCell
from lrsms.lowrank.layers import factored_like
from lrsms.lowrank.recurrent import cell_matrix, factorize_lstm_weights, input_matrix, low_rank_lstm_like
from lrsms.lowrank.tied import tied_outputs
from lrsms.lowrank.truncation import Factors, Moments, factorize


class FactorCache:
    """Factors by the content of what they are made from.

    Args:
        folder: files are stored here; safe to share between processes and experiments.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, weight: torch.Tensor, method: str, moments: Moments | None, has_bias: bool) -> Factors:
        """As :func:`lrsms.lowrank.truncation.factorize`, from disk if it has been done before."""
        path = self.folder / f"{_digest(weight, method, moments, has_bias)}.pt"
        if path.exists():
            try:
                return Factors(**torch.load(path, weights_only=True))
            except Exception:  # half-written by a machine that went down: made again
                path.unlink(missing_ok=True)
        factors = factorize(weight, method, moments, has_bias)
        with atomic_write(path) as unfinished:
            torch.save(dict(factors.__dict__), unfinished)
        return factors


def _digest(weight: torch.Tensor, method: str, moments: Moments | None, has_bias: bool) -> str:
    digest = hashlib.sha256(f"{method} {has_bias} {tuple(weight.shape)}".encode())
    digest.update(weight.detach().float().contiguous().numpy().tobytes())
    if moments is not None and method != "plain":
        for tensor in (moments.mean, moments.second, *(() if moments.rows is None else (moments.rows,))):
            digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


class SlicedModel:
    """A dense model whose layers can be replaced by slices of their factors and put back.

    Args:
        model: dense, in evaluation mode; its layers are replaced in place.
        layers: those that can be replaced.
        cache: where factors come from.
        method: of truncation.
        moments: path -> what calibration saw there; may be empty for ``plain``.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], cache: FactorCache, method: str, moments: Mapping):
        self.model, self.method = model, method
        self.layers = {layer.path: layer for layer in layers}
        self.dense: dict[str, nn.Module] = {}
        self.factors: dict[str, Factors | list[Factors]] = {}
        tied = tied_outputs(model)
        for layer in tqdm(layers, desc=f"factors, {method}", unit="layer", leave=False, delay=3):
            path = _module_path(layer)
            module = self.dense[path] = model.get_submodule(path)
            if layer.entry.reader:
                reader = self._reader_path(layer)
                self.dense[reader] = model.get_submodule(reader)
                self.factors[layer.path] = _lstm_factors(
                    module, self.dense[reader], cache, method, moments.get(layer.path, {})
                )
            else:
                matrix, bias = _matrix(module)
                layer_moments = moments.get(layer.path)
                # A layer that calibration never reached is truncated as a plain matrix.
                how = (method if layer_moments else "plain", layer_moments, bias is not None)
                if layer.path in tied:  # best in what the output makes of its inputs: the table, not its transpose
                    self.factors[layer.path] = cache.get(matrix.T, *how).transposed()
                else:
                    self.factors[layer.path] = cache.get(matrix, *how)

    @staticmethod
    def _reader_path(layer: Layer) -> str:
        return ".".join(filter(None, (layer.path.rpartition(".")[0], layer.entry.reader)))

    @contextmanager
    def at(self, ranks: Mapping[str, int | None]) -> Iterator[nn.Module]:
        """The model with these ranks; None, or a path left out, is the layer as it is. Dense again afterwards."""
        try:
            wanted = {path: self.layers[path].rank if rank is None else rank for path, rank in ranks.items()}
            for path in dict.fromkeys(_module_path(self.layers[path]) for path, rank in wanted.items() if rank):
                if isinstance(self.dense[path], nn.LSTM):
                    self._replace_lstm(path, wanted.get(path), wanted.get(f"{path}.input"))
                else:
                    factors, rank = self.factors[path], wanted[path]
                    assert isinstance(factors, Factors) and rank is not None
                    _put(self.model, path, _slice(self.dense[path], factors, rank))
            yield self.model
        finally:
            for path, module in self.dense.items():
                _put(self.model, path, module)

    def _replace_lstm(self, path: str, rank: int | None, input_rank: int | None) -> None:
        layer, dense = self.layers[path], self.dense[path]
        reader_path = self._reader_path(layer)
        reader = self.dense[reader_path]
        lstm, thin = low_rank_lstm_like(dense, layer.entry.reader, reader, rank, input_rank)
        # In the order in which they are asked for.
        recurrent = self.factors[path]
        assert isinstance(recurrent, list)
        slices: Iterator = iter([*([self.factors[f"{path}.input"]] if input_rank else []), *recurrent])

        def take(_, rank):
            factors = next(slices)
            return factors.up[:, :rank], factors.down[:rank]

        weights, reader_weight = factorize_lstm_weights(lstm, dense.state_dict(), reader.weight.data, take)
        lstm.load_state_dict(weights)
        thin.load_state_dict({**reader.state_dict(), "weight": reader_weight})
        _put(self.model, path, lstm.eval())
        _put(self.model, reader_path, thin.eval())

    def snapshot(self, ranks: Mapping[str, int | None]) -> nn.Module:
        """A copy of the model with these ranks and weights of its own."""
        with self.at(ranks) as model:
            return copy.deepcopy(model)


def _module_path(layer: Layer) -> str:
    """Path of the module that is replaced; an LSTM's input is part of the LSTM."""
    return layer.path.removesuffix(".input") if layer.entry.role == "recurrent_input" else layer.path


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _matrix(module: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The matrix ``(out, in)`` behind a dense layer, and its bias."""
    if isinstance(module, nn.LSTMCell):
        return cell_matrix(module.state_dict())
    if isinstance(module, nn.LSTM):
        return input_matrix(module.state_dict()), None  # its bias is the recurrent matrix's, too: not corrected
    weight = module.weight.data
    return (weight.T if isinstance(module, nn.Embedding) else weight.flatten(1)), getattr(module, "bias", None)


def _slice(dense: nn.Module, factors: Factors, rank: int) -> nn.Module:
    """A factored layer whose weights are views of the factors."""
    up, down = factors.up[:, :rank], factors.down[:rank]
    change = factors.bias_change(rank)
    if isinstance(dense, nn.LSTMCell):
        with torch.device("meta"):
            cell = LowRankLSTMCell(dense.input_size, dense.hidden_size, rank=rank, bias=dense.bias)
        _, bias = cell_matrix(dense.state_dict())
        _set(cell.gates, down, up, bias, change)
        return cell.eval()
    layer = _meta_like(dense, rank)
    if isinstance(layer, LowRankEmbedding):
        _set(layer, down.T, up, None, None)
    else:
        _set(layer, down.reshape(layer[0].weight.shape), up.reshape(layer[1].weight.shape), dense.bias, change)
    return layer.eval()


def _meta_like(dense: nn.Module, rank: int) -> nn.Module:
    weight = dense.weight
    try:
        dense.weight = nn.Parameter(weight.to("meta"))
        with torch.device("meta"):
            return factored_like(dense, rank)
    finally:
        dense.weight = weight


def _set(layer: nn.Module, first: torch.Tensor, second: torch.Tensor, bias, change) -> None:
    layer[0].weight = nn.Parameter(first, requires_grad=False)
    layer[1].weight = nn.Parameter(second, requires_grad=False)
    if bias is not None:
        layer[1].bias = nn.Parameter(bias.detach() if change is None else bias.detach() + change, requires_grad=False)


def _lstm_factors(lstm: nn.LSTM, reader: nn.Linear, cache: FactorCache, method: str, moments: Mapping) -> list[Factors]:
    """Factors of every layer and direction's stacked matrix, in the order in which they are asked for."""
    factors: list[Factors] = []
    names = [
        f"weight_hh_l{layer}{suffix}"
        for layer in range(lstm.num_layers)
        for suffix in ["", "_reverse"][: 1 + lstm.bidirectional]
    ]
    order = iter(names)

    def collect(stacked: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen = moments.get(next(order))
        # No bias to correct: what a projection loses is read by several matrices.
        factors.append(cache.get(stacked, method if seen else "plain", seen, has_bias=False))
        return stacked.new_zeros(len(stacked), rank), stacked.new_zeros(rank, stacked.shape[1])

    target, _ = low_rank_lstm_like(lstm, "reader", reader, 1)
    factorize_lstm_weights(target, lstm.state_dict(), reader.weight.data, collect)
    return factors
