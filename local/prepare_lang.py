#!/usr/bin/env python3
"""Stage 2, for k2: lexicon and n-gram language model of the training text, in data/lang_<type>/hlg_<order>gram.

Usage: python local/prepare_lang.py --token_type unigram --vocab_size 500
Needs no k2; local/compile_hlg.py makes the graph of them.
"""

from lrsms.bin import run_verb
from lrsms.bin.graph import options


def main() -> None:
    arguments = options(__doc__)

    from lrsms.fsa.lang import prepare_lang

    prepare_lang(**arguments)


if __name__ == "__main__":
    run_verb(main)
