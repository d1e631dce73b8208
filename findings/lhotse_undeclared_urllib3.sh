#!/usr/bin/env bash
# Lhotse 1.33.0 imports urllib3 at "import lhotse" and does not require it. No package that it requires does either: in an
# environment of Lhotse alone the import fails, beside a package that brings requests it works.
# Source: METADATA of Lhotse's wheel; uv's resolution of all it requires; the import statement. Exits 1 if this changes.
# Output seen:
#   urllib3 among the packages of "pip install lhotse==1.33.0": 0
#   lhotse/ais/batch_loader.py:4:from urllib3.exceptions import TimeoutError
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
cd "${folder}"
python3 -m venv venv
venv/bin/python -m pip install -q uv==0.13.9
echo "lhotse==1.33.0" | venv/bin/uv pip compile -q --no-header --no-annotate --python-version 3.11 \
  --python-platform x86_64-manylinux_2_28 - >packages
found=$(grep -c "^urllib3" packages || true)
echo "urllib3 among the packages of \"pip install lhotse==1.33.0\": ${found}"
venv/bin/python -m pip download -q --no-deps lhotse==1.33.0
unzip -q lhotse-1.33.0-*.whl
grep -rnE "^(import|from) urllib3" lhotse
[ "${found}" = 0 ]
