"""Sound files whose headers say something else than they hold: read to the end, or refused by name."""

import io
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import assume, given
from hypothesis import strategies as st
from lhotse import Recording

from lrsms.data.audio import find_audio, left_out, read_audio
from lrsms.data.cuts import probe
from lrsms.errors import LrsmsError

RATE, SECONDS = 16000, 3
FORMATS: dict[str, dict] = {
    "wav": {},
    "wavex": {"format": "WAVEX"},
    "adpcm": {"format": "WAV", "subtype": "IMA_ADPCM"},
    "float": {"format": "WAV", "subtype": "FLOAT"},
    "rf64": {"format": "RF64"},
    "w64": {},
    "aiff": {},
    "aifc": {"format": "AIFF", "subtype": "ULAW"},
    "au": {},
    "caf": {},
    "nist": {},  # Lhotse would read a name with .sph by a program of its own
    "voc": {},
    "flac": {},
    "ogg": {},
    "opus": {"format": "OGG", "subtype": "OPUS"},
    "mp3": {},
}
LINEAR = ("wav", "wavex", "float", "rf64", "w64", "aiff", "aifc", "au", "caf", "nist", "voc")


def noise(seconds: float = SECONDS, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(seconds * RATE))


class Written(dict):
    """Bytes by format, of which hypothesis shall not print every one."""

    def __repr__(self) -> str:
        return "<sound in every format>"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, bytes]:
    """Three seconds of noise in every format."""
    folder = tmp_path_factory.mktemp("written")
    for name, options in FORMATS.items():
        soundfile.write(folder / f"a.{name}", noise(), RATE, **options)
    return Written((name, (folder / f"a.{name}").read_bytes()) for name in FORMATS)


def verdict(path: Path) -> float | str:
    """Seconds that are heard, or why none are."""
    try:
        return len(read_audio(path, RATE)) / RATE
    except LrsmsError as error:
        return str(error)


def reason(path: Path) -> str | None:
    """What stage 1 excludes a recording for, whose manifest is made from the file as it is."""
    try:
        recording = Recording.from_file(path)
    except Exception:  # stage 0 says unreadable
        return "unreadable"
    found = probe(recording)
    return found and found.reason


def put(content: bytes, position: int, layout: str, value: int) -> bytes:
    return content[:position] + struct.pack(layout, value) + content[position + struct.calcsize(layout) :]


def wav_claims(size: int) -> Callable[[bytes], bytes]:
    return lambda content: put(content, content.index(b"data") + 4, "<I", size)


def flac_claims(samples: int) -> Callable[[bytes], bytes]:
    return lambda content: put(put(content, 22, ">I", samples), 21, "B", content[21] & 0xF0)


def without_first_frame(content: bytes) -> bytes:
    """An MP3 whose header (Xing's, a frame of its own) is gone: libsndfile guesses its length from the bit rate."""
    return content[content.index(content[:2], 4) :]


ROWS = [
    # format, what is done to it, seconds heard or what is said, what stage 1 excludes it for
    *[(name, "nothing", lambda content: content, SECONDS, None) for name in FORMATS],
    *[(name, "half", lambda content: content[: len(content) // 2], "cut off|lost sync|malformed",
       "unreadable|truncated") for name in FORMATS],
    *[(name, "cut by 100 bytes", lambda content: content[:-100], "cut off|lost sync", "unreadable|truncated")
      for name in FORMATS],
    *[(name, "joined", lambda content: content * 2, "follow|marker", "unreadable|longer_than_announced")
      for name in (*LINEAR, "adpcm")],
    *[(name, "joined", lambda content: content * 2, 2 * SECONDS, "longer_than_announced")
      for name in ("flac", "ogg", "opus", "mp3")],
    *[(name, "zeros behind", lambda content: content + bytes(8192), SECONDS, None) for name in LINEAR if name != "voc"],
    ("wav", "a chunk behind", lambda content: content + b"LIST" + struct.pack("<I", 9000) + bytes(range(250)) * 36,
     SECONDS, None),
    ("wav", "a tag behind", lambda content: content + b"TAG" + bytes(range(125)), SECONDS, None),
    ("wav", "no size, sound behind it", wav_claims(0), "announces no samples, and 96000 bytes more follow",
     "longer_than_announced"),
    ("wav", "a third of its size", wav_claims(32000), "announces 16000 samples, and 64000 bytes more follow",
     "longer_than_announced"),
    ("wav", "the size of a stream", wav_claims(0xFFFFFFFF), SECONDS, None),
    ("wav", "the size of a stream of sox", wav_claims(0x7FFFF000), SECONDS, None),
    ("wav", "1 Hz", lambda content: put(content, 24, "<I", 1), "a sampling rate of 1 Hz; expected 1000",
     "sampling_rate"),
    ("wav", "999 Hz", lambda content: put(content, 24, "<I", 999), "a sampling rate of 999 Hz", "sampling_rate"),
    ("wav", "2 GHz", lambda content: put(content, 24, "<I", 2_000_000_000), "a sampling rate of 2000000000 Hz",
     "sampling_rate"),
    ("wav", "4 GHz", lambda content: put(content, 24, "<I", 4_000_000_000), "cannot be read as sound", "unreadable"),
    ("wav", "0 Hz", lambda content: put(content, 24, "<I", 0), "cannot be read as sound", "unreadable"),
    ("wav", "0 channels", lambda content: put(content, 22, "<H", 0), "cannot be read as sound", "unreadable"),
    ("wav", "0 bits", lambda content: put(content, 34, "<H", 0), "cannot be read as sound", "unreadable"),
    ("flac", "1 of 3 s announced", flac_claims(RATE), SECONDS, "longer_than_announced"),
    ("mp3", "no header of its own", without_first_frame, SECONDS + 0.1, "longer_than_announced"),
    ("mp3", "a tag before", lambda content: b"ID3\x03\0\0\0\0\x0f\x7f" + bytes(2047) + content, SECONDS, None),
    ("mp3", "a tag behind", lambda content: content + b"TAG" + bytes(125), SECONDS, None),
    ("mp3", "joined to half of another", lambda content: content + content[: len(content) // 2], 1.5 * SECONDS,
     "longer_than_announced"),
    *[(name, "no bytes", lambda content: b"", "an empty file, 0 bytes",
       "unreadable") for name in FORMATS],
    *[(name, "12 bytes", lambda content: content[:12], "cannot be read as sound|cut off", "unreadable|truncated")
      for name in FORMATS],
    *[(name, "other bytes", lambda content: bytes(range(256)) * 40, "cannot be read as sound", "unreadable")
      for name in FORMATS],
    ("au", "no header", lambda content: content[24:], "cannot be read as sound .no header", "unreadable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "expected", "excluded"),
    [pytest.param(name, *row, id=f"{name}: {what}") for name, what, *row in ROWS],
)
def test_a_file_is_heard_to_its_end_or_refused(name, change, expected, excluded, written, tmp_path):
    path = tmp_path / f"a.{name}"
    path.write_bytes(change(written[name]))
    began = time.monotonic()
    found = verdict(path)
    if isinstance(expected, str):
        assert isinstance(found, str), f"{found} s were heard"
        assert path.name in found and re.search(expected, found)
    else:
        assert found == pytest.approx(expected, abs=0.35)
    opened = reason(path)
    assert opened == excluded or (excluded and opened and opened in excluded.split("|"))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("name", FORMATS)
def test_an_open_file_is_judged_like_one_on_the_disk(name, written):
    whole, cut = written[name], written[name][: len(written[name]) // 2]
    assert len(read_audio(io.BytesIO(whole), RATE)) == pytest.approx(SECONDS * RATE, rel=0.05)
    with pytest.raises(LrsmsError, match="pipe: "):
        read_audio(io.BytesIO(cut), RATE, name="pipe")


def test_joined_files_of_several_channels_and_rates_are_heard_whole(tmp_path):
    left = noise(2)
    soundfile.write(tmp_path / "a.mp3", np.stack([left, 0 * left], axis=1), 44100, format="MP3")
    soundfile.write(tmp_path / "b.mp3", noise(2), 44100, format="MP3")
    (tmp_path / "c.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    found = read_audio(tmp_path / "c.mp3", RATE)
    assert len(found) / RATE == pytest.approx(2 * 2 * RATE / 44100, abs=0.3)
    assert np.isfinite(found).all() and np.abs(found[-RATE // 4 :]).max() > 0.1


def test_a_folder_gives_what_is_sound_and_names_what_is_not(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    (tmp_path / "deep").mkdir()
    for name in ("d.wave", "deep/no_suffix", "deep/e.unknown"):
        (tmp_path / name).write_bytes((tmp_path / "a.wav").read_bytes())
    for name in ("b.m4a", "c.webm", "x.txt", "y.txt", "z.pdf", ".hidden.txt"):
        (tmp_path / name).write_bytes(b"\0\0\0\x20ftypM4A " + bytes(1000))
    (tmp_path / "back").symlink_to(tmp_path)
    found = find_audio(tmp_path)
    names = {str(path.relative_to(tmp_path)) for path in found}
    assert names == {"a.wav", "b.m4a", "c.webm", "d.wave", "deep/e.unknown", "deep/no_suffix"}
    assert left_out(tmp_path, found) == {".txt": 2, ".pdf": 1}


@given(
    name=st.sampled_from(sorted(FORMATS)),
    changes=st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=8),
    cut=st.integers(0, 4096),
)
def test_any_header_gives_sound_or_a_sentence(name, changes, cut, written, tmp_path):
    content = bytearray(written[name])
    for position, value in changes:
        content[position] = value
    path = tmp_path / "x.wav"
    path.write_bytes(content[: len(content) - cut])
    began = time.monotonic()
    found = verdict(path)
    reason(path)
    assert time.monotonic() - began < 10
    if not isinstance(found, str):
        # At the least sampling rate that is taken, what is heard is as much longer.
        assert found <= 8 * len(content) / 1000


@given(name=st.sampled_from([name for name in FORMATS if name != "mp3"]), cut=st.integers(2, 20_000))
def test_nothing_is_cut_off_unnoticed(name, cut, written, tmp_path):
    assume(not written[name][-cut:].startswith(b"OggS"))  # at the end of a page, an Ogg file may well end
    path = tmp_path / "x.wav"
    path.write_bytes(written[name][:-cut])
    assert isinstance(verdict(path), str)


@given(name=st.sampled_from(LINEAR), count=st.integers(8192, 100_000), seed=st.integers(0, 1000))
def test_no_sound_behind_the_end_is_left_out_unnoticed(name, count, seed, written, tmp_path):
    path = tmp_path / "x.wav"
    path.write_bytes(written[name] + np.random.default_rng(seed).bytes(count))
    assert isinstance(verdict(path), str)
