"""Lhotse cuts straight into ESPnet's trainer: no dump folder, no shape files, no statistics pass.

Dimensions: B utterances in a batch, T samples (or frames of D numbers) of the longest, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler

from lrsms.data.cut_files import read_cuts
from lrsms.data.excluded import read_excluded
from lrsms.errors import LrsmsError

Batch = tuple[list[str], dict[str, torch.Tensor]]


def load_waveform(cut: Cut) -> np.ndarray:
    """The samples of a cut, ``(T,)``."""
    return cut.load_audio()[0]


class CutsDataset(torch.utils.data.Dataset):
    """Turns the cuts of a mini-batch into ``(ids, {speech (B, T), speech_lengths, text (B, L), text_lengths})``.

    Speech is ``(B, T, D)`` if ``load`` gives an array of two dimensions. The longest comes first, as ESPnet's own
    batches have it: its LSTM encoders need that.

    Args:
        preprocess: ESPnet's preprocessor, ``(id, {"speech", "text"}) -> {"speech", "text"}`` as arrays.
        collate: ESPnet's collate function, which pads speech with 0 and text with -1.
        load: a cut to its speech, ``(T,)`` or ``(T, D)``.
    """

    def __init__(self, preprocess: Callable, collate: Callable, load: Callable[[Cut], np.ndarray] = load_waveform):
        self.preprocess, self.collate, self.load = preprocess, collate, load

    def set_epoch(self, epoch: int) -> None:
        """Training draws anew in every epoch what is random in ``load``."""
        if hasattr(self.load, "epoch"):
            self.load.epoch = epoch

    @torch.autocast("cpu", enabled=False)  # a worker that is forked within one would change speeds in bfloat16
    def __getitem__(self, cuts: CutSet) -> Batch:
        loaded = [(cut, self.load(cut)) for cut in sorted(cuts, key=lambda cut: -cut.num_samples)]
        samples = []
        for cut, speech in sorted(loaded, key=lambda pair: -len(pair[1])):
            data = {"speech": speech, "text": cut.supervisions[0].text}
            samples.append((cut.id, self.preprocess(cut.id, data)))
        return self.collate(samples)


class CutsIterFactory(AbsIterFactory):
    """Mini-batches of one split, bucketed by duration, the same order for the same seed and epoch.

    Args:
        cuts: the split's cuts, see :func:`usable_cuts`.
        dataset: what turns cuts into batches.
        max_duration: seconds of audio per batch and process, padding counted; the last cut of a batch may pass it
            if it is longer than the others.
        num_buckets: cuts of similar duration share a batch; more buckets, less padding. Fewer cuts than this
            share two buckets.
        shuffle: whether the order changes with the epoch.
        seed: of the order.
        rank, world_size: this process among those that train together.
        num_workers: processes that load audio ahead.
        pin_memory: for copies to a GPU.
        epochs_before: that the model has had in a training before this one: the first epoch here is the next.
    """

    def __init__(
        self,
        cuts: CutSet,
        dataset: CutsDataset,
        *,
        max_duration: float,
        num_buckets: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
        epochs_before: int = 0,
    ):
        self.cuts, self.dataset = cuts, dataset
        self.max_duration, self.num_buckets = max_duration, num_buckets
        self.shuffle, self.seed = shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.num_workers, self.pin_memory = num_workers, pin_memory
        self.epochs_before = epochs_before

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> Iterator[Batch]:
        """One pass over the split. A fresh sampler each time: the order depends on seed and epoch alone."""
        epoch += self.epochs_before
        self.dataset.set_epoch(epoch)
        return torch.utils.data.DataLoader(
            self.dataset,
            sampler=self.sampler(epoch, shuffle),
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=self.pin_memory,
        )

    def sampler(self, epoch: int, shuffle: bool | None = None) -> DynamicBucketingSampler:
        """The cuts of each batch of one pass."""
        head = list(islice(self.cuts, self.num_buckets))
        sampler = DynamicBucketingSampler(
            self.cuts,
            max_duration=self.max_duration,
            num_buckets=self.num_buckets,
            # Lhotse refuses to spread fewer cuts than buckets: two will do for them.
            duration_bins=[head[0].duration] if len(head) < self.num_buckets else None,
            shuffle=self.shuffle if shuffle is None else shuffle,
            seed=self.seed,
            rank=self.rank,
            world_size=self.world_size,
        )
        sampler.set_epoch(epoch)
        return sampler


def usable_cuts(path: Path, listed: Path, stage: str) -> CutSet:
    """The cuts of a manifest, less those that a training has excluded.

    Args:
        path: manifest of cuts.
        listed: the training's ``excluded.tsv``; if there is none, nothing is excluded.
        stage: whose exclusions count, as in the column of that name: ``train_cuts`` or ``valid_cuts``.

    Raises:
        LrsmsError: the manifest is missing or has no cut left.
    """
    excluded = {row.id for row in read_excluded(listed, stage)}
    cuts = read_cuts(path)
    if excluded:
        cuts = cuts.filter(lambda cut: cut.id not in excluded)
    if next(iter(cuts), None) is None:
        raise LrsmsError(f"{path}: no cut is left to train on; {len(excluded)} are excluded, see {listed}")
    return cuts
