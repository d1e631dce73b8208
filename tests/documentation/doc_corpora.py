"""A few utterances of noise in the layout of each corpus: what DIR stands for in the commands."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

_WORDS = (
    "BIN BLUE AT F TWO NOW",
    "LAY RED BY B ONE SOON",
    "SET GREEN IN C SIX AGAIN",
    "PLACE WHITE WITH D NINE PLEASE",
)


def write_sound(path: Path, seconds: float = 1.5, rate: int = 16000, seed: int = 0) -> None:
    """Noise in half a second's bursts, in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 0.05, round(seconds * rate)) * (1 + np.sin(np.arange(round(seconds * rate)) / rate * 12))
    soundfile.write(path, samples, rate)


def write_table(path: Path, rows: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {value}\n" for name, value in rows.items()))


def write_yesno(folder: Path) -> None:
    for seed, bits in enumerate(itertools.islice(itertools.product("01", repeat=8), 60)):
        write_sound(folder / "waves_yesno" / f"{'_'.join(bits)}.wav", seconds=2.0, rate=8000, seed=seed)


def write_speechocean762(folder: Path) -> None:
    for part, speakers in (("train", range(1000, 1016)), ("test", range(2000, 2003))):
        names = {f"{speaker}{index:02}": str(speaker) for speaker in speakers for index in range(2)}
        for seed, (name, speaker) in enumerate(names.items()):
            write_sound(folder / f"WAVE/SPEAKER{speaker}/{name}.WAV", seconds=4.0, seed=seed)
        wav = {name: f"WAVE/SPEAKER{speaker}/{name}.WAV" for name, speaker in names.items()}
        write_table(folder / part / "wav.scp", wav)
        text = {name: f"{_WORDS[at % 4]} {part.upper()}" for at, name in enumerate(names)}
        write_table(folder / part / "text", text)
        write_table(folder / part / "utt2spk", names)


def write_grid(folder: Path, write_talking_head: Callable) -> None:
    """Videos of one drawn face under the names of clips of speaker s1, some of each split."""
    from lrsms.data.corpora.grid import DEV_S1, TEST_S1

    head = write_talking_head(folder / "head.mp4", seconds=3.0)
    clips = [f"{first}bf{digit}n" for first in ("bba", "lrb", "sgi", "pww") for digit in range(1, 7)]
    clips += DEV_S1[:4] + TEST_S1[:6]
    for at, clip in enumerate(clips):
        (folder / "video/s1").mkdir(parents=True, exist_ok=True)
        shutil.copy(head, folder / f"video/s1/{clip}.mp4")
        (folder / "alignments/s1").mkdir(parents=True, exist_ok=True)
        (folder / f"alignments/s1/{clip}.align").write_text(
            "".join(
                f"{10000 * n} {10000 * n + 10000} {word}\n" for n, word in enumerate(_WORDS[at % 4].lower().split())
            )
        )


def write_librispeech(folder: Path, parts: tuple[str, ...]) -> None:
    """Utterances of random words: a tokenizer of 300 pieces needs a few thousand different ones."""
    rng = np.random.default_rng(0)
    for number, part in enumerate(parts):
        for speaker in range(100 * number + 100, 100 * number + 104):
            lines = []
            for index in range(10 if "train" in part else 2):
                name = f"{speaker}-1-{index:04}"
                write_sound(
                    folder / "LibriSpeech" / part / str(speaker) / "1" / f"{name}.flac", seconds=8.0, seed=index
                )
                words = ["".join(rng.choice(list("AEIOUBCDFGHLMNPRST"), rng.integers(2, 7))) for _ in range(12)]
                lines.append(f"{name} {' '.join(words)}\n")
            (folder / "LibriSpeech" / part / str(speaker) / "1" / f"{speaker}-1.trans.txt").write_text("".join(lines))


def write_own_data(folder: Path) -> None:
    """Kaldi's tables and Lhotse's manifests, in the same folders."""
    from lhotse import Recording, RecordingSet, SupervisionSegment, SupervisionSet

    for split, count in (("train", 16), ("dev", 4), ("test", 4)):
        wav = {f"{split}-{index}": folder / split / f"{split}-{index}.wav" for index in range(count)}
        for seed, path in enumerate(wav.values()):
            write_sound(path, seconds=2.0, seed=seed)
        text = {name: _WORDS[at % 4] for at, name in enumerate(wav)}
        write_table(folder / split / "wav.scp", {name: str(path) for name, path in wav.items()})
        write_table(folder / split / "text", text)
        write_table(folder / split / "utt2spk", dict.fromkeys(wav, f"{split}-speaker"))
        recordings = [Recording.from_file(path, recording_id=name) for name, path in wav.items()]
        segments = [
            SupervisionSegment(name, name, 0.0, 2.0, text=text[name], speaker=f"{split}-speaker") for name in wav
        ]
        RecordingSet.from_recordings(recordings).to_file(folder / split / "recordings.jsonl.gz")
        SupervisionSet.from_segments(segments).to_file(folder / split / "supervisions.jsonl.gz")


def write_arabic_commands(folder: Path) -> None:
    """Six words of each of six speakers, of noise in the middle of a second."""
    rows = ["path\tsplit\tspeaker\tkeyword"]
    for speaker, split in enumerate(("train", "train", "train", "train", "val", "test")):
        for word in ("backward", "zoom in", "yes", "no", "up", "down"):
            write_sound(folder / "clips" / word / f"{speaker}_NO_01.wav", seconds=1.0, seed=speaker)
            rows.append(f"{word}/{speaker}_NO_01\t{split}\t{speaker}\t{word}")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n")


def write_commonvoice(folder: Path) -> None:
    """Sentences of enough different words for a tokenizer of 128 pieces, in one table."""
    rng, rows = np.random.default_rng(0), ["id\tsplit\ttext"]
    for split, count in (("train", 24), ("dev", 2), ("test", 2)):
        for index in range(count):
            write_sound(folder / f"clips/{split}{index}.wav", seconds=6.0, seed=index)
            words = ["".join(rng.choice(list("aeioubcdfghlmnprst"), rng.integers(2, 7))) for _ in range(10)]
            rows.append(f"{split}{index}\t{split}\t{' '.join(words)}")
    (folder / "clips.tsv").write_text("\n".join(rows) + "\n")


def write_corpus(corpus: str, folder: Path, write_talking_head: Callable) -> None:
    """Write what ``egs/<corpus>/*/run.sh`` takes as its DIR."""
    if corpus == "grid":
        write_grid(folder, write_talking_head)
    elif corpus == "librispeech":
        write_librispeech(folder, ("train-clean-100", "dev-clean", "dev-other", "test-clean", "test-other"))
    else:
        writers = {"yesno": write_yesno, "speechocean762": write_speechocean762, "own_data": write_own_data}
        writers |= {"arabic_commands": write_arabic_commands, "commonvoice": write_commonvoice}
        writers[corpus](folder)
