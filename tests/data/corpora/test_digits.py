"""The embedded corpus: reproducible, honest splits, noise at the SNR it says, and never half-finished."""

import itertools
from collections import Counter

import numpy as np
import pytest
import soundfile
from lhotse import load_manifest

from lrsms.data.corpora import digits
from lrsms.data.corpora.digits import (
    DEFAULT_NUM_DEV,
    DEFAULT_NUM_TEST,
    DEFAULT_NUM_TRAIN,
    DIGITS,
    SAMPLING_RATE,
    SNRS,
    SPLITS,
    design_utterance,
    prepare_digits,
    render_utterance,
    split_voices,
)
from lrsms.data.espeak import Synthesizer
from lrsms.errors import LrsmsError

SIZES = {"num_train": 6, "num_dev": 2, "num_test": 3}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    prepare_digits(folder, **SIZES, seed=7, num_jobs=2)
    return folder


def load(corpus, split):
    return (load_manifest(corpus / split / f"{kind}.jsonl.gz") for kind in ("recordings", "supervisions"))


def read_audio(corpus):
    return {str(p.relative_to(corpus)): soundfile.read(p, dtype="int16")[0] for p in corpus.rglob("*.flac")}


def designs(split, number, seed=0):
    return [design_utterance(split, index, seed) for index in range(number)]


def test_the_same_seed_gives_the_same_bits_for_any_num_jobs(corpus, tmp_path):
    prepare_digits(tmp_path, num_train=4, num_dev=2, num_test=3, seed=7, num_jobs=1)
    parallel, serial = read_audio(corpus), read_audio(tmp_path)
    assert len(parallel) == 11 and len(serial) == 9
    for name, samples in serial.items():
        np.testing.assert_array_equal(samples, parallel[name])


def test_another_seed_gives_another_corpus():
    assert [u.text for u in designs("train", 20)] != [u.text for u in designs("train", 20, seed=1)]
    assert [u.text for u in designs("train", 20)] != [u.text for u in designs("dev", 20)]


def test_manifests_describe_the_audio(corpus):
    for split, number in zip(SPLITS, SIZES.values()):
        recordings, supervisions = load(corpus, split)
        assert len(recordings) == len(supervisions) == number
        for index, supervision in enumerate(supervisions):
            utterance = design_utterance(split, index, 7)
            recording = recordings[supervision.recording_id]
            audio = soundfile.info(recording.sources[0].source)
            assert (audio.samplerate, audio.channels, audio.frames) == (SAMPLING_RATE, 1, recording.num_samples)
            assert supervision.id == utterance.id and supervision.text == utterance.text
            assert supervision.duration == recording.duration
            assert supervision.language == "English"
            assert (supervision.speaker, supervision.gender) == (utterance.voice, utterance.gender)
            assert supervision.custom["snr"] == utterance.snr
            assert supervision.custom["rate"] == utterance.rate and supervision.custom["pitch"] == utterance.pitch


def test_the_voice_is_asked_to_say_the_text(monkeypatch):
    utterance = design_utterance("dev", 0, 0)
    asked = []
    speak = Synthesizer.speak
    monkeypatch.setattr(Synthesizer, "speak", lambda self, text, **how: asked.append(text) or speak(self, text, **how))
    render_utterance(utterance)
    assert asked == [utterance.text.lower()]


def test_no_voice_and_no_variant_is_in_two_splits():
    variants = [{voice.split("+")[1] for voice in split_voices(split)} for split in SPLITS]
    assert sum(map(len, variants)) == len(set.union(*variants))
    for split in SPLITS:
        assert {utterance.voice for utterance in designs(split, 50)} <= set(split_voices(split))


def test_every_voice_exists():
    voices = set(Synthesizer().voices())
    assert all(set(split_voices(split)) <= voices for split in SPLITS)


def test_designs_cover_the_conditions():
    utterances = designs("train", 400)
    assert {len(u.text.split()) for u in utterances} == {3, 4, 5, 6, 7}
    assert set(" ".join(u.text for u in utterances).split()) == set(DIGITS)
    assert {u.gender for u in utterances} == {"female", "male"}
    assert min(Counter(u.snr for u in utterances)[snr] for snr in SNRS) > 400 / len(SNRS) / 2
    assert {130 <= u.rate <= 190 and 20 <= u.pitch <= 80 for u in utterances} == {True}
    assert all(0.1 <= s <= 0.3 for u in utterances for s in (u.leading_silence, u.trailing_silence))


@pytest.mark.parametrize("snr", SNRS)
def test_recorded_noise_has_the_snr_it_says(tmp_path, snr):
    utterance = next(u for u in designs("test", 100) if u.snr == snr)
    speech, noise = render_utterance(utterance)
    (tmp_path / "audio" / "test").mkdir(parents=True)
    digits._write_flac(tmp_path, utterance)
    recorded = soundfile.read(tmp_path / "audio" / "test" / f"{utterance.id}.flac")[0]
    assert np.abs(recorded).max() < 1
    if snr is None:
        assert not noise.any()
        return
    spoken = np.flatnonzero(speech)
    inside = slice(spoken[0], spoken[-1] + 1)
    residue = (recorded - speech)[inside]
    measured = 10 * np.log10(np.mean(speech[inside] ** 2) / np.mean(residue**2))
    assert abs(measured - snr) < 1.0


def test_silence_surrounds_the_speech():
    utterance = next(u for u in designs("train", 100) if u.snr is None)
    speech, _ = render_utterance(utterance)
    loud = np.flatnonzero(np.abs(speech) > 0.02 * np.abs(speech).max()) / SAMPLING_RATE
    assert loud[0] == pytest.approx(utterance.leading_silence, abs=0.03)
    assert len(speech) / SAMPLING_RATE - loud[-1] == pytest.approx(utterance.trailing_silence, abs=0.1)


def test_defaults_make_about_an_hour():
    seconds = [len(render_utterance(utterance)[0]) / SAMPLING_RATE for utterance in designs("train", 60)]
    assert min(seconds) > 0.7 and max(seconds) < 6
    number = DEFAULT_NUM_TRAIN + DEFAULT_NUM_DEV + DEFAULT_NUM_TEST
    assert np.mean(seconds) * number / 3600 == pytest.approx(1.0, abs=0.15)
    assert DEFAULT_NUM_TEST >= 200


def test_utterances_are_long_enough_for_their_characters():
    """CTC over characters needs a frame for each, and one more between equal neighbors, at 25 frames per second."""
    for split in SPLITS:
        for utterance in designs(split, 60):
            text = utterance.text
            needed = len(text) + sum(a == b for a, b in itertools.pairwise(text))
            assert len(render_utterance(utterance)[0]) / SAMPLING_RATE * 25 > needed, utterance


def test_a_killed_run_is_not_taken_for_a_finished_one(tmp_path, monkeypatch):
    prepare_digits(tmp_path, num_train=1, num_dev=1, num_test=1, num_jobs=1)
    write = digits.soundfile.write

    def die_in_test(path, *arguments, **keywords):
        write(path, *arguments, **keywords)
        if "digits-test" in str(path):
            raise KeyboardInterrupt

    monkeypatch.setattr(digits.soundfile, "write", die_in_test)
    with pytest.raises(KeyboardInterrupt):
        prepare_digits(tmp_path, num_train=1, num_dev=1, num_test=1, seed=1, num_jobs=1)
    assert not list(tmp_path.rglob("*.jsonl.gz"))
    monkeypatch.undo()
    prepare_digits(tmp_path, num_train=1, num_dev=1, num_test=1, seed=1, num_jobs=1)
    assert len(list(tmp_path.rglob("*.jsonl.gz"))) == 6
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.parametrize("change", [{"num_train": 0}, {"num_dev": -1}, {"num_test": 0}, {"num_jobs": 0}, {"seed": -1}])
def test_bad_numbers_are_refused_before_anything_is_written(tmp_path, change):
    with pytest.raises(LrsmsError, match=next(iter(change))):
        prepare_digits(tmp_path / "corpus", **{**SIZES, **change})
    assert not (tmp_path / "corpus").exists()
