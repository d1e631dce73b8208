#!/usr/bin/env bash
# Stages 5 and 7: error rates of all that is decoded under exp/, RESULTS.md and pictures; options of lrsms.bin.score.
set -euo pipefail
. "$(dirname -- "${BASH_SOURCE[0]}")/../path.sh"
exec "${python:?}" -m lrsms.bin.score --data_dir data --exp_dir exp "$@"
