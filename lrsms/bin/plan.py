"""Show what a training YAML comes to, without training: rank, size, work and memory of every layer.

Usage: python -m lrsms.bin.plan --config conf/train_lrsms.yaml [--png ranks.png] [--html plan.html] [--write plain.yaml]
"""

import argparse
from pathlib import Path

from lrsms.bin import run_verb


def main() -> None:
    """Parse options, print the plan, draw it where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="training YAML")
    parser.add_argument("--token_list", type=Path, help="tokens.txt of stage 2, for the size of the vocabulary")
    parser.add_argument("--vocab_size", type=int, help="or that size itself (default: 500)")
    parser.add_argument(
        "--tokens_per_second", type=float, default=4.0, help="of the corpus: the decoder's share of the work"
    )
    parser.add_argument("--png", type=Path, help="draw rank over depth here")
    parser.add_argument("--html", type=Path, help="write a page with picture and table here")
    parser.add_argument("--write", type=Path, help="write the plain ESPnet YAML that a file with base: stands for here")
    args = parser.parse_args()

    import yaml

    from lrsms.errors import LrsmsError
    from lrsms.espnet.models.rank_preview import draw, page, preview
    from lrsms.training_yaml import read_training_yaml

    vocab_size = args.vocab_size or 500
    if args.token_list is not None:
        if not args.token_list.exists():
            raise LrsmsError(f"{args.token_list}: not there; run stage 2 first, or give --vocab_size")
        vocab_size = len(args.token_list.read_text(encoding="utf-8").split("\n")) - 1
    found = preview(args.config, vocab_size, args.tokens_per_second)
    print(found.text())
    if args.write is not None:
        plain = read_training_yaml(args.config)
        args.write.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if args.png is not None and not draw(found, args.png):
        print(f"{args.png}: not drawn, every layer is dense")
    if args.html is not None:
        args.html.write_text(page(found, str(args.config)), encoding="utf-8")


if __name__ == "__main__":
    run_verb(main)
