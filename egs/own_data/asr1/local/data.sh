#!/usr/bin/env bash
# Stage 0 of your own corpus. Options of the corpus, which run.sh takes as well:
#   --kaldi-dir DIR                  DIR/{train,dev,test}/{wav.scp,text,utt2spk}
#   --manifest-dir DIR               DIR/{train,dev,test}/{recordings,supervisions}.jsonl.gz, or cuts.jsonl.gz
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../../../../path.sh"
exec "${python:?}" -m lrsms.data.corpora.own_data --output_dir data "$@"
