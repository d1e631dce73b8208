"""Show what a training YAML comes to, without training: rank, size, work and memory of every layer.

Usage: lrsms plan --config conf/train_lrsms.yaml [--png ranks.png] [--html plan.html]
"""

from pathlib import Path

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser


def main() -> None:
    """Parse options, print the plan, draw it where asked to."""
    parser = CommandParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="training YAML")
    parser.add_argument("--token_list", type=Path, help="tokens.txt of stage 2, for the size of the vocabulary")
    parser.add_argument("--vocab_size", type=int, help="or that size itself (default: 500)")
    parser.add_argument(
        "--tokens_per_second", type=float, default=4.0, help="of the corpus: the decoder's share of the work"
    )
    parser.add_argument("--png", type=Path, help="draw rank over depth here")
    parser.add_argument("--html", type=Path, help="write a page with picture and table here")
    args = parser.parse_args()

    from lrsms.errors import LrsmsError
    from lrsms.espnet.models.rank_preview import draw, page, preview

    vocab_size = args.vocab_size or 500
    if args.token_list is not None:
        if not args.token_list.exists():
            raise LrsmsError(f"{args.token_list}: not there; run stage 2 first, or give --vocab_size")
        vocab_size = len(args.token_list.read_text(encoding="utf-8").split("\n")) - 1
    found = preview(args.config, vocab_size, args.tokens_per_second)
    print(found.text())
    if args.png is not None and not draw(found, args.png):
        print(f"{args.png}: not drawn, every layer is dense")
    if args.html is not None:
        args.html.write_text(page(found, str(args.config)), encoding="utf-8")


if __name__ == "__main__":
    run_verb(main)
