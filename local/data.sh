#!/usr/bin/env bash
# Stage 0 of the root recipe: spoken digits, synthesized with noise. Options of the corpus, which run.sh takes as well:
#   --num-train N                    training utterances (default: 1440)
#   --num-dev N                      development utterances (default: 120)
#   --num-test N                     test utterances (default: 240)
#   --corpus NAME                    another module of lrsms.data.corpora, prepared with its options
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../path.sh"
exec "${python:?}" -m lrsms.bin.prepare --corpus digits --output_dir data "$@"
