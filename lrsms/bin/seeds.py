"""Compare configurations over seeds, from the result files of any runs.

Usage: lrsms seeds egs/grid/avsr1/conditions.json exp/conditions.json --reference train_dense --margin 1.0
Files may be results.json, conditions.json, and the JSON of sweeps; the models behind them are not needed.
"""

from pathlib import Path

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser


def main() -> None:
    """Parse options, compare, print the table."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="results.json, conditions.json, or the JSON of a sweep")
    parser.add_argument("--reference", required=True, help="configuration that the others are compared with")
    parser.add_argument(
        "--margin", type=float, help="points of WER by which one may be worse and count as not inferior (default: none)"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("exp"), help="folder that receives seeds.md, .json and .png"
    )
    args = parser.parse_args()
    if args.margin is not None and not args.margin >= 0:
        parser.error(f"--margin {args.margin:g}: write 0 or more")

    from lrsms.sweep.seeds import write_seeds

    print(write_seeds(args.files, args.reference, args.margin, args.output_dir))


if __name__ == "__main__":
    run_verb(main)
