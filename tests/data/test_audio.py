"""Sound files of every kind, good and bad."""

import io
import struct

import numpy as np
import pytest
import soundfile

from lrsms.data.audio import find_audio, read_audio, resample, short_names
from lrsms.errors import LrsmsError

RATE = 16000


def tone(seconds=1.0, rate=RATE, frequency=440.0):
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("suffix", "options", "tolerance"),
    [
        ("wav", {"subtype": "PCM_16"}, 1e-4),
        ("wav", {"subtype": "PCM_U8"}, 0.02),
        ("wav", {"subtype": "FLOAT"}, 1e-7),
        ("wav", {"subtype": "ULAW"}, 0.02),
        ("flac", {}, 1e-4),
        ("ogg", {}, 0.05),
        ("mp3", {}, 0.05),
        ("aiff", {}, 1e-4),
        ("au", {}, 1e-4),
        ("caf", {}, 1e-4),
        ("w64", {}, 1e-4),
        ("sph", {"format": "NIST"}, 1e-4),
    ],
)
def test_formats(suffix, options, tolerance, tmp_path):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(), RATE, **options)
    found = read_audio(path, RATE)
    assert found.dtype == np.float32 and len(found) == RATE
    assert np.abs(found - tone())[1000:-1000].max() < tolerance
    assert find_audio(tmp_path) == [path]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 12345])
def test_every_rate_is_resampled(rate, tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(2.0, rate), rate)
    found = read_audio(tmp_path / "a.wav", RATE)
    assert len(found) == pytest.approx(2 * RATE, abs=2)
    length = min(len(found), 2 * RATE)
    assert np.abs(found[:length] - tone(2.0)[:length])[500:-500].max() < 5e-3


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    monkeypatch.setattr("lrsms.data.audio._BLOCK_SECONDS", 1)
    soundfile.write(tmp_path / "a.wav", tone(3.7, 44100), 44100, subtype="FLOAT")
    found = read_audio(tmp_path / "a.wav", RATE)
    whole = resample(tone(3.7, 44100), 44100, RATE)
    assert len(found) == len(whole) and np.abs(found - whole).max() < 1e-4


def test_channels_are_averaged_or_chosen(tmp_path):
    left, right = tone(frequency=300), tone(frequency=700)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", RATE), (left + right) / 2, atol=1e-6)
    for channel, expected in enumerate((left, right)):
        np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", RATE, channel), expected)
    with pytest.raises(LrsmsError, match="a.wav: no channel 2; it has 2, counted from 0"):
        read_audio(tmp_path / "a.wav", RATE, 2)


def test_a_file_without_samples_is_empty_sound(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 44100)
    assert read_audio(tmp_path / "a.wav", RATE).shape == (0,)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_counted_and_placed(value, tmp_path, monkeypatch):
    monkeypatch.setattr("lrsms.data.audio._BLOCK_SECONDS", 1)
    samples = tone(3.0)
    samples[40000:40003] = value
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(LrsmsError, match=r"a.wav: 3 samples are NaN or infinite, the first at 2.500 s"):
        read_audio(tmp_path / "a.wav", RATE)


@pytest.mark.parametrize("content", [b"hello", b"RIFF\x00\x00\x00\x00WAVE", b"fLaC" + bytes(100), bytes(1000)])
def test_what_is_no_sound_is_named(content, tmp_path):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(LrsmsError, match=r"a.wav: cannot be read as sound \("):
        read_audio(tmp_path / "a.wav", RATE)


def test_empty_and_missing_files_and_folders(tmp_path):
    (tmp_path / "a.wav").touch()
    with pytest.raises(LrsmsError, match="a.wav: an empty file, 0 bytes"):
        read_audio(tmp_path / "a.wav", RATE)
    for name in ("gone.wav", "."):
        with pytest.raises(LrsmsError, match="no such file"):
            read_audio(tmp_path / name, RATE)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_file_that_is_cut_off_is_not_taken_for_a_shorter_one(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
    soundfile.write(path, noise, RATE)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LrsmsError, match=f"a.{suffix}: (cut off|cannot be read)"):
        read_audio(path, RATE)


def test_an_open_file_and_a_header_written_to_a_pipe(tmp_path):
    """Programs that write WAV into a pipe cannot know the length: they announce the largest."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(), RATE, format="WAV")
    content = bytearray(buffer.getvalue())
    start = content.index(b"data")
    content[4:8], content[start + 4 : start + 8] = struct.pack("<I", 0xFFFFFFFF), struct.pack("<I", 0xFFFFFFFF)
    assert len(read_audio(io.BytesIO(bytes(content)), RATE, name="pipe")) == RATE
    (tmp_path / "a.wav").write_bytes(bytes(content))
    assert len(read_audio(tmp_path / "a.wav", RATE)) == RATE
    with pytest.raises(LrsmsError, match="pipe: cannot be read as sound"):
        read_audio(io.BytesIO(b"text"), RATE, name="pipe")


def test_folders_are_searched_to_their_depth(tmp_path):
    for name in ("b.WAV", "deep/er/a.flac", ".hidden/c.wav", "notes.txt", "deep/._a.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_audio(tmp_path) == [tmp_path / "b.WAV", tmp_path / "deep/er/a.flac"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(LrsmsError, match="empty: no sound file in this folder; looked for .*wav"):
        find_audio(tmp_path / "empty")


def test_names_are_short_and_differ(tmp_path):
    from pathlib import Path

    paths = [Path(name) for name in ("a/x.wav", "b/x.wav", "b/x.flac", "y.wav", "./a/x.wav")]
    assert list(short_names(paths).values()) == ["x", "b_x", "x_2", "y"]
