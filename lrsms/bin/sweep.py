"""Ablations: train and decode a grid of configurations over several seeds, and write table and pictures.

Usage, in a recipe's folder after stages 0 to 2: lrsms sweep conf/sweep_attention.yaml --nj 2
The same command goes on after an interruption; started again elsewhere, on the same folder, it takes a share.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT

if TYPE_CHECKING:
    from lrsms.sweep.convergence import Length
    from lrsms.sweep.points import Point
    from lrsms.sweep.runner import Runner


def main() -> None:
    """Parse options, run what is not finished, report."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        "sweep", type=Path, help="YAML with base, set, arms, grid, seeds, reference, tune, until, margin"
    )
    parser.add_argument(
        "--sweep_dir", type=Path, default=Path("sweeps"), help="folder that holds the experiments of all sweeps"
    )
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--train_split", default="train", help="split to train on")
    parser.add_argument("--valid_split", default="dev", help="split to validate on")
    parser.add_argument("--test_splits", default="test", help="splits to decode, separated by spaces")
    parser.add_argument(
        "--decode_config", type=Path, help="decoding YAML (default: conf/decode.yaml of the recipe or the root)"
    )
    parser.add_argument(
        "--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights to decode with, in each experiment"
    )
    parser.add_argument(
        "--nj", type=count, help="number of experiments at a time on this machine (default: one, or one for each GPU)"
    )
    parser.add_argument("--ngpu", type=count_or_none, default=0, help="number of GPUs to spread the experiments over")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="run the experiments whose names, ARM_seedN, match it"
    )
    parser.add_argument("--storage", help="URL of an Optuna storage, if a file in the sweep's folder does not suit")
    parser.add_argument("--report_only", action="store_true", help="run nothing; report what is finished")
    parser.add_argument(
        "--results_dir", type=Path, help="folder whose findings/ receives table, JSON and pictures as well"
    )
    args = parser.parse_args()
    args.nj = args.nj if args.nj is not None else max(1, args.ngpu)
    for option, least in (("nj", 1), ("ngpu", 0)):
        if getattr(args, option) < least:
            parser.error(f"--{option} {getattr(args, option)}: write {least} or more")
    if not args.test_splits.split():
        parser.error("--test_splits: name at least one")

    from lrsms.errors import LrsmsError
    from lrsms.provenance import command
    from lrsms.sweep.convergence import until_converged
    from lrsms.sweep.points import Sweep
    from lrsms.sweep.report import write_report
    from lrsms.sweep.runner import Runner

    os.environ.setdefault("LRSMS_COMMAND", command())  # the experiments are trained in other processes
    runner = Runner(
        sweep=Sweep.read(args.sweep),
        root=args.sweep_dir,
        data_dir=args.data_dir,
        train_split=args.train_split,
        valid_split=args.valid_split,
        test_splits=tuple(args.test_splits.split()),
        decode_config=args.decode_config or _decode_config(),
        checkpoint=args.checkpoint,
        nj=args.nj,
        ngpu=args.ngpu,
        storage=args.storage,
        only=args.only,
    )
    failed: list[Point] = []
    tuning = None
    if runner.sweep.candidates:
        tuning = runner.tuning()
        failed = _run(tuning, args.report_only)
        if not failed:
            runner = runner.tuned()
    lengths: list[list[Length]] = []
    if not failed and runner.sweep.until_converged:
        runner, failed, lengths = until_converged(runner, lambda some: _run(some, args.report_only))
    if not failed:
        failed = _run(runner, args.report_only)
    unfinished = [point for point in runner.points() if not runner.finished(point)]
    if args.report_only or len(unfinished) < len(runner.points()):
        print(write_report(runner, args.results_dir, tuning, lengths))
    elsewhere = [point.key for point in unfinished if point not in failed]
    if elsewhere:
        print(f"not finished: {', '.join(elsewhere)}", file=sys.stderr)
    if failed:
        reasons = "; ".join(f"{point.log}: {_last_line(point.log)}" for point in failed)
        raise LrsmsError(f"{len(failed)} experiments failed, and the same command tries them again: {reasons}")


def _run(runner: Runner, report_only: bool) -> list[Point]:
    """Run what is not finished, if anything is to be run; returns the points that failed."""
    if report_only:
        runner.check()
        return []
    return runner.run()


def _decode_config() -> Path:
    """The recipe's decoding YAML; the root's if the recipe has none and this package is run from its checkout."""
    own = Path("conf/decode.yaml")
    of_root = Path(__file__).resolve().parents[2] / own
    return of_root if of_root.exists() and not own.exists() else own


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")


if __name__ == "__main__":
    run_verb(main)
