#!/usr/bin/env bash
# Stage 0 of Common Voice from scratch. Options of the corpora, which run.sh takes as well:
#   --corpus-dir DIR                 a release: train.tsv, dev.tsv, test.tsv and clips/, or as version 1 has it
#   --language NAME                  of the release (default: English)
#   --speechocean-dir DIR            speechocean762 as distributed: joins train and dev, its test is test_speechocean762
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"

speechocean_dir='' options=() shared=()
while [ $# -gt 0 ]; do
  case $1 in
    --speechocean-dir | --speechocean_dir) speechocean_dir=${2:?} && shift 2 ;;
    --num_jobs | --seed | --force) shared+=("$1" "$2") && shift 2 ;;
    *) options+=("$1") && shift ;;
  esac
done
corpora=(commonvoice)
"${python:?}" -m lrsms.data.corpora.commonvoice --output_dir data/local/commonvoice "${shared[@]}" \
  ${options[@]+"${options[@]}"}
if [ -n "${speechocean_dir}" ]; then
  corpora+=(speechocean762)
  "${python}" -m lrsms.data.corpora.speechocean762 --output_dir data/local/speechocean762 "${shared[@]}" \
    --corpus_dir "${speechocean_dir}"
fi
"${python}" local/letters.py --corpora "${corpora[@]}"
