"""eSpeak NG: the same bits in any order and any process, phoneme times, and errors that say what would be right."""

import builtins
import hashlib
import subprocess
import sys

import numpy as np
import pytest

from lrsms.data.espeak import Synthesizer
from lrsms.errors import LrsmsError

SETTINGS = {"rate": 160, "pitch": 50, "pitch_range": 50}
# A flutter, an echo, a breathy, a Klatt and a rough voice: each leaks another kind of state inside eSpeak.
VOICES = ["en-us+grandma", "en-us+f5", "en-gb+victor", "en-gb+klatt6", "en-029+whisper", "en-gb-scotland"]


@pytest.fixture(scope="module")
def synthesizer():
    return Synthesizer()


def digest(synthesizer, voice):
    samples = synthesizer.speak("one two seven six", voice=voice, **SETTINGS).samples
    return hashlib.sha256(samples.tobytes()).hexdigest()


def test_samples_are_float32_mono_in_range(synthesizer):
    utterance = synthesizer.speak("one two seven", voice="en-us+f3", **SETTINGS)
    assert utterance.samples.dtype == np.float32 and utterance.samples.ndim == 1
    assert 0.2 < np.abs(utterance.samples).max() <= 1
    assert utterance.sampling_rate == 22050
    assert 0.5 < len(utterance.samples) / utterance.sampling_rate < 2


def test_the_order_of_utterances_does_not_matter(synthesizer):
    forwards = {voice: digest(synthesizer, voice) for voice in VOICES}
    backwards = {voice: digest(synthesizer, voice) for voice in reversed(VOICES)}
    assert forwards == backwards
    assert len(set(forwards.values())) == len(VOICES)


def test_another_process_gives_the_same_bits(synthesizer):
    program = (
        "import hashlib; from lrsms.data.espeak import Synthesizer\n"
        "speak = Synthesizer().speak\n"
        f"for voice in {VOICES[::-1]}:\n"
        f"    samples = speak('one two seven six', voice=voice, **{SETTINGS}).samples\n"
        "    print(hashlib.sha256(samples.tobytes()).hexdigest())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [digest(synthesizer, voice) for voice in VOICES[::-1]]


def test_phonemes_are_ordered_and_within_the_audio(synthesizer):
    utterance = synthesizer.speak("one two seven", voice="en-us", **SETTINGS)
    starts = [phoneme.start for phoneme in utterance.phonemes]
    assert starts == sorted(starts) and starts[0] >= 0
    assert starts[-1] <= len(utterance.samples) / utterance.sampling_rate
    symbols = [phoneme.symbol.strip("'_:") for phoneme in utterance.phonemes]
    assert [symbol for symbol in symbols if symbol in ("w", "t", "s", "v")] == ["w", "t", "s", "v"]


def test_phonemes_lie_where_the_sound_is(synthesizer):
    utterance = synthesizer.speak("six", voice="en-us", **SETTINGS)
    rate = utterance.sampling_rate
    starts = {phoneme.symbol.strip("'"): round(phoneme.start * rate) for phoneme in utterance.phonemes}
    fricative = utterance.samples[: starts["I"]]
    vowel = utterance.samples[starts["I"] : starts["k"]]

    def zero_crossings(signal):
        return np.mean(np.diff(np.sign(signal)) != 0)

    assert zero_crossings(fricative) > 2 * zero_crossings(vowel)


def test_rate_and_pitch_change_the_speech(synthesizer):
    def speak(**changes):
        return synthesizer.speak("five five", voice="en-us", **{**SETTINGS, **changes}).samples

    assert len(speak(rate=120)) > 1.2 * len(speak(rate=200))
    assert not np.array_equal(speak(pitch=20)[:5000], speak(pitch=80)[:5000])
    assert not np.array_equal(speak(pitch_range=0), speak(pitch_range=100))


def test_voices_are_languages_with_and_without_variants(synthesizer):
    voices = synthesizer.voices()
    assert len(voices) == len(set(voices))
    assert {"en-us", "en-us+f3", "en-gb-x-rp+m1", "de"} <= set(voices)
    assert not [voice for voice in voices if voice.endswith(("+Reed", "+caleb"))]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"voice": "en-mars"}, ("en-mars", "en-us")),
        ({"voice": "en-us+nobody"}, ("nobody", "f1")),
        ({"voice": "en-us+"}, ("en-us+", "f1")),
        ({"voice": "en-us+Reed"}, ("Reed", "choose another")),
        ({"rate": 500}, ("rate 500", "80 to 450")),
        ({"pitch": -1}, ("pitch -1", "0 to 99")),
        ({"pitch_range": 101}, ("pitch_range 101", "0 to 100")),
        ({"text": " "}, ("text ' '",)),
    ],
)
def test_bad_requests_name_what_would_be_right(synthesizer, changes, words):
    request = {"text": "one", "voice": "en-us", **SETTINGS, **changes}
    with pytest.raises(LrsmsError) as error:
        synthesizer.speak(request.pop("text"), **request)
    assert all(word in str(error.value) for word in words)


def test_missing_wheel_names_the_command(monkeypatch):
    real_import = builtins.__import__

    def without_wheel(name, *arguments, **keywords):
        if name == "espeakng_loader":
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_wheel)
    with pytest.raises(LrsmsError, match="pip install espeakng-loader"):
        Synthesizer()


def test_a_library_already_loaded_is_refused():
    program = (
        "import ctypes, espeakng_loader; kept = ctypes.CDLL(espeakng_loader.get_library_path())\n"
        "from lrsms.data.espeak import Synthesizer; from lrsms.errors import LrsmsError\n"
        "try: Synthesizer()\n"
        "except LrsmsError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "already in use" in done.stdout


def test_unreadable_voices_are_named(synthesizer, monkeypatch, tmp_path):
    monkeypatch.setattr(synthesizer, "_data_path", tmp_path / "nothing")
    with pytest.raises(LrsmsError, match="nothing"):
        synthesizer.speak("one", voice="en-us", **SETTINGS)


def test_the_library_is_unloaded_after_an_error(synthesizer, monkeypatch):
    monkeypatch.setitem(synthesizer._identifiers, "en-lost", "gmw/en-lost")
    with pytest.raises(LrsmsError, match="could not load"):
        synthesizer.speak("one", voice="en-lost", **SETTINGS)
    assert len(synthesizer.speak("one", voice="en-us", **SETTINGS).samples)


def test_a_path_longer_than_espeak_takes_makes_no_difference(synthesizer, monkeypatch, tmp_path):
    import espeakng_loader

    long_path = tmp_path / ("x" * 150) / "espeak-ng-data"
    long_path.parent.mkdir()
    long_path.symlink_to(espeakng_loader.get_data_path())
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(long_path))
    assert digest(Synthesizer(), "en-us+f3") == digest(synthesizer, "en-us+f3")
