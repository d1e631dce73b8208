"""yesno (OpenSLR 1): 60 recordings at 8 kHz of one speaker saying eight Hebrew words, each yes or no.

Lhotse's recipe takes every other recording for training and the rest for test. It has no development set:
the last four training recordings (in the order of their names) become ``dev``, which leaves 26, 4 and 30.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, download_dir, run_corpus
from lrsms.data.manifests import Split, pair, require_layout, save_splits
from lrsms.errors import LrsmsError

NUM_DEV = 4
_NUM_FILES = 60


def _find_waves(corpus_dir: Path | None, download_dir: Path) -> Path:
    from lhotse.recipes import download_yesno

    if corpus_dir is None:
        try:
            corpus_dir = download_yesno(download_dir)
        except OSError as error:
            raise LrsmsError(
                f"yesno could not be downloaded to {download_dir} ({error}); fetch waves_yesno.tar.gz from "
                "https://www.openslr.org/1/, unpack it and give --corpus_dir"
            ) from error
    if (corpus_dir / "waves_yesno").is_dir():
        corpus_dir = corpus_dir / "waves_yesno"
    waves = require_layout(corpus_dir, ["[01]_[01]_[01]_[01]_[01]_[01]_[01]_[01].wav"])
    count = len(list(waves.glob("*.wav")))
    if count != _NUM_FILES:
        raise LrsmsError(f"--corpus_dir {waves}: {count} WAV files; yesno has {_NUM_FILES}: unpack the archive again")
    return waves


def prepare_yesno(corpus_dir: Path | None, output_dir: Path, *, download_dir: Path) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test``.

    Args:
        corpus_dir: the ``waves_yesno`` folder or its parent; None downloads it (4.5 MB) to ``download_dir``.
        output_dir: receives ``<split>/{recordings,supervisions}.jsonl.gz``.

    Raises:
        LrsmsError: the folder is not yesno's, a file has no readable header, or the download failed.
    """
    from lhotse.recipes import prepare_yesno as lhotse_prepare_yesno

    waves = _find_waves(corpus_dir, download_dir)
    try:
        manifests = lhotse_prepare_yesno(waves)
    except Exception as error:  # Lhotse's audio backends raise many types for a broken header
        raise LrsmsError(f"--corpus_dir {waves}: a recording cannot be read: {error}") from error
    splits: dict[str, Split] = {
        name: pair(manifests[name]["recordings"], manifests[name]["supervisions"], [], name)
        for name in ("train", "test")
    }
    train, test = splits["train"], splits["test"]
    dev = Split(train.recordings[-NUM_DEV:], train.supervisions[-NUM_DEV:])
    train = Split(train.recordings[:-NUM_DEV], train.supervisions[:-NUM_DEV])
    print(f"yesno: the last {NUM_DEV} training recordings are the development set")
    save_splits(output_dir, {"train": train, "dev": dev, "test": test})


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("yesno", __doc__)
    options.add_source("--corpus_dir", help="waves_yesno, or the folder that holds it (default: downloads it)")
    options.add_download_dir()
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_yesno(args.corpus_dir, args.output_dir, download_dir=download_dir(args))


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
