"""Switch off the path on which torch's Transformer reads weights of its layers in place of calling them."""

from __future__ import annotations

from torch import nn

from lrsms.lowrank.placement import within

_KEPT = "fast_path_before_low_rank"


def avoid_fast_path(model: nn.Module, changed: set[nn.Module]) -> None:
    """Keep the layers around the ``changed`` modules from torch's fast path, until :func:`allow_fast_path`.

    On it, in evaluation, padded positions come out as zeros; without it they are computed as in training.
    """
    for module in model.modules():
        switch = _switch(module)
        if switch is None or _KEPT in module.__dict__:
            continue
        if any(inner in changed for inner in within(module)):
            module.__dict__[_KEPT] = getattr(module, switch)
            setattr(module, switch, 0 if switch == "activation_relu_or_gelu" else False)


def allow_fast_path(module: nn.Module) -> None:
    """Undo :func:`avoid_fast_path` for one module."""
    switch = _switch(module)
    if switch is not None and _KEPT in module.__dict__:
        setattr(module, switch, module.__dict__.pop(_KEPT))


def _switch(module: nn.Module) -> str | None:
    """Attribute that torch looks at before it takes the fast path."""
    if isinstance(module, nn.TransformerEncoderLayer):
        return "activation_relu_or_gelu"
    return "use_nested_tensor" if isinstance(module, nn.TransformerEncoder) else None
