#!/usr/bin/env bash
# Arabic Speech Commands: strings of 3 to 7 of 40 words, speakers disjoint between training, dev and test.
#
#   ./run.sh --corpus-dir DIR        DIR with clips.tsv and clips/<keyword>/
#   ./run.sh --corpus-dir DIR --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/arabic_commands/asr1/run.sh "$@")
export LRSMS_COMMAND
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # more threads only wait for each other in a model this small
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type word --checkpoint valid.loss.ave.pth --test-splits "test test_words" \
  --results-dir "${here}" "$@"
