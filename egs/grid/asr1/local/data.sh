#!/usr/bin/env bash
# Stage 0 of GRID. Options of the corpus, which run.sh takes as well:
#   --corpus-dir DIR                 video/<speaker> or audio/<speaker>, and alignments/<speaker>
#   --mouth-size N                   pixels of a stored mouth region's side (default: audio alone)
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.grid --output_dir data "$@"
