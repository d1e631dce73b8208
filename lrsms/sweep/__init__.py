"""Ablations: a grid over YAML keys times seeds, every point an ordinary experiment."""
