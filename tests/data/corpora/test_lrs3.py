"""LRS3's layout, on files made for the test: drawn talking heads with transcripts."""

import shutil

import numpy as np
import pytest
from lhotse import CutSet, RecordingSet, SupervisionSet

from lrsms.data.corpora.lrs3 import is_dev, prepare_lrs3, read_transcript, segments
from lrsms.data.cuts import build_cuts
from lrsms.data.excluded import read_excluded
from lrsms.data.mouths import WITHOUT_VIDEO, read_manifest
from lrsms.errors import LrsmsError

DEV = next(name for name in map(str, range(1000)) if is_dev(name))
TRAIN = [name for name in ("talkA", "talk_B", "-talkC") if not is_dev(name)]


def text(words=(), line="Text:  SOME WORDS"):
    rows = "".join(f"{word} {begin} {end} 9.1\n" for word, begin, end in words)
    return f"{line}\nConf:  4\n" + (f"\nWORD START END ASDSCORE\n{rows}" if words else "")


@pytest.fixture(scope="module")
def head(tmp_path_factory, write_talking_head):
    return write_talking_head(tmp_path_factory.mktemp("head") / "head.mp4", seconds=1.0)


@pytest.fixture
def corpus_dir(tmp_path, head):
    """One clip for each part and folder; the pretrain clip of TRAIN[0] has word times."""
    words = [("SOME", 0.1, 0.3), ("WORDS", 0.4, 0.8)]
    for part, folder, content in [
        ("pretrain", TRAIN[0], text(words)), ("pretrain", DEV, text(words)), ("trainval", TRAIN[1], text()),
        ("trainval", DEV, text(line="Text:   two  words")), ("test", "talkT", text()),
    ]:  # fmt: skip
        (tmp_path / "lrs3" / part / folder).mkdir(parents=True)
        shutil.copy(head, tmp_path / "lrs3" / part / folder / "00001.mp4")
        (tmp_path / "lrs3" / part / folder / "00001.txt").write_text(content)
    return tmp_path / "lrs3"


def supervisions(data, split):
    return list(SupervisionSet.from_file(data / split / "supervisions.jsonl.gz"))


def test_the_distributed_layout(corpus_dir, tmp_path, capsys):
    data = tmp_path / "data"
    prepare_lrs3(corpus_dir, data, mouth_size=48, num_jobs=2)
    train, dev, test = (supervisions(data, split) for split in ("train", "dev", "test"))
    assert [item.id for item in train] == [f"pretrain_{TRAIN[0]}_00001-000", f"trainval_{TRAIN[1]}_00001"]
    assert [(item.id, item.text, item.speaker) for item in dev] == [(f"trainval_{DEV}_00001", "TWO WORDS", DEV)]
    assert [item.speaker for item in test] == ["talkT"]
    (row,) = read_excluded(data / "train/excluded.tsv")
    assert (row.id, row.reason) == (f"pretrain_{DEV}_00001", "speaker_of_dev")
    (recording,) = RecordingSet.from_file(data / "test/recordings.jsonl.gz")
    assert (recording.id, recording.sampling_rate) == ("test_talkT_00001", 16000)
    assert list(read_manifest(data / "test")["test_talkT_00001"].shape) == [25, 48, 48]
    assert (data / "mouths.png").exists() and "train: 2 of 2 utterances with video" in capsys.readouterr().out

    build_cuts(data, train_splits=["train"], eval_splits=["dev", "test"], num_jobs=1)
    cuts = list(CutSet.from_file(data / "train/cuts.jsonl.gz"))
    assert [len(cut.load_mouth()) for cut in cuts] == [25, 25]


def test_trainval_alone(corpus_dir, tmp_path):
    for part in ("pretrain",):
        shutil.rmtree(corpus_dir / part)
    prepare_lrs3(corpus_dir, tmp_path / "data", train_parts=["trainval"], mouth_size=48)
    assert [item.id for item in supervisions(tmp_path / "data", "train")] == [f"trainval_{TRAIN[1]}_00001"]


def test_pretrain_alone_still_takes_dev_from_trainval(corpus_dir, tmp_path):
    prepare_lrs3(corpus_dir, tmp_path / "data", train_parts=["pretrain"], mouth_size=48)
    assert [item.id for item in supervisions(tmp_path / "data", "train")] == [f"pretrain_{TRAIN[0]}_00001-000"]
    assert len(supervisions(tmp_path / "data", "dev")) == 1
    assert not (tmp_path / f"data/audio/lrs3/trainval_{TRAIN[1]}_00001.flac").exists()


@pytest.mark.parametrize("part", ["pretrain", "trainval", "test"])
def test_a_missing_part_is_named_with_what_is_expected(corpus_dir, tmp_path, part):
    shutil.rmtree(corpus_dir / part)
    with pytest.raises(LrsmsError, match=rf"expected pretrain/\*/\*\.mp4.*{part}/\*/\*\.mp4.* not found"):
        prepare_lrs3(corpus_dir, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_wrong_folders_and_parts(corpus_dir, tmp_path):
    with pytest.raises(LrsmsError, match="--corpus_dir is not given; it must be a folder with pretrain"):
        prepare_lrs3(None, tmp_path / "data")
    with pytest.raises(LrsmsError, match="the folder holds talk"):
        prepare_lrs3(corpus_dir / "test", tmp_path / "data")
    with pytest.raises(LrsmsError, match="--train_parts test: expected pretrain or trainval, or both"):
        prepare_lrs3(corpus_dir, tmp_path / "data", train_parts=["test"])


def add(corpus_dir, head, part, clip, content=None, video=True):
    folder = corpus_dir / part / TRAIN[0]
    folder.mkdir(parents=True, exist_ok=True)
    if video:
        shutil.copy(head, folder / f"{clip}.mp4")
    if content is not None:
        (folder / f"{clip}.txt").write_text(content)


def test_clips_of_no_use_are_counted_and_listed(corpus_dir, tmp_path, head, write_talking_head):
    add(corpus_dir, head, "trainval", "notext")
    add(corpus_dir, head, "trainval", "badtext", "Conf: 3\n")
    add(corpus_dir, head, "trainval", "novideo", text(), video=False)
    add(corpus_dir, head, "pretrain", "nowords", text())
    add(corpus_dir, head, "pretrain", "badwords", text([("A", "x", 1)]))
    add(corpus_dir, head, "trainval", "broken", text())
    (corpus_dir / "trainval" / TRAIN[0] / "broken.mp4").write_bytes(b"broken")
    (corpus_dir / "trainval" / TRAIN[0] / "noface.txt").write_text(text())
    write_talking_head(corpus_dir / "trainval" / TRAIN[0] / "noface.mp4", hidden=(0, 2))
    data = tmp_path / "data"
    prepare_lrs3(corpus_dir, data, mouth_size=48, num_jobs=2)
    reasons = {row.id.rsplit("_", 1)[1]: row.reason for row in read_excluded(data / "train/excluded.tsv")}
    assert reasons == {
        "00001": "speaker_of_dev", "notext": "no_transcript", "badtext": "no_transcript", "novideo": "missing_video",
        "nowords": "no_word_times", "badwords": "no_transcript", "broken": "unreadable_video",
    }  # fmt: skip
    (row,) = read_excluded(data / "train" / WITHOUT_VIDEO)
    assert (row.id, row.reason) == (f"trainval_{TRAIN[0]}_noface", "no_face")
    assert f"trainval_{TRAIN[0]}_noface" in [item.id for item in supervisions(data, "train")]  # by its sound


def test_transcripts(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Text:  IT'S  SO\nConf:  5\nRef:   x\n\nFRAME X Y W H\n000 0.1 0.2 0.3 0.3\n\n"
                    "WORD START END ASDSCORE\nIT'S 0.10 0.25 8.0\nSO 0.3 0.5 7.2\n\n")  # fmt: skip
    found = read_transcript(path)
    assert found.text == "IT'S SO" and found.words == [("IT'S", 0.1, 0.25), ("SO", 0.3, 0.5)]
    for wrong in ("SO 0.5", "SO 0.5 0.3 1", "SO nan 1 1"):
        path.write_text(f"Text: SO\nConf: 1\n\nWORD START END ASDSCORE\n{wrong}\n")
        with pytest.raises(ValueError, match="a.txt: 'SO"):
            read_transcript(path)


def test_long_clips_are_cut_in_pauses_between_words():
    words = [(f"W{i}", 1.0 * i + 0.2, 1.0 * i + 0.8) for i in range(10)]
    found = segments(words, 10.0, longest=4.0)
    assert [item[0] for item in found] == ["W0 W1 W2 W3", "W4 W5 W6 W7", "W8 W9"]
    assert found[0][1] == 0.0 and found[-1][2] == 10.0
    ends = [end for _, _, end in found]
    np.testing.assert_allclose(ends, [4.0, 8.0, 10.0])  # in the middle of the pause
    assert all(end - begin <= 4.0 + 1e-9 for _, begin, end in found)
    assert " ".join(item[0] for item in found) == " ".join(word for word, _, _ in words)
    assert segments(words, 10.0) == [(" ".join(word for word, _, _ in words), 0.0, 10.0)]
    assert segments([("LONG", 0.0, 9.0), ("X", 9.1, 9.5)], 10.0, longest=4.0)[0] == ("LONG", 0.0, pytest.approx(9.05))
    assert segments([], 10.0) == []
