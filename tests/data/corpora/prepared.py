"""What tests of corpora share: a sound to prepare, and what a preparation has left."""

import numpy as np
import soundfile
from lhotse import RecordingSet, SupervisionSet

from lrsms.data.excluded import read_excluded


def write_wav(path, rate=16000, seconds=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.sin(np.arange(int(rate * seconds)) / 5), rate)


def supervisions(output_dir, split):
    return list(SupervisionSet.from_file(output_dir / split / "supervisions.jsonl.gz"))


def recordings(output_dir, split):
    return list(RecordingSet.from_file(output_dir / split / "recordings.jsonl.gz"))


def reasons(output_dir, split):
    return {row.id: row.reason for row in read_excluded(output_dir / split / "excluded.tsv")}


def sizes(output_dir, *splits):
    return [len(supervisions(output_dir, split)) for split in splits]
