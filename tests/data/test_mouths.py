"""Stage 1 with mouth regions: attached to cuts, every kind of bad video listed and its utterance kept as audio."""

import numpy as np
import pytest
import soundfile
from lhotse import CutSet, MonoCut, Recording, RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.array import TemporalArray

from lrsms.data.cuts import build_cuts
from lrsms.data.excluded import Exclusion, read_excluded, write_excluded
from lrsms.data.mouths import WITHOUT_VIDEO, perturb_speed, regions_path, save_regions, write_manifest
from lrsms.errors import LrsmsError

RATE = 16000
SPLITS = ("train", "dev", "test")


class Corpus:
    """Recordings of 1 s with regions of 16 x 16, ``good`` and ``bad`` in each split; only train's ``bad`` is spoilt."""

    def __init__(self, folder):
        self.folder = folder
        rng = np.random.default_rng(0)
        self.mouths = {}
        for split in SPLITS:
            recordings, self.mouths[split] = [], {}
            for name in ("good", "bad"):
                path = folder / f"{split}-{name}.wav"
                soundfile.write(path, 0.1 * np.sin(np.arange(RATE) / 5), RATE)
                recordings.append(Recording.from_file(path))
                regions = rng.integers(0, 255, (25, 16, 16), np.uint8)
                self.mouths[split][recordings[-1].id] = save_regions(folder / "mouth" / f"{split}-{name}.npy", regions)
            (folder / split).mkdir()
            RecordingSet.from_recordings(recordings).to_file(folder / split / "recordings.jsonl.gz")
            segments = [SupervisionSegment(r.id, r.id, 0.0, r.duration, text="A B") for r in recordings]
            SupervisionSet.from_segments(segments).to_file(folder / split / "supervisions.jsonl.gz")

    @property
    def bad(self):
        return self.mouths["train"]["train-bad"]

    def build(self, **options):
        for split in SPLITS:
            write_manifest(self.folder / split, self.mouths[split])
        build_cuts(self.folder, train_splits=["train"], eval_splits=["dev", "test"], num_jobs=2, **options)
        return {split: list(CutSet.from_file(self.folder / split / "cuts.jsonl.gz")) for split in SPLITS}

    def without_video(self, split="train"):
        return read_excluded(self.folder / split / WITHOUT_VIDEO, "cuts")


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


def test_every_cut_gets_the_regions_of_its_recording(corpus, capsys):
    cuts = corpus.build()
    for split in SPLITS:
        for cut in cuts[split]:
            assert isinstance(cut.mouth, TemporalArray) and cut.mouth.frame_shift == 0.04
            np.testing.assert_array_equal(cut.load_mouth(), np.load(regions_path(corpus.mouths[split][cut.id])))
    assert corpus.without_video() == [] and "train: 2 of 2 utterances with video" in capsys.readouterr().out


def test_segments_share_the_regions_of_their_recording(corpus):
    segments = [SupervisionSegment(f"s{i}", "test-good", 0.4 * i, 0.4, text="X") for i in range(2)]
    SupervisionSet.from_segments(segments).to_file(corpus.folder / "test/supervisions.jsonl.gz")
    cuts = corpus.build()["test"]
    whole = np.load(regions_path(corpus.mouths["test"]["test-good"]))
    np.testing.assert_array_equal(cuts[1].load_mouth(), whole[10:20])


def test_audio_alone_stays_as_it_was(corpus, capsys):
    build_cuts(corpus.folder, train_splits=["train"], eval_splits=["dev", "test"], num_jobs=1)
    cuts = list(CutSet.from_file(corpus.folder / "train/cuts.jsonl.gz"))
    assert all(cut.custom is None for cut in cuts) and "video" not in capsys.readouterr().out
    assert not (corpus.folder / "train" / WITHOUT_VIDEO).exists()


def rewrite(corpus, regions):
    np.save(regions_path(corpus.bad), regions)


def describe_as(corpus, **changes):
    array = {key: changes.pop(key) for key in list(changes) if key == "shape"}
    row = {**corpus.bad.to_dict(), **changes}
    corpus.mouths["train"]["train-bad"] = TemporalArray.from_dict({**row, "array": {**row["array"], **array}})


SPOIL = {
    "missing_video": lambda c: regions_path(c.bad).unlink(),
    "unreadable_video": lambda c: regions_path(c.bad).write_bytes(b"not an array"),
    "truncated_video": lambda c: regions_path(c.bad).write_bytes(regions_path(c.bad).read_bytes()[:3000]),
    "wrong_fps": lambda c: describe_as(c, frame_shift=1 / 30),
    "wrong_format": lambda c: rewrite(c, np.ones((25, 16, 16), np.float32)),
    "wrong_size": lambda c: rewrite(c, np.arange(25 * 400, dtype=np.uint8).reshape(25, 20, 20)),
    "short_video": lambda c: (rewrite(c, np.load(regions_path(c.bad))[:15]), describe_as(c, shape=[15, 16, 16])),
    "long_video": lambda c: (
        rewrite(c, np.concatenate([np.load(regions_path(c.bad))] * 2)), describe_as(c, shape=[50, 16, 16])
    ),
    "blank_video": lambda c: rewrite(c, np.full((25, 16, 16), 7, np.uint8)),
    "no_video": lambda c: c.mouths["train"].pop("train-bad"),
}  # fmt: skip


@pytest.mark.parametrize("reason", SPOIL)
def test_bad_video_is_listed_and_its_utterance_kept_as_audio(corpus, capsys, reason):
    SPOIL[reason](corpus)
    cuts = corpus.build()["train"]
    assert [cut.id for cut in cuts] == ["train-good", "train-bad"]
    assert cuts[0].has_custom("mouth") and not cuts[1].has_custom("mouth")
    (row,) = corpus.without_video()
    assert (row.id, row.reason) == ("train-bad", reason) and row.detail
    out = capsys.readouterr().out
    assert "train: 1 of 2 utterances with video" in out and f"train: 1 without video: {reason}" in out


def test_a_file_cut_off_in_frames_and_regions_that_are_not_square(corpus):
    rewrite(corpus, np.load(regions_path(corpus.bad))[:24])  # a whole file, one frame less than its manifest says
    corpus.build()
    assert corpus.without_video()[0].reason == "truncated_video"
    rewrite(corpus, np.zeros((25, 16, 12), np.uint8))
    corpus.build()
    assert corpus.without_video()[0].reason == "wrong_size" and "16 x 12" in corpus.without_video()[0].detail


def test_a_little_more_or_less_video_than_sound_is_no_reason(corpus):
    """GRID has clips of 74 frames with 3 s of sound."""
    rewrite(corpus, np.load(regions_path(corpus.bad))[:24])
    describe_as(corpus, shape=[24, 16, 16])
    assert corpus.build()["train"][1].has_custom("mouth")


def test_what_stage_0_has_found_is_repeated_as_the_reason(corpus):
    corpus.mouths["train"].pop("train-bad")
    path = corpus.folder / "train" / WITHOUT_VIDEO
    write_excluded(path, "prepare", [Exclusion("train-bad", "no_face", "a face in 3 of 25")])
    corpus.build()
    assert corpus.without_video() == [Exclusion("train-bad", "no_face", "a face in 3 of 25")]


def test_a_corpus_without_any_usable_video_is_an_error(corpus):
    for split in SPLITS:
        for array in corpus.mouths[split].values():
            regions_path(array).unlink()
    with pytest.raises(LrsmsError, match="no utterance has usable video: missing_video x 6"):
        corpus.build()


def test_a_damaged_manifest_is_named(corpus):
    corpus.build()
    (corpus.folder / "dev/mouths.jsonl.gz").write_bytes(b"\x1f\x8bjunk")
    with pytest.raises(LrsmsError, match="dev/mouths.jsonl.gz: the manifest cannot be read.*run stage 0 again"):
        build_cuts(corpus.folder, train_splits=["train"], eval_splits=["dev", "test"], num_jobs=1)


def test_speed_perturbation_stretches_the_time_axis_of_the_regions(corpus):
    cuts = {cut.id: cut for cut in corpus.build(speeds=(0.9, 1.0, 1.1))["train"]}
    assert len(cuts) == 6
    slow, normal = cuts["train-good_sp0.9"], cuts["train-good"]
    assert slow.mouth.duration == pytest.approx(normal.mouth.duration / 0.9)
    assert slow.mouth.duration == pytest.approx(slow.duration, abs=0.001)
    assert isinstance(slow, MonoCut) and perturb_speed(normal, 0.9) == slow
    assert normal.mouth.frame_shift == 0.04  # the original is left as it was
