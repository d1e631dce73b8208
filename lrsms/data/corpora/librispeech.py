"""LibriSpeech (OpenSLR 12, 16 kHz read English) and mini_librispeech (OpenSLR 31), by Lhotse's recipe.

Splits of LibriSpeech: ``train`` is the union of the chosen training parts, ``dev`` is dev-clean; ``dev_other``,
``test_clean`` and ``test_other`` are the parts of those names. Splits of mini_librispeech: ``train`` is
train-clean-5; dev-clean-2 is halved by speaker (every other one in the order of their numbers) into ``dev`` and
``test``, since it has no test set.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lrsms.command_line import run_verb, str2bool
from lrsms.data.corpus_command import CorpusParser, download_dir, run_corpus
from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, pair, require_layout, save_splits
from lrsms.errors import LrsmsError
from lrsms.text_files import read_lines, split_words

TRAIN_PARTS = ("train-clean-100", "train-clean-360", "train-other-500")
_EVAL_PARTS = {"dev-clean": "dev", "dev-other": "dev_other", "test-clean": "test_clean", "test-other": "test_other"}
_MINI_TRAIN, _MINI_DEV = "train-clean-5", "dev-clean-2"


def _find(corpus_dir: Path | None, parts: Sequence[str], download_dir: Path) -> Path:
    from lhotse.recipes import download_librispeech

    if corpus_dir is None:
        try:
            corpus_dir = download_librispeech(download_dir, dataset_parts=list(parts))
        except OSError as error:
            raise LrsmsError(
                f"librispeech could not be downloaded to {download_dir} ({error}); fetch {', '.join(parts)} from "
                "https://www.openslr.org/, unpack them and give --corpus_dir"
            ) from error
    if (corpus_dir / "LibriSpeech").is_dir():
        corpus_dir = corpus_dir / "LibriSpeech"
    return require_layout(corpus_dir, parts)


def _read_part(corpus_dir: Path, part: str, num_jobs: int) -> Split:
    from lhotse.recipes import prepare_librispeech as lhotse_prepare_librispeech

    try:
        manifests = lhotse_prepare_librispeech(corpus_dir, dataset_parts=[part], num_jobs=num_jobs)[part]
    except Exception as error:  # an unreadable FLAC or a line without text; Lhotse names neither
        raise LrsmsError(f"{corpus_dir / part}: cannot be read ({error}); unpack this part again") from error
    split = pair(manifests["recordings"], manifests["supervisions"], [], str(corpus_dir / part))
    ids = {item.id for item in split.supervisions}
    # Lhotse skips a transcript without audio behind a warning: count it.
    for path in sorted((corpus_dir / part).rglob("*.trans.txt")):
        for name, *_ in filter(None, map(split_words, read_lines(path))):
            if name not in ids:
                split.exclusions.append(Exclusion(name, "missing_audio", f"no such file: {path.parent / name}.flac"))
    return split


def _of_speakers(split: Split, speakers: set[str]) -> Split:
    supervisions = [item for item in split.supervisions if item.speaker in speakers]
    used = {item.recording_id for item in supervisions}
    recordings = [item for item in split.recordings if item.id in used]
    return Split(recordings, supervisions, [item for item in split.exclusions if item.id.split("-")[0] in speakers])


def _halve(split: Split) -> tuple[Split, Split]:
    speakers = sorted({item.id.split("-")[0] for item in [*split.supervisions, *split.exclusions]}, key=int)
    return _of_speakers(split, set(speakers[::2])), _of_speakers(split, set(speakers[1::2]))


def _union(splits: Sequence[Split]) -> Split:
    return Split(
        [item for split in splits for item in split.recordings],
        [item for split in splits for item in split.supervisions],
        [item for split in splits for item in split.exclusions],
    )


def prepare_librispeech(
    corpus_dir: Path | None,
    output_dir: Path,
    *,
    mini: bool = False,
    train_parts: Sequence[str] = (),
    download_dir: Path,
    num_jobs: int = 1,
) -> None:
    """Write the manifests of the splits described above.

    Args:
        corpus_dir: the ``LibriSpeech`` folder or its parent; None downloads the parts to ``download_dir``.
        output_dir: receives ``<split>/{recordings,supervisions}.jsonl.gz``.
        mini: prepare mini_librispeech, whose parts are fixed.
        train_parts: of LibriSpeech; train-clean-100 when empty.

    Raises:
        LrsmsError: a part is unknown, missing or damaged, or the download failed.
    """
    if mini and train_parts:
        raise LrsmsError(f"--train_parts {' '.join(train_parts)}: mini_librispeech has only {_MINI_TRAIN}")
    unknown = set(train_parts) - set(TRAIN_PARTS)
    if unknown:
        raise LrsmsError(f"--train_parts {', '.join(sorted(unknown))}: expected {', '.join(TRAIN_PARTS)}")
    train_parts = (_MINI_TRAIN,) if mini else tuple(train_parts) or TRAIN_PARTS[:1]
    eval_parts = (_MINI_DEV,) if mini else tuple(_EVAL_PARTS)
    corpus_dir = _find(corpus_dir, (*train_parts, *eval_parts), download_dir)

    read = {part: _read_part(corpus_dir, part, num_jobs) for part in (*train_parts, *eval_parts)}
    splits = {"train": _union([read[part] for part in train_parts])}
    if mini:
        splits["dev"], splits["test"] = _halve(read[_MINI_DEV])
        print(f"librispeech: {_MINI_DEV} is halved by speaker into dev and test")
    else:
        splits.update({split: read[part] for part, split in _EVAL_PARTS.items()})
    save_splits(output_dir, splits)


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("librispeech", __doc__)
    options.add_source("--corpus_dir", help="LibriSpeech, or the folder that holds it (default: downloads the parts)")
    options.add_download_dir()
    options.add_argument("--mini", type=str2bool, nargs="?", const=True, default=False,
                         help="mini_librispeech (5 h) instead")  # fmt: skip
    options.add_argument("--train_parts", metavar="PARTS", help='such as "train-clean-100 train-clean-360"')
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_librispeech(
        args.corpus_dir, args.output_dir, mini=args.mini, train_parts=(args.train_parts or "").split(),
        download_dir=download_dir(args), num_jobs=args.num_jobs,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
