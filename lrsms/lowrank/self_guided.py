"""Training aid: early in training a dense layer leads the way.

Self-guided training (Wei et al. 2024, "Building on efficient foundations", structured feed-forward networks): a layer
gives ``a W x + (1 - a) U V x`` with a dense ``W`` of its own, ``a`` going from 1 to 0 by half a cosine. Only training
sees ``W``: in evaluation a layer is what it will be in the end, and once ``a`` is 0 checkpoints no longer hold it.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from lrsms.lowrank.layers import Factored, LowRankConv1d, LowRankConv2d, LowRankEmbedding
from lrsms.lowrank.own_forward import LowRankOwnForward, with_weight
from lrsms.lowrank.plan import RankPlan
from lrsms.lowrank.recurrent import cell_matrix


def dense_weights(model: nn.Module, plan: RankPlan) -> dict[str, torch.Tensor]:
    """Weights of the layers that ``plan`` is about to factor, by the path that the factored layer will have.

    LSTMs are left out: their factors are not a layer of their own.
    """
    weights = {}
    for entry in plan.entries:
        layer = model.get_submodule(entry.module)
        if entry.rank is None or isinstance(layer, nn.LSTM):
            continue
        if isinstance(layer, nn.LSTMCell):
            weights[f"{entry.module}.gates"] = cell_matrix(layer.state_dict())[0]
        else:
            weights[entry.module] = layer.weight.detach()
    return weights


class SelfGuide(nn.Module):
    """The dense weights that guide the factored layers of one model part, and how far they have been faded out.

    Args:
        part: an encoder or decoder with factored layers.
        dense: from :func:`dense_weights`, before it was factored.
        steps: optimizer steps until the guide is gone.
    """

    def __init__(self, part: nn.Module, dense: dict[str, torch.Tensor], steps: int):
        super().__init__()
        self.steps = steps
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        first = {id(weight): path for path, weight in reversed(dense.items())}  # layers may share one weight
        self.weights = nn.ParameterDict(
            {_key(path): nn.Parameter(weight.clone()) for path, weight in dense.items() if first[id(weight)] == path}
        )
        for path, weight in dense.items():
            part.get_submodule(path).register_forward_hook(_Blend(self, _key(first[id(weight)])))
        self.register_state_dict_post_hook(_forget_when_gone)
        self.register_load_state_dict_pre_hook(_keep_when_gone)

    @property
    def share(self) -> float:
        """Share of the dense layer, 1 at the start and 0 from ``steps`` on."""
        done = min(1.0, int(self.step) / self.steps)
        return 0.5 * (1 + math.cos(math.pi * done)) if done < 1 else 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` itself: a root ``nn.Sequential`` calls whatever it holds, and so this as well."""
        return x

    def advance(self) -> None:
        """Fade the dense weights out by one step; called after each step of the optimizer."""
        self.step += 1


class _Blend:
    """Forward hook of one layer; a class, so that models can be copied and pickled."""

    def __init__(self, guide: SelfGuide, key: str):
        self.guide, self.key = guide, key

    def __call__(self, layer: Factored, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor | None:
        share = self.guide.share if layer.training else 0.0
        # Processes that train together wait for every gradient, also for those of a guide that has gone.
        if share == 0.0 and not (layer.training and torch.distributed.is_initialized()):
            return None
        return torch.lerp(output, _dense_output(layer, self.guide.weights[self.key], inputs[0]), share)


def _dense_output(layer: Factored, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What the dense layer with this weight and the factored layer's bias makes of ``x``."""
    if isinstance(layer, LowRankEmbedding):
        return nn.functional.embedding(x, weight, layer[0].padding_idx)
    if isinstance(layer, LowRankConv1d | LowRankConv2d):
        return layer[0]._conv_forward(x, weight, layer.bias)  # with its stride, dilation and padding mode
    if isinstance(layer, LowRankOwnForward):
        return with_weight(layer[0], weight, layer.bias)(x)
    return nn.functional.linear(x, weight, layer.bias)


def forget_guide(layer: nn.Module) -> None:
    """Take away what blends a guide into the output of a layer that is about to be replaced."""
    for key in [key for key, hook in layer._forward_hooks.items() if isinstance(hook, _Blend)]:
        del layer._forward_hooks[key]


def _key(path: str) -> str:
    return path.replace(".", "/")  # a ParameterDict's keys have no dots


def _forget_when_gone(guide: SelfGuide, state: dict, prefix: str, _) -> None:
    if guide.share == 0.0:
        for name in [name for name in state if name.startswith(f"{prefix}weights.")]:
            del state[name]


def _keep_when_gone(guide: SelfGuide, state: dict, prefix: str, *_) -> None:
    for name, weight in guide.weights.items():
        state.setdefault(f"{prefix}weights.{name}", weight.data)
