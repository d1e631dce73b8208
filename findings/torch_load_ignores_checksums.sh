#!/usr/bin/env bash
# torch 2.11.0: torch.load does not look at the checksums that torch.save has written.
#
# A .pth file is a zip archive, and torch.save writes the CRC-32 of each tensor into it. torch.load compares none of
# them, neither as it reads nor with mmap=True: a file in which one bit of a weight has flipped loads without a word,
# with another number in it. zipfile.ZipFile.testzip() finds it. With torch.serialization.set_crc32_options(False) every
# checksum in the archive is 0, which the format has no mark for: other programs take such a file for damaged.
#
# Prints:
#   one bit flipped: torch.load(mmap=False) loads it, other weights True
#   one bit flipped: torch.load(mmap=True) loads it, other weights True
#   one bit flipped: zipfile says a/data/0
#   set_crc32_options(False): torch loads it True, checksums {0}, zipfile says c/data.pkl
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
cat > "${folder}/load.py" <<'PYTHON'
import sys
import zipfile
from pathlib import Path

import torch

folder = Path(sys.argv[1])
torch.manual_seed(0)
weights = {"a": torch.randn(1000), "b": torch.randn(10)}
torch.save(weights, folder / "a.pth")
content = bytearray((folder / "a.pth").read_bytes())
content[content.index(weights["a"].numpy().tobytes()) + 2000] ^= 1
(folder / "flipped.pth").write_bytes(content)
good = True
for mmap in (False, True):
    other = not torch.equal(torch.load(folder / "flipped.pth", mmap=mmap, weights_only=True)["a"], weights["a"])
    print(f"one bit flipped: torch.load(mmap={mmap}) loads it, other weights {other}")
    good &= other
found = zipfile.ZipFile(folder / "flipped.pth").testzip()
print(f"one bit flipped: zipfile says {found}")
torch.serialization.set_crc32_options(False)
torch.save(weights, folder / "c.pth")
same = torch.equal(torch.load(folder / "c.pth", weights_only=True)["a"], weights["a"])
archive = zipfile.ZipFile(folder / "c.pth")
checksums, broken = {entry.CRC for entry in archive.infolist()}, archive.testzip()
print(f"set_crc32_options(False): torch loads it {same}, checksums {checksums}, zipfile says {broken}")
sys.exit(not (good and found == "a/data/0" and same and checksums == {0} and broken is not None))
PYTHON
"${folder}/venv/bin/python" "${folder}/load.py" "${folder}"
