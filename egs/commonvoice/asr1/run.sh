#!/usr/bin/env bash
# Common Voice from scratch, with speechocean762 beside it where there is little of it: a test of generalisation.
#
#   ./run.sh --corpus-dir DIR                            a release of Common Voice
#   ./run.sh --corpus-dir DIR --speechocean-dir DIR      trained on both, and tested on each
#   ./run.sh --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/commonvoice/asr1/run.sh "$@")
export LRSMS_COMMAND
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # more threads only wait for each other in a model this small
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type unigram --vocab-size 128 --checkpoint valid.loss.ave.pth "$@"
