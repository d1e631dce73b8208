#!/usr/bin/env bash
# Stage 0 of LibriSpeech. Options of the corpus, which run.sh takes as well:
#   --corpus-dir DIR                 LibriSpeech, or the folder that holds it (default: downloads the parts)
#   --mini true|false                mini_librispeech (5 h) instead (default: false)
#   --train-parts PARTS              such as "train-clean-100 train-clean-360" (default: train-clean-100)
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.librispeech --output_dir data "$@"
