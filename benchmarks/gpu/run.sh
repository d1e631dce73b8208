#!/usr/bin/env bash
# What is measured on a GPU: at most 8 minutes, without network, each result written as soon as there is one.
#
#   benchmarks/gpu/run.sh OUT                        training steps at the paper's size in OUT/<precision>/
#   benchmarks/gpu/run.sh OUT --recipe egs/grid/asr1 a small model's epochs too, alone and six at a time, and with the
#                                                    time that is left the recipe's sweep; its data/ is there (stage 2)
#   benchmarks/gpu/run.sh OUT --device cpu --size tiny --minutes 2       a rehearsal without a GPU
#
# OUT/steps.tsv says how each part ended: its seconds, and the exit status, 124 if its time was up.
set -euo pipefail
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-python3}
export PYTHONPATH=${root}${PYTHONPATH:+:${PYTHONPATH}}

out='' device=cuda size=paper minutes=8 recipe='' sweep=conf/sweep_parity.yaml batch=16 seconds=12
while [ $# -gt 0 ]; do
  case $1 in
    --device) device=${2:?} && shift 2 ;;
    --size) size=${2:?} && shift 2 ;;
    --minutes) minutes=${2:?} && shift 2 ;;
    --recipe) recipe=${2:?} && shift 2 ;;
    --sweep) sweep=${2:?} && shift 2 ;;
    -*) echo "error: $1: unknown option; see the head of benchmarks/gpu/run.sh" >&2 && exit 1 ;;
    *) out=$1 && shift ;;
  esac
done
[ -n "${out}" ] || { echo "error: benchmarks/gpu/run.sh: name the folder of the results" >&2 && exit 1; }
mkdir -p "${out}"
out=$(cd "${out}" && pwd)
[ "${device}" = cuda ] || { batch=2 && seconds=3; }
ngpu=0 && [ "${device}" = cpu ] || ngpu=1

left() { echo $((60 * minutes - SECONDS)); }
part() { # NAME, most seconds, command; what has begun is ended in time, and one that fails does not end the others
  local name=$1 most=$2 begun=${SECONDS} status=0
  shift 2
  [ "${most}" -le "$(left)" ] || most=$(left)
  [ "${most}" -ge 10 ] || return 0
  timeout --kill-after=10 "${most}" "$@" > "${out}/${name}.log" 2>&1 || status=$?
  printf '%s\t%s\t%s\n' "${name}" $((SECONDS - begun)) "${status}" | tee -a "${out}/steps.tsv"
}
training() { # NAME, arms, further options
  local name=$1 arms=$2
  shift 2
  # shellcheck disable=SC2086
  part "${name}" 75 env "${setting[@]}" "${python}" -m lrsms.bin.bench train --size "${size}" --arms ${arms} \
    --device "${device}" --batch "${batch}" --seconds "${seconds}" --output_dir "${out}/${name}" "$@"
}

"${python}" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU")' \
  | tee "${out}/device.txt"
setting=(TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=0) && training fp32 "stock dense lrsms"
setting=(TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1) && training tf32 "stock dense lrsms"
training bf16 "stock dense lrsms" --amp true
training bf16_compiled "stock lrsms lrsms_compiled" --amp true
if [ -n "${recipe}" ]; then
  cd "${recipe}"
  sed -e 's/^folder: .*/folder: gpu_epochs/' -e 's/^seeds: .*/seeds: [0, 1]/' -e '/^set:/d' "${sweep}" > "${out}/epochs.yaml"
  echo 'set: {max_epoch: 2}' >> "${out}/epochs.yaml"
  for nj in 1 6; do
    # The first epochs of all arms; seconds per step of each are in sweeps_<nj>/gpu_epochs/*/summary.json.
    part "epochs_${nj}_at_a_time" 60 "${python}" -m lrsms.bin.sweep "${out}/epochs.yaml" --ngpu "${ngpu}" --nj "${nj}" \
      --sweep_dir "${out}/sweeps_${nj}"
  done
  part sweep $(($(left) - 40)) "${python}" -m lrsms.bin.sweep "${sweep}" --ngpu "${ngpu}" --nj 6 --sweep_dir "${out}/sweeps"
  part report 30 "${python}" -m lrsms.bin.sweep "${sweep}" --sweep_dir "${out}/sweeps" --report_only
fi
