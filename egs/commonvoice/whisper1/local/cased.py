#!/usr/bin/env python3
"""Transcripts in Whisper's own style: the corpus's words with the case and punctuation that Whisper heard.

Usage: local/cased.py --asr_exp exp/original_condensed --splits "train dev"

Version 1 of Common Voice has neither, and a Whisper that is trained on such texts unlearns its own style before it
learns anything else. Where Whisper heard the word that is read, its spelling is taken; where it heard another or none,
the corpus's; what it heard beside them goes. A split whose texts have capitals is left as it is. The texts are also
left in data/local/<split>.txt.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from kaldialign import align
from lhotse import CutSet, RecordingSet, SupervisionSet

import lrsms.espnet  # noqa: F401
from lrsms.bin import run_verb
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.files import atomic_write, write_text
from lrsms.scoring.decoding import read_hypotheses

_NOTHING = "*"
_I = re.compile(r"^i(?=$|')")
_BARE = re.compile(r"[^a-z0-9']+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr_exp", type=Path, required=True, help="of the Whisper whose style it is")
    parser.add_argument("--splits", default="train dev")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--config", type=Path, default=Path("conf/decode.yaml"))
    parser.add_argument("--num_jobs", type=int, default=1)
    args = parser.parse_args()
    for split in args.splits.split():
        folder = args.data_dir / split
        supervisions = SupervisionSet.from_file(folder / "supervisions.jsonl.gz").to_eager()
        if any(one.text != one.text.lower() for one in supervisions):
            print(f"{folder}: its texts are cased")
            _write_texts(args.data_dir, split, supervisions)
            continue
        cuts = args.data_dir / "local" / "uncased" / split / "cuts.jsonl.gz"
        cuts.parent.mkdir(parents=True, exist_ok=True)
        recordings = RecordingSet.from_file(folder / "recordings.jsonl.gz")
        utterances = CutSet.from_manifests(recordings, supervisions).trim_to_supervisions(keep_overlapping=False)
        with atomic_write(cuts) as unfinished:
            utterances.to_file(unfinished)
        decoding = Decoding(args.asr_exp, cuts, args.config, DEFAULT_CHECKPOINT, args.num_jobs)
        decoding.run()
        heard = read_hypotheses(decoding.output_dir / "text")
        spoken = {cut.supervisions[0].id: heard[cut.id] for cut in utterances}
        for one in supervisions:
            one.text = cased(one.text, spoken[one.id])
        with atomic_write(folder / "supervisions.jsonl.gz") as unfinished:
            supervisions.to_file(unfinished)
        _write_texts(args.data_dir, split, supervisions)
        print(f"{folder}: {len(spoken)} texts cased")


def cased(text: str, heard: str) -> str:
    """``text`` with the spelling of ``heard`` where both have the same word.

    >>> cased("and then she said hello", "And then he said, Hello!")
    'And then she said, Hello!'
    """
    words = heard.split()
    spelled = iter(words)
    found = []
    for wanted, other in align(text.split(), [_BARE.sub("", word.lower()) or "-" for word in words], _NOTHING):
        word = next(spelled) if other != _NOTHING else ""
        if wanted == other:
            found.append(word)
        elif wanted != _NOTHING:
            found.append(_I.sub("I", wanted))
    sentence = " ".join(found).rstrip(",;:-")
    if not sentence:
        return sentence
    return sentence[0].upper() + sentence[1:] + ("" if sentence[-1] in ".!?" else ".")


def _write_texts(data_dir: Path, split: str, supervisions: SupervisionSet) -> None:
    path = data_dir / "local" / f"{split}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, "".join(f"{one.text}\n" for one in supervisions))


if __name__ == "__main__":
    run_verb(main)
