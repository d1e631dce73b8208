#!/usr/bin/env bash
# ESPnet 202511 requires pyworld>=0.3.4, and PyPI has no wheel of pyworld 0.3.4 or 0.3.5 for Python 3.11: without a C++
# compiler "pip install espnet==202511" fails there, though ESPnet imports pyworld in text-to-speech features alone.
# Source: the files that https://pypi.org/simple/pyworld/ lists, and METADATA of ESPnet's wheel. Exits 1 if this changes.
# Output seen:
#   Requires-Dist: pyworld>=0.3.4
#   pyworld 0.3.4: no wheel for CPython 3.11 on Linux
#   pyworld 0.3.5: no wheel for CPython 3.11 on Linux
#   imported by: espnet2/tts/feats_extract/dio.py
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
cd "${folder}"
python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 espnet==202511
unzip -q espnet-202511-*.whl
grep "^Requires-Dist: pyworld" espnet-202511.dist-info/METADATA
for version in 0.3.4 0.3.5; do
  if python3 -m pip download -q --no-deps --only-binary :all: --python-version 3.11 \
    --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 "pyworld==${version}" 2>errors; then
    echo "pyworld ${version} has a wheel for CPython 3.11 now" && exit 1
  fi
  grep -q "No matching distribution" errors
  echo "pyworld ${version}: no wheel for CPython 3.11 on Linux"
done
users=$(grep -rlE "^(import|from) pyworld" espnet espnet2 | sort | tr '\n' ' ')
echo "imported by: ${users}"
[ "$(tr ' ' '\n' <<<"${users}" | grep -cvE '^espnet2/(tts|gan_svs|gan_tts|svs)/|^$' || true)" = 0 ]
