"""Make the decoding graph that k2 searches: lexicon, n-gram language model of the training text, and HLG.

Example: lrsms graph --data_dir data --token_type unigram --vocab_size 500
Stage 4 does so by itself; stage 2 does (local/prepare_lang.py, local/compile_hlg.py) if --decode-method needs it.
"""

from pathlib import Path

from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count
from lrsms.defaults import TOKEN_TYPES


def options(description: str | None) -> dict:
    """Read the command line.

    Args:
        description: what ``--help`` says first.

    Returns:
        Arguments of :func:`lrsms.fsa.compile_hlg.make_graph` and :func:`lrsms.fsa.lang.prepare_lang` by name.

    Raises:
        LrsmsError: the decoding YAML is wrong.
    """
    parser = CommandParser(description=description)
    parser.add_argument(
        "--data_dir", type=Path, default=Path("data"), help="folder of the splits and of stage 2's lang_*"
    )
    parser.add_argument(
        "--train_splits", default="train", help="splits whose text makes the graph, separated by spaces"
    )
    parser.add_argument("--token_type", default="char", choices=TOKEN_TYPES, help="token type of stage 2")
    parser.add_argument("--vocab_size", type=count, help="unigram, bpe: vocabulary size of stage 2")
    parser.add_argument("--config", type=Path, help="decoding YAML, whose k2 block gives ngram_order and arpa")
    parser.add_argument(
        "--force", type=str2bool, default=False, help="make the graph again even if nothing has changed"
    )
    args = parser.parse_args()

    from lrsms.data.tokens import lang_dir
    from lrsms.espnet.config import read_yaml
    from lrsms.fsa.options import K2Options

    block = read_yaml(args.config).get("k2") if args.config else None
    chosen = K2Options.parse(block, f"{args.config}: k2")
    return {
        "lang": lang_dir(args.data_dir, args.token_type, args.vocab_size),
        "cuts": [args.data_dir / split / "cuts.jsonl.gz" for split in args.train_splits.split()],
        "order": chosen.ngram_order,
        "arpa": Path(chosen.arpa) if chosen.arpa else None,
        "force": args.force,
    }


def main() -> None:
    """Parse options and run the stage."""
    arguments = options(__doc__)

    from lrsms.fsa.compile_hlg import make_graph

    make_graph(**arguments)


if __name__ == "__main__":
    run_verb(main)
