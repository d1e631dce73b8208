"""Arabic Speech Commands (Ghandoura et al. 2021): 40 words, ten times each by 30 speakers, one in each second of sound.

The words are isolated, with silence around them. Here each clip is trimmed, and clips of one speaker are joined to
strings of 3 to 7 words in the manifests alone (:mod:`lrsms.data.joined`): connected speech of a closed vocabulary, by
people that training has not heard. No speaker is in two splits. Transcripts are the English names of the words.

Splits: ``train``, ``dev`` and ``test`` have strings, in which each clip occurs once; ``train_words`` and ``test_words``
have the isolated words of the same speakers.
"""

import argparse
import csv
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.contrib.concurrent import thread_map

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.excluded import Exclusion
from lrsms.data.joined import Joined
from lrsms.data.manifests import Split, check_unique, open_recordings, pair, require_layout, save_splits
from lrsms.errors import LrsmsError

if TYPE_CHECKING:
    from lhotse import Recording

SHORTEST, LONGEST = 3, 7  # words of a string
_TABLE = "clips.tsv"
_COLUMNS = ("path", "split", "speaker", "keyword")
_SPLITS = {"train": "train", "val": "dev", "test": "test"}
_QUIET = 30  # dB below the loudest frame of a clip
_FRAME, _HOP = 0.032, 0.008  # seconds
_MARGIN = 0.05  # seconds left on either side of the word
_AUDIO = ("opus", "wav", "flac")


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of ``clips.tsv`` by the clip's path.

    Raises:
        LrsmsError: a column is missing, a split is unknown, a row is short, or a clip or a speaker is in two splits.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    for number, row in enumerate(rows, 2):
        if any(not row.get(column) for column in _COLUMNS):
            raise LrsmsError(f"{path}: line {number}: expected {', '.join(_COLUMNS)}, separated by tabs")
        if row["split"] not in _SPLITS:
            raise LrsmsError(f"{path}: line {number}: split {row['split']!r}: one of {', '.join(_SPLITS)}")
    if not rows:
        raise LrsmsError(f"{path}: no clips; expected lines of {', '.join(_COLUMNS)}, separated by tabs")
    check_unique((row["path"] for row in rows), str(path))
    splits = defaultdict(set)
    for row in rows:
        splits[row["speaker"]].add(row["split"])
    shared = sorted(speaker for speaker, names in splits.items() if len(names) > 1)
    if shared:
        raise LrsmsError(
            f"{path}: speaker {shared[0]} is in {', '.join(sorted(splits[shared[0]]))}; expected one split"
        )
    return {row["path"]: row for row in rows}


def speech_region(samples: np.ndarray, rate: int) -> tuple[int, int]:
    """First and last sample of what is loud in a clip, with a margin; the whole clip if nothing is.

    Args:
        samples: shape (samples,).
        rate: samples per second.
    """
    import librosa

    _, (start, end) = librosa.effects.trim(
        samples, top_db=_QUIET, frame_length=round(_FRAME * rate), hop_length=round(_HOP * rate)
    )
    margin = round(_MARGIN * rate)
    return (max(0, start - margin), min(len(samples), end + margin)) if end > start else (0, len(samples))


def strings(words: Sequence[str], generator: random.Random) -> Iterator[tuple[str, ...]]:
    """Shuffle ``words`` and part them into strings of :data:`SHORTEST` to :data:`LONGEST`; a short rest is left out."""
    words = list(words)
    generator.shuffle(words)
    while len(words) >= SHORTEST:
        length = min(generator.randint(SHORTEST, LONGEST), len(words))
        yield tuple(words[:length])
        del words[:length]


def prepare_arabic_commands(corpus_dir: Path | None, output_dir: Path, *, seed: int, num_jobs: int) -> None:
    """Write the manifests of the splits.

    Args:
        corpus_dir: folder with ``clips.tsv`` (path, split, speaker, keyword) and ``clips/<path>`` as Opus, WAV or FLAC.
        output_dir: receives ``<split>/{recordings,supervisions,joined}.jsonl.gz``.
        seed: of the strings.
        num_jobs: threads that read audio.

    Raises:
        LrsmsError: the layout is not as above, or a split would be empty.
    """
    corpus_dir = require_layout(corpus_dir, [_TABLE, "clips/*/*"])
    rows = read_table(corpus_dir / _TABLE)
    paths = {_name(path): _sound(corpus_dir / "clips" / path) for path in rows}
    recordings, exclusions = open_recordings(paths, num_jobs=num_jobs, title="arabic_commands: read headers")
    names = {_name(path): row for path, row in rows.items()}
    splits = {
        target: _split(
            {name: recordings[name] for name, row in names.items() if name in recordings and row["split"] == source},
            names,
            [item for item in exclusions if names[item.id]["split"] == source],
            num_jobs,
            target,
        )
        for source, target in _SPLITS.items()
    }
    for name in ("train", "test"):
        splits[f"{name}_words"] = Split(splits[name].recordings, splits[name].supervisions)
    for number, name in enumerate(("train", "dev", "test")):
        split, generator = splits[name], random.Random(f"{seed} {number}")
        split.joined = list(_strings_of_speakers(split, generator))
    save_splits(output_dir, splits)


def _name(path: str) -> str:
    """``backward/00000001_NO_01`` to ``00000001-backward-01``: Kaldi wants a speaker's utterances together."""
    keyword, _, clip = path.partition("/")
    speaker, _, take = clip.partition("_")
    return f"{speaker}-{keyword.replace(' ', '_')}-{take.rpartition('_')[2]}"


def _sound(stem: Path) -> Path:
    candidates = [stem.with_name(f"{stem.name}.{suffix}") for suffix in _AUDIO]
    return next((path for path in candidates if path.exists()), candidates[0])


def _split(
    recordings: Mapping[str, "Recording"],
    rows: Mapping[str, Mapping[str, str]],
    exclusions: list[Exclusion],
    num_jobs: int,
    title: str,
) -> Split:
    from lhotse import SupervisionSegment

    def supervise(item: "Recording") -> SupervisionSegment | Exclusion:
        try:
            start, end = speech_region(item.load_audio()[0], item.sampling_rate)
        except Exception as error:  # Lhotse's backends raise many types for damaged sound
            return Exclusion(item.id, "unreadable", f"{item.sources[0].source}: {str(error).strip().splitlines()[:1]}")
        row = rows[item.id]
        return SupervisionSegment(
            id=item.id,
            recording_id=item.id,
            start=start / item.sampling_rate,
            duration=(end - start) / item.sampling_rate,
            text=row["keyword"].upper(),
            speaker=row["speaker"],
            language="Arabic",
        )

    results = thread_map(supervise, recordings.values(), max_workers=num_jobs, desc=f"{title}: trim", unit="clip")
    exclusions = exclusions + [item for item in results if isinstance(item, Exclusion)]
    supervisions = [item for item in results if isinstance(item, SupervisionSegment)]
    return pair(recordings.values(), supervisions, exclusions, title)


def _strings_of_speakers(split: Split, generator: random.Random) -> Iterator[Joined]:
    words: dict[str, list[str]] = defaultdict(list)
    for item in split.supervisions:
        words[str(item.speaker)].append(item.id)
    for speaker in sorted(words):
        for number, parts in enumerate(strings(sorted(words[speaker]), generator), 1):
            yield Joined(f"{speaker}-string-{number:03d}", parts)


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("arabic_commands", __doc__)
    options.add_source("--corpus_dir", help="folder with clips.tsv and clips/")
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_arabic_commands(args.corpus_dir, args.output_dir, seed=args.seed, num_jobs=args.num_jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
