"""What a ``low_rank`` block leaves to be found out: ratios that reach a target, ranks after a dense checkpoint.

Both need the dense model, and both end as plain ratios and ranks in the config that ESPnet saves, so that loading a
model takes nothing but its ``config.yaml`` and its weights.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.checkpoint import read_checkpoint
from lrsms.espnet.compat import current_names
from lrsms.espnet.config import sampling_rate
from lrsms.espnet.models.cost import NOMINAL_TOKENS_PER_SECOND, cost, positions, trainable_parameters
from lrsms.espnet.models.ctc_rank import plan_ctc
from lrsms.espnet.models.role_table import LOW_RANK_DECODERS, LOW_RANK_ENCODERS, plan_part
from lrsms.lowrank import LowRankConfig, RankPlan
from lrsms.lowrank.maps import stable_rank
from lrsms.lowrank.recurrent import input_matrix

PARTS = ("encoder", "decoder")
# What a target without any ratio stands for: the arm of GRID's sweep_aids that came closest to dense.
PROPORTIONS = {
    **{"attention": 0.4, "cross_attention": 0.4, "attention_pos": 0.2, "feed_forward": 0.2, "convolution": 0.5},
    **{"subsampling": 0.5, "frontend": 0.5, "fusion": 0.5, "recurrent": 0.4, "recurrent_input": 0.4},
}
RECOMMENDED = {"layer_map": "linear", "semi_orthogonal": 1.0, "muon": 1.0}
_WIDE = 256  # units, from where on ranks are multiples of 8, as processors like them
LOW_RANK_CLASSES = {"encoder": LOW_RANK_ENCODERS, "decoder": LOW_RANK_DECODERS}


def build_low_rank(args: argparse.Namespace, build: Callable[[argparse.Namespace], nn.Module]) -> nn.Module:
    """Build a model whose ``low_rank`` blocks are parsed here, once: its classes get the parsed objects.

    ``target`` and ``stable_rank`` are replaced in ``args`` by the ratios and ranks that they come to.

    Args:
        args: of ESPnet's ASR task; ``encoder_conf`` and ``decoder_conf`` are changed in place and stay plain.
        build: ESPnet's ``build_model``.

    Raises:
        LrsmsError: a bad block, a target that no ratio reaches, or a checkpoint that is not of this model.
    """
    configs = {
        part: LowRankConfig.parse(block, where=f"{part}_conf.low_rank")
        for part in PARTS
        if (block := _block(args, part)) is not None
    }
    if any(config.target or config.stable_rank_from for config in configs.values()):
        configs = _resolve(args, configs, build)
    with _handed_over(args, configs):
        return build(args)


@contextmanager
def _handed_over(args: argparse.Namespace, configs: Mapping[str, LowRankConfig]) -> Iterator[None]:
    """Within this context the options in ``args`` have objects in place of blocks; ESPnet saves them afterwards."""
    plain = {f"{part}_conf": getattr(args, f"{part}_conf") for part in configs}
    for part, config in configs.items():
        setattr(args, f"{part}_conf", {**plain[f"{part}_conf"], "low_rank": config})
    try:
        yield
    finally:
        for name, options in plain.items():
            setattr(args, name, options)


def _resolve(
    args: argparse.Namespace,
    configs: dict[str, LowRankConfig],
    build: Callable[[argparse.Namespace], nn.Module],
) -> dict[str, LowRankConfig]:
    """What the configs come to; written into the blocks of ``args`` as well."""
    with torch.random.fork_rng(devices=[]):
        model = build(without_low_rank(args))
    if not any(config.ratios for config in configs.values()):
        configs = _recommended(args, model, configs)
    stable = {}
    for part, config in configs.items():
        module = getattr(model, part)  # no decoder if ctc_weight is 1.0
        if module is not None and not hasattr(module, "low_rank_where"):
            raise LrsmsError(
                f"{part}_conf.low_rank: {part}: {getattr(args, part)} is ESPnet's dense class; "
                f"choose one of {', '.join(LOW_RANK_CLASSES[part])}"
            )
        if config.stable_rank_from is not None and module is not None:
            stable[part] = _stable_ranks(module, config, part)
    scaled = _reach_target(_Model(model, configs, stable), sampling_rate(args.frontend_conf))
    resolved = {}
    for part, config in scaled.items():
        block = {**(_block(args, part) or {}), **config.ratios}
        block.pop("target", None)
        changes: dict = {"target": None}
        if config.stable_rank_from is not None:
            block.pop("stable_rank_from")
            block["layer_map"] = "uniform"
            changes |= {"stable_rank_from": None, "layer_map": "uniform"}
        if part in stable:
            plan = plan_part(getattr(model, part), config, stable[part])
            block["ranks"] = changes["ranks"] = {entry.module: entry.rank or 0 for entry in plan.entries}
        getattr(args, f"{part}_conf")["low_rank"] = block
        resolved[part] = replace(config, **changes)
    return resolved


def _recommended(
    args: argparse.Namespace, model: nn.Module, configs: Mapping[str, LowRankConfig]
) -> dict[str, LowRankConfig]:
    """Proportions, map and aid for a target that stands alone, in every part of a low-rank class.

    A part whose ``low_rank`` is null stays dense. What a block says is kept.
    """
    found = {}
    for part in PARTS:
        module = getattr(model, part)
        options = getattr(args, f"{part}_conf", None) or {}
        if not hasattr(module, "low_rank_where") or options.get("low_rank", configs) is None:
            if part in configs:
                found[part] = configs[part]  # refused below, with the classes that would do
            continue
        entries = plan_part(module, LowRankConfig()).entries
        widest = max(min(entry.inputs, entry.outputs) for entry in entries)
        roles = {entry.role for entry in entries}
        ratios = {role: ratio for role, ratio in PROPORTIONS.items() if role in roles}
        block = {**ratios, **RECOMMENDED, "multiple": 8 if widest >= _WIDE else 2, **(_block(args, part) or {})}
        setattr(args, f"{part}_conf", {**options, "low_rank": block})
        found[part] = LowRankConfig.parse(block, where=module.low_rank_where)
    return found


def _block(args: argparse.Namespace, part: str) -> dict | None:
    return (getattr(args, f"{part}_conf", None) or {}).get("low_rank")


def without_low_rank(args: argparse.Namespace) -> argparse.Namespace:
    """A copy of ``args`` whose encoder and decoder stay dense."""
    dense = copy.deepcopy(args)
    for part in PARTS:
        (getattr(dense, f"{part}_conf", None) or {}).pop("low_rank", None)
    return dense


@dataclass
class _Model:
    """A dense model, and what it would cost with other ranks."""

    model: nn.Module
    configs: dict[str, LowRankConfig]
    stable: dict[str, dict[str, float]]

    def plans(self, scale: float) -> list[tuple[str, RankPlan]]:
        """Path of each part and its plan with all ratios times ``scale``."""
        plans = []
        for part, config in self.configs.items():
            module = getattr(self.model, part)
            if module is not None:
                plans.append((part, plan_part(module, config.scaled(scale), self.stable.get(part))))
            if part == "encoder":
                plans.append(("ctc", plan_ctc(self.model.ctc, config.scaled(scale))))
        return plans


def _reach_target(dense: _Model, fs: int) -> dict[str, LowRankConfig]:
    """Scale every ratio by one number, the largest with which the whole model reaches the target."""
    model, configs = dense.model, dense.configs
    targets = {config.target for config in configs.values() if config.target is not None}
    if not targets:
        return configs
    if len(targets) > 1:
        raise LrsmsError(
            "encoder_conf.low_rank.target and decoder_conf.low_rank.target differ; a target is the whole model's: "
            "write it once"
        )
    ((what, times),) = targets
    if what == "parameters":
        total = float(trainable_parameters(model))
        counts = None
    else:
        total = cost(model, fs, NOMINAL_TOKENS_PER_SECOND).macs_per_second
        counts = positions(model, fs, NOMINAL_TOKENS_PER_SECOND)

    def reduction(scale: float) -> float:
        saved = 0.0
        for part, plan in dense.plans(scale):
            for entry in plan.entries:
                if counts is None:
                    saved += entry.dense_parameters - entry.parameters
                else:
                    path = f"{part}.{entry.module}"
                    reader = f"{path.rpartition('.')[0]}.{entry.reader}"
                    saved += entry.macs_saved(counts[path], counts.get(reader, 0.0))
        return total / (total - saved)

    ratios = [ratio for config in configs.values() for ratio in config.ratios.values()]
    if not ratios:
        raise LrsmsError("low_rank.target: none of the model's layers has a role of which proportions are known")
    low, high = 0.0, 1 / min(ratios)
    if reduction(low) < times:
        raise LrsmsError(
            f"low_rank.target.{what}: {times}x is out of reach with these roles; "
            f"the smallest ranks make {reduction(low):.2f}x"
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if reduction(middle) >= times else (low, middle)
    return {part: config.scaled(low) for part, config in configs.items()}


def _stable_ranks(part: nn.Module, config: LowRankConfig, name: str) -> dict[str, float]:
    """Stable rank of the trained dense weights, by module path: ranks are in proportion to it.

    Cuttlefish (Wang et al. 2023) divides a stable rank by its value at initialization; layers that share a budget
    here have one shape, and so one such value.
    """
    where = f"{name}_conf.low_rank.stable_rank_from"
    weights = current_names(nn.ModuleDict({name: part}), read_checkpoint(Path(str(config.stable_rank_from))))
    dense = RankPlan.make(part, part.low_rank_roles, LowRankConfig(), where)
    ranks = {}
    for entry in dense.entries:
        matrix = _trained_matrix(
            weights, f"{name}.{entry.module}", entry.module.startswith("embed") and entry.role == "embedding"
        )
        if matrix is None or sorted(matrix.shape) != sorted((entry.inputs, entry.outputs)):
            raise LrsmsError(
                f"{where}: {config.stable_rank_from} has no dense weight of {entry.outputs} x {entry.inputs} at "
                f"{name}.{entry.module}; give the checkpoint of the dense model of the same size"
            )
        ranks[entry.module] = stable_rank(matrix)
    return ranks


def _trained_matrix(weights: dict, path: str, embedding: bool) -> torch.Tensor | None:
    for name in (f"{path}.weight", f"{path}.weight_hh_l0"):
        if name in weights:
            return weights[name].T if embedding else weights[name].flatten(1)
    if f"{path}.weight_ih" in weights:
        return torch.cat((weights[f"{path}.weight_ih"], weights[f"{path}.weight_hh"]), dim=1)
    lstm = path.removesuffix("input")
    if lstm != path and f"{lstm}weight_ih_l0" in weights:
        own = {name.removeprefix(lstm): value for name, value in weights.items() if name.startswith(lstm)}
        return input_matrix(own)
    return None
