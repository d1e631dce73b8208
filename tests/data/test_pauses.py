"""Where long recordings are cut."""

import itertools

import numpy as np
import pytest

from lrsms.data.pauses import Piece, Splitter, find_speech, frame_levels

RATE = 16000


def recording(*parts: tuple[float, float], noise: float = -60.0, seed: int = 0) -> np.ndarray:
    """``(seconds, level)`` one after the other: bursts of noise at a level in dB, over a noise floor."""
    rng = np.random.default_rng(seed)
    pieces = [rng.standard_normal(round(seconds * RATE)) * 10 ** (level / 20) for seconds, level in parts]
    whole = np.concatenate(pieces)
    return (whole + rng.standard_normal(len(whole)) * 10 ** (noise / 20)).astype(np.float32)


SPEECH, PAUSE = -20.0, -100.0
SYLLABLES = ((0.4, SPEECH), (0.1, PAUSE))


def seconds(pieces: list[Piece]) -> list[tuple[float, float]]:
    return [(piece.start / RATE, piece.end / RATE) for piece in pieces]


def test_what_is_short_stays_whole():
    samples = recording((1, PAUSE), (2, SPEECH), (1.5, PAUSE), (2, SPEECH))
    assert Splitter(RATE, max_seconds=10)(samples) == [Piece(0, len(samples))]


def test_long_recordings_are_cut_at_every_clear_pause_and_keep_all_speech():
    samples = recording((3, PAUSE), (4, SPEECH), (2, PAUSE), (5, SPEECH), (0.3, PAUSE), (2, SPEECH), (4, PAUSE))
    found = seconds(Splitter(RATE, max_seconds=10)(samples))
    assert len(found) == 2
    for (start, end), (first, last) in zip(found, [(3, 7), (9, 16.3)]):
        assert first - 0.8 < start < first and last < end < last + 0.8


def test_a_pause_that_is_not_long_serves_where_a_piece_is_too_long():
    samples = recording(*SYLLABLES * 12, (0.2, PAUSE), *SYLLABLES * 12, (0.3, PAUSE), *SYLLABLES * 6)
    found = seconds(Splitter(RATE, max_seconds=10)(samples))
    assert [start for start, _ in found] == pytest.approx([0, 6.05, 12.3], abs=0.1)
    assert [end for _, end in found] == pytest.approx([6.05, 12.3, 15.5], abs=0.1)


def test_without_a_pause_pieces_overlap_and_cover_everything():
    splitter = Splitter(RATE, max_seconds=10, overlap=3)
    pieces = splitter(recording((31, SPEECH)))
    assert pieces[0].start == 0 and pieces[-1].end == 31 * RATE
    assert [piece.overlaps for piece in pieces] == [False] + [True] * (len(pieces) - 1)
    for left, right in itertools.pairwise(pieces):
        assert left.end - right.start == pytest.approx(3 * RATE, abs=RATE // 50)
    lengths = [piece.end - piece.start for piece in pieces]
    assert max(lengths) <= 10 * RATE and min(lengths) > 0.9 * max(lengths)  # no short rest


def test_without_overlap_pieces_touch():
    pieces = Splitter(RATE, max_seconds=10, overlap=0)(recording((31, SPEECH)))
    assert [a.end for a in pieces[:-1]] == [b.start for b in pieces[1:]] and not any(one.overlaps for one in pieces)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros(1), np.zeros(RATE), np.full(40 * RATE, 1e-5)])
def test_silence_has_no_pieces(samples):
    assert Splitter(RATE)(samples.astype(np.float32)) == []


def test_noise_that_changes_halfway_does_not_hide_the_pauses():
    quiet = recording(*[(2, SPEECH), (1, PAUSE)] * 6, noise=-60)
    loud = recording(*[(2, 0.0), (1, PAUSE)] * 6, noise=-25)  # its pauses are nearly as loud as the speech before
    assert len(Splitter(RATE, max_seconds=5)(np.concatenate([quiet, loud]))) == 12


def test_a_click_does_not_end_a_pause_and_a_steady_hum_is_no_silence():
    samples = recording((2, SPEECH), (1, PAUSE), (0.02, SPEECH), (1, PAUSE), (2, SPEECH))
    assert find_speech(frame_levels(samples, RATE)).sum() == pytest.approx(400, abs=15)
    hum = 0.1 * np.sin(2 * np.pi * 100 * np.arange(30 * RATE) / RATE)
    assert find_speech(frame_levels(hum, RATE)).all()


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_cuts_are_where_they_are_at_any_rate(rate):
    rng = np.random.default_rng(0)
    samples = np.concatenate([rng.standard_normal(8 * rate) * 0.1, np.zeros(2 * rate), rng.standard_normal(8 * rate)])
    pieces = Splitter(rate, max_seconds=9)(samples.astype(np.float32))
    assert pieces[0].end / rate == pytest.approx(8.75, abs=0.1)
    assert pieces[1].start / rate == pytest.approx(9.25, abs=0.1) and pieces[1].end == len(samples)
