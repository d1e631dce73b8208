#!/usr/bin/env python3
"""data/train, data/dev and data/test of one corpus or several, their texts in capital letters.

Usage: local/letters.py --corpora commonvoice speechocean762

Corpora write their texts with case and punctuation or without; a model that hears little speech need not learn which.
What is left of a text is letters of any script, the marks that belong to them, apostrophes and single spaces, in
capitals. Digits are not spelled out: a text with one is left out, as what was read is not known. Test sets are not
joined: that of the first corpus is ``test``, those of others have their corpus's name.
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

from lrsms.bin import run_verb
from lrsms.data.excluded import Exclusion
from lrsms.data.manifest_files import read_recordings, read_supervisions
from lrsms.data.manifests import Split, save_splits

SPLITS = ("train", "dev", "test")


def letters(text: str) -> str:
    """A text without case and punctuation; empty if it has digits or no letters."""
    if any(unicodedata.category(character).startswith("N") for character in text):
        return ""
    kept = (
        "'" if character in "'\u2019" else character if unicodedata.category(character)[0] in "LM" else " "
        for character in unicodedata.normalize("NFC", text).upper()
    )
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


def read_split(folder: Path, corpus: str) -> Split:
    """Manifests of a corpus's split, ids with the corpus's name before them, as two may have the same."""
    recordings = {item.id: item for item in read_recordings(folder / "recordings.jsonl.gz")}
    split = Split()
    for item in read_supervisions(folder / "supervisions.jsonl.gz"):
        recording, name = recordings[item.recording_id], f"{corpus}-{item.id}"
        text = letters(item.text or "")
        if not text:
            split.exclusions.append(Exclusion(name, "no_letters", f"digits, or no letter: {item.text}"))
            continue
        item.text, item.id, item.recording_id = text, name, name
        recording.id = name
        split.recordings.append(recording)
        split.supervisions.append(item)
    return split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", nargs="+", required=True, help="folders of data/local")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    args = parser.parse_args()
    found: dict[str, Split] = {}
    for corpus in args.corpora:
        for name in SPLITS:
            of_corpus = read_split(args.data_dir / "local" / corpus / name, corpus)
            joins = name != "test" or corpus == args.corpora[0]
            split = found.setdefault(name if joins else f"test_{corpus}", Split())
            split.recordings += of_corpus.recordings
            split.supervisions += of_corpus.supervisions
            split.exclusions += of_corpus.exclusions
    save_splits(args.data_dir, found)


if __name__ == "__main__":
    run_verb(main)
