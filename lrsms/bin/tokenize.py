"""Stage 2: make the token list from the training text, ``<data_dir>/lang_<type><size>``.

Example: lrsms tokenize --data_dir data --token_type unigram --vocab_size 500
"""

import argparse
from pathlib import Path

from lrsms import stamp
from lrsms.bin import run_verb, str2bool
from lrsms.command_line import CommandParser, count
from lrsms.defaults import TOKEN_TYPES, WHISPER_TYPES


def _parse() -> argparse.Namespace:
    parser = CommandParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, type=Path, help="folder of the splits")
    parser.add_argument("--train_splits", default="train", help="training splits, separated by spaces")
    parser.add_argument("--eval_splits", default="dev test", help="evaluation splits, separated by spaces")
    parser.add_argument("--token_type", default="char", choices=TOKEN_TYPES, help="kind of tokens")
    parser.add_argument("--vocab_size", type=count, help="unigram, bpe: number of tokens, special ones included")
    parser.add_argument(
        "--force", type=str2bool, default=False, help="make the tokens again even if nothing has changed"
    )
    return parser.parse_args()


def main() -> None:
    """Parse options and run the stage."""
    args = _parse()

    from lrsms.data.tokens import build_lang, check_given, lang_dir

    folder = lang_dir(args.data_dir, args.token_type, args.vocab_size)
    if args.token_type in WHISPER_TYPES:
        check_given(folder)
        print(f"tokenize: {folder} has the tokens of the Whisper model")
        return
    train, evaluation = args.train_splits.split(), args.eval_splits.split()
    inputs = [args.data_dir / split / "cuts.jsonl.gz" for split in (*train, *evaluation)]
    arguments = {"train_splits": args.train_splits, "eval_splits": args.eval_splits}
    mark = args.data_dir / ".stamps" / f"{folder.name}.json"

    def is_done() -> bool:
        complete = (folder / "tokens.txt").exists() and (folder / "out_of_vocabulary.tsv").exists()
        return not args.force and complete and stamp.is_current(mark, arguments, inputs)

    def work() -> None:
        build_lang(
            args.data_dir, train_splits=train, eval_splits=evaluation, token_type=args.token_type,
            vocab_size=args.vocab_size,
        )  # fmt: skip
        stamp.write(mark, arguments, inputs)

    stamp.run_stage(f"tokenize: {folder}", args.data_dir, is_done, work)


if __name__ == "__main__":
    run_verb(main)
