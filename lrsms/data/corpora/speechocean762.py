"""speechocean762 (OpenSLR 101): read English by Mandarin speakers, half of them children; 16 kHz WAV.

Splits: ``train`` and ``test`` as distributed, except that
- ``dev`` is made of whole training speakers, at least 6 % of the training utterances: speakers are taken in the
  order of the SHA-1 of their ids, so that the choice does not change with the order of files;
- sentences of ``test`` that also occur in the distributed training set are left out of ``test`` and listed in
  ``test/excluded.tsv``, since a model may have learned them by heart.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, open_recordings, pair, read_table, require_layout, save_splits

if TYPE_CHECKING:
    from lhotse import SupervisionSegment

DEV_SHARE = 0.06  # of the training utterances, rounded up to whole speakers
_LAYOUT = [f"{part}/{name}" for part in ("train", "test") for name in ("wav.scp", "text", "utt2spk")]


def _read_part(corpus_dir: Path, part: str, num_jobs: int) -> Split:
    from lhotse import SupervisionSegment

    folder = corpus_dir / part
    paths = {name: corpus_dir / path for name, path in read_table(folder / "wav.scp").items()}
    texts, speakers = read_table(folder / "text"), read_table(folder / "utt2spk")
    optional = {name: folder / name for name in ("spk2age", "spk2gender")}
    ages, genders = (read_table(path) if path.exists() else {} for path in optional.values())
    recordings, exclusions = open_recordings(paths, num_jobs=num_jobs, title=f"speechocean762 {part}")
    supervisions = []
    for name, text in texts.items():
        speaker = speakers.get(name)
        if speaker is None:
            exclusions.append(Exclusion(name, "no_speaker", f"not in {folder / 'utt2spk'}"))
            continue
        supervisions.append(
            SupervisionSegment(
                id=name,
                recording_id=name,
                start=0.0,
                duration=recordings[name].duration if name in recordings else 0.0,
                language="English",
                speaker=speaker,
                gender=genders.get(speaker),
                text=text,
                custom={"age": int(ages[speaker])} if ages.get(speaker, "").isdigit() else None,
            )
        )
    return pair(recordings.values(), supervisions, exclusions, str(folder))


def _choose_dev_speakers(supervisions: list[SupervisionSegment]) -> set[str]:
    counts = Counter(item.speaker for item in supervisions)
    chosen: set[str] = set()
    for speaker in sorted(counts, key=lambda name: hashlib.sha1(name.encode()).hexdigest()):
        if sum(counts[name] for name in chosen) >= DEV_SHARE * len(supervisions):
            break
        chosen.add(speaker)
    return chosen


def _select(split: Split, keep: set[str], exclusions: list[Exclusion]) -> Split:
    supervisions = [item for item in split.supervisions if item.id in keep]
    used = {item.recording_id for item in supervisions}
    return Split([item for item in split.recordings if item.id in used], supervisions, exclusions)


def prepare_speechocean762(corpus_dir: Path | None, output_dir: Path, *, num_jobs: int) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test``; gender and (custom) age go with each utterance.

    Args:
        corpus_dir: the corpus as distributed: ``WAVE/``, ``train/`` and ``test/`` with wav.scp, text, utt2spk.
        output_dir: receives ``<split>/{recordings,supervisions}.jsonl.gz``.

    Raises:
        LrsmsError: the layout is not the corpus's, ids repeat, or no audio file of a split was found.
    """
    corpus_dir = require_layout(corpus_dir, _LAYOUT)
    both, test = (_read_part(corpus_dir, part, num_jobs) for part in ("train", "test"))

    dev_speakers = _choose_dev_speakers(both.supervisions)
    dev_ids = {item.id for item in both.supervisions if item.speaker in dev_speakers}
    train_ids = {item.id for item in both.supervisions} - dev_ids
    train, dev = _select(both, train_ids, both.exclusions), _select(both, dev_ids, [])
    train_sentences = {item.text for item in train.supervisions}
    repeated = sum(item.text in train_sentences for item in dev.supervisions)
    print(
        f"speechocean762: {len(dev_speakers)} training speakers are the development set; "
        f"{repeated} of its {len(dev_ids)} utterances are sentences that also occur in train"
    )

    seen = set(read_table(corpus_dir / "train" / "text").values())
    heard = [item for item in test.supervisions if item.text in seen]
    print(
        f"speechocean762: {len(heard)} test utterances ({len({item.text for item in heard})} sentences) "
        "also occur in train and are left out of test"
    )
    exclusions = [Exclusion(item.id, "sentence_in_train", item.text) for item in heard]
    test_ids = {item.id for item in test.supervisions} - {item.id for item in heard}
    test = _select(test, test_ids, test.exclusions + exclusions)
    save_splits(output_dir, {"train": train, "dev": dev, "test": test})


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("speechocean762", __doc__)
    options.add_source("--corpus_dir", help="the corpus as distributed: WAVE/, train/, test/")
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_speechocean762(args.corpus_dir, args.output_dir, num_jobs=args.num_jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
