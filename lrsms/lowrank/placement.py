"""Put a layer where another one was: at every path that leads to it, with what was attached to it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_HOOKS = (
    *("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called"),
    *("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"),
    *("_backward_hooks", "_backward_pre_hooks", "_is_full_backward_hook"),
)


def put_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace ``old`` by ``new`` wherever a module of ``model`` has it as a child."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)


def replace_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """As :func:`put_`; ``new`` takes over the mode and the hooks of ``old``, whose handles go on to remove them."""
    new.train(old.training)
    for name in _HOOKS:
        if name in old.__dict__:
            setattr(new, name, getattr(old, name))
    put_(model, old, new)


def paths(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Every module of ``model`` with all paths that lead to it, the first of ``named_modules()`` first."""
    found: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        found.setdefault(module, []).append(path)
    return found


def within(module: nn.Module) -> Iterator[nn.Module]:
    """The modules inside ``module``, without itself."""
    return (inner for inner in module.modules() if inner is not module)
