"""Ablations: train and decode a grid of configurations over several seeds, and write table and pictures.

Usage, in a recipe's folder after stages 0 to 2: python -m lrsms.bin.sweep conf/sweep_attention.yaml --nj 2
"""

import argparse
import os
from pathlib import Path

from lrsms.bin import run_verb


def main() -> None:
    """Parse options, run what is not finished, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="YAML: base, set, arms, grid, seeds, reference")
    parser.add_argument("--sweep_dir", type=Path, default=Path("sweeps"), help="holds the experiments of all sweeps")
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--train_split", default="train")
    parser.add_argument("--valid_split", default="dev")
    parser.add_argument("--test_splits", default="test", help="names under data_dir, separated by spaces")
    parser.add_argument("--decode_config", type=Path, help="default: conf/decode.yaml of the recipe or the root")
    parser.add_argument("--checkpoint", default="valid.acc.ave.pth")
    parser.add_argument("--nj", type=int, default=1, help="experiments at a time on this machine")
    parser.add_argument("--ngpu", type=int, default=0, help="GPUs of this machine, one experiment on each at a time")
    parser.add_argument("--storage", help="URL of an Optuna storage that several machines reach; default: a file")
    parser.add_argument("--report_only", action="store_true", help="run nothing, report what is finished")
    parser.add_argument("--results_dir", type=Path, help="also write table, JSON and pictures here")
    args = parser.parse_args()

    from lrsms.errors import LrsmsError
    from lrsms.provenance import command
    from lrsms.sweep.points import Sweep
    from lrsms.sweep.runner import Runner

    os.environ.setdefault("LRSMS_COMMAND", command())  # the experiments are trained in other processes
    root = Path(__file__).resolve().parents[2]
    decode_config = args.decode_config or next(
        p for p in (Path("conf/decode.yaml"), root / "conf/decode.yaml") if p.exists()
    )
    runner = Runner(
        sweep=Sweep.read(args.sweep),
        root=args.sweep_dir,
        data_dir=args.data_dir,
        train_split=args.train_split,
        valid_split=args.valid_split,
        test_splits=tuple(args.test_splits.split()),
        decode_config=decode_config,
        checkpoint=args.checkpoint,
        nj=args.nj,
        ngpu=args.ngpu,
        storage=args.storage,
    )
    failed = [] if args.report_only else runner.run()
    from lrsms.sweep.report import write_report

    print(write_report(runner, args.results_dir))
    if failed:
        logs = ", ".join(str(point.experiment / "sweep.log") for point in failed)
        raise LrsmsError(f"{len(failed)} experiments failed; see {logs}")


if __name__ == "__main__":
    run_verb(main)
