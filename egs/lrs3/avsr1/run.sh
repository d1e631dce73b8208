#!/usr/bin/env bash
# LRS3, sound and mouth regions: sentences of TED talks. Licensed data that you bring.
#
#   ./run.sh --corpus-dir DIR --ngpu 8             DIR with pretrain, trainval and test, as distributed
#   ./run.sh --corpus-dir DIR --ngpu 8 --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#   ./run.sh --corpus-dir DIR --train-parts trainval      30 hours instead of 438
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/lrs3/avsr1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type unigram --vocab-size 5000 --results-dir "${here}" \
  --snrs "clean 20 15 10 5 0 -5" "$@"
