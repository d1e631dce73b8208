#!/usr/bin/env bash
# LibriSpeech (OpenSLR 12): read English; --mini true takes mini_librispeech (OpenSLR 31) instead.
#
#   ./run.sh --mini true             5 h; downloads unless --corpus-dir is given
#   ./run.sh --corpus-dir DIR        train-clean-100; DIR is LibriSpeech, or holds it
#   ./run.sh --corpus-dir DIR --stage 3 --train-config conf/train_dense_100h.yaml      the dense reference beside it
#   ./run.sh --corpus-dir DIR --train-parts "train-clean-100 train-clean-360 train-other-500" \
#     --vocab-size 5000 --train-config conf/train_lrsms_960h.yaml --ngpu 8
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/librispeech/asr1/run.sh "$@")
export LRSMS_COMMAND
defaults=(--test-splits "test_clean test_other" --train-config conf/train_lrsms_100h.yaml --vocab-size 500)
. "${here}/../../../utils/option_value.sh"
if [ "$(option_value mini "$@")" = true ]; then
  defaults=(--test-splits test --train-config conf/train_lrsms_mini.yaml --vocab-size 300)
fi
exec "${here}/../../../run.sh" --recipe-dir "${here}" "${defaults[@]}" \
  --speed-perturb "0.9 1.0 1.1" --token-type unigram --results-dir "${here}" "$@"
