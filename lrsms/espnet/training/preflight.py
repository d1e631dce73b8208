"""What a training does before its first step: statistics, plan, cost, and the data checked against the model."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from espnet2.tasks import asr
from lhotse import CutSet
from torch import nn
from tqdm import tqdm

from lrsms.avsr.frames import SAMPLES
from lrsms.avsr.loading import Loader, count_frames
from lrsms.data.ctc import ctc_length_ok
from lrsms.data.excluded import Exclusion, print_summary, write_excluded
from lrsms.errors import LrsmsError
from lrsms.espnet.data.av_batches import VideoCheck, make_loader
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.models.cost import Cost, cost, sampling_rate
from lrsms.espnet.models.encoder_lengths import EncoderLength
from lrsms.espnet.models.rank_plan_file import save_plans
from lrsms.files import atomic_write, write_json
from lrsms.lowrank.plan import RankPlan
from lrsms.provenance import provenance

PREPARED = "prepared.json"
STATISTICS = "feats_stats.npz"


def exclusion_stage(args: argparse.Namespace) -> str:
    """The name under which this training's exclusions stand in ``excluded.tsv``."""
    return f"train {Path(args.output_dir).name}"


def prepare(model: nn.Module, args: argparse.Namespace, preprocess: Callable) -> None:
    """Check the data against the model, print and save the rank plan, and record what the model costs.

    Leaves ``rank_plan.yaml`` and ``prepared.json`` in the experiment's folder, and in ``excluded.tsv`` beside the
    cuts the utterances that CTC cannot align because they are shorter than their transcript.

    Raises:
        LrsmsError: no utterance is left.
    """
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    fs = sampling_rate(args.frontend_conf)
    frames = EncoderLength(model, fs)
    loader = make_loader(args, train=True)  # None for audio
    train = _exclude_too_short(Path(args.train_cuts), exclusion_stage(args), frames, preprocess, fs, loader)
    if args.valid_cuts is not None:
        _exclude_too_short(Path(args.valid_cuts), exclusion_stage(args), frames, preprocess, fs, loader)
    costs = cost(model, fs, train["tokens"] / train["seconds"])
    plans = rank_plans(model)
    save_plans(output_dir / "rank_plan.yaml", plans, asdict(costs))
    if not (output_dir / "checkpoint.pth").exists():  # not again when a run resumes
        for part, plan in plans.items():
            print(f"Rank plan of the {part} ({plan.config.of}, {plan.config.layer_map} map, {plan.config.init} init)")
            print(plan.table() + "\n")
    print(describe(costs), flush=True)
    data = {"train_hours": train["seconds"] / 3600, "train_utterances": train["cuts"]}
    prepared = {**asdict(costs), **data, **provenance()}
    write_json(output_dir / PREPARED, prepared)


@torch.no_grad()
def feature_statistics(args: argparse.Namespace) -> Path:
    """What ESPnet's pass over the audio leaves for ``normalize: global_mvn``, of the training's cuts.

    ``count``, ``sum`` and ``sum_square`` of the front-end's features, in ``feats_stats.npz`` of the experiment's
    folder; one that is there is taken as it is, so that a training that goes on sees the same features.

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
    total = squares = torch.zeros((), dtype=torch.double)
    cuts = CutSet.from_jsonl_lazy(args.train_cuts)
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


def _exclude_too_short(
    manifest: Path,
    stage: str,
    frames: EncoderLength,
    preprocess: Callable,
    fs: int,
    loader: Loader | None = None,
) -> dict:
    """List the cuts that are too short for CTC, and look at their video; returns totals over those kept."""
    if not manifest.exists():
        raise LrsmsError(f"{manifest}: no such manifest of cuts; run stage 1 first")
    excluded, kept = [], {"seconds": 0.0, "tokens": 0, "cuts": 0}
    cuts = CutSet.from_jsonl_lazy(manifest)
    video = VideoCheck(loader, manifest) if loader else None
    for cut in tqdm(cuts, desc=f"checking {manifest.parent.name}", unit="cut", leave=False, delay=2):
        if cut.sampling_rate != fs:
            raise LrsmsError(
                f"{manifest}: {cut.id} has {cut.sampling_rate} Hz, but frontend_conf.fs is {fs}; "
                f"run stage 1 with --fs {fs}, or change frontend_conf.fs"
            )
        tokens = preprocess(cut.id, {"text": cut.supervisions[0].text})["text"]
        if video is not None:
            video(cut)
        available = frames(cut.num_samples if video is None else count_frames(cut) * SAMPLES)
        if ctc_length_ok(tokens.tolist(), available):
            kept["seconds"] += cut.duration
            kept["tokens"] += len(tokens)
            kept["cuts"] += 1
        else:
            detail = f"{len(tokens)} tokens in {available} encoder frames ({cut.duration:.2f} s)"
            excluded.append(Exclusion(cut.id, "too_short_for_ctc", detail))
    write_excluded(manifest.parent / "excluded.tsv", stage, excluded)
    print_summary(manifest.parent.name, excluded)
    if video is not None:
        video.finish()
    if not kept["cuts"]:
        raise LrsmsError(f"{manifest}: every utterance is too short for its transcript; see excluded.tsv beside it")
    return kept
