"""LR-SMS: train and ship speech models a fraction of the size, in the recipes you already have."""

__version__ = "0.2.0"
_LAZY = {
    "factorize_": "lrsms.lowrank.any_model.factorize",
    "merge_": "lrsms.lowrank.merge",
    "after_step": "lrsms.lowrank.aids",
    "attach_muon": "lrsms.lowrank.aids",
    "parameter_groups": "lrsms.lowrank.aids",
    "Recognizer": "lrsms.espnet.inference.recognizer",
}


def __getattr__(name: str):
    """``lrsms.factorize_`` and the others above, imported when asked for: ``import lrsms`` alone imports nothing."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
