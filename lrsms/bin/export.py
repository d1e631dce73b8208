"""Stage 8: write a trained model in another form. Usage: python -m lrsms.bin.export --asr_exp exp/tag

The form `espnet` folds the factors into dense weights: an ordinary ESPnet experiment, equal within rounding.
"""

import argparse
from pathlib import Path

from lrsms.bin import run_verb


def main() -> None:
    """Parse options and export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asr_exp", type=Path, required=True, help="the experiment's folder")
    parser.add_argument("--format", choices=("espnet",), default="espnet")
    parser.add_argument("--output_dir", type=Path, help="default: export/<format> in the experiment's folder")
    parser.add_argument("--checkpoint", default="valid.acc.ave.pth", help="file name in asr_exp")
    parser.add_argument(
        "--merge", choices=("all", "faster"), default="all", help="which layers: all, or by timing them here"
    )
    args = parser.parse_args()

    import lrsms.espnet  # noqa: F401
    from lrsms.espnet.export import merge_experiment

    done = merge_experiment(
        args.asr_exp, args.output_dir or args.asr_exp / "export" / args.format, args.checkpoint, args.merge
    )
    print(f"{done.folder}: {done.merged} layers merged, {done.kept} kept factored, {done.parameters:,} parameters")
    print(f"largest change of the encoder's output: {done.difference:.1e}")
    print(f"opens with `import lrsms.espnet` ({done.foreign})" if done.foreign else "opens with ESPnet alone")


if __name__ == "__main__":
    run_verb(main)
