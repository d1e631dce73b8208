"""grid on a made-up copy of its layout, and on the real thing where it is there."""

import functools
import operator

import av
import numpy as np
import pytest
from prepared import reasons, recordings, sizes, supervisions, write_wav

from lrsms.data.corpora import grid
from lrsms.data.excluded import read_excluded
from lrsms.data.mouths import WITHOUT_VIDEO, read_manifest
from lrsms.errors import LrsmsError

ALIGNMENT = "0 100 sil\n100 200 bin\n200 300 blue\n300 400 sp\n400 500 at\n500 600 sil\n"


def write_alignment(corpus_dir, speaker, clip, text=ALIGNMENT):
    path = corpus_dir / "alignments" / speaker / f"{clip}.align"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def lists_dir(tmp_path):
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "test_s1.txt").write_text("clip0\nclip1\n")
    (folder / "dev_s1.txt").write_text("clip2\nelsewhere\n")
    return folder


@pytest.fixture
def grid_dir(tmp_path):
    for i in range(6):
        write_wav(tmp_path / "grid" / "audio_25k" / "s1" / f"clip{i}.wav", rate=25000)
        write_alignment(tmp_path / "grid", "s1", f"clip{i}")
    return tmp_path / "grid"


def test_grid_audio_layout(grid_dir, lists_dir, tmp_path, capsys):
    (grid_dir / "alignments/s1/clip5.align").unlink()
    write_alignment(grid_dir, "s1", "clip4", "0 100\n")
    write_alignment(grid_dir, "s1", "clip9")
    grid.prepare_grid(grid_dir, tmp_path / "data", num_jobs=2, lists_dir=lists_dir)
    names = [[item.id for item in supervisions(tmp_path / "data", s)] for s in ("train", "dev", "test")]
    assert names == [["s1_clip3"], ["s1_clip2"], ["s1_clip0", "s1_clip1"]]
    assert supervisions(tmp_path / "data", "dev")[0].text == "BIN BLUE AT"
    expected = {"s1_clip4": "no_alignment", "s1_clip5": "no_alignment", "s1_clip9": "no_audio"}
    assert reasons(tmp_path / "data", "train") == expected
    assert "1 of the 4 clips listed" in capsys.readouterr().out


def test_grid_other_speakers_are_split_by_hash():
    names = [f"s{speaker}_clip{i}" for speaker in range(2, 12) for i in range(100)]
    splits = [grid.split_of(name, {}) for name in names]
    assert 60 < splits.count("test") < 140 and 25 < splits.count("dev") < 80
    assert splits == [grid.split_of(name, {}) for name in names]


def test_grid_bad_input(grid_dir, tmp_path):
    with pytest.raises(LrsmsError, match="test_s1.txt: no such file"):
        grid.prepare_grid(grid_dir, tmp_path / "data", num_jobs=1, lists_dir=tmp_path)
    with pytest.raises(LrsmsError, match="alignments/"):
        grid.prepare_grid(grid_dir / "audio_25k", tmp_path / "data", num_jobs=1)
    write_alignment(tmp_path / "bare", "s1", "clip0")
    with pytest.raises(LrsmsError, match="no clips; expected one of audio_25k"):
        grid.prepare_grid(tmp_path / "bare", tmp_path / "data", num_jobs=1)


def test_grid_lists_are_disjoint_and_of_the_documented_size():
    lists = {"test": grid.TEST_S1, "dev": grid.DEV_S1}
    assert [len(set(lists[split])) for split in ("test", "dev")] == [80, 40]
    assert not set(lists["test"]) & set(lists["dev"])


def write_video(path, with_sound=True):
    """A clip of 0.5 s: MPEG-4 pictures, and 44.1 kHz stereo AAC sound at 441 Hz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        if with_sound:
            audio = container.add_stream("aac", rate=44100, layout="stereo")
        for _ in range(12):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if with_sound:
            tone = 0.5 * np.sin(2 * np.pi * 441 * np.arange(22050) / 44100, dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(np.stack([tone, tone]), format="fltp", layout="stereo")
            frame.sample_rate = 44100
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))


def test_grid_videos(lists_dir, tmp_path):
    corpus_dir, output_dir = tmp_path / "grid", tmp_path / "data"
    for i in range(6):
        write_video(corpus_dir / "video" / "s1" / f"clip{i}.mp4", with_sound=i != 4)
        write_alignment(corpus_dir, "s1", f"clip{i}")
    (corpus_dir / "video/s1/clip5.mp4").write_bytes(b"not a video")
    grid.prepare_grid(corpus_dir, output_dir, num_jobs=2, lists_dir=lists_dir)
    assert sizes(output_dir, "train", "dev", "test") == [1, 1, 2]
    assert reasons(output_dir, "train") == {"s1_clip4": "unreadable_video", "s1_clip5": "unreadable_video"}
    (recording,) = recordings(output_dir, "train")
    assert recording.sampling_rate == 16000 and recording.duration == pytest.approx(0.5, abs=0.05)
    samples = recording.load_audio()[0][2000:6000]
    peak = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 16000 / len(samples)
    assert peak == pytest.approx(441, abs=8)


def test_grid_real(real_data, tmp_path):
    corpus_dir = tmp_path / "grid"
    clips = [grid.TEST_S1[0], grid.DEV_S1[0]]
    clips.append(next(p.stem for p in sorted((real_data / "grid/video/s1").iterdir()) if grid.split_of(
        f"s1_{p.stem}", grid._lists_of_s1(None)) == "train"))  # fmt: skip
    for kind, suffix in (("video", "mp4"), ("alignments", "align")):
        (corpus_dir / kind / "s1").mkdir(parents=True)
        for clip in clips:
            name = f"{kind}/s1/{clip}.{suffix}"
            (corpus_dir / name).symlink_to((real_data / "grid" / name).resolve())
    grid.prepare_grid(corpus_dir, tmp_path / "data", num_jobs=2)
    for split, clip in zip(("test", "dev", "train"), clips):
        (item,) = supervisions(tmp_path / "data", split)
        assert item.id == f"s1_{clip}" and len(item.text.split()) == 6
        assert item.duration == pytest.approx(3.0, abs=0.1)


def test_grid_with_mouth_regions(lists_dir, tmp_path, write_talking_head, capsys):
    corpus_dir, output_dir = tmp_path / "grid", tmp_path / "data"
    for i in range(5):
        write_talking_head(corpus_dir / "video" / "s1" / f"clip{i}.mp4", hidden=(0, 9) if i == 3 else (0, 0))
        write_alignment(corpus_dir, "s1", f"clip{i}")
    grid.prepare_grid(corpus_dir, output_dir, num_jobs=2, lists_dir=lists_dir, mouth_size=32)
    found = {split: read_manifest(output_dir / split) for split in ("train", "dev", "test")}
    listed = {split: [row.id for row in read_excluded(output_dir / split / WITHOUT_VIDEO)] for split in found}
    assert sum(map(len, found.values())) == 4 and functools.reduce(operator.iadd, listed.values(), []) == ["s1_clip3"]
    assert all(list(array.shape) == [25, 32, 32] for mouths in found.values() for array in mouths.values())
    assert sum(sizes(output_dir, "train", "dev", "test")) == 5  # the fifth by its sound
    assert "1 without video: no_face" in capsys.readouterr().out and (output_dir / "mouths.png").exists()
    grid.prepare_grid(corpus_dir, output_dir, num_jobs=1, lists_dir=lists_dir)  # sound alone again
    assert read_manifest(output_dir / "train") is None


def test_grid_with_sound_beside_videos_and_without_videos(grid_dir, lists_dir, tmp_path, write_talking_head):
    with pytest.raises(LrsmsError, match="no videos; expected one of video"):
        grid.prepare_grid(grid_dir, tmp_path / "data", num_jobs=1, lists_dir=lists_dir, mouth_size=32)
    names = [path.stem for path in sorted(grid_dir.glob("audio_25k/s1/*.wav"))]
    write_talking_head(grid_dir / "video/s1" / f"{names[0]}.mp4")
    grid.prepare_grid(grid_dir, tmp_path / "data", num_jobs=1, lists_dir=lists_dir, mouth_size=32)
    folders = [tmp_path / "data" / split for split in ("train", "dev", "test")]
    rows = [row for folder in folders for row in read_excluded(folder / WITHOUT_VIDEO)]
    assert rows and {row.reason for row in rows} == {"missing_video"}
