"""speechocean762 on a made-up copy of its layout, and on the real thing where it is there."""

import pytest
import soundfile
from prepared import reasons, recordings, sizes, supervisions, write_wav

from lrsms.data.corpora import speechocean762
from lrsms.errors import LrsmsError


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
