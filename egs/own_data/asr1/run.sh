#!/usr/bin/env bash
# Your own corpus, as Kaldi-style folders or Lhotse manifests. README.md shows both layouts.
#
#   ./run.sh --kaldi-dir DIR         DIR/{train,dev,test}/{wav.scp,text,utt2spk}
#   ./run.sh --manifest-dir DIR      DIR/{train,dev,test}/{recordings,supervisions}.jsonl.gz, or cuts.jsonl.gz
#   ./run.sh --kaldi-dir DIR --stage 3 --train-config conf/train_dense.yaml      the dense reference beside it
#
# Every option of the root run.sh applies and overrides what is set here.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
LRSMS_COMMAND=$(printf '%q ' egs/own_data/asr1/run.sh "$@")
export LRSMS_COMMAND
exec "${here}/../../../run.sh" --recipe-dir "${here}" \
  --speed-perturb 1.0 --token-type char --results-dir "${here}" "$@"
