"""Whether somebody listens to a module: what computes without calling it must not pass over them."""

from __future__ import annotations

from torch import nn


def hooked(*modules: nn.Module) -> bool:
    """True where these modules have hooks, forward or backward."""
    return any(
        one._forward_hooks or one._forward_pre_hooks or one._backward_hooks or one._backward_pre_hooks
        for one in modules
    )


def hooked_within(*modules: nn.Module) -> bool:
    """True where these modules, or modules in them, have."""
    return any(hooked(*module.modules()) for module in modules)
