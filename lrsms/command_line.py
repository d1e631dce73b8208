"""The part that every command shares: how it ends, and how its options are written."""

import argparse
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable
from itertools import takewhile
from pathlib import Path

from lrsms.errors import LrsmsError
from lrsms.files import FULL_DISK, is_full, reason_of_disk
from lrsms.processes import Terminated, end_together, end_with_recipe
from lrsms.startup import leave


def run_verb(main: Callable[[], None]) -> None:
    """Run ``main``; an :class:`LrsmsError` becomes one line on stderr and exit status 1.

    What is printed appears line by line, also in a file or pipe, and in a log of both streams in its order with errors.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not one that a program has put in its place
        sys.stdout.reconfigure(line_buffering=True)
    status = 0
    if _is_main(main):
        end_together()
        end_with_recipe()
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        status = 130
    except Terminated as signaled:
        print("terminated: run the same command again to go on", file=sys.stderr)
        status = int(str(signaled.code))
    except BrokenPipeError:
        if not _reader_has_gone():
            raise
        status = 128 + signal.SIGPIPE  # as of programs that the signal ends
    except Exception as error:
        message = error_of_user(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        status = 1
    if _is_main(main):
        leave(status)
    if status:
        sys.exit(status)


def error_of_user(error: Exception) -> str | None:
    """What the user can read of an error and put right; None of one that is a defect of ours.

    Beside :class:`LrsmsError`, these are those of a disk that is full or may not be written to, which each library
    reports in its own way.
    """
    if isinstance(error, LrsmsError):
        return str(error)
    reason = reason_of_disk(error) if isinstance(error, OSError) else None
    if reason and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {reason}"
    full = [folder for folder in _folders_written_to() if is_full(folder)]
    return f"{full[0].absolute()}: {FULL_DISK}" if full else reason


def _folders_written_to() -> list[Path]:
    """Folders that the command line names, or that hold what it names, and the current one."""
    named = [Path(word.partition("=")[2] or word) for word in sys.argv[1:]]
    return [path if path.is_dir() else path.parent for path in named if path.parent.is_dir()] + [Path.cwd()]


def _reader_has_gone() -> bool:
    """Whether nobody reads stdout any more, as behind ``| head``; if so, nothing more is written there."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be written when Python ends
        return True
    return False


def _is_main(main: Callable[[], None]) -> bool:
    """Whether this process is the command, rather than a program that runs it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec is not None and spec.name.startswith("lrsms.") and main.__module__ == "__main__"


def str2bool(text: str) -> bool:
    """Parse ``true``/``false`` as the shell recipes write them."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"{text!r}: write true or false")
    return text.lower() == "true"


def count(text: str) -> int:
    """Parse a whole number of at least 1, such as one of processes."""
    return _at_least(1, text)


def count_or_none(text: str) -> int:
    """Parse a whole number of at least 0, such as one of GPUs."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number of at least {least}")
    if int(text) < least:
        raise argparse.ArgumentTypeError(f"{text}: must be at least {least}")
    return int(text)


class CommandParser(argparse.ArgumentParser):
    """argparse, whose options may be written with dashes as well as underscores: ``--output-dir``, ``--output_dir``."""

    def __init__(self, **options) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"prog": _program(), "formatter_class": formatter, "allow_abbrev": False, **options})

    def parse_known_args(  # type: ignore[override]  # of three overloads, those that argparse itself calls
        self, args: Iterable[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As :meth:`argparse.ArgumentParser.parse_known_args`; what follows ``--`` stays as it is."""
        words = list(sys.argv[1:] if args is None else args)
        own = [self._with_underscores(word) for word in takewhile(lambda word: word != "--", words)]
        return super().parse_known_args(own + words[len(own) :], namespace)

    def _with_underscores(self, word: str) -> str:
        """The option ``word`` as it was added; anything else as it is."""
        name, separator, value = word.partition("=")
        known = f"--{name[2:].replace('-', '_')}" if name.startswith("--") else name
        return known + separator + value if known in self._option_string_actions else word


def _program() -> str | None:
    """``lrsms <verb>`` in a verb's process, however it was started; None leaves the name to argparse."""
    file = Path(sys.argv[0])
    return f"lrsms {file.stem}" if file.parent.parts[-2:] == ("lrsms", "bin") else None
