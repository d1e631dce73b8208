"""LR-SMS: train and ship speech models a fraction of the size, in the recipes you already have."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """``lrsms.merge_``, imported when it is asked for: ``import lrsms`` alone imports nothing."""
    if name == "merge_":
        from lrsms.lowrank.merge import merge_

        return merge_
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
