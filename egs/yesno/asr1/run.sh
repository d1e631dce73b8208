#!/usr/bin/env bash
# yesno (OpenSLR 1): one speaker, eight Hebrew words in each recording, each yes or no.
#
#   ./run.sh                         downloads the corpus (4.5 MB)
#   ./run.sh --corpus-dir DIR        DIR is waves_yesno, or holds it
#   ./run.sh --corpus-dir DIR --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/yesno/asr1/run.sh "$@")
export LRSMS_COMMAND
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # more threads only wait for each other in a model this small
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --fs 8000 --speed-perturb "0.9 1.0 1.1" --token-type word --checkpoint valid.loss_ctc.ave.pth \
  --results-dir "${here}" "$@"
