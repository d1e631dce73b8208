"""The embedded audio-visual corpus."""

import cv2
import numpy as np
import pytest
import soundfile
from lhotse import RecordingSet, SupervisionSet

from lrsms.data.corpora.digits import SPLITS, design_utterance, say
from lrsms.data.corpora.talking_digits import prepare_talking_digits, show, talk
from lrsms.data.mouths import read_manifest
from lrsms.errors import LrsmsError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talking")
    prepare_talking_digits(folder, num_train=6, num_dev=2, num_test=3, size=40, seed=3, num_jobs=2)
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*/*.*") if path.is_file()}


def test_sound_and_regions_of_every_utterance_agree(corpus):
    for split, count in zip(SPLITS, (6, 2, 3)):
        mouths = read_manifest(corpus / split)
        recordings = RecordingSet.from_file(corpus / split / "recordings.jsonl.gz")
        assert len(mouths) == len(recordings) == count
        for recording in recordings:
            regions = mouths[recording.id].load()
            assert regions.shape == (round(recording.duration * 25), 40, 40) and regions.dtype == np.uint8
            assert abs(len(regions) / 25 - recording.duration) <= 0.021
    speakers = [
        {item.speaker.split("+")[1] for item in SupervisionSet.from_file(corpus / split / "supervisions.jsonl.gz")}
        for split in SPLITS
    ]
    assert not speakers[0] & speakers[1] and not speakers[0] & speakers[2]
    sheet = cv2.imread(str(corpus / "mouths.png"))
    assert sheet.shape[1] == 10 * 42 and sheet.shape[0] == 8 * 54


def test_the_same_seed_gives_the_same_bits_for_any_num_jobs(corpus, tmp_path):
    prepare_talking_digits(tmp_path, num_train=3, num_dev=1, num_test=1, size=40, seed=3, num_jobs=1)
    serial, parallel = files(tmp_path), files(corpus)
    assert len(serial) == 10
    assert all(parallel[name] == content for name, content in serial.items())


def test_the_sound_is_clean_before_and_after_the_words(corpus):
    samples, rate = soundfile.read(corpus / "audio/train/digits-train-000000.flac")
    assert rate == 16000 and np.abs(samples[:1000]).max() == 0 and np.abs(samples[-1000:]).max() == 0


def test_phonemes_are_where_their_sound_is(corpus):
    """Sibilants are where the high frequencies are loudest: times survive trimming, resampling and padding."""
    checked = 0
    for index in range(60):
        utterance = design_utterance("train", index, 0)
        if "SIX" not in utterance.text.split():
            continue
        samples, phonemes, end = talk(utterance)
        high = np.diff(samples, 4) ** 2
        starts = [phoneme.start for phoneme in phonemes] + [end]
        spans = list(zip((p.symbol for p in phonemes), starts, starts[1:]))
        power = {kind: [high[int(a * 16000) : int(b * 16000)].mean() for symbol, a, b in spans
                        if symbol.strip("'") in symbols and b - a > 0.03]
                 for kind, symbols in (("sibilant", ("s",)), ("vowel", ("I", "oU", "E", "aI", "u:")))}  # fmt: skip
        assert np.median(power["sibilant"]) > np.median(power["vowel"])
        assert phonemes[0].start < utterance.leading_silence + 0.1 and end <= len(samples) / 16000
        checked += 1
    assert checked > 5


def test_the_mouth_moves_while_there_is_speech_and_rests_in_silence():
    utterance = design_utterance("train", 4, 0)
    speech, phonemes = say(utterance)
    regions = show(utterance, phonemes, len(speech) / 16000, len(speech) + 32000, 48).astype(float)
    moved = np.abs(np.diff(cv2_blur(regions), axis=0))[:, 20:40, 10:38].mean(axis=(1, 2))
    speaking = round(len(speech) / 16000 * 25)
    assert moved[:speaking].mean() > 2.0 * moved[speaking + 5 :].mean()


def cv2_blur(regions):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in regions])


def test_wrong_sizes_are_errors_before_anything_is_written(tmp_path):
    with pytest.raises(LrsmsError, match="--mouth_size 8: must be at least 24 pixels"):
        prepare_talking_digits(tmp_path / "x", size=8)
    with pytest.raises(LrsmsError, match="num_dev 0: must be at least 1"):
        prepare_talking_digits(tmp_path / "x", num_dev=0)
    assert not (tmp_path / "x").exists()
