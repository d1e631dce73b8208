#!/usr/bin/env bash
# Stage 0 of yesno. Options of the corpus, which run.sh takes as well:
#   --corpus-dir DIR                 waves_yesno, or the folder that holds it (default: downloads it)
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.yesno --output_dir data "$@"
