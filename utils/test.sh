#!/usr/bin/env bash
# Run the tests, one process on each core and one thread in each; arguments go to pytest:
#   utils/test.sh
#   utils/test.sh tests/scoring -x
#   utils/test.sh -m slow
#   utils/test.sh -n 0 tests/lowrank        in this process
#   utils/test.sh --cov=lrsms               with coverage, also of what the tests start; about a third slower
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. ./path.sh

missing=$(_missing_modules "${python}" pytest pytest_cov xdist)
if [ -n "${missing}" ]; then
  echo "error: the environment of ${python} lacks: ${missing}. This installs what is missing:" >&2
  echo "  $(_install_command "${python}")" >&2
  exit 1
fi
processes=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
[ "${processes}" -le 8 ] || processes=8 # each imports ESPnet
export OMP_NUM_THREADS=1
# Tests of one file share what they have trained: they stay in one process.
exec "${python}" -m pytest -n "${processes}" --dist loadfile --no-loadscope-reorder "$@"
