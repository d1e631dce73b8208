"""Each corpus on a made-up copy of its layout, and on the real thing where it is there."""

import itertools

import av
import numpy as np
import pytest
import soundfile
from lhotse import RecordingSet, SupervisionSet

from lrsms.data import grid, librispeech, speechocean762, yesno
from lrsms.data.excluded import read_excluded
from lrsms.data.mouths import WITHOUT_VIDEO, read_manifest
from lrsms.errors import LrsmsError


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


# yesno


@pytest.fixture
def yesno_dir(tmp_path):
    for bits in itertools.islice(itertools.product("01", repeat=8), 60):
        write_wav(tmp_path / "waves_yesno" / f"{'_'.join(bits)}.wav", rate=8000)
    return tmp_path / "waves_yesno"


def test_yesno_folder_or_parent(yesno_dir, tmp_path, capsys):
    for number, corpus_dir in enumerate((yesno_dir, yesno_dir.parent)):
        output_dir = tmp_path / str(number)
        yesno.prepare_yesno(corpus_dir, output_dir, download_dir=tmp_path / "downloads")
        assert sizes(output_dir, "train", "dev", "test") == [26, 4, 30]
    assert "the last 4 training recordings are the development set" in capsys.readouterr().out
    names = [{item.id for item in supervisions(output_dir, split)} for split in ("train", "dev", "test")]
    assert len(set.union(*names)) == 60
    assert supervisions(output_dir, "train")[0].text == "NO NO NO NO NO NO NO NO"


def test_yesno_bad_folders(yesno_dir, tmp_path):
    def prepare(corpus_dir):
        yesno.prepare_yesno(corpus_dir, tmp_path / "data", download_dir=tmp_path)

    with pytest.raises(LrsmsError, match="no such folder"):
        prepare(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LrsmsError, match="the folder holds nothing"):
        prepare(tmp_path / "empty")
    path = next(yesno_dir.iterdir())
    path.write_text("broken")
    with pytest.raises(LrsmsError, match="cannot be read"):
        prepare(yesno_dir)
    path.unlink()
    with pytest.raises(LrsmsError, match="59 WAV files; yesno has 60"):
        prepare(yesno_dir)


def test_yesno_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def offline(*args):
        raise OSError("no network")

    monkeypatch.setattr(yesno, "download_yesno", offline)
    with pytest.raises(LrsmsError, match="no network.*give --corpus_dir"):
        yesno.prepare_yesno(None, tmp_path / "data", download_dir=tmp_path)


def test_yesno_real(real_data, tmp_path):
    yesno.prepare_yesno(real_data / "waves_yesno", tmp_path, download_dir=tmp_path)
    assert sizes(tmp_path, "train", "dev", "test") == [26, 4, 30]
    assert {item.sampling_rate for item in recordings(tmp_path, "test")} == {8000}


# speechocean762


def write_speechocean(corpus_dir, speakers, write=write_wav):
    """``speakers``: part to speaker to texts."""
    for part, texts in speakers.items():
        rows = [(f"{speaker}{i}", speaker, text) for speaker, lines in texts.items() for i, text in enumerate(lines)]
        for name, speaker, _ in rows:
            write(corpus_dir / f"WAVE/SPEAKER{speaker}/{name}.WAV")
        (corpus_dir / part).mkdir(parents=True)
        lines = {
            "wav.scp": [f"{name}\tWAVE/SPEAKER{speaker}/{name}.WAV" for name, speaker, _ in rows],
            "text": [f"{name}\t{text}" for name, _, text in rows],
            "utt2spk": [f"{name} {speaker}" for name, speaker, _ in rows],
            "spk2age": [f"{speaker}\t7" for speaker in texts],
            "spk2gender": [f"{speaker}\tf" for speaker in texts],
        }
        for name, content in lines.items():
            (corpus_dir / part / name).write_text("\n".join(content) + "\n")


@pytest.fixture
def speechocean_dir(tmp_path):
    train = {f"10{s:02}": [f"TRAIN {s} {i}" for i in range(3)] for s in range(20)}
    write_speechocean(tmp_path / "so", {"train": train, "test": {"2001": ["NEW", "TRAIN 3 1", "NEWER"]}})
    return tmp_path / "so"


def test_speechocean762(speechocean_dir, tmp_path, capsys):
    output_dir = tmp_path / "data"
    speechocean762.prepare_speechocean762(speechocean_dir, output_dir, num_jobs=2)
    assert sizes(output_dir, "train", "dev", "test") == [54, 6, 2]  # 6 % of 60, in whole speakers of 3
    train, dev = ({item.speaker for item in supervisions(output_dir, split)} for split in ("train", "dev"))
    assert not train & dev
    assert reasons(output_dir, "test") == {"20011": "sentence_in_train"}
    item = supervisions(output_dir, "test")[0]
    assert (item.text, item.speaker, item.gender, item.custom) == ("NEW", "2001", "f", {"age": 7})
    out = capsys.readouterr().out
    assert "1 test utterances (1 sentences) also occur in train" in out and "test: 1 excluded: sentence_in_train" in out


def test_speechocean762_missing_files_are_counted_and_all_missing_is_an_error(speechocean_dir, tmp_path):
    output_dir = tmp_path / "data"
    (speechocean_dir / "WAVE/SPEAKER2001/20010.WAV").unlink()
    speechocean762.prepare_speechocean762(speechocean_dir, output_dir, num_jobs=2)
    assert reasons(output_dir, "test") == {"20010": "missing_audio", "20011": "sentence_in_train"}
    for path in speechocean_dir.glob("WAVE/SPEAKER2001/*"):
        path.unlink()
    with pytest.raises(LrsmsError, match="split test: no utterance is left; excluded: missing_audio x 3"):
        speechocean762.prepare_speechocean762(speechocean_dir, output_dir, num_jobs=2)


def test_speechocean762_speaker_unknown_and_wrong_folder(speechocean_dir, tmp_path):
    path = speechocean_dir / "test" / "utt2spk"
    path.write_text("20011 2001\n20012 2001\n")
    speechocean762.prepare_speechocean762(speechocean_dir, tmp_path / "data", num_jobs=1)
    assert reasons(tmp_path / "data", "test")["20010"] == "no_speaker"
    with pytest.raises(LrsmsError, match="expected train/wav.scp.*the folder holds SPEAKER1000"):
        speechocean762.prepare_speechocean762(speechocean_dir / "WAVE", tmp_path / "data", num_jobs=1)
    with pytest.raises(LrsmsError, match="--corpus_dir is not given"):
        speechocean762.prepare_speechocean762(None, tmp_path / "data", num_jobs=1)


def test_speechocean762_real(real_data, tmp_path):
    source = real_data / "speechocean762"
    corpus_dir = tmp_path / "speechocean762"
    for part in ("train", "test"):
        (corpus_dir / part).mkdir(parents=True)
        rows = (source / part / "wav.scp").read_text().splitlines()[:: 500 if part == "train" else 400]
        for row in rows:
            wav = row.split()[1]
            samples, rate = soundfile.read((source / wav).with_suffix(".opus"))
            (corpus_dir / wav).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(corpus_dir / wav, samples, rate, subtype="PCM_16")
        (corpus_dir / part / "wav.scp").write_text("\n".join(rows) + "\n")
        for name in ("text", "utt2spk", "spk2age", "spk2gender"):
            (corpus_dir / part / name).write_text((source / part / name).read_text())
    speechocean762.prepare_speechocean762(corpus_dir, tmp_path / "data", num_jobs=2)
    assert sizes(tmp_path / "data", "train", "dev") == [4, 1]
    assert {item.sampling_rate for item in recordings(tmp_path / "data", "train")} == {16000}
    # Transcripts of recordings that wav.scp does not list are counted, not dropped.
    assert list(reasons(tmp_path / "data", "train").values()).count("no_audio") == 2495


# librispeech


def write_librispeech(corpus_dir, part, speakers):
    for speaker in speakers:
        folder = corpus_dir / part / speaker / "1"
        names = [f"{speaker}-1-{i:04}" for i in range(2)]
        for name in names:
            write_wav(folder / f"{name}.flac")
        (folder / f"{speaker}-1.trans.txt").write_text("".join(f"{name} TEXT OF {name}\n" for name in names))


def test_librispeech_mini(tmp_path, capsys):
    write_librispeech(tmp_path / "LibriSpeech", "train-clean-5", ["11", "12"])
    write_librispeech(tmp_path / "LibriSpeech", "dev-clean-2", ["21", "22", "100"])
    (tmp_path / "LibriSpeech/dev-clean-2/22/1/22-1-0001.flac").unlink()
    librispeech.prepare_librispeech(tmp_path, tmp_path / "data", mini=True, download_dir=tmp_path)
    speakers = [{item.speaker for item in supervisions(tmp_path / "data", s)} for s in ("train", "dev", "test")]
    assert speakers == [{"11", "12"}, {"21", "100"}, {"22"}]
    assert reasons(tmp_path / "data", "test") == {"22-1-0001": "missing_audio"}
    assert "halved by speaker into dev and test" in capsys.readouterr().out


def test_librispeech_full(tmp_path):
    for number, part in enumerate((*librispeech.TRAIN_PARTS[:2], "dev-clean", "dev-other", "test-clean", "test-other")):
        write_librispeech(tmp_path, part, [str(10 + number)])
    output_dir = tmp_path / "data"
    librispeech.prepare_librispeech(
        tmp_path, output_dir, train_parts=librispeech.TRAIN_PARTS[:2], download_dir=tmp_path, num_jobs=2
    )
    assert sizes(output_dir, "train", "dev", "dev_other", "test_clean", "test_other") == [4, 2, 2, 2, 2]


def test_librispeech_bad_input(tmp_path):
    def prepare(**options):
        librispeech.prepare_librispeech(tmp_path, tmp_path / "data", download_dir=tmp_path, **options)

    with pytest.raises(LrsmsError, match="--train_parts train-clean: expected train-clean-100"):
        prepare(train_parts=["train-clean"])
    with pytest.raises(LrsmsError, match="mini_librispeech has only train-clean-5"):
        prepare(mini=True, train_parts=["train-clean-100"])
    write_librispeech(tmp_path, "train-clean-5", ["11"])
    with pytest.raises(LrsmsError, match="dev-clean-2 not found; the folder holds train-clean-5"):
        prepare(mini=True)
    write_librispeech(tmp_path, "dev-clean-2", ["21", "22"])
    (tmp_path / "dev-clean-2/21/1/21-1-0000.flac").write_text("broken")
    with pytest.raises(LrsmsError, match="dev-clean-2: cannot be read"):
        prepare(mini=True)


def test_librispeech_failed_download(tmp_path, monkeypatch):
    def offline(*args, **options):
        raise OSError("no network")

    monkeypatch.setattr(librispeech, "download_librispeech", offline)
    with pytest.raises(LrsmsError, match="fetch train-clean-5, dev-clean-2"):
        librispeech.prepare_librispeech(None, tmp_path / "data", mini=True, download_dir=tmp_path)


# grid

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
    lists = {split: (grid.LISTS_DIR / f"{split}_s1.txt").read_text().split() for split in ("test", "dev")}
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
    clips = [(grid.LISTS_DIR / f"{split}_s1.txt").read_text().split()[0] for split in ("test", "dev")]
    clips.append(next(p.stem for p in sorted((real_data / "grid/video/s1").iterdir()) if grid.split_of(
        f"s1_{p.stem}", grid._read_lists(grid.LISTS_DIR)) == "train"))  # fmt: skip
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
    assert sum(map(len, found.values())) == 4 and sum(listed.values(), []) == ["s1_clip3"]
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
