import shutil

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, RecordingSet, SupervisionSet

from lrsms.data.corpora.own_data import prepare_own_data
from lrsms.data.excluded import read_excluded
from lrsms.errors import LrsmsError


def write_table(path, rows):
    path.write_text("".join(f"{row}\n" for row in rows))


@pytest.fixture
def kaldi_dir(tmp_path):
    for split in ("train", "dev", "test"):
        folder = tmp_path / "kaldi" / split
        folder.mkdir(parents=True)
        names = [f"{split}_{i}" for i in range(3)]
        for name in names:
            soundfile.write(folder / f"{name}.wav", np.zeros(16000), 16000)
        write_table(folder / "wav.scp", [f"{name} {folder / name}.wav" for name in names])
        write_table(folder / "text", [f"{name} HELLO {i}" for i, name in enumerate(names)])
        write_table(folder / "utt2spk", [f"{name} spk{i}" for i, name in enumerate(names)])
    return tmp_path / "kaldi"


def supervisions(output_dir, split):
    return list(SupervisionSet.from_file(output_dir / split / "supervisions.jsonl.gz"))


def reasons(output_dir, split):
    return {row.id: row.reason for row in read_excluded(output_dir / split / "excluded.tsv")}


def test_kaldi_folder(kaldi_dir, tmp_path):
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    items = supervisions(tmp_path / "data", "dev")
    assert [(item.id, item.text, item.speaker, item.duration) for item in items[:2]] == [
        ("dev_0", "HELLO 0", "spk0", 1.0), ("dev_1", "HELLO 1", "spk1", 1.0),
    ]  # fmt: skip
    assert reasons(tmp_path / "data", "dev") == {}


def test_segments(kaldi_dir, tmp_path):
    folder = kaldi_dir / "train"
    write_table(folder / "segments", ["a train_0 0.25 0.75", "b train_1 0.0 1.0", "c train_2 0.5 0.5", "d train_2 0 1"])
    write_table(folder / "text", ["a ONE", "b TWO", "c THREE", "e FOUR"])
    write_table(folder / "utt2spk", ["a x", "b x", "c x", "d x"])
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    items = supervisions(tmp_path / "data", "train")
    assert [(item.id, item.recording_id, item.start, item.duration) for item in items] == [
        ("a", "train_0", 0.25, 0.5), ("b", "train_1", 0.0, 1.0),
    ]  # fmt: skip
    found = reasons(tmp_path / "data", "train")
    assert found["c"] == "outside_recording" and found["d"] == "no_text" and found["e"] == "no_audio"


def test_mismatches_are_counted(kaldi_dir, tmp_path, capsys):
    folder = kaldi_dir / "train"
    (folder / "train_0.wav").unlink()
    write_table(folder / "text", ["train_0 A", "train_1 B", "ghost C"])
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    assert [item.id for item in supervisions(tmp_path / "data", "train")] == ["train_1"]
    expected = {"train_0": "missing_audio", "ghost": "no_audio", "train_2": "no_text"}
    assert reasons(tmp_path / "data", "train") == expected
    assert "train: 1 excluded: missing_audio" in capsys.readouterr().out


def test_a_command_in_wav_scp_names_its_line(kaldi_dir, tmp_path):
    write_table(kaldi_dir / "dev" / "wav.scp", ["dev_0 sox x.wav -t wav - |"])
    with pytest.raises(LrsmsError, match=r"wav.scp: 1 entries are commands, such as the line of 'dev_0'"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)


def test_duplicate_ids_name_the_file(kaldi_dir, tmp_path):
    write_table(kaldi_dir / "dev" / "text", ["dev_0 A", "dev_0 B"])
    with pytest.raises(LrsmsError, match="dev/text: 1 duplicate ids, such as dev_0"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)


@pytest.mark.parametrize("name", ["wav.scp", "text", "utt2spk"])
def test_missing_and_empty_tables(kaldi_dir, tmp_path, name):
    (kaldi_dir / "test" / name).write_text("")
    with pytest.raises(LrsmsError, match=f"test/{name}: empty"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    (kaldi_dir / "test" / name).unlink()
    with pytest.raises(LrsmsError, match=f"{name} not found"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)


def test_bad_segments_line(kaldi_dir, tmp_path):
    write_table(kaldi_dir / "dev" / "segments", ["dev_0 dev_0 zero 1"])
    with pytest.raises(LrsmsError, match="segments: dev_0 dev_0 zero 1"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)


def test_all_audio_missing_is_an_error_and_keeps_earlier_output(kaldi_dir, tmp_path):
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    for path in (kaldi_dir / "test").glob("*.wav"):
        path.unlink()
    with pytest.raises(LrsmsError, match="split test: no utterance is left; excluded: missing_audio x 3"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    assert len(supervisions(tmp_path / "data", "test")) == 3


def test_a_missing_split_and_a_missing_option(kaldi_dir, tmp_path):
    shutil.rmtree(kaldi_dir / "dev")
    with pytest.raises(LrsmsError, match="expected train, dev, test; dev not found"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    with pytest.raises(LrsmsError, match="one of --kaldi_dir and --manifest_dir"):
        prepare_own_data(tmp_path / "data")


@pytest.mark.parametrize("as_cuts", [False, True])
def test_lhotse_manifests(kaldi_dir, tmp_path, as_cuts):
    prepare_own_data(tmp_path / "first", kaldi_dir=kaldi_dir)
    if as_cuts:
        for folder in (tmp_path / "first").iterdir():
            paths = [folder / f"{kind}.jsonl.gz" for kind in ("recordings", "supervisions")]
            CutSet.from_manifests(RecordingSet.from_file(paths[0]), SupervisionSet.from_file(paths[1])).to_file(
                folder / "my_cuts.jsonl.gz"
            )
            for path in paths:
                path.unlink()
    prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "first")
    assert [item.text for item in supervisions(tmp_path / "data", "train")] == ["HELLO 0", "HELLO 1", "HELLO 2"]


def test_bad_lhotse_folders(kaldi_dir, tmp_path):
    prepare_own_data(tmp_path / "first", kaldi_dir=kaldi_dir)
    manifest = tmp_path / "first" / "dev" / "recordings.jsonl.gz"
    shutil.copy(manifest, manifest.with_name("more_recordings.jsonl.gz"))
    with pytest.raises(LrsmsError, match="2 manifests of recordings"):
        prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "first")
    manifest.with_name("more_recordings.jsonl.gz").unlink()
    manifest.write_bytes(b"junk")
    with pytest.raises(LrsmsError, match="dev/recordings.jsonl.gz: damaged behind line 0"):
        prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "first")
    manifest.unlink()
    with pytest.raises(LrsmsError, match="expected one .recordings"):
        prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "first")


def test_tables_in_another_encoding_and_broken_headers(kaldi_dir, tmp_path):
    (kaldi_dir / "train" / "train_0.wav").write_text("not audio")
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    assert reasons(tmp_path / "data", "train") == {"train_0": "unreadable"}
    (kaldi_dir / "dev" / "text").write_bytes("dev_0 ZÜRICH\n".encode("latin-1"))
    with pytest.raises(LrsmsError, match="dev/text: not UTF-8"):
        prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)


def test_segments_of_a_missing_recording_and_an_unknown_speaker(kaldi_dir, tmp_path):
    folder = kaldi_dir / "train"
    (folder / "train_0.wav").unlink()
    write_table(folder / "segments", ["a train_0 0 1", "b train_1 0 1", "c train_2 0 1"])
    write_table(folder / "text", ["a ONE", "b TWO", "c THREE"])
    write_table(folder / "utt2spk", ["a x", "b x"])
    prepare_own_data(tmp_path / "data", kaldi_dir=kaldi_dir)
    assert [item.id for item in supervisions(tmp_path / "data", "train")] == ["b"]
    found = reasons(tmp_path / "data", "train")
    assert (found["a"], found["c"]) == ("missing_audio", "no_speaker")


def test_duplicate_supervisions_in_cuts(kaldi_dir, tmp_path):
    prepare_own_data(tmp_path / "first", kaldi_dir=kaldi_dir)
    for folder in (tmp_path / "first").iterdir():
        paths = [folder / f"{kind}.jsonl.gz" for kind in ("recordings", "supervisions")]
        cuts = list(CutSet.from_manifests(RecordingSet.from_file(paths[0]), SupervisionSet.from_file(paths[1])))
        CutSet.from_cuts([*cuts, cuts[0].with_id("other")]).to_file(folder / "cuts.jsonl.gz")
        for path in paths:
            path.unlink()
    with pytest.raises(LrsmsError, match="cuts.jsonl.gz: supervisions: 1 duplicate ids"):
        prepare_own_data(tmp_path / "data", manifest_dir=tmp_path / "first")
