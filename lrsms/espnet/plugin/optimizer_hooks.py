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
            Muon(_matrices(parts[name]), config.muon, config.muon_length).attach(optimizer)
    if configs["encoder"].self_distilled:
        _attach_average(model, optimizer, configs["encoder"].self_distilled)
    guides = [module for module in model.modules() if isinstance(module, SelfGuide)]
    if decayed or constrained or guides:
        optimizer.register_step_post_hook(AfterStep(decayed, constrained, guides))


def _attach_average(model: nn.Module, optimizer: torch.optim.Optimizer, weight: float) -> None:
    """Distil from a running average of the model's own weights (Tarvainen and Valpola 2017), after its first 300 steps."""
    import copy

    from lrsms.espnet.training.distillation import _divergence, _outputs

    teacher = copy.deepcopy(model).requires_grad_(False)
    plain, steps = model.forward, 0

    def after(*_) -> None:
        nonlocal steps
        steps += 1
        kept = min(0.995, 1 - 1 / steps)
        mine, averaged = list(model.parameters()), list(teacher.parameters())
        torch._foreach_lerp_(averaged, [parameter.data for parameter in mine], 1 - kept)
        for own, average in zip(model.buffers(), teacher.buffers()):
            average.copy_(own)

    def forward(speech, speech_lengths, text, text_lengths, **others):
        if not model.training or steps < 300:
            return plain(speech, speech_lengths, text, text_lengths, **others)
        with _outputs(model) as student:
            loss, stats, count = plain(speech, speech_lengths, text, text_lengths, **others)
        teacher.eval()
        with torch.no_grad(), _outputs(teacher) as wanted:
            teacher(speech, speech_lengths, text.clone(), text_lengths, **others)
        shares = {"ctc": model.ctc_weight, "decoder": 1 - model.ctc_weight}
        divergence = sum(shares[name] * _divergence(student[name], wanted[name], 1.0) for name in shares)
        return (1 - weight) * loss + weight * divergence, stats, count

    optimizer.register_step_post_hook(after)
    model.forward = forward


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
