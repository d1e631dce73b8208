"""Score decoded splits and write RESULTS.md, results.json and the pictures."""

import argparse
from pathlib import Path

from lrsms.bin import run_verb, str2bool


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lrsms.bin.score", description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="holds <split>/cuts.jsonl.gz")
    parser.add_argument("--exp_dir", type=Path, default=Path("exp"), help="holds the experiments; results go here")
    parser.add_argument("--results_dir", type=Path, help="a second place for the results, e.g. the recipe's folder")
    parser.add_argument("--force", type=str2bool, default=False, help="score again although nothing has changed")
    args = parser.parse_args()

    from lrsms.scoring.results import write_results
    from lrsms.sweep.tables import add_to_results

    print(write_results(args.data_dir, args.exp_dir, args.results_dir, args.force))
    if args.results_dir is not None:
        add_to_results(args.results_dir)


if __name__ == "__main__":
    run_verb(main)
