"""Command line: one module per verb, run as ``python -m lrsms.bin.<verb>``."""

import argparse
import sys
from collections.abc import Callable

from lrsms.errors import LrsmsError
from lrsms.startup import leave, start_quickly

start_quickly()  # processes that a command starts import its module, and so this one, too


def run_verb(main: Callable[[], None]) -> None:
    """Run ``main``; an :class:`LrsmsError` becomes one line on stderr and exit status 1."""
    status = 0
    try:
        main()
    except LrsmsError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        status = 130
    if _is_main(main):
        leave(status)
    if status:
        sys.exit(status)


def _is_main(main: Callable[[], None]) -> bool:
    """Whether this process is the command, rather than a program that runs it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("lrsms.bin.") and main.__module__ == "__main__"


def str2bool(text: str) -> bool:
    """Parse ``true``/``false`` as the shell recipes write them."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: write true or false")
    return text.lower() == "true"
