"""Lips against the synthesizer's phoneme times."""

import numpy as np
import pytest

from lrsms.avsr.visemes import Shape, trajectory, viseme
from lrsms.data.corpora.digits import ACCENTS, DIGITS
from lrsms.data.espeak import Phoneme, Synthesizer
from lrsms.errors import LrsmsError

OPENING, WIDTH, ROUNDING, TEETH, TONGUE, TUCK = range(6)
assert Shape._fields == ("opening", "width", "rounding", "teeth", "tongue", "tuck")


@pytest.fixture(scope="module")
def synthesizer():
    return Synthesizer()


@pytest.fixture(scope="module")
def speak(synthesizer):
    """``speak(text)``: middles of its phonemes by symbol, and the mouth's shape at any time."""

    def say(text, voice="en-gb+f1"):
        spoken = synthesizer.speak(text, voice=voice, rate=120, pitch=50, pitch_range=50)
        end = len(spoken.samples) / spoken.sampling_rate
        starts = [phoneme.start for phoneme in spoken.phonemes] + [end]
        middles = [(p.symbol.strip("'"), (a + b) / 2) for p, a, b in zip(spoken.phonemes, starts, starts[1:])]
        return middles, lambda times: trajectory(spoken.phonemes, end, np.atleast_1d(times))

    return say


def test_the_mouth_is_open_in_vowels_and_closed_in_bilabials(speak):
    middles, shape = speak("mama papa bob")
    found = [(symbol, float(shape(time)[0, OPENING])) for symbol, time in middles]
    closed = [opening for symbol, opening in found if symbol in ("m", "p", "b")]
    opened = [opening for symbol, opening in found if symbol in ("a", "A:", "0", "aa")]
    assert len(closed) >= 6 and len(opened) >= 3
    assert max(closed) < 0.12 < 0.25 < min(opened)


def test_closures_and_openings_are_at_the_times_of_the_sounds(speak):
    """The most closed moment of a bilabial between vowels is within it, but for a little that lips are ahead."""
    middles, shape = speak("a mama")
    times = np.arange(0, middles[-1][1], 0.001)
    opening = shape(times)[:, OPENING]
    bounds = [time for _, time in middles]
    for index, (symbol, middle) in enumerate(middles):
        if symbol == "m":
            between = (times > bounds[index - 1]) & (times < bounds[index + 1])
            assert abs(times[between][opening[between].argmin()] - middle) < 0.06
            assert opening[between].max() > 2 * opening[between].min() + 0.1


@pytest.mark.parametrize(
    ("word", "symbol", "column", "least"),
    [
        ("five", "f", TUCK, 0.7),  # lower lip under the teeth
        ("three", "T", TONGUE, 0.5),  # tongue between the teeth
        ("one", "w", ROUNDING, 0.8),
        ("two", "u:", ROUNDING, 0.7),
        ("six", "s", TEETH, 0.7),
        ("nine", "aI", OPENING, 0.5),
        ("three", "i:", WIDTH, 0.7),
    ],
)
def test_digits_look_as_they_sound(speak, word, symbol, column, least):
    middles, shape = speak(word)
    (time,) = [time for name, time in middles if name == symbol][:1]
    assert shape(time)[0, column] > least
    rest = shape(np.array([-1.0, 9.0]))
    assert (rest[:, OPENING] < 0.01).all() and (rest[:, column] < least).all()


def test_diphthongs_move(speak):
    middles, shape = speak("my")
    ((_, middle),) = [pair for pair in middles if pair[0] == "aI"]
    before, after = shape(np.array([middle - 0.05, middle + 0.06]))
    assert before[OPENING] > after[OPENING] + 0.2 and after[WIDTH] > before[WIDTH] + 0.1


def test_neighbors_color_a_phoneme():
    """The t of "two" is rounder than that of "tea"."""
    times = np.array([0.05])
    two, tea = (trajectory([Phoneme("t", 0.0), Phoneme(vowel, 0.08)], 0.3, times)[0] for vowel in ("u:", "i:"))
    assert two[ROUNDING] > tea[ROUNDING] + 0.1 and two[WIDTH] < tea[WIDTH]


def test_shapes_stay_within_bounds_and_move_without_jumps(speak):
    middles, shape = speak("nine eight seven six five four three two one zero")
    shapes = shape(np.arange(-0.2, middles[-1][1] + 0.3, 0.005))
    assert shapes.min() >= 0 and shapes.max() <= 1
    assert np.abs(np.diff(shapes, axis=0)).max() < 0.25


def test_every_phoneme_of_the_corpus_has_a_viseme(synthesizer):
    text = " ".join(DIGITS).lower() + " bin blue at f lay green by set white please now soon judge this vision yes"
    for accent in ACCENTS:
        for phoneme in synthesizer.speak(text, voice=accent, rate=160, pitch=50, pitch_range=50).phonemes:
            viseme(phoneme.symbol)


def test_an_unknown_phoneme_is_named():
    with pytest.raises(LrsmsError, match="phoneme 'qq' has no viseme"):
        viseme("qq")
