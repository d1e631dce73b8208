"""The embedded audio-visual corpus: spoken digit strings (:mod:`lrsms.data.corpora.digits`), clean, with a drawn mouth.

Each voice has a face, each utterance a scene (:mod:`lrsms.avsr.talking_mouth`); the lips follow the synthesizer's
phoneme times (:mod:`lrsms.avsr.visemes`). No voice, and so no face, is in more than one split. There is no noise in the
sound: training and decoding mix in babble at the ratio they ask for. An utterance depends on ``(seed, split, index)``
alone.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lrsms.command_line import run_verb
from lrsms.data.corpora.digits import (
    SAMPLING_RATE,
    SPLITS,
    DigitUtterance,
    add_sizes,
    clear,
    design_corpus,
    given_sizes,
    in_processes,
    save_audio,
    say,
    write_manifests,
)
from lrsms.data.corpus_command import CorpusParser, run_corpus
from lrsms.data.espeak import Phoneme
from lrsms.data.video_clock import FRAME_RATE
from lrsms.errors import LrsmsError
from lrsms.files import atomic_write

DEFAULT_NUM_TRAIN = 960
DEFAULT_NUM_DEV = 80
DEFAULT_NUM_TEST = 200
DEFAULT_SIZE = 56  # pixels of a region's side; models take a window of 48
_SMALLEST = 24  # pixels


def talk(utterance: DigitUtterance) -> tuple[np.ndarray, list[Phoneme], float]:
    """The sound of an utterance, clean, with its silences: ``(samples,)`` float64 at 16 kHz.

    Returns:
        The samples, the phonemes with their starts in seconds, and the end of the last one.
    """
    speech, phonemes = say(utterance)
    silences = [round(seconds * SAMPLING_RATE) for seconds in (utterance.leading_silence, utterance.trailing_silence)]
    begin, end = silences[0] / SAMPLING_RATE, (silences[0] + len(speech)) / SAMPLING_RATE
    samples = np.pad(speech, silences)
    moved = [Phoneme(phoneme.symbol, phoneme.start + begin) for phoneme in phonemes]
    return samples * min(1.0, 0.99 / np.abs(samples).max()), moved, end


def show(utterance: DigitUtterance, phonemes: list[Phoneme], end: float, num_samples: int, size: int) -> np.ndarray:
    """The mouth of an utterance: gray, uint8 ``(frames, size, size)``, 25 frames per second.

    A frame shows the mouth as it is in the frame's middle.
    """
    from lrsms.avsr.seeds import rng_for
    from lrsms.avsr.talking_mouth import draw, random_face, random_scene
    from lrsms.avsr.visemes import trajectory

    frames = max(1, round(num_samples / SAMPLING_RATE * FRAME_RATE))
    shapes = trajectory(phonemes, end, (np.arange(frames) + 0.5) / FRAME_RATE)
    face = random_face(rng_for("face", utterance.voice))
    scene = random_scene(rng_for("scene", utterance.noise_seed))
    return draw(shapes, face, scene, size=size, frame_rate=FRAME_RATE)


def prepare_talking_digits(
    output_dir: Path,
    *,
    num_train: int = DEFAULT_NUM_TRAIN,
    num_dev: int = DEFAULT_NUM_DEV,
    num_test: int = DEFAULT_NUM_TEST,
    size: int = DEFAULT_SIZE,
    seed: int = 0,
    num_jobs: int = 2,
) -> None:
    """Generate the corpus.

    Writes ``output_dir/audio/<split>/<id>.flac``, ``output_dir/mouth/<size>/<id>.npy``, and when all exist the
    manifests of each split and ``output_dir/mouths.png``, a contact sheet.

    Args:
        num_train, num_dev, num_test: utterances per split, about two seconds each.
        size: pixels of a mouth region's side.
        seed: the same seed gives the same corpus bit for bit.
        num_jobs: processes.

    Raises:
        LrsmsError: a number out of range, or ``espeakng-loader`` is missing.
    """
    if size < _SMALLEST:
        raise LrsmsError(f"--mouth_size {size}: must be at least {_SMALLEST} pixels; lips are a blur below")
    output_dir = Path(output_dir)
    sizes = {"train": num_train, "dev": num_dev, "test": num_test}
    utterances = [replace(utterance, snr=None) for utterance in design_corpus(sizes, seed, num_jobs)]
    clear(output_dir)
    folder = _regions_folder(output_dir, size)
    folder.mkdir(parents=True, exist_ok=True)
    lengths = in_processes(_Writer(size), output_dir, utterances, num_jobs, "synthesizing talking digits")
    _write(output_dir, utterances, lengths, size)


class _Writer:
    """Writes sound and regions of an utterance; returns samples and frames. A class, so that processes can have it."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, output_dir: Path, utterance: DigitUtterance) -> tuple[int, int]:
        samples, phonemes, end = talk(utterance)
        save_audio(output_dir, utterance, samples)
        regions = show(utterance, phonemes, end, len(samples), self.size)
        path = _regions_folder(output_dir, self.size) / f"{utterance.id}.npy"
        with atomic_write(path) as unfinished:
            np.save(unfinished, regions, allow_pickle=False)
        return len(samples), len(regions)


def _regions_folder(output_dir: Path, size: int) -> Path:
    return output_dir / "mouth" / str(size)


def _write(output_dir: Path, utterances: list[DigitUtterance], lengths: list[tuple[int, int]], size: int) -> None:
    # Here, so that the synthesizing processes need not wait for Lhotse and torch.
    from lrsms.avsr.extract import contact_sheet
    from lrsms.data.mouths import describe, write_manifest

    folder, every = _regions_folder(output_dir, size), {}
    for split in SPLITS:
        rows = [(u, *length) for u, length in zip(utterances, lengths) if u.split == split]
        mouths = {u.id: describe(folder / f"{u.id}.npy", (frames, size, size)) for u, _, frames in rows}
        every.update(mouths)
        write_manifest(output_dir / split, mouths)
        write_manifests(output_dir, split, [(u, samples) for u, samples, _ in rows])
    contact_sheet(output_dir / "mouths.png", every)
    print(f"talking_digits: {len(every)} utterances; look at {output_dir / 'mouths.png'}")


def parser() -> CorpusParser:
    """Options of the command."""
    options = CorpusParser("talking_digits", __doc__)
    add_sizes(options, {"train": DEFAULT_NUM_TRAIN, "dev": DEFAULT_NUM_DEV, "test": DEFAULT_NUM_TEST})
    options.add_count("--mouth_size", help=f"pixels of a mouth region's side (default: {DEFAULT_SIZE})")
    return options


def _prepare(args: argparse.Namespace) -> None:
    size = DEFAULT_SIZE if args.mouth_size is None else args.mouth_size
    prepare_talking_digits(args.output_dir, **given_sizes(args), size=size, seed=args.seed, num_jobs=args.num_jobs)


def main(argv: Sequence[str] | None = None) -> None:
    """Run stage 0 with the options ``argv``, by default those of the command line."""
    run_corpus(parser(), _prepare, argv)


if __name__ == "__main__":
    run_verb(main)
