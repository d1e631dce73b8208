#!/usr/bin/env python3
"""RESULTS.md and RESULTS.json: Whisper models side by side, sizes, error rates and speed.

Usage: local/results.py --models "original=exp/original" "fine-tuned=exp/train_finetune" --splits test

The first model is the one that all others are compared with. Splits are decoded unless they are, and scored with the
decoding YAML's normalizer and as they are. Seconds are of this process's CPU, one thread, all models in turn on the
same clips; memory is the peak of a process that opens a model and recognizes five of them.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from lhotse import CutSet

import lrsms.espnet  # noqa: F401
from lrsms.bench.results import write_results
from lrsms.bin import run_verb
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.data.cut_batches import load_waveform
from lrsms.espnet.inference.decode_split import Decoding
from lrsms.espnet.inference.open import open_recognizer, read_options
from lrsms.espnet.models.cost import NOMINAL_TOKENS_PER_SECOND, cost
from lrsms.scoring.bootstrap import paired_bootstrap
from lrsms.scoring.decoding import score_decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER[:CHECKPOINT]")
    parser.add_argument("--splits", nargs="+", default=["test"])
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--config", type=Path, default=Path("conf/decode.yaml"))
    parser.add_argument("--rounds", type=int, default=3, help="of timing; the quickest counts")
    parser.add_argument("--timed", type=int, default=20, help="clips of the first split")
    parser.add_argument("--output_dir", type=Path, default=Path())
    parser.add_argument("--memory_of", help=argparse.SUPPRESS)  # of the processes that it starts
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(_memory(_experiment(args.memory_of), args))
        return
    experiments = {}
    for given in args.models:
        name, _, folder = given.partition("=")
        experiments[name] = _experiment(folder)
    rows = {name: _size(experiment) for name, experiment in experiments.items()}
    first = float(next(iter(rows.values()))["M parameters"])
    for row in rows.values():
        row["fewer"] = f"{first / float(row['M parameters']):.2f}x"
    for split in args.splits:
        _errors(experiments, rows, split, args)
    _times(experiments, rows, args)
    for name, experiment in experiments.items():
        where = f"{experiment.folder}:{experiment.checkpoint}"
        command = [sys.executable, __file__, "--models", "x", "--memory_of", where, "--splits", args.splits[0]]
        command += ["--data_dir", str(args.data_dir), "--config", str(args.config)]
        rows[name]["peak MB"] = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
        )
    header = ["model", *next(iter(rows.values()))]
    table = [[name, *row.values()] for name, row in rows.items()]
    notes = [
        "WER in percent with its 95 % interval, after Whisper's English normalizer, and plain. What is fewer, and the "
        "difference, is to the first model, paired bootstrap over utterances. RTF is CPU seconds per second of audio, "
        f"one thread, float32, {args.timed} clips, all models in turn. MACs are per second of audio, "
        f"{NOMINAL_TOKENS_PER_SECOND:g} tokens a second, one pass of the decoder, on a recording of 10 s."
    ]
    print(write_results(args.output_dir, "RESULTS", "Whisper on Common Voice", header, table, notes, {"rows": rows}))


def _experiment(given: str) -> Experiment:
    folder, _, checkpoint = given.partition(":")
    return Experiment(Path(folder), checkpoint or DEFAULT_CHECKPOINT)


def _size(experiment: Experiment) -> dict[str, str]:
    model, _ = experiment.load()
    costs = cost(model, experiment.sampling_rate, NOMINAL_TOKENS_PER_SECOND)
    return {
        "context": model.encoder.audio_context,
        "M parameters": f"{costs.parameters / 1e6:.2f}",
        "fewer": "",  # than the first model
        "MMACs/s": f"{costs.macs_per_second / 1e6:.0f}",
        "MB": f"{experiment.weights.stat().st_size / 1e6:.1f}",
    }


def _errors(experiments: dict, rows: dict, split: str, args: argparse.Namespace) -> None:
    reference = None
    for name, experiment in experiments.items():
        cuts = args.data_dir / split / "cuts.jsonl.gz"
        decoding = Decoding(experiment.folder, cuts, args.config, experiment.checkpoint)
        decoding.run()
        scores = score_decoding(decoding.output_dir, cuts)
        counts = scores.wer.counts.values()
        errors, words = [count.errors for count in counts], [count.tokens for count in counts]
        rows[name][f"WER {split}"] = f"{scores.wer.rate:.2f} [{scores.wer.low:.1f}, {scores.wer.high:.1f}]"
        if scores.plain is not None:
            rows[name][f"plain {split}"] = f"{scores.plain.rate:.1f}"
        if reference is None:
            reference, difference = errors, ""
        else:
            change = paired_bootstrap(reference, errors, words)
            difference = f"{change.difference:+.2f} [{change.low:+.2f}, {change.high:+.2f}]"
        rows[name][f"difference {split}"] = difference


def _clips(args: argparse.Namespace, count: int) -> list:
    cuts = sorted(CutSet.from_file(args.data_dir / args.splits[0] / "cuts.jsonl.gz"), key=lambda cut: cut.id)
    return [(load_waveform(cut), cut.duration) for cut in cuts[:: max(1, len(cuts) // count)][:count]]


def _times(experiments: dict, rows: dict, args: argparse.Namespace) -> None:
    options = read_options(args.config)
    recognizers = {name: open_recognizer(experiment, options) for name, experiment in experiments.items()}
    clips = _clips(args, args.timed)
    encoder: dict[str, list[float]] = defaultdict(list)
    whole: dict[str, list[float]] = defaultdict(list)
    for _ in range(args.rounds):
        totals = {name: [0.0, 0.0] for name in recognizers}
        for speech, _ in clips:
            for name, recognizer in recognizers.items():
                began = time.process_time()
                encoded, _ = recognizer.asr_model.encode(torch.from_numpy(speech)[None], torch.tensor([len(speech)]))
                between = time.process_time()
                recognizer._decode_single_sample(encoded[0])
                totals[name][0] += between - began
                totals[name][1] += time.process_time() - began
        for name, (first, both) in totals.items():
            encoder[name].append(first)
            whole[name].append(both)
    seconds = sum(duration for _, duration in clips)
    for name in recognizers:
        rows[name]["encoder RTF"] = f"{min(encoder[name]) / seconds:.4f}"
        rows[name]["RTF"] = f"{min(whole[name]) / seconds:.4f}"


def _memory(experiment: Experiment, args: argparse.Namespace) -> str:
    recognizer = open_recognizer(experiment, read_options(args.config))
    for speech, _ in _clips(args, 5):
        recognizer(speech)
    # Of this program: what getrusage says was its parent's before it became this program.
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return f"{int(peak[1]) / 1024:.0f}" if peak else ""


if __name__ == "__main__":
    with torch.inference_mode():
        run_verb(main)
