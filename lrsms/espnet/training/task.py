"""ESPnet's ASR task with Lhotse cuts as its data (``iterator_type: task``) and our trainer hooks."""

from __future__ import annotations

import argparse
import multiprocessing
from pathlib import Path

import torch
from espnet2.tasks import asr
from espnet2.utils.nested_dict_action import NestedDictAction

import lrsms.espnet  # noqa: F401  (processes that ESPnet spawns import this module, and must register)
from lrsms.errors import LrsmsError
from lrsms.espnet.data.av_batches import make_loader
from lrsms.espnet.data.cut_batches import CutsDataset, CutsIterFactory, load_waveform, usable_cuts
from lrsms.espnet.training.distillation import DEFAULTS, attach_teacher
from lrsms.espnet.training.edit_distance import provide_editdistance
from lrsms.espnet.training.preflight import STATISTICS, log_to_file, wants_statistics
from lrsms.espnet.training.rehearsal import EXCLUDED
from lrsms.espnet.training.trainer import LowRankTrainer
from lrsms.processes import be_helper


class ASRTask(asr.ASRTask):
    """``espnet2.tasks.asr.ASRTask`` that trains from Lhotse cuts, once :mod:`lrsms.espnet.training.preflight` is done.

    Options beside ESPnet's: ``--train_cuts``, ``--valid_cuts`` (manifests), ``--max_duration`` (seconds of audio per
    batch and process), ``--num_buckets``; ``--av_conf``, see :mod:`lrsms.avsr.config`; ``--distill_*``, see
    :mod:`lrsms.espnet.training.distillation`; ``--warmup_epochs``, of which
    :class:`lrsms.espnet.training.run.Training` makes two trainings.
    """

    trainer = LowRankTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        super().add_task_arguments(parser)
        parser.set_defaults(iterator_type="task", **DEFAULTS)
        group = parser.add_argument_group(description="Lhotse cuts as training data")
        group.add_argument("--train_cuts", default=None, help="manifest of cuts to train on")
        group.add_argument("--valid_cuts", default=None, help="manifest of cuts to validate on")
        group.add_argument("--max_duration", type=float, default=60.0, help="seconds of audio per batch and process")
        group.add_argument(
            "--av_conf", action=NestedDictAction, default={}, help="noise, crops and masks of audio-visual data"
        )
        group.add_argument("--warmup_epochs", type=int, default=0, help="of max_epoch, trained dense (lrsms.bin.train)")
        group.add_argument("--distill_from", default=None, help="checkpoint of a teacher, config.yaml beside it")
        group.add_argument("--distill_weight", type=float, help="share of the teacher in the loss")
        group.add_argument("--distill_temperature", type=float)
        group.add_argument("--distill_encoder_weight", type=float, help="of the encoders' relative error")
        group.add_argument("--num_buckets", type=int, default=10, help="cuts of similar duration share a batch")

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Send ESPnet's log of the main process to ``train.log``, so that the terminal keeps its progress bar."""
        if multiprocessing.parent_process() is not None:  # one of several GPUs'
            be_helper()
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        rank = getattr(args, "dist_rank", None) or 0
        if rank == 0 and not args.dry_run:
            log_to_file(args)
        provide_editdistance()
        super().main_worker(args)

    @classmethod
    def build_model(cls, args: argparse.Namespace):
        """Build the model, with its teacher if it has one.

        ``normalize: global_mvn`` without a ``stats_file`` takes the statistics in the experiment's folder.
        """
        if args.train_cuts is not None and wants_statistics(args):
            args.normalize_conf = {**args.normalize_conf, "stats_file": str(Path(args.output_dir) / STATISTICS)}
        model = super().build_model(args)
        if args.train_cuts is not None and args.distill_from is not None:
            weights = (args.distill_weight, args.distill_temperature, args.distill_encoder_weight)
            attach_teacher(model, Path(args.distill_from), *weights)
        return model

    @classmethod
    def build_task_iter_factory(cls, args: argparse.Namespace, iter_options, mode: str) -> CutsIterFactory:
        """ESPnet's hook for data of one's own; ``mode`` is ``train``, ``valid`` or ``plot_att``."""
        if args.num_iters_per_epoch is not None:
            raise LrsmsError("num_iters_per_epoch: not available with Lhotse cuts; an epoch is one pass over the cuts")
        train = mode == "train"
        option = "train_cuts" if train else "valid_cuts"
        if getattr(args, option) is None:
            raise LrsmsError(f"--{option}: a manifest of cuts is needed")
        distributed = iter_options.distributed and torch.distributed.is_initialized()
        return CutsIterFactory(
            usable_cuts(Path(getattr(args, option)), Path(args.output_dir) / EXCLUDED, option),
            CutsDataset(
                iter_options.preprocess_fn, iter_options.collate_fn, make_loader(args, train=train) or load_waveform
            ),
            max_duration=args.max_duration,
            num_buckets=args.num_buckets,
            shuffle=train,
            seed=args.seed,
            rank=torch.distributed.get_rank() if distributed else 0,
            world_size=torch.distributed.get_world_size() if distributed else 1,
            num_workers=args.num_workers,
            pin_memory=args.ngpu > 0,
            epochs_before=args.warmup_epochs,
        )
