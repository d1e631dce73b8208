"""A user's own corpus: Kaldi folders, or Lhotse manifests.

``kaldi_dir`` and ``manifest_dir`` each hold the folders ``train``, ``dev`` and ``test``. A Kaldi folder has
``wav.scp`` (plain paths; relative ones start at the current folder, as in Kaldi), ``text``, ``utt2spk`` and perhaps
``segments`` (utterance, recording, start and end in seconds; -1 is the recording's end). A Lhotse folder has either
one ``*recordings*.jsonl[.gz]`` and one ``*supervisions*.jsonl[.gz]``, or one ``*cuts*.jsonl[.gz]`` of MonoCuts; if it
has both, the cuts are not read.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.kaldi_folders import read_kaldi
from lrsms.data.manifest_files import read_mono_cuts, read_recordings, read_supervisions
from lrsms.data.manifests import Split, check_unique, pair, require_layout, save_splits
from lrsms.errors import LrsmsError

if TYPE_CHECKING:
    from lhotse import Recording, SupervisionSegment

SPLITS = ("train", "dev", "test")


def _only(folder: Path, kind: str) -> Path | None:
    manifests = sorted({*folder.glob(f"*{kind}*.jsonl"), *folder.glob(f"*{kind}*.jsonl.gz")})
    if len(manifests) > 1:
        names = ", ".join(path.name for path in manifests)
        raise LrsmsError(f"--manifest_dir {folder}: {len(manifests)} manifests of {kind} ({names}); leave one")
    return manifests[0] if manifests else None


def read_manifests(folder: Path) -> Split:
    """Manifests of one Lhotse folder. Cuts are taken apart into recordings and supervisions.

    Raises:
        LrsmsError: a manifest is missing, ambiguous or damaged, holds a wrong value or mixed cuts, or an id repeats.
    """
    recordings, supervisions, cuts = (_only(folder, kind) for kind in ("recordings", "supervisions", "cuts"))
    if recordings and supervisions:
        return pair(read_recordings(recordings), read_supervisions(supervisions), [], str(folder))
    if not cuts:
        raise LrsmsError(
            f"--manifest_dir {folder}: expected one *recordings*.jsonl.gz and one *supervisions*.jsonl.gz, or one "
            "*cuts*.jsonl.gz"
        )
    return pair(*_taken_apart(cuts), [], str(folder))


def _taken_apart(path: Path) -> tuple[list[Recording], list[SupervisionSegment]]:
    """Recordings and supervisions of a manifest of cuts."""
    from lhotse.utils import fastcopy

    recordings: dict[str, Recording] = {}
    supervisions = []
    for cut in read_mono_cuts(path):
        recording = cut.recording
        if recordings.setdefault(recording.id, recording) != recording:
            raise LrsmsError(
                f"{path}: cut {cut.id}: its recording {recording.id} differs from that of an earlier cut; one id is "
                "for one recording, such as with its speed in it"
            )
        supervisions += [fastcopy(item.with_offset(cut.start), recording_id=recording.id) for item in cut.supervisions]
    check_unique((item.id for item in supervisions), f"{path}: supervisions")
    return list(recordings.values()), supervisions


def prepare_own_data(
    output_dir: Path, *, kaldi_dir: Path | None = None, manifest_dir: Path | None = None, num_jobs: int = 1
) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test`` from exactly one of the two kinds of folders.

    Raises:
        LrsmsError: none or both are given, a split is missing, or what :func:`~lrsms.data.kaldi_folders.read_kaldi` and
            :func:`read_manifests` raise.
    """
    if bool(kaldi_dir) == bool(manifest_dir):
        raise LrsmsError("own_data: give one of --kaldi_dir and --manifest_dir")
    if kaldi_dir:
        require_layout(kaldi_dir, SPLITS, "--kaldi_dir")
        splits = {name: read_kaldi(kaldi_dir / name, num_jobs=num_jobs) for name in SPLITS}
    else:
        assert manifest_dir is not None
        require_layout(manifest_dir, SPLITS, "--manifest_dir")
        splits = {name: read_manifests(manifest_dir / name) for name in SPLITS}
    save_splits(output_dir, splits)


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("own_data", __doc__)
    options.add_source("--kaldi_dir", help="folder of Kaldi folders train, dev, test")
    options.add_source("--manifest_dir", help="folder of Lhotse folders train, dev, test")
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_own_data(args.output_dir, kaldi_dir=args.kaldi_dir, manifest_dir=args.manifest_dir,
                     num_jobs=args.num_jobs)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
