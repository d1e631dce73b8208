#!/usr/bin/env bash
# GRID, sound and mouth regions: fixed-grammar commands in English, 3 s each.
#
#   ./run.sh --corpus-dir DIR        DIR with video/<speaker> and alignments/<speaker>
#   ./run.sh --corpus-dir DIR --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/grid/avsr1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" --mouth-size 96 \
  --speed-perturb 1.0 --token-type char --results-dir "${here}" \
  --snrs "clean 20 15 10 5 0 -5" "$@"
