"""LR-SMS: train and ship speech models a fraction of the size, in the recipes you already have."""

__version__ = "0.1.0"
