#!/usr/bin/env bash
# torchaudio 2.11.0 requires nothing: not the torch it was built for. A resolver that is asked for "torch torchaudio"
# takes the newest torch beside torchaudio 2.11, which has no later series; who needs a pair pins both.
# Source: METADATA of torchaudio's wheel, and uv's resolution. Exits 1 if this changes.
# Output seen:
#   Requires-Dist of torchaudio 2.11.0: 0 lines
#   torch==2.15.0
#   torchaudio==2.11.1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
cd "${folder}"
python3 -m venv venv
venv/bin/python -m pip install -q uv==0.13.9
venv/bin/python -m pip download -q --no-deps --only-binary :all: --python-version 3.13 --platform manylinux_2_28_x86_64 \
  torchaudio==2.11.0
unzip -q torchaudio-2.11.0-*.whl
requires=$(grep -c "^Requires-Dist" torchaudio-2.11.0.dist-info/METADATA || true)
echo "Requires-Dist of torchaudio 2.11.0: ${requires} lines"
printf 'torch\ntorchaudio\n' | venv/bin/uv pip compile -q --no-header --no-annotate --no-deps --python-version 3.13 \
  --python-platform x86_64-manylinux_2_28 - | tee pair
[ "${requires}" = 0 ] && grep -q "^torchaudio==2\.11" pair && ! grep -q "^torch==2.11" pair
