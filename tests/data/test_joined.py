"""Utterances joined in the manifests: what a cut of one says and sounds like, and what is refused."""

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, SupervisionSegment

from lrsms.data.cuts import build_cuts
from lrsms.data.excluded import read_excluded
from lrsms.data.joined import MANIFEST, Joined, read_joined, write_joined
from lrsms.data.jsonl import write_jsonl
from lrsms.data.manifests import Split, save_splits
from lrsms.errors import LrsmsError

RATE = 16000


@pytest.fixture
def data(tmp_path):
    """Three recordings of a second, of levels 0.1 to 0.3, each with a word from 0.25 to 0.75 s, in every split."""

    def make(joined, **text):
        def split(name):
            recordings, supervisions = [], []
            for number, word in enumerate(("ONE", "TWO", "THREE"), 1):
                path = tmp_path / "sound" / f"{name}{number}.wav"
                path.parent.mkdir(exist_ok=True)
                soundfile.write(path, np.full(RATE, number / 10), RATE)
                item = Recording.from_file(path, recording_id=f"{name}{number}")
                said = text.get(word.lower(), word)
                recordings.append(item)
                supervisions.append(SupervisionSegment(item.id, item.id, 0.25, 0.5, text=said, speaker=f"s-{name}"))
            return Split(recordings, supervisions, joined=joined and [
                Joined(f"{name}-{item.id}", tuple(f"{name}{part}" for part in item.parts)) for item in joined
            ])  # fmt: skip

        save_splits(tmp_path / "data", {name: split(name) for name in ("train", "dev")})
        return tmp_path / "data"

    return make


def cuts(data_dir, split="train", **options):
    build_cuts(data_dir, train_splits=["train"], eval_splits=["dev"], **options)
    return list(CutSet.from_file(data_dir / split / "cuts.jsonl.gz"))


def test_an_utterance_sounds_and_reads_as_its_parts_in_their_order(data):
    made = cuts(data([Joined("a", ("3", "1")), Joined("b", ("2",))]))
    assert [cut.id for cut in made] == ["train-a", "train-b"]
    both, alone = made
    (said,) = both.supervisions
    assert (said.id, said.text, said.speaker, said.duration) == ("train-a", "THREE ONE", "s-train", 1.0)
    samples = both.load_audio()[0]
    assert samples.shape == (RATE,)
    assert np.allclose(samples[: RATE // 2], 0.3, atol=1e-3) and np.allclose(samples[RATE // 2 :], 0.1, atol=1e-3)
    assert alone.supervisions[0].text == "TWO" and alone.num_samples == RATE // 2


def test_joined_utterances_are_resampled_and_perturbed(data):
    made = cuts(data([Joined("a", ("3", "1"))]), sampling_rate=8000, speeds=(1.0, 0.5))
    assert [cut.load_audio().shape for cut in made] == [(1, 8000), (1, 16000)]
    assert made[1].supervisions[0].text == "THREE ONE" and len({cut.id for cut in made}) == 2


def test_limits_are_those_of_the_whole(data, capsys):
    joined = [Joined("long", ("1", "2", "3")), Joined("right", ("1", "2")), Joined("short", ("1",))]
    data_dir = data(joined)
    assert [cut.id for cut in cuts(data_dir, min_utterance=0.6, max_utterance=1.2)] == ["train-right"]
    reasons = {row.id: row.reason for row in read_excluded(data_dir / "train/excluded.tsv")}
    assert reasons == {"train-long": "too_long", "train-short": "too_short"}


def test_an_utterance_with_an_unusable_part_is_excluded_with_its_reason(data):
    data_dir = data([Joined("a", ("1", "2")), Joined("b", ("3",))], two=" ")
    assert [cut.id for cut in cuts(data_dir)] == ["train-b"]
    (row,) = read_excluded(data_dir / "train/excluded.tsv")
    assert (row.id, row.reason) == ("train-a", "empty_text") and "its part train2" in row.detail


def test_without_the_manifest_each_supervision_is_an_utterance_and_an_old_one_goes(data):
    data_dir = data([Joined("a", ("1",))])
    assert read_joined(data_dir / "train") == [Joined("train-a", ("train1",))]
    data(None)
    assert not (data_dir / "train" / MANIFEST).exists() and read_joined(data_dir / "train") is None
    assert [cut.id for cut in cuts(data_dir)] == ["train1", "train2", "train3"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([{"id": "a", "parts": ["train9"]}], "a: parts: 'train9' is no supervision of this split"),
        ([{"id": "a", "parts": []}], "line 1.*at least one"),
        ([{"id": "a", "parts": ["train1"]}, {"id": "b c", "parts": ["train1"]}], "line 2"),
        ([{"id": "a"}], "line 1.*expected"),
        ([{"id": "a", "parts": ["train1"]}] * 2, "duplicate ids, such as a"),
    ],
)
def test_what_is_malformed_names_file_and_line(lines, message, data):
    data_dir = data(None)
    write_jsonl(data_dir / "train" / MANIFEST, lines)
    with pytest.raises(LrsmsError, match=f"{MANIFEST}.*{message}"):
        cuts(data_dir)


def test_a_damaged_manifest_says_what_to_do(data):
    data_dir = data(None)
    write_joined(data_dir / "train", [Joined(f"a{number}", ("train1",)) for number in range(99)])
    path = data_dir / "train" / MANIFEST
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LrsmsError, match="damaged.*run stage 0 again"):
        cuts(data_dir)
