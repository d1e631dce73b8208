"""GRID: six-word command sentences, 34 speakers with 1,000 clips of 3 s each; its audio, or audio and mouth regions.

Two layouts are read: the corpus as Lhotse downloads it (``audio_25k/<speaker>/*.wav``, also ``audio/``) and
folders of videos (``video/<speaker>/*.mp4`` or ``.mpg``, or ``<speaker>/*.mpg``), from which the sound track is
extracted to 16 kHz mono FLAC under ``<output_dir>/audio/grid``. Both need ``alignments/<speaker>/*.align``. For mouth
regions, videos are needed; they go to ``<output_dir>/mouth/<size>``.

Splits: for speaker s1 the lists :data:`TEST_S1` (80 clips) and :data:`DEV_S1` (40 clips), drawn once at random from
800 clips; the rest is ``train``. For other speakers, by the SHA-1 of the clip's id: of ten parts, one is ``test``, half
of another ``dev``. Speakers are shared between the splits.
"""

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, folder, run_corpus
from lrsms.data.excluded import Exclusion
from lrsms.data.manifests import Split, open_recordings, pair, require_layout, save_splits
from lrsms.data.videos import extract_sound
from lrsms.errors import LrsmsError
from lrsms.text_files import read_lines, split_words

_AUDIO = ("audio_25k/*/*.wav", "audio/*/*.wav")
_VIDEO = ("video/*/*.mp4", "video/*/*.mpg", "s[0-9]*/*.mpg", "s[0-9]*/video/*.mpg")
_SILENCE = {"sil", "sp"}
TEST_S1 = """
bbaf3s bbbf9a bgaa6n bgbo1a bgbozp bgig9a bgit7a bgwu6n bgwu9a brag1a bram4p bras7s brbm9a briz7s
bwaa2p bwaazn bwag5s bwan1a lbad7s lbbezn lbid4p lbij8p lbwy8p lgal9s lgbf8n lgif1s lgif3a lrae3s
lrbe6n lrby9s lrie1a lriq7s lrwf1s lrwl6p lrwz4p lwal4p lwar9a lwil1a lwir4p pbav3s pbib6n pbii3a
pbwp9a pgayzn pgbr3a pgby7a pgwz1a prac9a prav9s prbd3a prbj7a pric5a prip3a priv5s prwq4p pwaq3a
pwbk2p pwbq5s pwbq7a pwby1a pwic8n pwip7s pwwe3a sban2n sbia1s sbim9s sbinzp sbwh6n sbwu5s sgav7a
sgwd2p srab3a srbo5a srbu7s sria8p sriu1a srwo8p swbo9s swbv4p swwc7a
""".split()
DEV_S1 = """
bbiz3a bbwm6p bgia4p bgwo4p brwg6n bwat3s bwwn7s bwwu2p bwwuzn lbbe3a lbby5a lbwr4p lgaf5s lgwg5a
lgwm7s lrar1s lray4n lrwfzn lwar8p pbbi9s pbwp7s pgby4n prac8p prwx7s pwad3s pwbd8p pwwy4p sbag8n
sbat7s sbba8n sbbn6n sbia2p sbit2n sgib9s srbo3s srih1s srih3a srwb9s swai1s swwv9a
""".split()


def read_alignment(path: Path) -> str:
    """Transcript of an ``.align`` file (lines of start, end, word), without silences, in upper case.

    Raises:
        ValueError: a line does not have these three fields.
        LrsmsError: the file cannot be read.
    """
    rows = [fields for line in read_lines(path) if (fields := split_words(line))]
    if any(len(row) != 3 for row in rows):
        raise ValueError(f"{path}: expected lines of start, end and word")
    return " ".join(word.upper() for _, _, word in rows if word not in _SILENCE)


def _speaker(path: Path) -> str:
    return path.parents[1].name if path.parent.name == "video" else path.parent.name


def _find(corpus_dir: Path, patterns: tuple[str, ...]) -> dict[str, Path]:
    """Clips by id, ``<speaker>_<clip>``: clip names repeat between speakers."""
    paths = sorted(path for pattern in patterns for path in corpus_dir.glob(pattern))
    return {f"{_speaker(path)}_{path.stem}": path for path in paths}


def _lists_of_s1(lists_dir: Path | None) -> dict[str, str]:
    """Clip id of s1 to its split."""
    if lists_dir is None:
        return {**dict.fromkeys(TEST_S1, "test"), **dict.fromkeys(DEV_S1, "dev")}
    chosen: dict[str, str] = {}
    for split in ("test", "dev"):
        path = lists_dir / f"{split}_s1.txt"
        if not path.exists():
            raise LrsmsError(
                f"{path}: no such file; it must list the {split} clips of speaker s1, one id per line "
                "(--lists_dir; without that option, the lists of lrsms are used)"
            )
        chosen.update(dict.fromkeys((name for line in read_lines(path) for name in split_words(line)), split))
    return chosen


def split_of(name: str, lists: dict[str, str]) -> str:
    """Split of the clip ``<speaker>_<clip>`` by the rules at the top of this module."""
    speaker, clip = name.split("_", 1)
    if speaker == "s1":
        return lists.get(clip, "train")
    value = int(hashlib.sha1(name.encode()).hexdigest(), 16)
    if value % 10 == 0:
        return "test"
    return "dev" if value % 10 == 1 and value // 10 % 2 == 0 else "train"


def prepare_grid(
    corpus_dir: Path | None,
    output_dir: Path,
    *,
    num_jobs: int,
    lists_dir: Path | None = None,
    mouth_size: int | None = None,
) -> None:
    """Write the manifests of ``train``, ``dev`` and ``test``, extracting audio if only videos are given.

    Args:
        corpus_dir: one of the two layouts above.
        output_dir: receives ``<split>/{recordings,supervisions}.jsonl.gz``, and ``audio/grid`` for videos.
        lists_dir: folder of ``test_s1.txt`` and ``dev_s1.txt``; None takes those above.
        mouth_size: pixels of a mouth region's side; None prepares audio alone.

    Raises:
        LrsmsError: neither layout is found, no clip can be read, or the lists of s1 are missing.
    """
    from lhotse import SupervisionSegment

    from lrsms.avsr.extract import add_mouths

    corpus_dir = require_layout(corpus_dir, ["alignments/*/*.align"])
    paths = _find(corpus_dir, _AUDIO)
    exclusions: list[Exclusion] = []
    videos = _find(corpus_dir, _VIDEO)
    if mouth_size and not videos:
        raise LrsmsError(f"--corpus_dir {corpus_dir}: no videos; expected one of {', '.join(_VIDEO)}")
    if not paths:
        if not videos:
            raise LrsmsError(f"--corpus_dir {corpus_dir}: no clips; expected one of {', '.join(_AUDIO + _VIDEO)}")
        paths, exclusions = extract_sound(videos, output_dir / "audio" / "grid", num_jobs=num_jobs, title="grid")
    recordings, unreadable = open_recordings(paths, num_jobs=num_jobs, title="grid: read headers")
    exclusions += unreadable

    texts: dict[str, str] = {}
    for name in recordings:
        alignment = corpus_dir / "alignments" / name.split("_", 1)[0] / f"{name.split('_', 1)[1]}.align"
        try:
            texts[name] = read_alignment(alignment)
        except (LrsmsError, ValueError) as error:
            exclusions.append(Exclusion(name, "no_alignment", str(error)))
    clips = set(recordings) | {item.id for item in exclusions}
    for path in sorted(corpus_dir.glob("alignments/*/*.align")):
        if f"{path.parent.name}_{path.stem}" not in clips:
            exclusions.append(Exclusion(f"{path.parent.name}_{path.stem}", "no_audio", f"no clip for {path}"))

    has_s1 = any(name.startswith("s1_") for name in clips)
    lists = _lists_of_s1(lists_dir) if has_s1 else {}
    absent = sum(f"s1_{clip}" not in clips for clip in lists)
    if absent:
        print(f"grid: {absent} of the {len(lists)} clips listed for test and dev of s1 are not in {corpus_dir}")
    splits: dict[str, Split] = {}
    for split in ("train", "dev", "test"):
        supervisions = [
            SupervisionSegment(
                id=name, recording_id=name, start=0.0, duration=recordings[name].duration,
                language="English", speaker=name.split("_", 1)[0], text=text,
            )
            for name, text in texts.items() if split_of(name, lists) == split
        ]  # fmt: skip
        audio = [item for name, item in recordings.items() if name in texts and split_of(name, lists) == split]
        splits[split] = pair(audio, supervisions, [e for e in exclusions if split_of(e.id, lists) == split], split)
    if mouth_size:
        add_mouths(splits, videos, output_dir, size=mouth_size, num_jobs=num_jobs, title="grid")
    save_splits(output_dir, splits)


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("grid", __doc__)
    options.add_source("--corpus_dir", help="the corpus in one of the two layouts above")
    options.add_count("--mouth_size", help="pixels of a mouth region's side (default: audio alone)")
    options.add_argument("--lists_dir", type=folder, metavar="DIR",
                         help="folder of test_s1.txt and dev_s1.txt (default: the lists drawn for lrsms)")  # fmt: skip
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_grid(args.corpus_dir, args.output_dir, num_jobs=args.num_jobs, lists_dir=args.lists_dir,
                 mouth_size=args.mouth_size)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
