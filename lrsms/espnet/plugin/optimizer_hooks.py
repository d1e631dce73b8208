"""Training aids at work: what happens to the factors after each step of ESPnet's optimizer."""

from __future__ import annotations

import torch
from torch import nn

from lrsms.lowrank import Factored, LowRankConfig, low_rank_layers
from lrsms.lowrank.frobenius_decay import decay_product_
from lrsms.lowrank.self_guided import SelfGuide
from lrsms.lowrank.semi_orthogonal import EVERY, constrain_


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
    guides = [module for module in model.modules() if isinstance(module, SelfGuide)]
    if decayed or constrained or guides:
        optimizer.register_step_post_hook(_AfterStep(decayed, constrained, guides))


class _AfterStep:
    def __init__(self, decayed: list, constrained: list, guides: list[SelfGuide]):
        self.decayed, self.constrained, self.guides = decayed, constrained, guides
        self.steps = 0

    def __call__(self, optimizer: torch.optim.Optimizer, *_) -> None:
        rate = optimizer.param_groups[0]["lr"]
        for layers, strength in self.decayed:
            for layer in layers:
                decay_product_(layer, rate * strength)
        if self._step(optimizer) % EVERY == 0:
            for layers, strength in self.constrained:
                for layer in layers:
                    constrain_(layer, strength)
        for guide in self.guides:
            guide.advance()

    def _step(self, optimizer: torch.optim.Optimizer) -> int:
        """Steps so far: the optimizer's own count if it keeps one, for that survives an interruption."""
        self.steps += 1
        first: dict = next(iter(optimizer.state.values()), {})
        counted = first.get("step")
        return self.steps if counted is None else int(counted)


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
