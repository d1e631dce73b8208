"""The embedded corpus: spoken digit strings, synthesized, with noise, and no voice in more than one split.

A voice is an English accent of eSpeak NG with a variant (a vocal tract and its pitch). Every accent occurs in every
split; a variant occurs in one only, so that a test voice is never heard in training. Utterance ``index`` of a split
depends on ``(seed, split, index)`` alone: the same bits whatever the number of processes or the size of the corpus.
"""

import argparse
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from lrsms.command_line import run_verb
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.espeak import Phoneme, Synthesizer
from lrsms.data.jsonl import write_jsonl
from lrsms.errors import LrsmsError
from lrsms.files import atomic_write
from lrsms.processes import be_helper, interrupts_blocked

SAMPLING_RATE = 16000  # Hz
DEFAULT_NUM_TRAIN = 1440
DEFAULT_NUM_DEV = 120
DEFAULT_NUM_TEST = 240

SPLITS = ("train", "dev", "test")
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")
SNRS = (5, 10, 15, 20, None)  # dB over the speech; None is clean
ACCENTS = (
    "en-us",
    "en-us-nyc",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-029",
)

# Natural voices only (no whisper, croak or robot). Near copies of a vocal tract (f2 and f5, linda and belinda,
# f4 and aunty) stay in one split.
_FEMALE = {"train": ("f1", "f2", "f5", "belinda", "linda"), "dev": ("Andrea",), "test": ("f3", "f4", "Annie", "aunty")}
_MALE = {
    "train": (
        *("m1", "m3", "m4", "m5"),
        *("Andy", "Denis", "Diogo", "Gene", "Mike", "boris", "marcelo", "max", "norbert", "victor"),
    ),
    "dev": ("Michael", "travis"),
    "test": ("m2", "m6", "m8", "robert"),
}


@dataclass(frozen=True)
class DigitUtterance:
    """What is said, by whom and in which conditions, before anything is synthesized."""

    id: str
    split: str
    text: str
    voice: str
    gender: str
    rate: int  # words per minute
    pitch: int  # 0 to 99, relative to the voice
    pitch_range: int  # 0 to 100
    leading_silence: float  # seconds
    trailing_silence: float  # seconds
    level: float  # dB full scale, RMS of the speech
    snr: int | None  # dB, None without noise
    noise_seed: int


def split_voices(split: str) -> list[str]:
    """Voices of a split, such as ``en-us+f1``; no two splits share a variant."""
    return [f"{accent}+{variant}" for accent in ACCENTS for variant in _FEMALE[split] + _MALE[split]]


def design_utterance(split: str, index: int, seed: int) -> DigitUtterance:
    """Draw utterance ``index`` (from 0) of a split."""
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    digits = rng.choice(DIGITS, size=rng.integers(3, 8))
    voice = str(rng.choice(split_voices(split)))
    return DigitUtterance(
        id=f"digits-{split}-{index:06d}",
        split=split,
        text=" ".join(digits),
        voice=voice,
        gender="female" if voice.split("+")[1] in _FEMALE[split] else "male",
        rate=int(rng.integers(130, 191)),
        pitch=int(rng.integers(20, 81)),
        pitch_range=int(rng.integers(30, 71)),
        leading_silence=float(rng.uniform(0.1, 0.3)),
        trailing_silence=float(rng.uniform(0.1, 0.3)),
        level=float(rng.uniform(-30, -20)),
        snr=SNRS[rng.integers(len(SNRS))],
        noise_seed=int(rng.integers(2**32)),
    )


def render_utterance(utterance: DigitUtterance) -> tuple[np.ndarray, np.ndarray]:
    """Speech and noise of an utterance, each ``(samples,)`` float64 at 16 kHz; the recording is their sum.

    The speech has silence at both ends; the SNR is that of the part between. The noise is zero when clean.
    """
    speech, _ = say(utterance)
    speech_rms = _rms(speech)
    silences = (utterance.leading_silence, utterance.trailing_silence)
    speech = np.pad(speech, [round(seconds * SAMPLING_RATE) for seconds in silences])
    noise = np.zeros_like(speech)
    if utterance.snr is not None:
        noise = _noise(len(speech), np.random.default_rng(utterance.noise_seed))
        noise *= speech_rms / 10 ** (utterance.snr / 20)
    headroom = min(1.0, 0.99 / np.abs(speech + noise).max())
    return speech * headroom, noise * headroom


def say(utterance: DigitUtterance) -> tuple[np.ndarray, list[Phoneme]]:
    """Speech of an utterance at its level, ``(samples,)`` float64 at 16 kHz, without the silence at both ends.

    Returns:
        The speech, and its phonemes with their starts in seconds from its beginning.
    """
    spoken = _synthesizer().speak(
        utterance.text.lower(),
        voice=utterance.voice,
        rate=utterance.rate,
        pitch=utterance.pitch,
        pitch_range=utterance.pitch_range,
    )
    begin, end = _loud(spoken.samples)
    speech = soxr.resample(spoken.samples[begin:end].astype(np.float64), spoken.sampling_rate, SAMPLING_RATE, "VHQ")
    speech *= 10 ** (utterance.level / 20) / _rms(speech)
    trimmed = begin / spoken.sampling_rate
    return speech, [Phoneme(phoneme.symbol, phoneme.start - trimmed) for phoneme in spoken.phonemes]


def prepare_digits(
    output_dir: Path,
    *,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_dev: int = DEFAULT_NUM_DEV,
    num_test: int = DEFAULT_NUM_TEST,
    seed: int = 0,
    num_jobs: int = 2,
) -> None:
    """Generate the corpus.

    Writes ``output_dir/audio/<split>/<id>.flac`` (16 kHz, mono, 16 bits) and then, when all audio exists,
    ``output_dir/<split>/{recordings,supervisions}.jsonl.gz``. Manifests of an earlier run are removed first, so
    that a folder with manifests is a finished corpus.

    Args:
        output_dir: Where to write; the manifests' paths begin with it.
        num_train, num_dev, num_test: Utterances per split, about two seconds each.
        seed: The same seed gives the same corpus bit for bit.
        num_jobs: Processes.

    Raises:
        LrsmsError: a number out of range, or ``espeakng-loader`` is missing.
    """
    sizes = {"train": num_train, "dev": num_dev, "test": num_test}
    output_dir = Path(output_dir)
    utterances = design_corpus(sizes, seed, num_jobs)
    clear(output_dir)
    num_samples = in_processes(_write_flac, output_dir, utterances, num_jobs, "synthesizing digits")
    for split in SPLITS:
        write_manifests(output_dir, split, [(u, n) for u, n in zip(utterances, num_samples) if u.split == split])


def design_corpus(sizes: Mapping[str, int], seed: int, num_jobs: int = 1) -> list[DigitUtterance]:
    """Every utterance of a corpus, by split.

    Args:
        sizes: utterances of each split.
        seed, num_jobs: of the preparation, checked here before anything is written.

    Raises:
        LrsmsError: a number out of range, or ``espeakng-loader`` is missing.
    """
    for name, value, least in [(f"num_{split}", n, 1) for split, n in sizes.items()] + [
        ("num_jobs", num_jobs, 1),
        ("seed", seed, 0),
    ]:
        if value < least:
            raise LrsmsError(f"{name} {value}: must be at least {least}")
    _synthesizer()
    return [design_utterance(split, index, seed) for split in SPLITS for index in range(sizes[split])]


def clear(output_dir: Path) -> None:
    """Make the folders of a corpus, and remove its manifests: one that stops half-way shall not look finished."""
    for split in SPLITS:
        for kind in ("recordings", "supervisions", "mouths"):
            (output_dir / split / f"{kind}.jsonl.gz").unlink(missing_ok=True)
        (output_dir / split).mkdir(parents=True, exist_ok=True)
        (output_dir / "audio" / split).mkdir(parents=True, exist_ok=True)


def in_processes(
    write: Callable[[Path, DigitUtterance], object],
    output_dir: Path,
    utterances: list[DigitUtterance],
    num_jobs: int,
    title: str,
) -> list:
    """``write(output_dir, utterance)`` for each, with a progress bar; returns the results in order."""
    folders = [output_dir] * len(utterances)
    bar: dict[str, Any] = {"total": len(utterances), "desc": title, "unit": "utt"}
    if num_jobs == 1:
        return list(tqdm(map(write, folders, utterances), **bar))
    # Not fork: the caller may hold threads (torch, BLAS) that a forked child would wait for.
    pool = ProcessPoolExecutor(
        num_jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=be_helper,
    )
    try:
        with interrupts_blocked():
            results = pool.map(write, folders, utterances, chunksize=8)
        return list(tqdm(results, **bar))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_flac(output_dir: Path, utterance: DigitUtterance) -> int:
    speech, noise = render_utterance(utterance)
    save_audio(output_dir, utterance, speech + noise)
    return len(speech)


def save_audio(output_dir: Path, utterance: DigitUtterance, samples: np.ndarray) -> None:
    """Write ``samples`` to the FLAC file of an utterance; atomic."""
    path = _audio_path(output_dir, utterance)
    with atomic_write(path) as unfinished:
        soundfile.write(unfinished, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")


def write_manifests(output_dir: Path, split: str, utterances: list[tuple[DigitUtterance, int]]) -> None:
    """Write the manifests of a split from its utterances and their lengths in samples."""
    # Here, so that the synthesizing processes need not wait for Lhotse and torch.
    from lhotse import AudioSource, Recording, RecordingSet, SupervisionSegment, SupervisionSet

    recordings, supervisions = [], []
    for utterance, num_samples in utterances:
        duration = num_samples / SAMPLING_RATE
        source = AudioSource("file", channels=[0], source=str(_audio_path(output_dir, utterance)))
        recordings.append(Recording(utterance.id, [source], SAMPLING_RATE, num_samples, duration))
        supervisions.append(
            SupervisionSegment(
                id=utterance.id,
                recording_id=utterance.id,
                start=0.0,
                duration=duration,
                text=utterance.text,
                language="English",
                speaker=utterance.voice,
                gender=utterance.gender,
                custom={"snr": utterance.snr, "rate": utterance.rate, "pitch": utterance.pitch},
            )
        )
    manifests = {
        "recordings": RecordingSet.from_recordings(recordings),
        "supervisions": SupervisionSet.from_segments(supervisions),
    }
    for kind, manifest in manifests.items():
        with atomic_write(output_dir / split / f"{kind}.jsonl.gz") as unfinished:
            write_jsonl(unfinished, manifest.to_dicts())


def _audio_path(output_dir: Path, utterance: DigitUtterance) -> Path:
    return output_dir / "audio" / utterance.split / f"{utterance.id}.flac"


@cache
def _synthesizer() -> Synthesizer:
    return Synthesizer()


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(signal**2)))


def _loud(signal: np.ndarray) -> tuple[int, int]:
    """Begin and end of the speech without the synthesizer's own silence (1 % of the peak and below)."""
    loud = np.flatnonzero(np.abs(signal) > 0.01 * np.abs(signal).max())
    return int(loud[0]), int(loud[-1]) + 1


def _noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """A random mixture of white, pink and brown noise with unit RMS; their power falls as f^0, f^-1 and f^-2."""
    weights = rng.dirichlet(np.ones(3))
    # Below 50 Hz brown noise would put all of its power where no speech is.
    frequencies = np.maximum(np.fft.rfftfreq(num_samples, 1 / SAMPLING_RATE), 50.0)
    mixture = np.zeros(num_samples)
    for weight, exponent in zip(weights, (0, 1, 2)):
        spectrum = np.fft.rfft(rng.standard_normal(num_samples))
        color = np.fft.irfft(spectrum * frequencies ** (-exponent / 2), num_samples)
        mixture += np.sqrt(weight) * color / _rms(color)
    return mixture / _rms(mixture)


def add_sizes(options: CorpusParser, defaults: Mapping[str, int]) -> None:
    """Add the options of how many utterances the splits have."""
    for split, default in defaults.items():
        options.add_count(f"--num_{split}", help=f"utterances of {split} (default: {default})")


def given_sizes(args: argparse.Namespace) -> dict[str, int]:
    """The options of :func:`add_sizes` that are given, by name."""
    names = (f"num_{split}" for split in SPLITS)
    return {name: value for name in names if (value := getattr(args, name)) is not None}


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("digits", __doc__)
    add_sizes(options, {"train": DEFAULT_NUM_TRAIN, "dev": DEFAULT_NUM_DEV, "test": DEFAULT_NUM_TEST})
    return options


def _prepare(args: argparse.Namespace) -> None:
    prepare_digits(args.output_dir, **given_sizes(args), seed=args.seed, num_jobs=args.num_jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
