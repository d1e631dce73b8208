import json
import struct

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, Recording, RecordingSet, SupervisionSegment, SupervisionSet

from lrsms.data.cuts import build_cuts
from lrsms.data.excluded import read_excluded
from lrsms.errors import LrsmsError

RATE = 16000


def write_audio(path, seconds=1.0, rate=RATE, **options):
    samples = 0.1 * np.sin(np.arange(int(seconds * rate)) / 5)
    soundfile.write(path, samples, rate, **options)
    return path


def segment(name, recording, text="SOME WORDS"):
    return SupervisionSegment(name, recording.id, 0.0, recording.duration, text=text)


def write_split(data_dir, split, recordings, supervisions):
    (data_dir / split).mkdir(parents=True, exist_ok=True)
    RecordingSet.from_recordings(recordings).to_file(data_dir / split / "recordings.jsonl.gz")
    SupervisionSet.from_segments(supervisions).to_file(data_dir / split / "supervisions.jsonl.gz")


@pytest.fixture
def corpus(tmp_path):
    """Recordings ``good`` and ``<split>`` of 1 s each in train, dev and test."""
    for split in ("train", "dev", "test"):
        recordings = [Recording.from_file(write_audio(tmp_path / f"{name}.wav")) for name in ("good", split)]
        write_split(tmp_path / "data", split, recordings, [segment(item.id, item) for item in recordings])
    return tmp_path / "data"


def add(data_dir, split, recording, text="SOME WORDS"):
    recordings = [*RecordingSet.from_file(data_dir / split / "recordings.jsonl.gz"), recording]
    supervisions = SupervisionSet.from_file(data_dir / split / "supervisions.jsonl.gz")
    write_split(data_dir, split, recordings, [*supervisions, segment(recording.id, recording, text)])


def build(data_dir, **options):
    build_cuts(data_dir, train_splits=["train"], eval_splits=["dev", "test"], num_jobs=2, **options)
    return {split: list(CutSet.from_file(data_dir / split / "cuts.jsonl.gz")) for split in ("train", "dev", "test")}


def only_exclusion(data_dir, split):
    (row,) = read_excluded(data_dir / split / "excluded.tsv", "cuts")
    return row


def test_cuts_bear_their_supervisions_ids_and_clean_text(corpus):
    recording = Recording.from_file(write_audio(corpus / "x.wav"))
    add(corpus, "train", recording, text="  TWO\t WORDS ")
    cuts = build(corpus)
    assert [cut.id for cut in cuts["train"]] == ["good", "train", "x"]
    assert all(cut.id == cut.supervisions[0].id and len(cut.supervisions) == 1 for cut in cuts["train"])
    assert cuts["train"][-1].supervisions[0].text == "TWO WORDS"


def test_segments_of_one_recording_become_cuts_with_their_own_audio(corpus):
    samples = np.concatenate([np.full(RATE, 0.25), np.full(RATE, 0.5)])
    soundfile.write(corpus / "long.wav", samples, RATE)
    recording = Recording.from_file(corpus / "long.wav")
    write_split(
        corpus, "test", [recording],
        [SupervisionSegment("a", "long", 0.0, 1.0, text="A"), SupervisionSegment("b", "long", 1.0, 1.0, text="B"),
         SupervisionSegment("c", "long", 1.5, 1.0, text="C")],
    )  # fmt: skip
    first, second = build(corpus)["test"]
    assert (first.id, second.id) == ("a", "b")
    assert np.allclose(second.load_audio(), 0.5, atol=1e-3) and second.load_audio().shape == (1, RATE)
    assert only_exclusion(corpus, "test").reason == "outside_recording"


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_wav_truncated_before_its_manifest_was_made(corpus):
    cut_off(write_audio(corpus / "bad.wav"))
    add(corpus, "train", Recording.from_file(corpus / "bad.wav"))
    assert "bad" not in [cut.id for cut in build(corpus)["train"]]
    row = only_exclusion(corpus, "train")
    assert (row.id, row.reason) == ("bad", "truncated") and "of the 16000 samples" in row.detail


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_file_truncated_after_its_manifest_was_made(corpus, suffix):
    path = write_audio(corpus / f"bad.{suffix}")
    add(corpus, "test", Recording.from_file(path))
    cut_off(path)
    build(corpus)
    assert only_exclusion(corpus, "test").reason in ("truncated", "unreadable")


def test_wav_streamed_to_a_pipe_is_not_truncated(corpus):
    path = write_audio(corpus / "piped.wav")
    content = bytearray(path.read_bytes())
    position = content.index(b"data") + 4
    content[position : position + 4] = struct.pack("<I", 0xFFFFFFFF)
    path.write_bytes(content)
    add(corpus, "train", Recording.from_file(path))
    assert "piped" in [cut.id for cut in build(corpus)["train"]]


def test_not_audio_at_all_and_missing(corpus):
    path = write_audio(corpus / "bad.wav")
    add(corpus, "dev", Recording.from_file(path))
    path.write_text("not audio")
    build(corpus)
    assert only_exclusion(corpus, "dev").reason == "unreadable"
    path.unlink()
    build(corpus)
    assert only_exclusion(corpus, "dev").reason == "missing_audio"


def test_rate_other_than_the_manifests(corpus):
    path = write_audio(corpus / "bad.wav")
    add(corpus, "train", Recording.from_file(path))
    write_audio(path, rate=8000)
    build(corpus)
    row = only_exclusion(corpus, "train")
    assert row.reason == "sampling_rate" and "8000 Hz" in row.detail and "16000 Hz" in row.detail


def test_stereo_nan_and_no_samples(corpus):
    soundfile.write(corpus / "stereo.wav", np.zeros((RATE, 2)), RATE)
    soundfile.write(corpus / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    for name in ("stereo", "nan"):
        add(corpus, "train", Recording.from_file(corpus / f"{name}.wav"))
    path = write_audio(corpus / "none.wav")
    add(corpus, "train", Recording.from_file(path))
    write_audio(path, seconds=0)
    build(corpus)
    reasons = {row.id: row.reason for row in read_excluded(corpus / "train" / "excluded.tsv")}
    assert reasons == {"stereo": "not_mono", "nan": "not_finite", "none": "zero_length"}


def test_empty_transcript(corpus):
    add(corpus, "train", Recording.from_file(write_audio(corpus / "silent.wav")), text="   ")
    build(corpus)
    assert only_exclusion(corpus, "train").reason == "empty_text"


def test_length_limits_spare_the_test_set(corpus):
    for split in ("train", "dev", "test"):
        for name, seconds in (("short", 0.05), ("long", 2.0)):
            add(corpus, split, Recording.from_file(write_audio(corpus / f"{name}.wav", seconds)))
    cuts = build(corpus, min_utterance=0.1, max_utterance=1.5)
    assert [len(cuts[split]) for split in ("train", "dev", "test")] == [2, 2, 4]
    assert {row.reason for row in read_excluded(corpus / "dev" / "excluded.tsv")} == {"too_short", "too_long"}


def test_the_earlier_names_of_the_length_limits_are_taken(corpus, run_module):
    stage = ("lrsms.bin.cuts", "--data_dir", corpus, "--train_splits", "train", "--eval_splits", "dev test")
    first = run_module(*stage, "--min_duration", 0.1, "--max_duration", 1.5, cwd=corpus)
    assert first.returncode == 0, first.stderr
    state = json.loads((corpus / ".stamps/cuts.json").read_text())["arguments"]
    assert (state["min_duration"], state["max_duration"]) == ("0.1", "1.5")  # as stamps of earlier versions have them
    again = run_module(*stage, "--min_utterance", 0.1, "--max_utterance", 1.5, cwd=corpus)
    assert "up to date, skipped" in again.stdout


def test_lazy_resampling_and_speed_perturbation(corpus, capsys):
    add(corpus, "train", Recording.from_file(write_audio(corpus / "slow.wav", rate=8000)))
    cuts = build(corpus, speeds=(0.9, 1.0, 1.1))
    out = capsys.readouterr().out
    assert out.count("train: resampling lazily from 8000 to 16000 Hz: 1 utterances") == 1
    assert [cut.id for cut in cuts["train"]][::3] == ["good_sp0.9", "good", "good_sp1.1"]
    assert len(cuts["train"]) == 9 and len(cuts["dev"]) == 2
    slow = next(cut for cut in cuts["train"] if cut.id == "slow_sp0.9")
    assert slow.sampling_rate == 16000 and slow.load_audio().shape == (1, slow.num_samples)
    assert slow.num_samples == pytest.approx(16000 / 0.9, abs=1)


def test_duplicate_ids_are_named(corpus):
    good = Recording.from_file(corpus.parent / "good.wav")
    write_split(corpus, "dev", [good], [segment("twice", good), segment("twice", good)])
    with pytest.raises(LrsmsError, match="dev: supervisions: 1 duplicate ids, such as twice"):
        build(corpus)


def test_an_error_keeps_what_the_run_before_left(corpus):
    build(corpus)
    before = (corpus / "train" / "cuts.jsonl.gz").read_bytes()
    for name in ("good", "test"):
        (corpus.parent / f"{name}.wav").write_text("broken")
    add(corpus, "train", Recording.from_file(write_audio(corpus / "new.wav")))
    with pytest.raises(LrsmsError, match="every utterance is excluded: unreadable x 2"):
        build(corpus)
    assert (corpus / "train" / "cuts.jsonl.gz").read_bytes() == before


def test_recording_without_text_and_text_without_recording(corpus):
    good = Recording.from_file(corpus.parent / "good.wav")
    silent = Recording.from_file(corpus.parent / "dev.wav")
    lost = SupervisionSegment("lost", "nowhere", 0.0, 1.0, text="X")
    write_split(corpus, "test", [good, silent], [segment("good", good), lost])
    build(corpus)
    rows = {row.id: row.reason for row in read_excluded(corpus / "test" / "excluded.tsv")}
    assert rows == {"dev": "no_text", "lost": "no_audio"}


def test_missing_or_damaged_manifests(corpus):
    (corpus / "dev" / "recordings.jsonl.gz").write_bytes(b"\x1f\x8bjunk")
    with pytest.raises(LrsmsError, match="dev/recordings.jsonl.gz: damaged behind line 0 .* with --force true"):
        build(corpus)
    (corpus / "dev" / "recordings.jsonl.gz").unlink()
    with pytest.raises(LrsmsError, match="run stage 0 first"):
        build(corpus)


def test_recordings_that_arrive_with_transforms_are_checked_too(corpus):
    path = write_audio(corpus / "fast.wav")
    stereo = corpus / "stereo.wav"
    soundfile.write(stereo, np.zeros((RATE, 2)), RATE)
    soundfile.write(corpus / "nan.wav", np.full(RATE, np.nan), RATE, subtype="FLOAT")
    for name in ("fast", "stereo", "nan"):
        add(corpus, "train", Recording.from_file(corpus / f"{name}.wav").perturb_volume(0.5))
    add(corpus, "dev", Recording.from_file(path).perturb_speed(1.1))
    assert [cut.id for cut in build(corpus)["train"]] == ["good", "train", "fast_vp0.5"]
    assert read_excluded(corpus / "dev" / "excluded.tsv") == []
    reasons = {row.id: row.reason for row in read_excluded(corpus / "train" / "excluded.tsv")}
    assert reasons == {"stereo_vp0.5": "not_mono", "nan_vp0.5": "not_finite"}
