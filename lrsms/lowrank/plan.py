"""RankPlan: which layer gets which rank, and what that costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.layers import matrix_shape
from lrsms.lowrank.maps import spread_ranks
from lrsms.lowrank.recurrent import lstm_weights


class Recurrent(str):
    r"""In a table of roles: ``recurrent``, ``recurrent_input`` for what its first layer takes in, and who reads it.

    The string is the name of the linear layer beside the LSTM that reads its output, a template for the match of the
    LSTM's path (``bt\\1``).
    """


class WithKernel(str):
    """In a table of roles: a role that covers a Conv1d with a kernel, too."""


@dataclass(frozen=True)
class PlanEntry:
    """One layer that a role covers.

    Attributes:
        module: path of the layer, as in ``named_modules()``; of an LSTM's input, the LSTM's and ``.input``.
        role: the YAML role it belongs to.
        depth: index of its block in the stack, 0 if there is none.
        inputs, outputs: shape of its matrix; a convolution's kernel area counts into ``inputs``, of an LSTM it is
            the recurrent matrix.
        rank: inner dimension, None when it stays dense.
        note: why it stays dense, where the plan decided that.
        reader: of an LSTM, name of the layer beside it that shares its projection.
        weights: of an LSTM, its weights (not the input's) and the reader's: dense, and for each rank.
        read: of an LSTM, the reader's weights per hidden unit.
    """

    module: str
    role: str
    depth: int
    inputs: int
    outputs: int
    rank: int | None
    note: str = ""
    reader: str = ""
    weights: tuple[int, int] | None = None
    read: int = 0

    @property
    def full_rank(self) -> int:
        """Rank of the dense matrix."""
        return min(self.inputs, self.outputs)

    @property
    def dense_parameters(self) -> int:
        """Weights of the dense matrix (bias apart: factoring does not change it)."""
        return self.inputs * self.outputs if self.weights is None else self.weights[0]

    @property
    def parameters(self) -> int:
        """Weights that the layer stores."""
        return self.parameters_at(self.rank)

    def parameters_at(self, rank: int | None) -> int:
        """Weights that the layer stores at ``rank``; None means dense."""
        if rank is None:
            return self.dense_parameters
        _, per_rank = self.weights or (0, self.inputs + self.outputs)
        return per_rank * rank

    @property
    def macs(self) -> int:
        """Multiply-accumulates per output position: the weights, but looking up an embedding is free."""
        if self.role == "embedding":
            return 0 if self.rank is None else self.rank * self.outputs
        return self.parameters

    @property
    def dense_macs(self) -> int:
        """Multiply-accumulates of the dense layer per output position."""
        return 0 if self.role == "embedding" else self.dense_parameters

    def macs_saved(self, positions: float, reader_positions: float = 0.0) -> float:
        """Multiply-accumulates that factoring saves.

        Args:
            positions: output positions of the layer.
            reader_positions: the same of an LSTM's reader.
        """
        read = 0 if self.rank is None else self.read * (self.inputs - self.rank)
        return positions * (self.dense_macs - self.macs - read) + reader_positions * read

    @property
    def break_even(self) -> float:
        """The rank from which on factors hold more weights than the dense matrix."""
        dense, per_rank = self.weights or (self.dense_parameters, self.inputs + self.outputs)
        return dense / per_rank


@dataclass(frozen=True)
class RankPlan:
    """Every layer that the configured roles cover, in module order."""

    config: LowRankConfig
    entries: tuple[PlanEntry, ...]

    @classmethod
    def make(
        cls,
        model: nn.Module,
        roles: Mapping[str, str],
        config: LowRankConfig,
        where: str = "low_rank",
        weights: Mapping[str, float] | None = None,
    ) -> RankPlan:
        """Look at a dense model and choose ranks.

        Args:
            model: an encoder or decoder with dense layers.
            roles: regular expression of a module path (matched whole) -> role, or :class:`Recurrent`.
            config: what the user asked for.
            where: the YAML key, for error messages.
            weights: module path -> how much of its role's budget it deserves, in place of the layer map.

        Raises:
            LrsmsError: a role or an explicit path that the model has no layer for, or a rank too large.
        """
        entries = list(_covered(model, roles))
        present = {entry.role for entry in entries}
        for role in config.ratios:
            if role not in present:
                grus = any(isinstance(module, nn.GRU | nn.GRUCell) for module in model.modules())
                gru = grus and role.startswith("recurrent")
                raise LrsmsError(
                    f"{where}.{role}: {type(model).__name__} has no such layer with these options; it has "
                    f"{', '.join(sorted(present)) or 'none'}{'; a GRU cannot be factored, an LSTM can' if gru else ''}"
                )
        ranked = rank_groups(entries, config, where, weights)
        return cls(config, tuple(_override(ranked, model, config.ranks, where)))

    @property
    def parameters(self) -> int:
        """Weights of all planned layers as stored."""
        return sum(entry.parameters for entry in self.entries)

    @property
    def dense_parameters(self) -> int:
        """Weights of all planned layers if they were dense."""
        return sum(entry.dense_parameters for entry in self.entries)

    def table(self, macs: Mapping[str, float] | None = None) -> str:
        """The plan as a text table, one row per layer.

        Args:
            macs: multiply-accumulates per second of audio by module path, for a column of their own.
        """
        rows: list[tuple[str, ...]] = [("module", "role", "in x out", "rank", "parameters", "of dense", "MMACs/s", "")]
        for entry in self.entries:
            rank = "dense" if entry.rank is None else str(entry.rank)
            share = f"{100 * entry.parameters / entry.dense_parameters:.0f} %"
            shape = f"{entry.inputs} x {entry.outputs}"
            work = f"{macs[entry.module] / 1e6:.2f}" if macs else ""
            rows.append((entry.module, entry.role, shape, rank, f"{entry.parameters:,}", share, work, entry.note))
        if not macs:
            rows = [row[:6] + row[7:] for row in rows]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        left = {0, 1, len(rows[0]) - 1}
        lines = [
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


def _covered(model: nn.Module, roles: Mapping[str, str]) -> Iterator[PlanEntry]:
    """The layers of ``model`` that a role covers and that can be factored."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        role, match = _role_of(path, roles)
        if match and isinstance(role, Recurrent) and isinstance(module, nn.LSTM):
            reader = match.expand(role)
            features = modules[".".join(filter(None, (path.rpartition(".")[0], reader)))].out_features
            hidden, directions = module.hidden_size, 1 + module.bidirectional
            sizes, read = lstm_weights(module, features), directions * features
            yield PlanEntry(path, "recurrent", _depth(path), hidden, 4 * hidden, None, "", reader, sizes, read)
            gates = directions * 4 * hidden
            yield PlanEntry(f"{path}.input", "recurrent_input", _depth(path), module.input_size, gates, None)
        elif role == "embedding" and not isinstance(module, nn.Embedding):
            continue  # another input layer of that path
        elif (
            role
            and not isinstance(role, Recurrent)
            and (shape := matrix_shape(module, wide=isinstance(role, WithKernel)))
        ):
            yield PlanEntry(path, str(role), _depth(path), shape[1], shape[0], None)


def _role_of(path: str, roles: Mapping[str, str]) -> tuple[str | None, re.Match | None]:
    for pattern, role in roles.items():
        if match := re.fullmatch(pattern, path):
            return role, match
    return None, None


def _depth(path: str) -> int:
    numbers = re.findall(r"\.(\d+)(?=\.)", path)  # a trailing number (embed.conv.2) is not a block's
    # enc.0.birnn2, a decoder's cells, and bands of an embedding
    if number := re.search(r"rnn(\d+)(?:\.input)?$|^decoder\.(\d+)$|\.bands\.(\d+)$", path):
        return int(number[1] or number[2] or number[3])
    return int(numbers[0]) if numbers else 0


def _family(entry: PlanEntry) -> tuple:
    """Layers that differ only in their block's index: a map spreads rank over these."""
    return re.sub(rf"(?<!\d){entry.depth}(?!\d)(?!.*rnn)", "*", entry.module, count=1), entry.inputs, entry.outputs


def rank_groups(
    entries: list[PlanEntry],
    config: LowRankConfig,
    where: str,
    weights: Mapping[str, float] | None,
    family_of: Callable[[PlanEntry], tuple] = _family,
) -> list[PlanEntry]:
    """The same entries with the ranks of ``config.ratios``, spread over each family of layers."""
    families: dict[tuple, list[PlanEntry]] = {}
    for entry in entries:
        # By weights, all layers of a role and shape share one budget; by a map, each spreads its own over depth.
        family = (entry.role, entry.inputs, entry.outputs) if weights is not None else family_of(entry)
        families.setdefault(family, []).append(entry)
    chosen = {}
    for layers in families.values():
        layer_map: str | Sequence[float] = config.layer_map
        if weights is not None:
            layer_map = [weights[entry.module] for entry in layers]
        if len(layers) == 1:
            layer_map = "uniform"
        elif not isinstance(layer_map, str) and len(layer_map) != len(layers) and layers[0].role in config.ratios:
            raise LrsmsError(
                f"{where}.layer_map: {len(layer_map)} weights, but there are {len(layers)} layers "
                f"like {layers[0].module}"
            )
        ratio = config.ratios.get(layers[0].role)
        for entry, (rank, note) in zip(layers, _family_ranks(layers[0], len(layers), ratio, config, layer_map)):
            chosen[entry.module] = replace(entry, rank=rank, note=note)
    return [chosen[entry.module] for entry in entries]


def _family_ranks(
    entry: PlanEntry, layers: int, ratio: float | None, config: LowRankConfig, layer_map: str | Sequence[float]
) -> list[tuple]:
    if ratio is None:
        return [(None, "")] * layers
    full, break_even = entry.full_rank, entry.break_even
    rank = round_rank(ratio * (full if config.of == "full_rank" else break_even), config.multiple, full)
    if rank >= break_even:
        return [(None, f"rank {rank} reaches break-even at {break_even:.0f}")] * layers
    largest = _largest_multiple_below(break_even, config.multiple)
    ranks = spread_ranks(rank, layers, layer_map, multiple=config.multiple, largest=largest)
    return [(value, "") for value in ranks]


def round_rank(rank: float, multiple: int, full: int) -> int:
    """Nearest multiple, at least one of it, never above ``full``; layers thinner than a multiple round to 1 and up."""
    if full <= multiple:
        return max(1, min(full, round(rank)))
    return min(full, max(multiple, multiple * round(rank / multiple)))


def _largest_multiple_below(bound: float, multiple: int) -> int:
    largest = int(bound // multiple) * multiple
    return largest - multiple if largest == bound else largest


def _override(entries: list[PlanEntry], model: nn.Module, ranks: Mapping[str, int], where: str) -> list[PlanEntry]:
    modules = dict(model.named_modules())
    by_path = {entry.module: entry for entry in entries}
    for path, rank in ranks.items():
        shape = matrix_shape(modules[path]) if path in modules else None
        if path not in by_path and shape is None:
            raise LrsmsError(f"{where}.ranks.{path}: {type(model).__name__} has no layer of that path to factor")
        known = by_path.get(path)
        if known is None:
            assert shape is not None
            known = PlanEntry(path, "explicit", _depth(path), shape[1], shape[0], None)
        # Of an LSTM: torch wants proj_size < hidden_size, and weights tell a factored input by its size.
        most = known.full_rank - (bool(known.reader) or known.role == "recurrent_input")
        if rank > most:
            raise LrsmsError(f"{where}.ranks.{path}: {rank} exceeds the full rank {most}; write 0 for dense")
        by_path[path] = replace(known, rank=rank or None, note="explicit")
    order = {path: index for index, path in enumerate(modules)}
    return sorted(by_path.values(), key=lambda entry: order[entry.module.removesuffix(".input")])
