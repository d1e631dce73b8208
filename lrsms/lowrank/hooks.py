"""Tell whether a module has hooks: code that computes without calling the module must not skip them."""

from __future__ import annotations

from torch import nn


def hooked(*modules: nn.Module) -> bool:
    """True if one of these modules has a hook, forward or backward."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def hooked_within(*modules: nn.Module) -> bool:
    """True if one of these modules, or a module in them, has a hook."""
    return any(hooked(*module.modules()) for module in modules)
