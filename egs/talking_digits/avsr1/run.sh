#!/usr/bin/env bash
# Talking digits: the embedded voices with drawn mouths; nothing to download.
#
#   ./run.sh                         stages 0 to 5, the low-rank audio-visual model
#   ./run.sh --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/talking_digits/avsr1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type word --results-dir "${here}" \
  --snrs "clean 20 15 10 5 0 -5" "$@"
