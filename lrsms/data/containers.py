"""What a sound file says of its own length, held against the bytes it has.

Decoders believe the smaller of the two and say nothing: libsndfile shortens a WAV file that was cut off, and hears of
two MP3 files joined into one no more than the header of the first announces. So what the containers announce is read
apart: WAV, RF64, W64, AIFF, AU, CAF, NIST and VOC by their own headers, and FLAC, Ogg and MP3 by ffmpeg's packets,
which are counted and not decoded.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

CUT_OFF, LONGER = "truncated", "longer_than_announced"
COMPRESSED = ("MP3", "OGG", "FLAC")  # what ffmpeg reads to its end
_STREAMED = 0x7FFF0000  # bytes; WAV files written to a pipe announce about this size, or the double of it
_NEGLIGIBLE = 4096  # bytes behind the sound that no header announces: of recorders that write in whole blocks
_PRIMING = 0.25  # seconds that encoders may put in front of the sound and behind it, and packets hold
_PRIMING_PACKETS = 6  # the same of MP3, whose packets are long at low sampling rates
_TAGS = (b"TAG", b"ID3", b"APETAGEX")
_REMEDY = "write it anew, such as with ffmpeg -i IN OUT.flac"


class Fault(NamedTuple):
    """What is wrong with a file's length.

    Attributes:
        reason: :data:`CUT_OFF` or :data:`LONGER`.
        detail: a clause for a message that begins with the file's name.
    """

    reason: str
    detail: str


class _Sound(NamedTuple):
    """Where the bytes of the sound begin and end, as is announced, and what finds the end of the chunks behind it."""

    begin: int
    end: int
    further: Callable[[BinaryIO, int], int] = lambda file, end: end


def length_fault(source: Path | BinaryIO, kind: str, frames: int, sampling_rate: int, held: int) -> Fault | None:
    """Hold what a file announces against what it has.

    Args:
        source: the file, or an open one that can seek.
        kind: libsndfile's name of the container, such as ``WAV``.
        frames: samples of each channel that libsndfile announces.
        sampling_rate: in Hz.
        held: samples of each channel that could be read.

    Returns:
        None if nothing is missing at the end and nothing is left over behind it.
    """
    if frames > held:
        return Fault(CUT_OFF, f"cut off, it holds {held} of the {frames} samples that its header announces")
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _fault_of_bytes(file, kind, held, sampling_rate)
    position = source.tell()
    try:
        return _fault_of_bytes(source, kind, held, sampling_rate)
    finally:
        source.seek(position)


def _fault_of_bytes(file: BinaryIO, kind: str, held: int, sampling_rate: int) -> Fault | None:
    if kind == "OGG" and not _ends_with_a_page(file):
        return Fault(CUT_OFF, "cut off, it ends in the middle of a page of Ogg")
    if kind in COMPRESSED:
        seconds, tolerance = _demultiplexed(file, kind)
        heard = held / sampling_rate
        if seconds > heard + tolerance:
            detail = f"its header announces {heard:.2f} s of sound, and it holds {seconds:.2f} s; {_REMEDY}"
            return Fault(LONGER, detail)
        return None
    sound = _READERS[kind](file) if kind in _READERS else None
    return None if sound is None else _compared(file, sound, held)


def _compared(file: BinaryIO, sound: _Sound, held: int) -> Fault | None:
    size = file.seek(0, 2)
    if sound.end > size:
        announced = max(held + 1, held * (sound.end - sound.begin) // max(1, size - sound.begin))
        return Fault(CUT_OFF, f"cut off, it holds {held} of the {announced} samples that its header announces")
    begin = sound.further(file, sound.end)
    file.seek(begin)
    rest = file.read(1 << 20)
    left = size - begin
    if rest.startswith(_TAGS) or not rest.strip(rest[:1] if rest else None) or (held and left <= _NEGLIGIBLE):
        return None
    samples = f"{held} samples" if held else "no samples"
    return Fault(LONGER, f"its header announces {samples}, and {left} bytes more follow; {_REMEDY}")


def _demultiplexed(file: BinaryIO, kind: str) -> tuple[float, float]:
    """Seconds of all packets, and how many of them need not be sound; no seconds if ffmpeg cannot read the file."""
    import av

    file.seek(0)
    seconds, longest = 0.0, 0.0
    try:
        with av.open(file, mode="r") as container:
            for packet in container.demux(container.streams.audio[0]):
                if packet.size and packet.duration and packet.time_base:
                    duration = float(packet.duration * packet.time_base)
                    seconds, longest = seconds + duration, max(longest, duration)
    except (av.FFmpegError, IndexError, ValueError):
        return 0.0, 0.0
    return seconds, max(_PRIMING, _PRIMING_PACKETS * longest if kind == "MP3" else 0.0)


def _ends_with_a_page(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file is whole: 27 bytes, lengths of its segments, and the segments."""
    size = file.seek(0, 2)
    file.seek(max(0, size - (1 << 17)))  # a page is at most 65307 bytes long
    tail = file.read()
    begin = tail.rfind(b"OggS")
    if begin < 0 or begin + 27 > len(tail):
        return False
    segments = tail[begin + 26]
    lengths = tail[begin + 27 : begin + 27 + segments]
    end = begin + 27 + segments + sum(lengths)
    return len(lengths) == segments and end <= len(tail) and tail[end:] not in (b"O", b"Og", b"Ogg")


def _chunks(file: BinaryIO, position: int, layout: str, name: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and length of the chunks from ``position`` on; ``layout`` is of the length."""
    head = name + struct.calcsize(layout)
    while True:
        file.seek(position)
        content = file.read(head)
        if len(content) < head:
            return
        (length,) = struct.unpack(layout, content[name:])
        yield content[:name], position + head, length
        position += head + length + length % 2
        if length < 0:
            return


def _behind(layout: str) -> Callable[[BinaryIO, int], int]:
    """What finds the end of the last chunk that follows a position, which may be odd."""

    def end(file: BinaryIO, position: int) -> int:
        size = file.seek(0, 2)
        position += position % 2
        for name, begin, length in _chunks(file, position, layout, 4):
            if not re.fullmatch(rb"[ -~]{4}", name) or name in (b"RIFF", b"FORM") or begin + length > size:
                break
            position = begin + length + length % 2
        return min(position, size)

    return end


def _wav(file: BinaryIO) -> _Sound | None:
    large = None  # of RF64, whose lengths of 64 bits are in a chunk of their own
    for name, begin, length in _chunks(file, 12, "<I", 4):
        if name == b"ds64":
            file.seek(begin + 8)
            large = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        if name == b"data":
            length = large if large is not None and length == 0xFFFFFFFF else length
            streamed = length >= _STREAMED and large is None
            return None if streamed else _Sound(begin, begin + length, _behind("<I"))
    return None


def _w64(file: BinaryIO) -> _Sound | None:
    position, size = 40, file.seek(0, 2)
    while position + 24 <= size:
        file.seek(position)
        name, length = struct.unpack("<16sQ", file.read(24))
        if name.startswith(b"data"):
            return _Sound(position + 24, position + length)
        position += max(24, length + -length % 8)
    return None


def _aiff(file: BinaryIO) -> _Sound | None:
    for name, begin, length in _chunks(file, 12, ">I", 4):
        if name == b"SSND":
            return _Sound(begin + 8, begin + length, _behind(">I"))
    return None


def _au(file: BinaryIO) -> _Sound | None:
    file.seek(0)
    head = file.read(12)
    order = "<" if head.startswith(b"dns.") else ">"
    begin, length = struct.unpack(order + "II", head[4:12].ljust(8, b"\0"))
    return None if length == 0xFFFFFFFF else _Sound(begin, begin + length)


def _caf(file: BinaryIO) -> _Sound | None:
    position, size = 8, file.seek(0, 2)
    while position + 12 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sq", file.read(12))
        if name == b"data":
            return None if length < 0 else _Sound(position + 16, position + 12 + length, _behind_caf)
        position += 12 + max(0, length)
    return None


def _behind_caf(file: BinaryIO, position: int) -> int:
    size = file.seek(0, 2)
    while position + 12 <= size:
        file.seek(position)
        name, length = struct.unpack(">4sq", file.read(12))
        if not re.fullmatch(rb"[ -~]{4}", name) or length < 0 or position + 12 + length > size or name == b"caff":
            break
        position += 12 + length
    return position


def _nist(file: BinaryIO) -> _Sound | None:
    file.seek(8)
    size = re.match(rb"\s*(\d+)", file.read(8))
    head = int(size[1]) if size else 1024
    file.seek(0)
    fields = dict(re.findall(rb"^(\w+) -i (\d+)", file.read(head), re.MULTILINE))
    try:
        count, channels, width = (int(fields[key]) for key in (b"sample_count", b"channel_count", b"sample_n_bytes"))
    except KeyError:
        return None
    return _Sound(head, head + count * channels * width)


def _voc(file: BinaryIO) -> _Sound | None:
    file.seek(20)
    begin, size = struct.unpack("<H", file.read(2).ljust(2, b"\0"))[0], file.seek(0, 2)
    position = begin
    while position + 4 <= size:
        file.seek(position)
        block, low, high = struct.unpack("<BHB", file.read(4))
        if block == 0:
            break
        position += 4 + low + (high << 16)
    return _Sound(begin, position, lambda file, end: min(end + 1, size))  # a byte 0 ends the blocks


_READERS: dict[str, Callable[[BinaryIO], _Sound | None]] = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64"), _wav),
    **{"W64": _w64, "AIFF": _aiff, "AU": _au, "CAF": _caf, "NIST": _nist, "VOC": _voc},
}
