#!/usr/bin/env bash
# Write utils/requirements.txt: the exact version of every package for Python 3.11, 3.12 and 3.13, on Linux and macOS.
#   utils/lock.sh                               keeps the versions that still fit pyproject.toml
#   utils/lock.sh --upgrade-package lhotse      takes the newest of one; --upgrade: of all
# Needs uv 0.13 (python -m pip install uv). Options go to "uv pip compile".
#
# pyworld is left out. ESPnet 202511 requires it for text-to-speech alone, and without a wheel for Python 3.11 it would
# need a compiler; so requirements.txt is complete without it, and is installed with "pip install --no-deps".
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
UV_CUSTOM_COMPILE_COMMAND=utils/lock.sh uv pip compile --quiet --universal --python-version 3.11 --extra test \
  --no-emit-package pyworld --no-annotate "$@" pyproject.toml -o utils/requirements.txt
