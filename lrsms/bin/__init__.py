"""Command line: one module per verb, run as ``python -m lrsms.bin.<verb>``."""

from lrsms.command_line import run_verb, str2bool

__all__ = ["run_verb", "str2bool"]
