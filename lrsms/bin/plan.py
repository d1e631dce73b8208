"""Show what a training YAML comes to, without training: rank, size, work and memory of every layer.

Usage: lrsms plan --config conf/train_lrsms.yaml [--png ranks.png] [--html plan.html] [--write plain.yaml]

The vocabulary is that of stage 2 (the only lang_* in the recipe's data folder, or the one that --token_type names), of
--token_list, or --vocab_size; without any of them, a size is assumed, and the plan says so.
"""

import argparse
from pathlib import Path

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser, count
from lrsms.defaults import TOKEN_TYPES
from lrsms.errors import LrsmsError

ASSUMED_VOCABULARY = 500


def main() -> None:
    """Parse options, print the plan, draw it if asked to."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="training YAML")
    parser.add_argument(
        "--data_dir", type=Path, help="folder that holds lang_* of stage 2 (default: data of the config's recipe)"
    )
    parser.add_argument(
        "--token_type", choices=TOKEN_TYPES, help="which lang_* of data_dir to use, if there are several"
    )
    parser.add_argument("--token_list", type=Path, help="path of a tokens.txt of stage 2")
    parser.add_argument(
        "--vocab_size", type=count, help="vocabulary size; with --token_type unigram or bpe, that of its lang_*"
    )
    parser.add_argument(
        "--tokens_per_second",
        type=float,
        default=4.0,
        help="tokens in a second of the corpus, which sets the decoder's share of the work",
    )
    parser.add_argument("--png", type=Path, help="file for a picture of the ranks over depth")
    parser.add_argument("--html", type=Path, help="file for a page with picture and table")
    parser.add_argument(
        "--write", type=Path, help="file for the plain ESPnet YAML that results if the config has base:"
    )
    args = parser.parse_args()

    vocab_size, source = vocabulary(args)

    import yaml

    from lrsms.espnet.models.rank_preview import draw, page, preview
    from lrsms.training_yaml import read_training_yaml

    plan = preview(args.config, vocab_size, args.tokens_per_second)
    print(plan.text())
    print(f"vocabulary        {vocab_size:,} tokens, {source}")
    if args.write is not None:
        plain = read_training_yaml(args.config)
        args.write.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if args.png is not None and not draw(plan, args.png):
        print(f"{args.png}: not drawn, every layer is dense")
    if args.html is not None:
        args.html.write_text(page(plan, f"{args.config}, {vocab_size:,} tokens"), encoding="utf-8")


def vocabulary(args: argparse.Namespace) -> tuple[int, str]:
    """Number of tokens, special ones included, and where it is from.

    Raises:
        LrsmsError: a token list that an option names is not found.
    """
    if args.token_list is not None:
        return _count(args.token_list), f"of {args.token_list}"
    data_dir = args.data_dir or _data_of(args.config)
    if args.token_type is not None:
        from lrsms.data.tokens import lang_dir

        tokens = lang_dir(data_dir, args.token_type, args.vocab_size) / "tokens.txt"
        return _count(tokens), f"of {tokens}"
    if args.vocab_size is not None:
        return args.vocab_size, "of --vocab_size"
    if args.data_dir is not None and not args.data_dir.is_dir():
        raise LrsmsError(f"--data_dir {args.data_dir}: not found")
    lists = sorted(data_dir.glob("lang_*/tokens.txt"))
    if len(lists) == 1:
        return _count(lists[0]), f"of {lists[0]}"
    reason = f"{data_dir} has {', '.join(path.parent.name for path in lists)}" if lists else f"no {data_dir}/lang_*"
    options = "--token_type, --token_list or --vocab_size" if lists else "--data_dir, --token_list or --vocab_size"
    return ASSUMED_VOCABULARY, f"assumed, and with them the parameters of every output: {reason}; give {options}"


def _data_of(config: Path) -> Path:
    """Folder ``data`` of the recipe whose ``conf`` holds the config, or else of the working folder."""
    of_recipe = config.parent.parent / "data"
    return of_recipe if config.parent.name == "conf" and of_recipe.is_dir() else Path("data")


def _count(tokens: Path) -> int:
    if not tokens.exists():
        raise LrsmsError(f"{tokens}: not found; run stage 2 first, or give --vocab_size alone")
    return len(tokens.read_text(encoding="utf-8").split("\n")) - 1


if __name__ == "__main__":
    run_verb(main)
