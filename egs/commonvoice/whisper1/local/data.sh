#!/usr/bin/env bash
# Stage 0 of Common Voice with Whisper. Options of the corpus and the model, which run.sh takes as well:
#   --corpus-dir DIR                 a release: train.tsv, dev.tsv, test.tsv and clips/, or as version 1 has it
#   --language NAME                  of the release (default: English)
#   --whisper-model PATH             local: *.pt, model.safetensors or model.bin, and tokenizer.json beside it
#   --whisper-vocabulary N           of it, keep N tokens of text; others spell what rarer ones spelled (default: all)
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"

whisper_model='' vocabulary=() nj=1 options=()
while [ $# -gt 0 ]; do
  case $1 in
    --num_jobs) nj=${2:?} && options+=("$1" "$2") && shift 2 ;;
    --whisper-model | --whisper_model) whisper_model=${2:?} && shift 2 ;;
    --whisper-vocabulary | --whisper_vocabulary) vocabulary=(--vocabulary "${2:?}") && shift 2 ;;
    *) options+=("$1") && shift ;;
  esac
done
"${python:?}" -m lrsms.data.corpora.commonvoice --output_dir data ${options[@]+"${options[@]}"}
if [ -n "${whisper_model}" ]; then
  "${python}" -m lrsms.bin.import_whisper --model "${whisper_model}" --asr_exp exp/original
  "${python}" -m lrsms.bin.import_whisper --model "${whisper_model}" --asr_exp exp/original_condensed \
    --audio_context condensed
elif [ ! -f exp/original/config.yaml ]; then
  echo "error: --whisper-model is not given: a local Whisper model, such as what local/weights.sh leaves" >&2
  exit 1
fi
"${python}" local/cased.py --asr_exp exp/original_condensed --num_jobs "${nj}"
if [ -n "${whisper_model}" ]; then
  # The model to train, under one name for the training YAML; its vocabulary is chosen by texts that are cased.
  to_train=exp/original
  if [ ${#vocabulary[@]} -gt 0 ]; then
    to_train=exp/original_vocabulary
    "${python}" -m lrsms.bin.import_whisper --model "${whisper_model}" --asr_exp ${to_train} \
      "${vocabulary[@]}" --texts data/local/train.txt
  fi
  "${python}" -m lrsms.bin.export --asr_exp ${to_train} --format transformers --output_dir data/whisper
fi
