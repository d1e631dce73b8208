#!/usr/bin/env python3
"""Stage 2, for k2: compose the decoding graph HLG, in data/lang_<type>/hlg_<order>gram; the same as lrsms.bin.graph.

Usage: python local/compile_hlg.py --token_type unigram --vocab_size 500
"""

from lrsms.bin import run_verb
from lrsms.bin.graph import options


def main() -> None:
    arguments = options(__doc__)

    from lrsms.fsa.compile_hlg import make_graph

    make_graph(**arguments)


if __name__ == "__main__":
    run_verb(main)
