#!/usr/bin/env bash
# Stage 0 of speechocean762. Options of the corpus, which run.sh takes as well:
#   --corpus-dir DIR                 the corpus as distributed: WAVE/, train/, test/
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.speechocean762 --output_dir data "$@"
