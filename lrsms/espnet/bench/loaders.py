"""Ways to batches of a split: this package's, straight from cuts, and ESPnet's, through a dump and statistics."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import soundfile
from espnet2.tasks import asr
from espnet2.train.distributed_utils import DistributedOption
from tqdm import tqdm

from lrsms.data.cut_files import read_cuts
from lrsms.espnet.training.task import ASRTask
from lrsms.quiet import nothing_printed
from lrsms.text_files import read_lines

Batches = Iterable[tuple[list[str], dict]]


def _options(task: type[ASRTask], tokens: Path, num_workers: int, **overrides) -> argparse.Namespace:
    defaults = vars(task.get_parser().parse_args([]))
    token_list = read_lines(tokens)
    fixed = {
        "token_type": "char",
        "token_list": token_list,
        "num_workers": num_workers,
        "output_dir": "none",
        "ngpu": 0,
    }
    return argparse.Namespace(**(defaults | fixed | overrides))


class FromCuts:
    """This package's way.

    Args:
        cuts: manifest of stage 1.
        tokens: token list of characters.
        max_duration: seconds of audio in a batch.
        num_workers: processes that load audio.
    """

    def __init__(self, cuts: Path, tokens: Path, max_duration: float, num_workers: int = 0):
        self.cuts = cuts
        self.args = _options(
            ASRTask, tokens, num_workers, train_cuts=str(cuts), max_duration=max_duration, iterator_type="task"
        )

    def batches(self, epoch: int = 1) -> Batches:
        """One epoch of training."""
        options = ASRTask.build_iter_options(self.args, DistributedOption(), "train")
        return ASRTask.build_task_iter_factory(self.args, options, "train").build_iter(epoch)

    def count(self) -> int:
        """Cuts of the manifest, read once from one end to the other."""
        return sum(1 for _ in read_cuts(self.cuts))


class FromDump:
    """ESPnet's way: audio and text files listed by utterance, lengths and statistics collected, then its own iterator.

    Args:
        folder: for the dump and the statistics.
        tokens: token list of characters.
        max_duration: seconds of audio in a batch (``batch_type: numel``, ``batch_bins`` samples).
        num_workers: processes that load audio.
    """

    def __init__(self, folder: Path, tokens: Path, max_duration: float, num_workers: int = 0):
        self.folder, self.tokens, self.max_duration, self.num_workers = folder, tokens, max_duration, num_workers

    def dump(self, cuts: Path) -> None:
        """Write FLAC, ``wav.scp`` and ``text``; one utterance of them again for validation, which ESPnet wants."""
        chosen = list(read_cuts(cuts))
        for split, members in (("train", chosen), ("valid", chosen[:1])):
            folder = self.folder / split
            folder.mkdir(parents=True, exist_ok=True)
            with open(folder / "wav.scp", "w") as sound, open(folder / "text", "w", encoding="utf-8") as text:
                for cut in tqdm(members, desc=f"dump of {split}", unit="utt", leave=False, delay=2):
                    path = folder / f"{cut.id}.flac"
                    soundfile.write(path, cut.load_audio()[0], cut.sampling_rate)
                    sound.write(f"{cut.id} {path}\n")
                    text.write(f"{cut.id} {cut.supervisions[0].text}\n")

    def collect(self, config: Path) -> None:
        """ESPnet's pass over the audio for lengths and statistics.

        Args:
            config: training YAML, for its front-end.
        """
        data = [
            word
            for split in ("train", "valid")
            for name, key, kind in (("wav.scp", "speech", "sound"), ("text", "text", "text"))
            for word in (f"--{split}_data_path_and_name_and_type", f"{self.folder / split / name},{key},{kind}")
        ]
        options = ["--collect_stats", "true", "--config", str(config), "--output_dir", str(self.folder / "stats")]
        options += ["--token_list", str(self.tokens), "--token_type", "char", "--ngpu", "0", "--num_workers", "0"]
        with nothing_printed():
            asr.ASRTask.main(cmd=options + data)

    def batches(self, epoch: int = 1) -> Batches:
        """One epoch of training."""
        files = [
            (str(self.folder / "train" / "wav.scp"), "speech", "sound"),
            (str(self.folder / "train" / "text"), "text", "text"),
        ]
        shapes = [str(self.folder / "stats" / "train" / f"{name}_shape") for name in ("speech", "text")]
        more = {"train_data_path_and_name_and_type": files, "train_shape_file": shapes, "batch_type": "numel"}
        args = _options(asr.ASRTask, self.tokens, self.num_workers, batch_bins=round(self.max_duration * 16000), **more)
        return asr.ASRTask.build_iter_factory(args, DistributedOption(), "train").build_iter(epoch)
