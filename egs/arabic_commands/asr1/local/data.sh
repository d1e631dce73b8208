#!/usr/bin/env bash
# Stage 0 of Arabic Speech Commands. Options of the corpus, which run.sh takes as well:
#   --corpus-dir DIR                 folder with clips.tsv and clips/
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.arabic_commands --output_dir data "$@"
