# Environment of every recipe; source it from any folder: . path.sh, . ../../../path.sh
# Sets LRSMS_ROOT (this folder), PYTHONPATH, and python (the interpreter to use; see utils/bootstrap.sh).
# shellcheck shell=bash

LRSMS_ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
export LRSMS_ROOT

# shellcheck source=utils/bootstrap.sh
. "${LRSMS_ROOT}/utils/bootstrap.sh"

case ":${PYTHONPATH:-}:" in
  *":${LRSMS_ROOT}:"*) ;;
  *) export PYTHONPATH="${LRSMS_ROOT}${PYTHONPATH:+:${PYTHONPATH}}" ;;
esac
export PYTHONIOENCODING=UTF-8

# More threads than this gain nothing on models of this size and starve the other processes of a shared machine.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
  OMP_NUM_THREADS=$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
  [ "${OMP_NUM_THREADS}" -le 4 ] || OMP_NUM_THREADS=4
  export OMP_NUM_THREADS
fi
