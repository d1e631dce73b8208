"""Stage 4: decode splits with a trained model.

Usage: lrsms decode --asr_exp exp/tag --splits test
"""

from itertools import product
from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count, count_or_none
from lrsms.defaults import DEFAULT_CHECKPOINT
from lrsms.fsa.options import CTC_ATTENTION, METHODS, check_method


def main() -> None:
    """Parse options and decode each split."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--asr_exp", type=Path, required=True, help="folder of the experiment")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of the splits")
    parser.add_argument("--splits", default="test", help="splits to decode, separated by spaces")
    parser.add_argument(
        "--config", type=Path, default=Path("conf/decode.yaml"), help="decoding YAML: options of ESPnet's Speech2Text"
    )
    parser.add_argument("--checkpoint", default=DEFAULT_CHECKPOINT, help="file name of the weights in asr_exp")
    parser.add_argument(
        "--decode_method", default=CTC_ATTENTION, help=f"some of {', '.join(METHODS)}, separated by spaces; docs/k2.md"
    )
    parser.add_argument(
        "--train_splits",
        default="train",
        help="splits whose text makes k2's lexicon and language model, separated by spaces",
    )
    parser.add_argument("--nj", type=count, default=1, help="number of processes, each with one thread")
    parser.add_argument("--ngpu", type=count_or_none, default=0, help="number of GPUs to spread the processes over")
    parser.add_argument("--force", type=str2bool, default=False, help="decode again even if nothing has changed")
    args = parser.parse_args()

    methods = [check_method(method) for method in args.decode_method.split()]

    from lrsms.espnet.inference.decode_split import Decoding

    for split, method in product(args.splits.split(), methods):
        cuts = args.data_dir / split / "cuts.jsonl.gz"
        Decoding(
            args.asr_exp, cuts, args.config, args.checkpoint, args.nj, args.ngpu, method,
            tuple(args.train_splits.split()),
        ).run(args.force)  # fmt: skip


if __name__ == "__main__":
    run_verb(main)
