"""Command line: one module per verb, run as ``python -m lrsms.bin.<verb>``."""

from lrsms.command_line import run_verb, str2bool
from lrsms.startup import start_command

start_command()  # processes that a command starts import its module, and so this one, too

__all__ = ["run_verb", "str2bool"]
