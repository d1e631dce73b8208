#!/usr/bin/env bash
# How recipe.tar.xz and expected.json were made by release 0.1.0: make.sh CHECKOUT FOLDER
# CHECKOUT is one of commit fa5a565; FOLDER receives the recipe, of which the archive has a part (see README.md).
set -euo pipefail
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
python=${LRSMS_PYTHON:-python3}
export PYTHONPATH=$1 OMP_NUM_THREADS=1
verb() {
  local name=$1
  shift
  "${python}" -m "lrsms.bin.${name}" "$@"
}
mkdir -p "$2"
cd "$2"
cp "${here}"/*.yaml .

verb prepare --corpus digits --output_dir data --num_train 4 --num_dev 2 --num_test 2 --num_jobs 1
verb cuts --data_dir data --fs 8000 --num_jobs 1
verb tokenize --data_dir data
verb train --config train.yaml --output_dir exp/tiny
verb decode --asr_exp exp/tiny --splits "dev test" --config decode.yaml
verb export --asr_exp exp/tiny --format pack
verb compress --asr_exp exp/tiny --config compress.yaml --decode_config decode.yaml
verb sweep sweep.yaml --decode_config decode.yaml
"${python}" "${here}/expect.py"
