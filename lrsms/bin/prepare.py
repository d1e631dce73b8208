"""Stage 0: turn a corpus into Lhotse manifests, ``<output_dir>/<split>/{recordings,supervisions}.jsonl.gz``.

Example: lrsms prepare --corpus yesno --output_dir data --corpus_dir downloads/waves_yesno
The other options are those of the corpus: lrsms prepare --corpus yesno --help
"""

import importlib
import sys

from lrsms.bin import run_verb
from lrsms.command_line import CommandParser
from lrsms.data.corpus_command import corpus_names


def main() -> None:
    """Parse options and run the stage."""
    parser = CommandParser(description=__doc__, add_help=False)
    parser.add_argument("--corpus", required=sys.argv[1:] not in (["--help"], ["-h"]), choices=corpus_names())
    args, options = parser.parse_known_args()
    if args.corpus is None:
        parser.print_help()
        parser.exit()
    importlib.import_module(f"lrsms.data.corpora.{args.corpus}").main(options)


if __name__ == "__main__":
    run_verb(main)
