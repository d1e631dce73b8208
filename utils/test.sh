#!/usr/bin/env bash
# Run the tests with coverage; arguments go to pytest:
#   utils/test.sh
#   utils/test.sh tests/scoring -x
#   utils/test.sh -m slow
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
. ./path.sh

missing=$(_missing_modules "${python}" pytest pytest_cov)
if [ -n "${missing}" ]; then
  echo "error: the environment of ${python} lacks: ${missing}. This installs what is missing:" >&2
  echo "  $(_install_command "${python}" "'.[test]'")" >&2
  exit 1
fi
exec "${python}" -m pytest --cov=lrsms --cov-report=term "$@"
