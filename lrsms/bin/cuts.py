"""Stage 1: check every recording, and write ``<data_dir>/<split>/cuts.jsonl.gz`` and ``excluded.tsv``.

Example: lrsms cuts --data_dir data --train_splits train --eval_splits "dev test"
"""

import argparse
import os
from pathlib import Path

from lrsms import stamp
from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count
from lrsms.defaults import SAMPLING_RATES
from lrsms.errors import LrsmsError


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, type=Path, help="folder of the splits")
    parser.add_argument("--train_splits", default="train", help="training splits, separated by spaces")
    parser.add_argument("--eval_splits", default="dev test", help="evaluation splits, separated by spaces")
    parser.add_argument(
        "--valid_split", default="dev", help="evaluation split to which the limits of duration apply as well"
    )
    parser.add_argument("--fs", type=int, default=16000, help="sampling rate of the cuts in Hz")
    parser.add_argument("--speed_perturb", default="1.0", help='speeds of the training copies, such as "0.9 1.0 1.1"')
    for limit, seconds, which in (("min", 0.1, "shortest"), ("max", 30.0, "longest")):
        parser.add_argument(
            f"--{limit}_utterance", f"--{limit}_duration", type=float, default=seconds, metavar="SECONDS",
            help=f"{which} utterance of training and validation (--{limit}_duration is the earlier name)",
        )  # fmt: skip
    parser.add_argument(
        "--num_jobs", type=count, default=min(8, os.cpu_count() or 1), help="number of threads that read audio"
    )
    parser.add_argument("--force", type=str2bool, default=False, help="make the cuts again even if nothing has changed")
    return parser.parse_args()


def _speeds(text: str) -> tuple[float, ...]:
    try:
        speeds = tuple(float(word) for word in text.split()) or (1.0,)
    except ValueError:
        raise LrsmsError(f'--speed_perturb "{text}": expected numbers, such as "0.9 1.0 1.1"') from None
    if not all(0.1 < speed < 10 for speed in speeds) or len(set(speeds)) < len(speeds):
        raise LrsmsError(f'--speed_perturb "{text}": expected different factors near 1, such as "0.9 1.0 1.1"')
    return speeds


def main() -> None:
    """Parse options and run the stage."""
    args = _parse()
    train, evaluation, speeds = args.train_splits.split(), args.eval_splits.split(), _speeds(args.speed_perturb)
    if not SAMPLING_RATES[0] <= args.fs <= SAMPLING_RATES[1]:
        raise LrsmsError(f"--fs {args.fs}: expected {SAMPLING_RATES[0]} to {SAMPLING_RATES[1]} Hz")
    if not 0 <= args.min_utterance < args.max_utterance:
        raise LrsmsError(
            f"--min_utterance {args.min_utterance}, --max_utterance {args.max_utterance}: expected seconds, the first "
            "of at least 0 and below the second"
        )
    if not train:
        raise LrsmsError('--train_splits "": name at least one split')
    shared = set(train) & set(evaluation)
    if shared:
        raise LrsmsError(f"--train_splits and --eval_splits share {', '.join(sorted(shared))}")

    splits = [args.data_dir / split for split in (*train, *evaluation)]
    inputs = [folder / f"{kind}.jsonl.gz" for folder in splits for kind in ("recordings", "supervisions")]
    inputs += [
        path for folder in splits for kind in ("mouths", "joined") if (path := folder / f"{kind}.jsonl.gz").exists()
    ]
    names = {"min_utterance": "min_duration", "max_utterance": "max_duration"}  # in stamps of earlier versions too
    arguments = {names.get(key, key): value for key, value in vars(args).items()}
    arguments = {key: value for key, value in arguments.items() if key not in ("num_jobs", "force", "data_dir")}
    mark = args.data_dir / ".stamps" / "cuts.json"

    def is_done() -> bool:
        complete = all((folder / "cuts.jsonl.gz").exists() for folder in splits)
        return not args.force and complete and stamp.is_current(mark, arguments, inputs)

    def work() -> None:
        from lrsms.data.cuts import build_cuts

        build_cuts(
            args.data_dir, train_splits=train, eval_splits=evaluation, valid_split=args.valid_split,
            sampling_rate=args.fs, speeds=speeds, min_utterance=args.min_utterance, max_utterance=args.max_utterance,
            num_jobs=args.num_jobs,
        )  # fmt: skip
        stamp.write(mark, arguments, inputs)

    stamp.run_stage(f"cuts: {args.data_dir}", args.data_dir, is_done, work)


if __name__ == "__main__":
    run_verb(main)
