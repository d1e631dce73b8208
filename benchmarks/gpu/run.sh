#!/usr/bin/env bash
# What is measured on a GPU: at most eight minutes, without network, each result written as soon as there is one.
#
#   benchmarks/gpu/run.sh OUT                        training steps at the paper's size in OUT/steps and OUT/compiled
#   benchmarks/gpu/run.sh OUT --recipe egs/grid/asr1 decoding, and a small model's steps alone and six at a time, too;
#                                                    the recipe's data/ is there (stage 2)
#   benchmarks/gpu/run.sh OUT --device cpu --size tiny --minutes 4       a rehearsal without a GPU
#
# OUT/parts.tsv says how each part ended: its seconds, and the exit status, 124 if its time was up.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}

out='' device=cuda size=paper minutes=8 recipe='' batches=(64 16) seconds=12 precisions=(bf16 tf32 fp32)
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?} && shift 2 ;;
    --size) size=${2:?} && shift 2 ;;
    --minutes) minutes=${2:?} && shift 2 ;;
    --recipe) recipe=${2:?} && shift 2 ;;
    --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
    -*) echo "error: $1: unknown option; see the head of benchmarks/gpu/run.sh" >&2 && exit 1 ;;
    *) out=$1 && shift ;;
  esac
done
[ -n "${out}" ] || { echo "error: benchmarks/gpu/run.sh: name the folder of the results" >&2 && exit 1; }
mkdir -p "${out}"
out=$(cd "${out}" && pwd)
ngpu=1
[ "${device}" = cuda ] || { batches=(2) && seconds=3 && precisions=(bf16 fp32) && ngpu=0; }

left() { echo $((60 * minutes - SECONDS)); }
part() { # NAME, most seconds, command; what has begun is ended in time, and one that fails does not end the others
  local name=$1 most=$2 begun=${SECONDS} status=0
  shift 2
  [ "${most}" -le "$(left)" ] || most=$(left)
  [ "${most}" -ge 10 ] || return 0
  timeout --kill-after=10 "${most}" "$@" > "${out}/${name}.log" 2>&1 || status=$?
  printf '%s\t%s\t%s\n' "${name}" $((SECONDS - begun)) "${status}" | tee -a "${out}/parts.tsv"
}
bench() { "${python}" -m lrsms.bin.bench "$@" --device "${device}"; }
steps() { # NAME, arms, precisions
  bench train --size "${size}" --arms $2 --precisions $3 --batch "${batches[@]}" --seconds "${seconds}" --steps 6 \
    --output_dir "${out}/$1"
}
decoding() { # --decode_config: the recipe's may name a language model
  bench decode --size "${size}" --arms stock lrsms --precisions fp32 bf16 --decode_config benchmarks/decode_fixed.yaml \
    --data_dir "${recipe}/data" "$@"
}
best_path() { decoding --searches ctc --batch 1 32 --utterances 64 --output_dir "${out}/decode_ctc"; }
beam() { decoding --searches beam --utterances 3 --output_dir "${out}/decode_beam"; }
epochs() { # how many trainings at a time; their steps in summary.json
  local number config begun=() process status=0
  for number in $(seq "$1"); do
    config=train_lrsms
    [ $((number % 2)) = 1 ] || config=train_dense
    "${python}" -m lrsms.bin.train --config "${recipe}/conf/${config}.yaml" --data_dir "${recipe}/data" \
      --output_dir "${out}/trainings/$1_at_a_time/${config}_${number}" --seed "${number}" --ngpu "${ngpu}" \
      -- --max_epoch 2 &
    begun+=($!)
  done
  for process in "${begun[@]}"; do wait "${process}" || status=$?; done
  return "${status}"
}
export -f bench steps decoding best_path beam epochs
export python device size seconds out recipe ngpu

"${python}" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")' \
  | tee "${out}/device.txt"
cd "${root}"
part steps 190 bash -c "batches=(${batches[*]}); steps steps 'stock dense lrsms lrsms_aids' '${precisions[*]}'"
if [ -n "${recipe}" ]; then
  part decode_ctc 60 bash -c best_path
  part decode_beam 60 bash -c beam
  for number in 1 6; do
    part "trainings_${number}_at_a_time" 75 bash -c "epochs ${number}"
  done
fi
part compiled 300 bash -c "batches=(${batches[*]}); steps compiled 'stock lrsms lrsms_compiled dense_compiled' bf16"
