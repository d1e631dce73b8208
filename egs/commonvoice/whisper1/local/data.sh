#!/usr/bin/env bash
# Stage 0 of Common Voice with Whisper. Options of the corpus and the model, which run.sh takes as well:
#   --corpus-dir DIR                 a release: train.tsv, dev.tsv, test.tsv and clips/, or as version 1 has it
#   --language NAME                  of the release (default: English)
#   --whisper-model PATH             local: *.pt, model.safetensors or model.bin, and tokenizer.json beside it
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"

whisper_model='' nj=1 options=()
while [ $# -gt 0 ]; do
  case $1 in
    --num_jobs) nj=${2:?} && options+=("$1" "$2") && shift 2 ;;
    --whisper-model | --whisper_model) whisper_model=${2:?} && shift 2 ;;
    *) options+=("$1") && shift ;;
  esac
done
"${python:?}" -m lrsms.data.corpora.commonvoice --output_dir data ${options[@]+"${options[@]}"}
if [ -n "${whisper_model}" ]; then
  "${python}" -m lrsms.bin.import_whisper --model "${whisper_model}" --asr_exp exp/original
  "${python}" -m lrsms.bin.import_whisper --model "${whisper_model}" --asr_exp exp/original_condensed \
    --audio_context condensed
  # One name for the training YAML, whichever layout the model has.
  "${python}" -m lrsms.bin.export --asr_exp exp/original --format transformers --output_dir data/whisper
elif [ ! -f exp/original/config.yaml ]; then
  echo "error: --whisper-model is not given: a local Whisper model, such as what local/weights.sh leaves" >&2
  exit 1
fi
"${python}" local/cased.py --asr_exp exp/original_condensed --num_jobs "${nj}"
