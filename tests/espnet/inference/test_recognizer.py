"""Text from any recording with any model of ours."""

import io
import json
import shutil
import sys
import types

import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.bin.asr_inference import Speech2Text
from espnet2.main_funcs.pack_funcs import pack
from lhotse import CutSet

import lrsms
from lrsms.avsr.frames import pack as pack_frames
from lrsms.data.pauses import Piece
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.export.merge_to_dense import merge_experiment
from lrsms.espnet.inference.recognizer import Recognizer
from lrsms.espnet.inference.transcribe_files import Transcribing

CHECKPOINT = "valid.acc.ave.pth"
QUICK = {"beam_size": 2, "ctc_weight": 0.5, "maxlenratio": -12}
RATE = 16000


@pytest.fixture(scope="module")
def speech(corpus) -> list[np.ndarray]:
    cuts = [cut for cut in CutSet.from_file(corpus / "test/cuts.jsonl.gz") if cut.duration > 0.5]
    return [cut.load_audio()[0] for cut in cuts]


@pytest.fixture(scope="module")
def recognizer(experiment) -> Recognizer:
    return Recognizer(experiment.output_dir, decode=QUICK)


def write(path, *pieces: np.ndarray, rate: int = RATE):
    soundfile.write(path, np.concatenate(pieces), rate, subtype="FLOAT")
    return path


def test_it_says_what_espnets_own_inference_says(recognizer, experiment, speech, tmp_path):
    folder = experiment.output_dir
    espnet = Speech2Text(folder / "config.yaml", folder / CHECKPOINT, **QUICK)
    texts = []
    for samples in speech:
        found = recognizer(write(tmp_path / "a.wav", samples))
        texts.append(found.text)
        assert found.text == espnet(samples)[0][0]
        assert found == recognizer(samples) or found.segments == recognizer(samples).segments
        assert found.duration == pytest.approx(len(samples) / RATE) and found.seconds > 0
    assert any(texts)


def test_words_are_those_of_the_text_in_their_order_within_the_recording(recognizer, speech):
    for samples in speech:
        found = recognizer(samples)
        assert [word.word for word in found.words] == found.text.split()
        times = [time for word in found.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert not times or (times[0] >= 0 and times[-1] <= found.duration + 0.05)


def test_three_lines_of_python(experiment, speech, tmp_path):
    assert lrsms.Recognizer is Recognizer
    found = lrsms.Recognizer(str(experiment.output_dir))(str(write(tmp_path / "a.flac.wav", speech[0])))
    assert isinstance(found.text, str)


def test_merged_partly_merged_and_packed_models_say_the_same(recognizer, experiment, speech, tmp_path, monkeypatch):
    folder = experiment.output_dir
    expected = [recognizer(samples).text for samples in speech]
    merge_experiment(Experiment(folder, CHECKPOINT), tmp_path / "merged")
    merge_experiment(Experiment(folder, CHECKPOINT), tmp_path / "partly", lambda path, _: "feed_forward" in path)
    monkeypatch.chdir(folder)
    pack({"asr_model_file": CHECKPOINT}, {"asr_train_config": "config.yaml"}, tmp_path / "packed.zip")
    monkeypatch.chdir(tmp_path)
    for model in ("merged", "partly", "packed.zip"):
        opened = Recognizer(tmp_path / model, decode=QUICK)
        assert [opened(samples).text for samples in speech] == expected


def test_a_dense_model_and_one_quantized_open(build_model, dense_parts, experiment, model, speech):
    torch.save(build_model(experiment.output_dir, **dense_parts).state_dict(), model / CHECKPOINT)
    config = yaml.safe_load((model / "config.yaml").read_text())
    (model / "config.yaml").write_text(yaml.safe_dump(config | dense_parts))
    for precision in ("fp32", "int8"):
        assert isinstance(Recognizer(model, decode=QUICK, precision=precision)(speech[0]).text, str)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_models_without_ctc_or_without_decoder(weight, experiment, build_model, model, speech):
    config = yaml.safe_load((model / "config.yaml").read_text())
    config["model_conf"]["ctc_weight"] = weight
    (model / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save(build_model(model).state_dict(), model / CHECKPOINT)
    opened = Recognizer(model)
    found = opened(np.concatenate(speech)[: 3 * RATE])
    assert isinstance(found.text, str) and (found.words == () or weight)
    assert opened._split.overlap == (3.0 if weight else 0.0)


@pytest.mark.parametrize("count", [0, 1, 7, 100, 400, 1000])
def test_what_is_too_short_has_no_text(count, recognizer, tmp_path):
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, count).astype(np.float32)
    assert recognizer(noise).text == ""
    assert recognizer(write(tmp_path / "a.wav", noise)).words == ()


@pytest.mark.parametrize("seconds", [1, 45])
def test_silence_has_no_text(seconds, recognizer):
    found = recognizer(np.zeros(seconds * RATE, np.float32))
    assert (found.text, found.segments, found.duration) == ("", (), seconds)


def test_samples_are_checked(recognizer):
    samples = np.zeros(RATE, np.float32)
    samples[8000] = np.nan
    with pytest.raises(LrsmsError, match="samples: 1 samples are NaN or infinite, the first at 0.500 s"):
        recognizer(samples)
    for wrong in (np.zeros((2, 100)), np.zeros(100, np.int16)):
        with pytest.raises(LrsmsError, match="give floating-point samples"):
            recognizer(wrong)
    assert recognizer(torch.zeros(8000)).text == "" and recognizer(np.zeros(8000)).text == ""
    assert recognizer(np.zeros(44100), 44100).duration == pytest.approx(1.0)


def test_a_long_recording_is_recognized_in_pieces(experiment, speech):
    opened = Recognizer(experiment.output_dir, decode=QUICK, max_seconds=4)
    gap = np.zeros(2 * RATE, np.float32)
    whole = np.concatenate([part for samples in speech[:3] for part in (gap, samples[: 3 * RATE], gap)])
    moved = []
    found = opened(whole, progress=moved.append)
    assert len(found.segments) >= 3
    assert sum(moved) == pytest.approx(len(whole) / RATE) and min(moved) >= 0
    edges = [time for segment in found.segments for time in (segment.start, segment.end)]
    assert edges == sorted(edges)
    for segment in found.segments:
        piece = whole[round(segment.start * RATE) : round(segment.end * RATE)]
        alone = opened(piece)
        assert alone.text == segment.text
        assert [word.start + segment.start for word in alone.words] == pytest.approx([w.start for w in segment.words])


def test_overlapping_pieces_are_one_segment(recognizer, speech, monkeypatch):
    samples = np.concatenate(speech)[: 8 * RATE]
    pieces = [Piece(0, 5 * RATE), Piece(3 * RATE, 8 * RATE, True)]
    monkeypatch.setattr(recognizer, "_split", lambda _: pieces)
    found = recognizer(samples)
    (segment,) = found.segments
    assert (segment.start, segment.end) == (0, 8)
    starts = [word.start for word in found.words]
    assert starts == sorted(starts) and found.text.split() == [word.word for word in found.words]


def test_an_audio_visual_model_hears_the_sound(av_experiment, av_corpus):
    folder = av_experiment.output_dir
    cut = next(iter(CutSet.from_file(av_corpus / "test/cuts.jsonl.gz")))
    samples = cut.load_audio()[0]
    espnet = Speech2Text(folder / "config.yaml", folder / CHECKPOINT, **QUICK)
    found = Recognizer(folder, decode=QUICK)(samples)
    assert found.text == espnet(pack_frames(samples, None, size=(24, 24)))[0][0]
    assert all(0 <= word.start < word.end <= found.duration + 0.1 for word in found.words)


def test_a_model_of_lips_is_refused(av_experiment, tmp_path):
    config = yaml.safe_load((av_experiment.output_dir / "config.yaml").read_text())
    config["encoder_conf"]["modality"] = "video"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    shutil.copy((av_experiment.output_dir / CHECKPOINT).resolve(), tmp_path / CHECKPOINT)
    with pytest.raises(LrsmsError, match="modality: video: a model that hears nothing"):
        Recognizer(tmp_path)


def test_the_only_checkpoint_there_is_serves(model):
    (model / CHECKPOINT).rename(model / "7epoch.pth")
    assert Recognizer(model).sampling_rate == RATE
    shutil.copy(model / "7epoch.pth", model / "8epoch.pth")
    with pytest.raises(LrsmsError, match=rf"{CHECKPOINT}: not found; .* holds 7epoch.pth, 8epoch.pth"):
        Recognizer(model)
    assert Recognizer(model, checkpoint="8epoch.pth").sampling_rate == RATE
    (model / "7epoch.pth").rename(model / "valid.loss_ctc.ave.pth")
    (model / "8epoch.pth").write_bytes(b"no weights")
    assert Recognizer(model).sampling_rate == RATE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": {"beam": 3}}, r"decode: unknown key 'beam'"),
        ({"decode": {"beam_size": 100}}, r"decode: beam_size: 100: too large for \d+ tokens"),
        ({"max_seconds": 0}, "max_seconds: 0: must be at least 1"),
        ({"min_pause": 0}, "min_pause: 0: must be above 0"),
    ],
)
def test_options_are_checked(options, message, model):
    with pytest.raises(LrsmsError, match=message):
        Recognizer(model, **options)


def test_no_model(tmp_path):
    with pytest.raises(LrsmsError, match="gone: neither an experiment's folder nor an archive"):
        Recognizer(tmp_path / "gone")
    with pytest.raises(LrsmsError, match="holds no checkpoint"):
        Recognizer(tmp_path)
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(LrsmsError, match="a.zip: truncated or not an archive"):
        Recognizer(tmp_path / "a.zip")


@pytest.fixture
def sounds(speech, tmp_path):
    """Two good recordings in a folder, and beside it files that cannot be read."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name, samples in zip(("a", "b"), speech):
        write(folder / f"{name}.wav", samples)
    (tmp_path / "broken.wav").write_bytes(b"RIFF, or nearly")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "without").mkdir()
    return tmp_path


def test_what_cannot_be_read_is_named_and_the_others_come_out(recognizer, sounds, speech, capsys):
    sources = ["broken.wav", "sounds", "empty.wav", "gone.wav", "without", "sounds/a.wav"]
    with pytest.raises(LrsmsError, match="^4 of 6 sources could not be transcribed, see above$"):
        Transcribing(recognizer).run([str(sounds / source) for source in sources])
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines == [f"{sounds / 'sounds'}/{n}.wav\t{recognizer(s).text}" for n, s in zip("ab", speech)]
    for named in ("broken.wav: cannot be read", "empty.wav: an empty file", "gone.wav: no such file", "no sound file"):
        assert named in shown.err
    assert "2 recordings, " in shown.err and "RTF 0." in shown.err


def test_one_recording_is_bare_text_and_folders_get_files(recognizer, sounds, speech, capsys):
    Transcribing(recognizer).run([str(sounds / "sounds/a.wav")])
    assert capsys.readouterr().out == recognizer(speech[0]).text + "\n"
    for kind in ("txt", "srt", "json"):
        Transcribing(recognizer, kind, sounds / "out").run([str(sounds / "sounds")])
        assert capsys.readouterr().out == ""
        for name, samples in zip("ab", speech):
            text = (sounds / "out" / f"{name}.{kind}").read_text()
            assert text == recognizer(samples).formatted(kind, str(sounds / "sounds" / f"{name}.wav"))
    assert len(list((sounds / "out").iterdir())) == 6


def test_json_lines_and_subtitles_on_standard_output(recognizer, sounds, capsys):
    Transcribing(recognizer, "json").run([str(sounds / "sounds")])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [str(sounds / "sounds" / name) for name in ("a.wav", "b.wav")]
    with pytest.raises(LrsmsError, match="--format srt: 2 recordings; give --output_dir"):
        Transcribing(recognizer, "srt").run([str(sounds / "sounds")])


def test_standard_input(recognizer, speech, monkeypatch, capsys):
    buffer = io.BytesIO()
    soundfile.write(buffer, speech[0], RATE, format="WAV", subtype="FLOAT")
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(buffer.getvalue())))
    Transcribing(recognizer).run(["-"])
    assert capsys.readouterr().out == recognizer(speech[0]).text + "\n"
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"")))
    with pytest.raises(LrsmsError, match="1 of 1"):
        Transcribing(recognizer).run(["-"])
    assert "standard input: nothing came" in capsys.readouterr().err


def test_the_verb(experiment, sounds, run_python):
    done = run_python(
        *("-m", "lrsms.bin.transcribe", experiment.output_dir, "sounds/a.wav", "broken.wav", "sounds/b.wav"),
        *("--format", "json", "--output_dir", "out"),
        cwd=sounds,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "error: broken.wav: cannot be read" in done.stderr and "1 of 3 sources" in done.stderr
    assert sorted(path.name for path in (sounds / "out").iterdir()) == ["a.json", "b.json"]
