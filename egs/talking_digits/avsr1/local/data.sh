#!/usr/bin/env bash
# Stage 0 of talking digits. Options of the corpus, which run.sh takes as well:
#   --num-train N                    training utterances (default: 960)
#   --num-dev N                      development utterances (default: 80)
#   --num-test N                     test utterances (default: 200)
#   --mouth-size N                   pixels of a stored mouth region's side (default: 56)
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.talking_digits --output_dir data "$@"
