#!/usr/bin/env bash
# speechocean762 (OpenSLR 101): read English by Mandarin speakers, half of them children.
#
#   ./run.sh --corpus-dir DIR        DIR as distributed: WAVE/, train/, test/
#   ./run.sh --corpus-dir DIR --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/speechocean762/asr1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type char --results-dir "${here}" "$@"
