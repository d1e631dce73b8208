#!/usr/bin/env bash
# From a corpus to a word error rate with a low-rank Conformer.
#
#   ./run.sh                                            the embedded corpus of spoken digits, stages 0 to 5
#   ./run.sh --stage 3 --train-config conf/train_dense.yaml   the dense model beside it, on the same data
#   egs/<corpus>/asr1/run.sh --corpus-dir DIR           the same stages on a real corpus
#
#   ./run.sh --stage 6 --stop-stage 7                   compress that model, decode and score the compressed models
#   ./run.sh --stage 8 --stop-stage 8                   ONNX files of it, for onnxruntime and sherpa-onnx
#
# Stages: 0 corpus (local/data.sh), 1 cuts, 2 tokenizer, 3 training, 4 decoding, 5 scoring (local/score.sh);
# 6 compression, 7 its decoding and scoring; 8 export.
# A stage whose inputs have not changed is skipped. A killed training or compression goes on where it stopped.
# Results: exp/RESULTS.md and exp/results.json.
#
set -euo pipefail

stage=0                          # first stage to run
stop_stage=5                     # last stage to run
force=false                      # run stages again even if they have run; stage 3 starts its training again
recipe_dir=                      # folder whose conf/, local/, data/ and exp/ are used (default: where this script is)

local_data_opts=                 # stage 0: further options of local/data.sh, in one string

train_split=train
valid_split=dev
test_splits="test"
fs=16000                         # sampling rate of the cuts in Hz; others are resampled as they are read
speed_perturb="0.9 1.0 1.1"      # training speeds; 1.0 for none
token_type=word                  # char, word, unigram or bpe
vocab_size=500                   # of unigram and bpe

train_config=conf/train_lrsms.yaml
tag=                             # name of the experiment under exp/ (default: from train_config and seed)
seed=0                           # of the embedded corpus and of training
ngpu=0                           # GPUs of this machine
num_nodes=1                      # machines that train together
num_processes=1                  # CPU processes that train together, without GPU
warmup_epochs=                   # number of epochs that are trained dense before the rest is low-rank
train_args=                      # further options of espnet2.bin.asr_train, such as "--max_epoch 50"

decode_config=conf/decode.yaml
decode_method=ctc_attention      # or several in one string; with k2: k2_ctc k2_hlg k2_attention_rescoring (docs/k2.md)
snrs=                            # audio-visual: stage 4 also decodes at these ratios (dB), and with one stream alone
compress_config=conf/compress.yaml
storage=                         # stage 6: URL of an Optuna storage that several machines reach (default: a file)
export_formats="onnx sherpa"     # stage 8: also espnet (factors multiplied out) and pack (one file to share)
merge=                           # stage 8: layers to make dense: all, faster or none (default: the format's)
check="test"                     # stage 8: split to recognize with what was exported and the checkpoint; "" for none
checkpoint=valid.acc.ave.pth     # of the experiment's folder
nj=                              # processes in preparation and decoding (default: one for each core)
results_dir=                     # also write RESULTS.md, results.json and pictures here

LRSMS_COMMAND=${LRSMS_COMMAND:-$(printf '%q ' "$0" "$@")}
export LRSMS_COMMAND=${LRSMS_COMMAND% }
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
options_from() { # scripts whose options are taken as well, for stage 0: the recipe's data.sh first
  local data
  for data in "${recipe_dir:-${here}}" "${here}" "${here}"/egs/*/*; do
    [ ! -f "${data}/local/data.sh" ] || echo "${data}/local/data.sh"
  done
}
. "${here}/utils/parse_options.sh"
[ -n "${recipe_dir}" ] || export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # the digits' model is too small for more
. "${here}/path.sh"

# Paths that the user gives are relative to where the user is; the recipe's own files are not.
[ -z "${results_dir}" ] || results_dir=$(realpath -m -- "${results_dir}")
for option in train_config decode_config compress_config; do
  for folder in "${recipe_dir:-${LRSMS_ROOT}}" "${LRSMS_ROOT}" "${PWD}"; do
    [ ! -f "${folder}/${!option}" ] || { printf -v "${option}" '%s' "$(realpath -- "${folder}/${!option}")"; break; }
  done
done
cd -- "${recipe_dir:-${LRSMS_ROOT}}"
export LRSMS_RECIPE_PROCESS=$$ # what is run below ends with this process

nj=${nj:-$(env -u OMP_NUM_THREADS nproc)} # nproc heeds that variable
train_name=$(basename "${train_config}" .yaml)
tag=${tag:-${train_name}$([ "${seed}" -eq 0 ] || echo "_seed${seed}")}

local_file() { # the recipe's own, else the root's
  [ -f "local/$1" ] && echo "local/$1" || echo "${LRSMS_ROOT}/local/$1"
}
run() { # a verb or a file of local/, and options; those with an empty value are left out
  local command=("${python:?}" -m "lrsms.bin.$1") options=()
  case $1 in
    *.sh) command=("$(local_file "$1")") ;;
    *.py) command=("${python}" "$(local_file "$1")") ;;
  esac
  shift
  while [ $# -gt 1 ]; do
    [ -z "$2" ] || options+=("$1" "$2")
    shift 2
  done
  "${command[@]}" "${options[@]}"
}
with_graph=false
for method in ${decode_method}; do # a typo is reported before a training, not after it
  case ${method} in
    ctc_attention | k2_ctc) ;;
    k2_hlg | k2_attention_rescoring) with_graph=true ;;
    *)
      echo "error: --decode-method ${method}: expected ctc_attention, k2_ctc, k2_hlg or k2_attention_rescoring" >&2
      exit 1 ;;
  esac
done
within() { [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ]; }

if within 0; then
  # shellcheck disable=SC2086
  "$(local_file data.sh)" --seed "${seed}" --num_jobs "${nj}" --force "${force}" ${local_data_opts} \
    ${further_options[@]+"${further_options[@]}"}
fi
if within 1; then
  run cuts --data_dir data --train_splits "${train_split}" --eval_splits "${valid_split} ${test_splits}" \
    --valid_split "${valid_split}" --fs "${fs}" --speed_perturb "${speed_perturb}" --num_jobs "${nj}" --force "${force}"
fi
if within 2; then
  run tokenize --data_dir data --train_splits "${train_split}" --eval_splits "${valid_split} ${test_splits}" \
    --token_type "${token_type}" --vocab_size "${vocab_size}" --force "${force}"
  [ "${with_graph}" = false ] || for program in prepare_lang.py compile_hlg.py; do
    run "${program}" --data_dir data --train_splits "${train_split}" --token_type "${token_type}" \
      --vocab_size "${vocab_size}" --config "${decode_config}" --force "${force}"
  done
fi
if within 3; then
  # shellcheck disable=SC2086
  "${python}" -m lrsms.bin.train --config "${train_config}" --output_dir "exp/${tag}" --data_dir data \
    ${warmup_epochs:+--warmup_epochs "${warmup_epochs}"} --train_split "${train_split}" --valid_split "${valid_split}" \
    --token_type "${token_type}" --vocab_size "${vocab_size}" --seed "${seed}" --ngpu "${ngpu}" --num_nodes "${num_nodes}" \
    --num_processes "${num_processes}" --force "${force}" -- ${train_args}
fi
if within 4; then
  run decode --asr_exp "exp/${tag}" --data_dir data --splits "${test_splits}" --config "${decode_config}" \
    --decode_method "${decode_method}" --train_splits "${train_split}" --checkpoint "${checkpoint}" --nj "${nj}" \
    --ngpu "${ngpu}" --force "${force}"
  [ -z "${snrs}" ] || run conditions --asr_exp "exp/${tag}" --data_dir data --splits "${test_splits}" --snrs "${snrs}" \
    --train_split "${train_split}" --config "${decode_config}" --checkpoint "${checkpoint}" --nj "${nj}" --ngpu "${ngpu}" \
    --force "${force}"
fi
if within 5; then
  run score.sh --results_dir "${results_dir}" --force "${force}"
fi
if within 6; then
  run compress --asr_exp "exp/${tag}" --config "${compress_config}" --data_dir data --train_split "${train_split}" \
    --valid_split "${valid_split}" --test_splits "${test_splits}" --decode_config "${decode_config}" \
    --checkpoint "${checkpoint}" --nj "${nj}" --ngpu "${ngpu}" --storage "${storage}" --force "${force}"
fi
if within 7; then
  for iteration in "exp/${tag}_compressed"/iter*; do
    [ ! -f "${iteration}/accepted.json" ] || run decode --asr_exp "${iteration}" --data_dir data --nj "${nj}" \
      --splits "${test_splits}" --config "${decode_config}" --decode_method "${decode_method}" \
      --train_splits "${train_split}" --checkpoint "${checkpoint}" --ngpu "${ngpu}" --force "${force}"
  done
  run score.sh --results_dir "${results_dir}" --force "${force}"
fi
if within 8; then
  for format in ${export_formats}; do
    run export --asr_exp "exp/${tag}" --format "${format}" --merge "${merge}" --check "${check}" --data_dir data \
      --config "${decode_config}" --checkpoint "${checkpoint}" --force "${force}"
  done
fi
