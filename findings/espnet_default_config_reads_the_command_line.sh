#!/usr/bin/env bash
# ESPnet 202511 and 202611: ASRTask.get_default_config() does not return ESPnet's defaults. It parses the command line of
# the program that calls it, whatever that program is: an option that ESPnet happens to have replaces the default, and a
# prefix of several of ESPnet's options (--batch: --batch_size, --batch_bins, --batch_type) ends the program with status 2.
# vars(ASRTask.get_parser().parse_args([])) reads nothing.
#
# Source: espnet2/tasks/abs_task.py, AbsTask.get_default_config (parse_known_args without arguments).
#
# Seen:
#   default_config.py                     max_epoch 40
#   default_config.py --max_epoch 3       max_epoch 3
#   default_config.py --batch 8           status 2, ambiguous option: --batch could match --batch_size, ...
#
# Exits with 1 if one of the three changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
"${PYTHON:-python3.13}" -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install --quiet espnet==202611 torch==2.11.0 torchaudio==2.11.0
cat > "${folder}/default_config.py" <<'PYTHON'
from espnet2.tasks.asr import ASRTask

print("max_epoch", ASRTask.get_default_config()["max_epoch"])
PYTHON
run() { "${folder}/venv/bin/python" "${folder}/default_config.py" "$@"; }

none=$(run 2> /dev/null | tail -n 1)
given=$(run --max_epoch 3 2> /dev/null | tail -n 1)
status=0
run --batch 8 > "${folder}/out" 2>&1 || status=$?
message=$(tail -n 1 "${folder}/out")
echo "without options: ${none}"
echo "--max_epoch 3: ${given}"
echo "--batch 8: status ${status}, ${message}"
[ "${none}" = "max_epoch 40" ] && [ "${given}" = "max_epoch 3" ] && [ "${status}" = 2 ] &&
  [[ ${message} == *"ambiguous option: --batch could match"* ]]
