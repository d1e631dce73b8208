"""ESPnet's trainer with a progress bar and a checkpoint that survives a kill. The training loop is ESPnet's."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from espnet2.train import trainer
from espnet2.train.trainer import Trainer
from tqdm import tqdm

from lrsms.espnet.checkpoints.checkpoint import keep_previous, repair
from lrsms.espnet.training.preflight import PREPARED


def is_main_process() -> bool:
    """True in the only process, or in rank 0 of several."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


class LowRankTrainer(Trainer):
    """Plugged into the task through ESPnet's own hook, the task's ``trainer`` attribute."""

    progress: tqdm | None = None

    @classmethod
    def run(cls, *args, trainer_options, **kwargs) -> None:
        """Repair what a killed run left, then train."""
        if trainer_options.resume and is_main_process():
            repair(Path(trainer_options.output_dir))
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        try:
            with _averages_apart():
                super().run(*args, trainer_options=trainer_options, **kwargs)
        finally:
            # A bar that is still open when the interpreter ends draws itself among modules already torn down, and
            # Python 3.13 then crashes.
            if cls.progress is not None:
                cls.progress.close()

    @classmethod
    def train_one_epoch(cls, *, iterator, reporter, options, **kwargs) -> bool:
        """Move the bar of the whole training on the main process while ESPnet's loop runs.

        ``use_amp`` on a CPU, where ESPnet's has no effect, computes in bfloat16: processors with AMX do that twice as
        fast.
        """
        if is_main_process():
            keep_previous(Path(options.output_dir))
            iterator = cls._with_progress(iterator, reporter.epoch, options)
        on_cpu = options.use_amp and not options.ngpu
        with torch.autocast("cpu", torch.bfloat16, enabled=on_cpu):
            return super().train_one_epoch(
                iterator=_with_fresh_weights(iterator), reporter=reporter, options=options, **kwargs
            )

    @classmethod
    def _with_progress(cls, batches: Iterable, epoch: int, options) -> Iterator:
        utterances = _utterances_per_epoch(Path(options.output_dir))
        if cls.progress is None or cls.progress.disable:
            cls.progress = tqdm(
                total=options.max_epoch * utterances,
                initial=(epoch - 1) * utterances,
                unit="utt",
                dynamic_ncols=True,
                mininterval=1.0,
            )
        cls.progress.set_description(f"epoch {epoch}/{options.max_epoch}")
        for ids, batch in batches:
            yield ids, batch
            cls.progress.update(len(ids))
        cls.progress.update(epoch * utterances - cls.progress.n)


def _with_fresh_weights(batches: Iterable) -> Iterator:
    """Forget the rounded weights of the step before, which autocast would keep until the epoch ends.

    That ``cache_enabled=False`` is not enough: ESPnet opens a context of its own for each batch, which turns it on.
    """
    for batch in batches:
        torch.clear_autocast_cache()
        yield batch


@contextmanager
def _averages_apart() -> Iterator[None]:
    """Have ESPnet make each of its averages of checkpoints by itself.

    Of several (two criteria, or ``keep_nbest_models: [5, 10]``), 202511 begins all but the first with what it has
    summed up for the one before.
    """
    average = trainer.average_nbest_models

    def each(reporter, best_model_criterion: Sequence, nbest: int | Collection[int], **others) -> None:
        numbers = sorted([nbest] if isinstance(nbest, int) else nbest)
        for criterion in best_model_criterion:
            phase, key = criterion[:2]
            if reporter.has(phase, key):
                epochs = len(reporter.sort_epochs_and_values(*criterion))
                for number in [number for number in numbers if number <= epochs] or [1]:
                    average(reporter=reporter, best_model_criterion=[criterion], nbest=number, **others)

    trainer.average_nbest_models = each
    try:
        yield
    finally:
        trainer.average_nbest_models = average


def _utterances_per_epoch(folder: Path) -> int:
    """Of this process: each of several that train together has its share."""
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    return json.loads((folder / PREPARED).read_text())["train_utterances"] // processes
