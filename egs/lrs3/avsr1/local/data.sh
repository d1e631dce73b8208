#!/usr/bin/env bash
# Stage 0 of LRS3. Options of the corpus, which run.sh takes as well:
#   --corpus-dir DIR                 the corpus as distributed: pretrain/, trainval/, test/
#   --train-parts PARTS              such as trainval (default: pretrain and trainval)
#   --mouth-size N                   pixels of a stored mouth region's side (default: 96)
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.lrs3 --output_dir data "$@"
