#!/usr/bin/env bash
# GRID, audio track: fixed-grammar commands in English, 3 s each.
#
#   ./run.sh --corpus-dir DIR        DIR with video/<speaker> (or audio/<speaker>) and alignments/<speaker>
#   ./run.sh --corpus-dir DIR --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/grid/asr1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type char --results-dir "${here}" "$@"
