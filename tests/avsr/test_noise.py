"""Babble: at the ratio that is asked for, always the same, and never of the listener's own utterance."""

import numpy as np
import pytest
from lhotse import CutSet

from lrsms.avsr import noise
from lrsms.avsr.noise import Babble, mix, parse_snr
from lrsms.errors import LrsmsError


def db(signal, noise):
    return 10 * np.log10(np.mean(signal.astype(float) ** 2) / np.mean(noise.astype(float) ** 2))


@pytest.mark.parametrize("snr", [-5, 0, 2.5, 20])
def test_the_ratio_is_what_was_asked_for(voices, snr):
    speech = 0.1 * np.sin(np.arange(16000) / 7).astype(np.float32)
    noise = Babble(voices, voices=3).draw(16000, key="a", speaker="nobody")
    mixed = mix(speech, noise, snr)
    assert db(speech, mixed - speech) == pytest.approx(snr, abs=0.01)
    assert mixed.dtype == np.float32


def test_the_ratio_holds_where_the_sum_is_scaled_to_stay_in_range(voices):
    speech = 0.9 * np.sin(np.arange(16000) / 7).astype(np.float32)
    noise = Babble(voices, voices=3).draw(16000, key="a")
    mixed = mix(speech, noise, -5).astype(float)
    assert np.abs(mixed).max() == pytest.approx(1.0, abs=1e-6)
    scale = (mixed @ speech) / (speech.astype(float) @ speech)  # least squares: noise and sine are nearly orthogonal
    assert db(scale * speech, mixed - scale * speech) == pytest.approx(-5, abs=0.2)


def test_no_noise_where_there_is_no_ratio(voices):
    noise = Babble(voices, voices=3).draw(100, key="a")
    speech = np.full(100, 0.5, np.float32)
    np.testing.assert_array_equal(mix(speech, noise, None), speech)
    np.testing.assert_array_equal(mix(np.zeros(100), noise, 0), np.zeros(100))
    np.testing.assert_array_equal(mix(speech, np.zeros(7), 0), speech)
    np.testing.assert_array_equal(mix(speech, np.zeros(0), 0), speech)


def test_noise_of_another_length_is_repeated_or_cut():
    speech, noise = np.full(10, 0.1, np.float32), np.array([1.0, -1.0, 0.5])
    added = mix(speech, noise, 0) - speech
    np.testing.assert_allclose(added[:3] / added[0], noise, rtol=1e-5)
    np.testing.assert_allclose(added[3:6], added[:3], rtol=1e-5)


def test_a_draw_depends_on_seed_and_key_alone(voices):
    babble = Babble(voices, voices=2, seed=1)
    first = babble.draw(9000, key="epoch 1 utterance")
    babble.draw(5000, key="other")
    np.testing.assert_array_equal(babble.draw(9000, key="epoch 1 utterance"), first)
    np.testing.assert_array_equal(Babble(voices, voices=2, seed=1).draw(9000, key="epoch 1 utterance"), first)
    assert not np.array_equal(babble.draw(9000, key="epoch 2 utterance"), first)
    assert not np.array_equal(Babble(voices, voices=2, seed=2).draw(9000, key="epoch 1 utterance"), first)
    assert np.mean(first.astype(float) ** 2) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("kept", "loads"), [(2 * 12800, 6), (2**25, 4)])
def test_the_pool_is_decoded_once_as_far_as_there_is_room_for_it(voices, monkeypatch, kept, loads):
    from lhotse import MonoCut

    expected = Babble(voices, voices=4).draw(9000, key="other")
    seen, load = [], MonoCut.load_audio
    monkeypatch.setattr(MonoCut, "load_audio", lambda cut: seen.append(cut.id) or load(cut))
    monkeypatch.setattr(noise, "_KEPT", kept)
    babble = Babble(voices, voices=4)
    for _ in range(2):
        babble.draw(9000, key="one", utterance="voice4")
    assert len(seen) == loads and len(set(seen)) == 4
    np.testing.assert_array_equal(babble.draw(9000, key="other"), expected)


def loaded_by(babble, monkeypatch, **options):
    """Ids of the utterances that 20 draws are made of."""
    from lhotse import MonoCut

    names, load = set(), MonoCut.load_audio
    monkeypatch.setattr(MonoCut, "load_audio", lambda cut: names.add(cut.id) or load(cut))
    for key in range(20):
        babble.draw(1000, key=str(key), **options)
    return names


def test_the_speaker_and_the_utterance_itself_are_left_out(voices, monkeypatch):
    every = {cut.id for cut in voices}
    assert loaded_by(Babble(voices, voices=2), monkeypatch) == every
    assert loaded_by(Babble(voices, voices=2), monkeypatch, speaker="speaker3") == every - {"voice3"}
    assert loaded_by(Babble(voices, voices=2), monkeypatch, utterance="voice1_sp0.9") == every - {"voice1"}


def test_a_corpus_of_one_speaker_gives_noise_of_that_speakers_other_utterances(voices, monkeypatch):
    for cut in voices:
        cut.supervisions[0].speaker = "s1"
    found = loaded_by(Babble(voices, voices=3), monkeypatch, speaker="s1", utterance="voice0")
    assert found == {cut.id for cut in voices} - {"voice0"}


def test_a_manifest_as_pool_without_its_perturbed_copies(voices, tmp_path):
    path = tmp_path / "cuts.jsonl.gz"
    CutSet.from_cuts([*voices, voices[0].perturb_speed(0.9)]).to_file(path)
    assert [cut.id for cut in Babble.from_manifest(path).cuts] == [cut.id for cut in voices]
    with pytest.raises(LrsmsError, match="no such manifest"):
        Babble.from_manifest(tmp_path / "nowhere.jsonl.gz")
    with pytest.raises(LrsmsError, match="babble of 5 voices .* there are 5"):
        Babble.from_manifest(path, voices=5)


def test_ratios_in_yaml():
    assert parse_snr(-5, "snrs") == -5.0 and parse_snr("clean", "snrs") is None
    for wrong in ("loud", True, None, float("nan")):
        with pytest.raises(LrsmsError, match="av_conf.snrs: .* expected dB"):
            parse_snr(wrong, "av_conf.snrs")
