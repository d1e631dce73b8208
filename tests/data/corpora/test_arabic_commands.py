"""Arabic Speech Commands on a small copy of its layout, and on the real thing if it is present."""

import random
from collections import Counter

import numpy as np
import pytest
import soundfile
from prepared import reasons, sizes, supervisions

from lrsms.data.corpora import arabic_commands
from lrsms.data.corpora.arabic_commands import LONGEST, SHORTEST, read_table, speech_region, strings
from lrsms.data.joined import read_joined
from lrsms.errors import LrsmsError

RATE = 16000
SPEAKERS = {"train": ("1", "2"), "val": ("3",), "test": ("4",)}
WORDS = ("backward", "zoom in", "yes", "no", "up")


def clip(start=0.3, seconds=0.4):
    samples = 0.0005 * np.random.default_rng(0).standard_normal(RATE)
    first, count = round(start * RATE), round(seconds * RATE)
    samples[first : first + count] += 0.3 * np.sin(np.arange(count) / 5)
    return samples


@pytest.fixture
def corpus_dir(tmp_path):
    rows = []
    for split, speakers in SPEAKERS.items():
        for speaker in speakers:
            for word in WORDS:
                path = tmp_path / "corpus/clips" / word / f"{speaker}_NO_01.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, clip(), RATE)
                rows.append((f"{word}/{speaker}_NO_01", split, speaker, word))
    write_table(tmp_path / "corpus", rows)
    return tmp_path / "corpus"


def write_table(folder, rows):
    lines = ["\t".join(row) for row in [("path", "split", "speaker", "keyword"), *rows]]
    (folder / "clips.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def prepare(corpus_dir, output_dir, seed=0):
    arabic_commands.prepare_arabic_commands(corpus_dir, output_dir, seed=seed, num_jobs=2)
    return output_dir


def test_words_are_trimmed_and_joined_within_a_speaker(corpus_dir, tmp_path):
    data = prepare(corpus_dir, tmp_path / "data")
    assert sizes(data, "train", "dev", "test", "train_words", "test_words") == [10, 5, 5, 10, 5]
    said = {item.id: item for item in supervisions(data, "train")}
    assert said["1-zoom_in-01"].text == "ZOOM IN"
    for item in said.values():
        assert 0.2 < item.start < 0.3 and 0.7 < item.end < 0.8
    parts = [part for item in read_joined(data / "train") for part in item.parts]
    assert max(Counter(parts).values()) == 1 and len(parts) >= 10 - 2 * (SHORTEST - 1)
    for item in read_joined(data / "train"):
        assert SHORTEST <= len(item.parts) <= LONGEST and {said[part].speaker for part in item.parts} == {item.id[0]}
    assert read_joined(data / "train_words") is None


def test_strings_depend_on_the_seed_alone(corpus_dir, tmp_path):
    first, again, other = (
        read_joined(prepare(corpus_dir, tmp_path / name, seed) / "train")
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again != other


def test_strings_use_every_word_once_but_for_a_short_rest():
    words = [str(number) for number in range(401)]
    made = list(strings(words, random.Random(0)))
    used = [word for string in made for word in string]
    assert len(set(used)) == len(used) >= len(words) - SHORTEST + 1
    assert {len(string) for string in made} == set(range(SHORTEST, LONGEST + 1))


def test_a_clip_without_speech_is_kept_whole():
    assert speech_region(np.zeros(RATE), RATE) == (0, RATE)
    start, end = speech_region(clip(), RATE)
    assert abs(start / RATE - 0.25) < 0.03 and abs(end / RATE - 0.75) < 0.03


def test_damaged_and_missing_clips_are_listed(corpus_dir, tmp_path):
    (corpus_dir / "clips/yes/1_NO_01.wav").write_bytes(b"RIFF")
    (corpus_dir / "clips/no/2_NO_01.wav").unlink()
    data = prepare(corpus_dir, tmp_path / "data")
    assert reasons(data, "train") == {"1-yes-01": "unreadable", "2-no-01": "missing_audio"}
    parts = {part for item in read_joined(data / "train") for part in item.parts}
    assert not parts & {"1-yes-01", "2-no-01"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("yes/1", "train", "1", "yes"), ("no/1", "test", "1", "no")], "speaker 1 is in test, train"),
        ([("yes/1", "validation", "1", "yes")], "line 2: split 'validation': one of train, val, test"),
        ([("yes/1", "train", "1", "yes"), ("no/1", "train", "1")], "line 3: expected path, split, speaker, keyword"),
        ([("yes/1", "train", "1", "yes")] * 2, "duplicate ids, such as yes/1"),
        ([], "no clips"),
    ],
)
def test_malformed_tables_name_the_line(rows, message, tmp_path):
    write_table(tmp_path, rows)
    with pytest.raises(LrsmsError, match=f"clips.tsv.*{message}"):
        read_table(tmp_path / "clips.tsv")


def test_another_folder_is_refused(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(LrsmsError, match="expected clips.tsv"):
        prepare(tmp_path / "other", tmp_path / "data")


def test_the_real_corpus_has_no_speaker_in_two_splits(real_data):
    table = real_data / "arabic_speech_commands/clips.tsv"
    if not table.exists():
        pytest.skip(f"no {table}")
    rows = read_table(table).values()
    assert Counter(row["split"] for row in rows) == {"train": 7200, "val": 2400, "test": 1600}
    assert len({row["keyword"] for row in rows}) == 40
