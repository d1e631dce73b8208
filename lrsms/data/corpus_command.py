"""What the modules of :mod:`lrsms.data.corpora` share as commands: common options, their checks, and the stamp.

A module has ``parser()`` and ``main(argv=None)``; the latter is :func:`run_corpus` with its preparation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
from collections.abc import Callable, Sequence
from pathlib import Path

from lrsms import stamp
from lrsms.command_line import CommandParser, str2bool
from lrsms.errors import LrsmsError

_CORPORA = "lrsms.data.corpora"
_MANIFESTS = ("recordings.jsonl.gz", "supervisions.jsonl.gz", "mouths.jsonl.gz", "joined.jsonl.gz")
# Stamps name these options for every corpus: a folder that was prepared when all corpora shared one parser, in which
# they had these defaults, stays up to date.
_ALWAYS_STAMPED = {
    **dict.fromkeys(("corpus_dir", "download_dir", "num_train", "num_dev", "num_test", "mouth_size", "train_parts")),
    **dict.fromkeys(("lists_dir", "kaldi_dir", "manifest_dir")),
    "mini": False,
}


def corpus_names() -> list[str]:
    """Names of the modules of :mod:`lrsms.data.corpora`, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(_CORPORA).__path__))


def folder(text: str) -> Path | None:
    """Type of an option that names a folder; an empty one is as good as none."""
    return Path(text).expanduser() if text else None


class CorpusParser(CommandParser):
    """Options of a corpus: those that all share, and what its module adds.

    Args:
        corpus: name of the module.
        description: its docstring.

    Attributes:
        corpus: as given.
        sources: options that name what the corpus is made from; the stage runs again when that changes.
        counts: options that must be at least 1.
    """

    def __init__(self, corpus: str, description: str | None) -> None:
        super().__init__(prog=f"python -m {_CORPORA}.{corpus}", description=description)
        self.corpus = corpus
        self.sources: list[str] = []
        self.counts: list[str] = []
        self.add_argument("--corpus", default=corpus, help=argparse.SUPPRESS)  # of recipes that still give it
        self.add_argument("--output_dir", required=True, type=Path, help="receives one folder per split")
        self.add_argument("--seed", type=int, default=0, help="of a synthesized corpus")
        self.add_count("--num_jobs", default=min(8, os.cpu_count() or 1), help="processes or threads")
        self.add_argument("--force", type=str2bool, nargs="?", const=True, default=False,
                          help="run although nothing has changed")  # fmt: skip

    def add_source(self, option: str, **how) -> None:
        """Add an option that names a folder which the corpus is made from."""
        self.sources.append(self.add_argument(option, type=folder, metavar="DIR", **how).dest)

    def add_count(self, option: str, **how) -> None:
        """Add an option that takes a whole number of at least 1."""
        self.counts.append(self.add_argument(option, type=int, metavar="N", **how).dest)

    def add_download_dir(self) -> None:
        """Add the option of a corpus that can be downloaded."""
        self.add_argument("--download_dir", type=folder, metavar="DIR",
                          help="where downloads go (default: downloads beside output_dir)")  # fmt: skip

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Read the command line.

        Raises:
            LrsmsError: another corpus, an option that only other corpora read, or a number below 1.
        """
        args, unknown = self.parse_known_args(argv)
        name = vars(args).pop("corpus")
        if name != self.corpus:
            raise LrsmsError(
                f"--corpus {name}: this is {self.corpus}; run the recipe in egs/{name}, or lrsms.bin.prepare"
            )
        self._refuse(unknown)
        for option in self.counts:
            value = getattr(args, option)
            if value is not None and value < 1:
                raise LrsmsError(f"--{option} {value}: must be at least 1")
        return args

    def has_option(self, option: str) -> bool:
        """Whether ``option``, such as ``--corpus_dir``, is one of this parser."""
        return option in self._option_string_actions

    def _refuse(self, unknown: list[str]) -> None:
        """Say which corpora read an option that this one does not; one that is empty or "false" does no harm."""
        while unknown:
            word, *unknown = unknown
            option, separator, value = word.partition("=")
            option = f"--{option[2:].replace('-', '_')}" if option.startswith("--") else option
            readers = [name for name in corpus_names() if parser_of(name).has_option(option)]
            if not readers:
                self.error(f"unrecognized arguments: {word}")
            if not separator and unknown and not unknown[0].startswith("--"):
                value, *unknown = unknown
                separator = "="
            if not separator or value not in ("", "false"):
                raise LrsmsError(f"{option} is for {', '.join(readers)}; --corpus {self.corpus} does not read it")


def parser_of(corpus: str) -> CorpusParser:
    """Options of the corpus of that name."""
    return importlib.import_module(f"{_CORPORA}.{corpus}").parser()


def run_corpus(
    parser: CorpusParser, prepare: Callable[[argparse.Namespace], None], argv: Sequence[str] | None = None
) -> None:
    """Stage 0: call ``prepare`` with the options of ``argv``, unless nothing has changed since it last did so.

    Raises:
        LrsmsError: an option is wrong, or what ``prepare`` raises.
    """
    args = parser.parse(argv)

    def inputs() -> list[Path]:
        # Outputs count as inputs, so that a manifest deleted or edited by hand is made again.
        manifests = [path for name in _MANIFESTS for path in args.output_dir.glob(f"*/{name}")]
        return [path for option in parser.sources if (path := getattr(args, option))] + manifests

    given = {key: value for key, value in vars(args).items() if key not in ("num_jobs", "force", "output_dir")}
    arguments = {**_ALWAYS_STAMPED, "corpus": parser.corpus, **given}
    mark = args.output_dir / ".stamps" / "prepare.json"

    def is_done() -> bool:
        return not args.force and stamp.is_current(mark, arguments, inputs())

    def work() -> None:
        prepare(args)
        stamp.write(mark, arguments, inputs())

    stamp.run_stage(f"prepare: {args.output_dir}", args.output_dir, is_done, work)


def download_dir(args: argparse.Namespace) -> Path:
    """The folder that a corpus is downloaded to."""
    return args.download_dir or args.output_dir.parent / "downloads"
