"""Replace the layers of a dense model by factored ones, following a plan."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from lrsms.lowrank.initialization import initialize_
from lrsms.lowrank.layers import _Factored, factored_like
from lrsms.lowrank.plan import RankPlan


def factorize_(model: nn.Module, plan: RankPlan) -> nn.Module:
    """Replace every planned layer in place by its factored form, initialised from the layer it replaces.

    Args:
        model: the dense model the plan was made for.
        plan: ranks per module path; entries with rank None stay as they are.

    Returns:
        ``model`` itself.
    """
    for entry in plan.entries:
        if entry.rank is None:
            continue
        parent_path, _, name = entry.module.rpartition(".")
        parent = model.get_submodule(parent_path)
        dense = getattr(parent, name)
        layer = factored_like(dense, entry.rank)
        initialize_(layer, dense.weight, dense.bias, plan.config.init)
        setattr(parent, name, layer)
    return model


def low_rank_layers(model: nn.Module) -> Iterator[tuple[str, _Factored]]:
    """Path and layer of every factored layer in ``model``."""
    for path, module in model.named_modules():
        if isinstance(module, _Factored):
            yield path, module
