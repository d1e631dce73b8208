"""Training aids at work: what happens to the factors after each step of ESPnet's optimizer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from lrsms.lowrank import Factored, LowRankConfig, low_rank_layers
from lrsms.lowrank.aids import AfterStep
from lrsms.lowrank.muon import Muon
from lrsms.lowrank.self_guided import SelfGuide

_WITHOUT_MUON = ("embedding", "output", "recurrent", "recurrent_input")


def install(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Attach the aids that the ``low_rank`` blocks of a model ask for to its optimizer.

    Args:
        model: an ``ESPnetASRModel``, before it is wrapped for several processes.
        optimizer: of all its parameters; factors under Frobenius decay leave its weight decay.
    """
    parts = {name: getattr(model, name, None) for name in ("encoder", "decoder", "ctc")}
    configs = {name: getattr(part, "low_rank_config", LowRankConfig()) for name, part in parts.items()}
    configs["ctc"] = configs["encoder"]  # whose block it is configured in
    decayed, constrained = [], []
    for name, config in configs.items():
        layers = [layer for _, layer in low_rank_layers(parts[name] or nn.Module()) if isinstance(layer, Factored)]
        if config.frobenius_decay:
            _without_weight_decay(optimizer, layers)
            decayed.append((layers, config.frobenius_decay))
        if config.semi_orthogonal:
            constrained.append((layers, config.semi_orthogonal))
        if config.muon:
            Muon(_matrices(parts[name]), config.muon).attach(optimizer)
    guides = [module for module in model.modules() if isinstance(module, SelfGuide)]
    if decayed or constrained or guides:
        optimizer.register_step_post_hook(AfterStep(decayed, constrained, guides))


def _matrices(part: nn.Module) -> Iterator[nn.Parameter]:
    """What Muon takes of a part of the model: factors and dense weights of its layers, but for tokens and LSTMs."""
    plan = getattr(part, "rank_plan", None)
    for entry in plan.entries if plan else ():
        if entry.role in _WITHOUT_MUON:
            continue
        layer = part.get_submodule(entry.module)
        yield from (layer[0].weight, layer[1].weight) if isinstance(layer, Factored) else (layer.weight,)


def _without_weight_decay(optimizer: torch.optim.Optimizer, layers: list[Factored]) -> None:
    """Move the factors of ``layers`` into groups of their own, whose weight decay is 0."""
    factors = {id(layer[index].weight) for layer in layers for index in (0, 1)}
    for group in list(optimizer.param_groups):
        if not group.get("weight_decay"):
            continue
        mine = [parameter for parameter in group["params"] if id(parameter) in factors]
        if mine:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in factors]
            options = {key: value for key, value in group.items() if key != "params"}
            optimizer.add_param_group({**options, "params": mine, "weight_decay": 0.0})
