"""What a training does before its first step: statistics, plan, cost, and the data checked against the model."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.tasks import asr
from espnet2.torch_utils.set_all_random_seed import set_all_random_seed
from lhotse.cut import Cut
from torch import nn
from tqdm import tqdm

from lrsms.avsr.frames import SAMPLES
from lrsms.avsr.loading import count_frames
from lrsms.data.ctc import ctc_length_ok
from lrsms.data.cut_files import read_cuts
from lrsms.data.excluded import Exclusion, print_summary, write_excluded
from lrsms.errors import LrsmsError
from lrsms.espnet.config import sampling_rate
from lrsms.espnet.data.av_batches import VideoCheck, make_loader
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.models.cost import Cost, cost
from lrsms.espnet.models.encoder_lengths import EncoderLength
from lrsms.espnet.models.rank_plan_file import save_plans
from lrsms.espnet.training.rehearsal import EXCLUDED, Rehearsal
from lrsms.files import atomic_write, write_json
from lrsms.lowrank.plan import RankPlan
from lrsms.provenance import provenance

PREPARED = "prepared.json"
STATISTICS = "feats_stats.npz"


def prepare(args: argparse.Namespace, task: Any, path: Path, processes: int = 1) -> None:
    """Check the data against the model, print and save the rank plan, and record what the model costs.

    One process does it before the training, whose processes build the model anew. It leaves ``rank_plan.yaml`` and
    ``prepared.json`` in the experiment's folder, in ``excluded.tsv`` the utterances that CTC cannot align because they
    are shorter than their transcript, and for ``normalize: global_mvn`` without a ``stats_file`` the statistics of
    ``train_cuts``.

    Args:
        args: of the task, with ``train_cuts`` and ``output_dir``.
        task: :class:`lrsms.espnet.training.task.ASRTask`, which builds the model.
        path: the training YAML that ``args`` come from.
        processes: that train together.

    Raises:
        LrsmsError: no utterance is left, or the config makes no training (:mod:`lrsms.espnet.training.rehearsal`).
    """
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    if not args.dry_run:
        log_to_file(args)
    if wants_statistics(args):
        feature_statistics(args)
    set_all_random_seed(args.seed)
    rehearsal = Rehearsal(args, task, path)
    model = rehearsal.build()
    check = _LengthCheck(args, rehearsal.lengths(model), task.build_preprocess_fn)
    train = check("train_cuts")
    if args.valid_cuts is not None:
        check("valid_cuts")
    costs = cost(model, check.fs, train.tokens / train.seconds)
    plans = rank_plans(model)
    rehearsal.run(model, processes)
    save_plans(output_dir / "rank_plan.yaml", plans, asdict(costs))
    if not (output_dir / "checkpoint.pth").exists():  # not again when a run resumes
        for part, plan in plans.items():
            print(f"Rank plan of the {part} ({plan.config.of}, {plan.config.layer_map} map, {plan.config.init} init)")
            print(plan.table() + "\n")
    print(describe(costs), flush=True)
    data = {"train_hours": train.seconds / 3600, "train_utterances": train.cuts}
    write_json(output_dir / PREPARED, {**asdict(costs), **data, **provenance()})


def log_to_file(args: argparse.Namespace) -> None:
    """Send ESPnet's log to ``train.log`` of the experiment, so that the terminal keeps its progress bar.

    Args:
        args: of the task, with ``output_dir``, whose folder exists, and ``log_level``.
    """
    logging.basicConfig(
        filename=Path(args.output_dir) / "train.log",
        level=args.log_level,
        format="%(asctime)s (%(module)s:%(lineno)d) %(levelname)s: %(message)s",
    )


def wants_statistics(args: argparse.Namespace) -> bool:
    """Whether the model normalizes by statistics that the training's cuts are to give."""
    return args.normalize == "global_mvn" and "stats_file" not in args.normalize_conf


@torch.no_grad()
def feature_statistics(args: argparse.Namespace) -> Path:
    """What ESPnet's pass over the audio leaves for ``normalize: global_mvn``, of the training's cuts.

    ``count``, ``sum`` and ``sum_square`` of the front-end's features, in ``feats_stats.npz`` of the experiment's
    folder; a file from before is taken as it is, so that a training that goes on sees the same features.

    Args:
        args: of the task, with ``train_cuts``, ``frontend`` and ``output_dir``.

    Raises:
        LrsmsError: no front-end, whose features would have statistics.
    """
    path = Path(args.output_dir) / STATISTICS
    if path.exists():
        return path
    if args.input_size is not None or args.frontend is None:
        raise LrsmsError("normalize: global_mvn: no frontend whose features to count; give normalize_conf.stats_file")
    frontend = asr.frontend_choices.get_class(args.frontend)(**args.frontend_conf).eval()
    count = 0
    total: Any = 0.0
    squares: Any = 0.0
    cuts = read_cuts(Path(args.train_cuts))
    for cut in tqdm(cuts, desc="feature statistics", unit="cut", leave=False, delay=2):
        speech = torch.from_numpy(load_waveform(cut)).unsqueeze(0)
        features = frontend(speech, torch.tensor([speech.shape[1]]))[0][0].double()
        count += len(features)
        total, squares = total + features.sum(0), squares + features.square().sum(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as unfinished:
        np.savez(unfinished, count=count, sum=total.numpy(), sum_square=squares.numpy())
    return path


def rank_plans(model: nn.Module) -> dict[str, RankPlan]:
    """The plans of the model's low-rank parts, by part."""
    parts = {"encoder": model.encoder, "decoder": model.decoder, "ctc": model.ctc}
    plans = {part: module.rank_plan for part, module in parts.items() if hasattr(module, "rank_plan")}
    return {part: plan for part, plan in plans.items() if part != "ctc" or plan.config.ratios or plan.config.ranks}


def describe(costs: Cost) -> str:
    """One line: parameters and MACs, against dense."""
    return (
        f"{costs.parameters / 1e6:.2f} M parameters "
        f"({costs.dense_parameters / costs.parameters:.2f}x fewer than dense's "
        f"{costs.dense_parameters / 1e6:.2f} M), {costs.macs_per_second / 1e6:.0f} MMACs per second of audio "
        f"({costs.dense_macs_per_second / costs.macs_per_second:.2f}x fewer)"
    )


@dataclass
class _Totals:
    """What is left of a split: seconds of speech, tokens and cuts."""

    seconds: float = 0.0
    tokens: int = 0
    cuts: int = 0


class _LengthCheck:
    """Lists the cuts of a split that are too short for CTC, and looks at their video."""

    def __init__(self, args: argparse.Namespace, frames: EncoderLength, build_preprocess_fn: Callable):
        self.args, self.frames = args, frames
        self.preprocess = build_preprocess_fn(args, train=False)
        self.fs = sampling_rate(args.frontend_conf)
        self.loader = make_loader(args, train=True)  # None for audio

    def __call__(self, option: str) -> _Totals:
        """Check the manifest that ``option`` names (``train_cuts``, ``valid_cuts``); returns what is left of it."""
        manifest = Path(getattr(self.args, option))
        excluded, left = [], _Totals()
        video = VideoCheck(self.loader, manifest) if self.loader else None
        cuts = read_cuts(manifest)
        for cut in tqdm(cuts, desc=f"checking {manifest.parent.name}", unit="cut", leave=False, delay=2):
            self._check_rate(cut, manifest)
            tokens = self.preprocess(cut.id, {"text": cut.supervisions[0].text})["text"]
            if video is not None:
                video(cut)
            available = self.frames(cut.num_samples if video is None else count_frames(cut) * SAMPLES)
            if ctc_length_ok(tokens.tolist(), available):
                left.seconds += cut.duration
                left.tokens += len(tokens)
                left.cuts += 1
            else:
                detail = f"{len(tokens)} tokens in {available} encoder frames ({cut.duration:.2f} s)"
                excluded.append(Exclusion(cut.id, "too_short_for_ctc", detail))
        listed = Path(self.args.output_dir) / EXCLUDED
        write_excluded(listed, option, excluded)
        print_summary(manifest.parent.name, excluded)
        if video is not None:
            video.finish()
        if not left.cuts:
            raise LrsmsError(f"{manifest}: every utterance is too short for its transcript; see {listed}")
        return left

    def _check_rate(self, cut: Cut, manifest: Path) -> None:
        if cut.sampling_rate != self.fs:
            raise LrsmsError(
                f"{manifest}: {cut.id} has {cut.sampling_rate} Hz, but frontend_conf.fs is {self.fs}; "
                f"run stage 1 with --fs {self.fs}, or change frontend_conf.fs"
            )
