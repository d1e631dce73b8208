#!/usr/bin/env python3
"""A split with more texts than were read: pieces of its utterances, joined in pairs, with what a model hears in them.

Usage: local/pieces.py --asr_exp exp/train_finetune

Where few sentences were read, a model that is fine-tuned knows them by heart, and so does the teacher that it is
distilled from. Here every utterance gives a piece, a random share of it, which another utterance's piece follows; the
text is the teacher's (sequence-level distillation, Kim and Rush 2016). The split that is written has the utterances
themselves and the pairs.
"""

from __future__ import annotations

import argparse
import random
import shutil
from pathlib import Path

from lhotse import CutSet, SupervisionSegment
from lhotse.cut import Cut

import lrsms.espnet  # noqa: F401
from lrsms.bin import run_verb
from lrsms.data.cut_files import read_cuts
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.files import atomic_write
from lrsms.scoring.decoding import read_hypotheses

SHARE = 0.35, 0.8  # of an utterance, least and most
LONGEST = 14.0  # seconds of a pair
FASTEST = 25.0  # characters a second: more is a model that repeats itself


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr_exp", type=Path, required=True, help="the teacher")
    parser.add_argument("--split", default="train")
    parser.add_argument("--output_split", default="train_pieces")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--config", type=Path, default=Path("conf/decode.yaml"))
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_jobs", type=int, default=1)
    args = parser.parse_args()
    cuts = list(read_cuts(args.data_dir / args.split / "cuts.jsonl.gz"))
    unheard = args.data_dir / "local" / args.output_split / "cuts.jsonl.gz"
    unheard.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(unheard) as unfinished:
        CutSet.from_cuts(pairs(cuts, args.seed)).to_file(unfinished)
    decoding = Decoding(args.asr_exp, unheard, args.config, args.checkpoint, args.num_jobs)
    kept = unheard.parent / "decoding"  # where stage 5 does not count errors of it: these pieces have no text yet
    if kept.exists() and not decoding.output_dir.exists():
        decoding.output_dir.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(kept, decoding.output_dir)
    decoding.run()
    heard = with_texts(read_cuts(unheard), read_hypotheses(decoding.output_dir / "text"))
    folder = args.data_dir / args.output_split
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "cuts.jsonl.gz") as unfinished:
        CutSet.from_cuts([*cuts, *heard]).to_file(unfinished)
    hours = sum(cut.duration for cut in [*cuts, *heard]) / 3600
    shutil.rmtree(kept, ignore_errors=True)
    shutil.move(decoding.output_dir, kept)
    print(f"{folder}: {len(cuts)} utterances and {len(heard)} pairs of pieces, {hours:.2f} hours")


def pairs(cuts: list[Cut], seed: int) -> list[Cut]:
    """A piece of every utterance, and one of another behind it; their text is not known yet."""
    generator = random.Random(seed)

    def piece(cut: Cut) -> Cut:
        length = round(cut.duration * generator.uniform(*SHARE), 3)
        found = cut.truncate(offset=round(generator.uniform(0, cut.duration - length), 3), duration=length)
        return found.drop_supervisions()

    found = []
    for number, cut in enumerate(cuts):
        other = generator.choice(cuts)
        pair = piece(cut).append(piece(other)).with_id(f"pieces{number:06d}")
        if pair.duration > LONGEST:
            continue
        said = SupervisionSegment(pair.id, pair.id, 0.0, pair.duration, text="?", language=_language(cut))
        pair.tracks[0].cut.supervisions = [said]
        found.append(pair)
    return found


def _language(cut: Cut) -> str | None:
    return cut.supervisions[0].language if cut.supervisions else None


def with_texts(cuts: CutSet, texts: dict[str, str]) -> list[Cut]:
    """Those of ``cuts`` in which something was heard, but not too much, with these texts."""
    found = []
    for cut in cuts:
        text = texts.get(cut.id, "").strip()
        if text and len(text) <= FASTEST * cut.duration:
            cut.tracks[0].cut.supervisions[0].text = text
            found.append(cut)
    return found


if __name__ == "__main__":
    run_verb(main)
