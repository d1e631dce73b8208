"""eSpeak NG through ctypes: speech samples with phoneme times, the same bits for the same request.

The library and its voices come from the ``espeakng-loader`` wheel. The C interface is the one declared in
``speak_lib.h`` and ``espeak_ng.h`` of eSpeak NG 1.52.
"""

import _ctypes
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lrsms.errors import LrsmsError

_OUTPUT_SYNCHRONOUS = 2
_PHONEME_EVENTS = 0x0001
_DONT_EXIT = 0x8000
_RATE, _PITCH, _PITCH_RANGE = 1, 3, 4
_RANDOM_SEED = 0
_CHARS_UTF8 = 1
_POSITION_CHARACTER = 1
_EVENT_LIST_TERMINATED, _EVENT_PHONEME = 0, 7

# Their breath noise in the Klatt synthesizer differs from run to run whatever the seed.
_IRREPRODUCIBLE_VARIANTS = ("Reed", "caleb")
_LONGEST_DATA_PATH = 150  # bytes; eSpeak keeps it, with a file name, in a buffer of 160
_LIMITS = {"rate": (80, 450), "pitch": (0, 99), "pitch_range": (0, 100)}


@dataclass(frozen=True)
class Phoneme:
    """A phoneme (eSpeak's mnemonic, ``_`` and ``_:`` for pauses) and its start in seconds."""

    symbol: str
    start: float


@dataclass(frozen=True)
class SynthesizedSpeech:
    """Speech: ``samples`` float32 ``(samples,)`` in [-1, 1] at ``sampling_rate`` Hz, and its phonemes in order."""

    samples: np.ndarray
    sampling_rate: int
    phonemes: list[Phoneme]


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_char_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("xx1", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Synthesizer:
    """Speaks text. One per process is enough; it must not be shared between threads.

    eSpeak keeps oscillator, flutter and random state between utterances, which neither its seed nor
    ``espeak_Terminate`` resets, and which changes even the number of samples. The shared library is therefore
    unloaded after each utterance (about 3 ms), so that an utterance does not depend on those before it.

    Raises:
        LrsmsError: the wheel is missing, its data cannot be read, or another part of the process holds the library.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise LrsmsError("speech synthesis needs espeakng-loader: pip install espeakng-loader") from None
        self._library_path = espeakng_loader.get_library_path()
        self._data_path = Path(espeakng_loader.get_data_path())
        if len(os.fsencode(self._data_path)) > _LONGEST_DATA_PATH:
            self._shortcut = TemporaryDirectory(prefix="espeak-")
            shorter = Path(self._shortcut.name) / "espeak-ng-data"
            shorter.symlink_to(self._data_path)
            self._data_path = shorter
        with self._library() as (library, _):
            self._identifiers = _list_languages(library)
        variants = (path.name for path in (self._data_path / "voices" / "!v").iterdir())
        self._variants = sorted(set(variants) - set(_IRREPRODUCIBLE_VARIANTS))

    def voices(self) -> list[str]:
        """Every voice: a language or accent alone (``en-us``) and with each variant (``en-us+f3``)."""
        suffixes = ["", *(f"+{variant}" for variant in self._variants)]
        return [language + suffix for language in sorted(self._identifiers) for suffix in suffixes]

    def speak(self, text: str, *, voice: str, rate: int, pitch: int, pitch_range: int) -> SynthesizedSpeech:
        """Synthesize ``text``.

        Args:
            text: What to say.
            voice: Language or accent, optionally with a variant, such as ``en-us+f3``.
            rate: Words per minute, 80 to 450.
            pitch: Base pitch relative to the voice, 0 to 99 (50 is the voice's own).
            pitch_range: How lively the intonation is, 0 (monotone) to 100 (50 is the voice's own).

        Raises:
            LrsmsError: empty text, unknown voice, or a number out of range.
        """
        if not text.strip() or "\0" in text:
            raise LrsmsError(f"text {text!r}: speech synthesis needs at least one word and no NUL character")
        for name, value in (("rate", rate), ("pitch", pitch), ("pitch_range", pitch_range)):
            low, high = _LIMITS[name]
            if not low <= value <= high:
                raise LrsmsError(f"{name} {value}: eSpeak takes {low} to {high}")
        identifier = self._resolve(voice)
        with self._library() as (library, sampling_rate):
            chunks: list[np.ndarray] = []
            events: list[tuple[str, int]] = []
            callback = _Callback(lambda *arguments: _collect(chunks, events, *arguments))
            library.espeak_SetSynthCallback(callback)
            if library.espeak_SetVoiceByName(identifier):
                raise LrsmsError(f"voice {voice!r}: eSpeak could not load it from {self._data_path}")
            for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_PITCH_RANGE, pitch_range)):
                library.espeak_SetParameter(parameter, value, 0)
            encoded = text.encode() + b"\0"
            if library.espeak_Synth(encoded, len(encoded), 0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None):
                raise LrsmsError(f"text {text!r}: eSpeak could not speak it with voice {voice!r}")
        samples = np.concatenate(chunks).astype(np.float32) / 32768 if chunks else np.zeros(0, np.float32)
        phonemes = [Phoneme(symbol, sample / sampling_rate) for symbol, sample in events]
        return SynthesizedSpeech(samples, sampling_rate, phonemes)

    def _resolve(self, voice: str) -> bytes:
        language, plus, variant = voice.partition("+")
        if variant in _IRREPRODUCIBLE_VARIANTS:
            raise LrsmsError(f"voice {voice!r}: variant {variant!r} sounds different on each run; choose another")
        if language not in self._identifiers:
            related = [name for name in sorted(self._identifiers) if name[:2] == language[:2]]
            known = ", ".join(related or ["en-us", "en-gb", "en-gb-scotland", "de", "fr-fr"])
            raise LrsmsError(f"voice {voice!r}: unknown language or accent {language!r}; there are for example {known}")
        if plus and variant not in self._variants:
            raise LrsmsError(
                f"voice {voice!r}: unknown variant {variant!r}; there are for example f1, f2, f3, m1, m2, m3"
            )
        return (self._identifiers[language] + plus + variant).encode()

    @contextmanager
    def _library(self) -> Iterator[tuple[ctypes.CDLL, int]]:
        """A freshly loaded and initialized library and its sampling rate (Hz); unloaded afterwards."""
        if _is_loaded(self._library_path):
            raise LrsmsError(
                f"{self._library_path} is already in use in this process, so that its state cannot be reset: "
                "synthesize in a process of its own"
            )
        library = ctypes.CDLL(self._library_path)
        try:
            library.espeak_ListVoices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
            library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
            options = _PHONEME_EVENTS | _DONT_EXIT
            sampling_rate = library.espeak_Initialize(_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self._data_path), options)
            if sampling_rate <= 0:
                raise LrsmsError(
                    f"eSpeak cannot read its voices in {self._data_path}: pip install --force-reinstall espeakng-loader"
                )
            library.espeak_ng_SetRandSeed(_RANDOM_SEED)
            yield library, sampling_rate
            library.espeak_Terminate()
        finally:
            _ctypes.dlclose(library._handle)


def _is_loaded(path: str) -> bool:
    try:
        library = ctypes.CDLL(path, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    _ctypes.dlclose(library._handle)
    return True


def _list_languages(library: ctypes.CDLL) -> dict[str, str]:
    """Language or accent (``en-gb``) -> the identifier eSpeak loads it by (``gmw/en``)."""
    voices = library.espeak_ListVoices(None)
    identifiers: dict[str, str] = {}
    index = 0
    while voices[index]:
        voice = voices[index].contents
        language = voice.languages[1:].decode()  # the first byte is a priority
        identifiers.setdefault(language, voice.identifier.decode())
        index += 1
    return identifiers


def _collect(chunks: list, events: list, samples, num_samples: int, event_list) -> int:
    if samples and num_samples > 0:
        chunks.append(np.ctypeslib.as_array(samples, (num_samples,)).copy())
    index = 0
    while event_list[index].type != _EVENT_LIST_TERMINATED:
        event = event_list[index]
        if event.type == _EVENT_PHONEME:
            events.append((event.id.string.decode(), event.sample))
        index += 1
    return 0
