#!/usr/bin/env bash
# Lhotse 1.33.0: the same manifest written twice is two different files.
#
# to_file(), save_to_jsonl() and open_writer() go through gzip.open (lhotse/workarounds.py, gzip_open_robust), which
# leaves the time and the name of the file in the header (RFC 1952, bytes 4 to 7 and the field after the tenth byte). A
# hash of the file's bytes says that a corpus has changed where its stage was run again. There is no option for it; a
# gzip.GzipFile with mtime=0 and an empty name, given to io.TextIOWrapper, takes the same lines.
#
# Prints:
#   RecordingSet.to_file: same content True, same bytes False, name in the header True
#   CutSet.open_writer: same content True, same bytes False, name in the header True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
# urllib3: Lhotse imports it and does not require it.
"${folder}/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6 urllib3==2.8.0
"${folder}/venv/bin/pip" install -q lhotse==1.33.0
cat > "${folder}/write.py" <<'PYTHON'
import gzip
import sys
import time
from pathlib import Path

from lhotse import AudioSource, CutSet, MonoCut, Recording, RecordingSet

folder = Path(sys.argv[1])
recording = Recording("a", [AudioSource("file", [0], "a.wav")], 16000, 16000, 1.0)


def with_to_file(path):
    RecordingSet.from_recordings([recording]).to_file(path)


def with_writer(path):
    with CutSet.open_writer(path) as writer:
        writer.write(MonoCut("a", start=0, duration=1, channel=0, recording=recording))


good = True
for name, write in (("RecordingSet.to_file", with_to_file), ("CutSet.open_writer", with_writer)):
    path, written = folder / "manifest.jsonl.gz", []
    for _ in range(2):
        write(path)
        written.append(path.read_bytes())
        time.sleep(1.1)
    same, equal = len({gzip.decompress(one) for one in written}) == 1, written[0] == written[1]
    named = b"manifest.jsonl\0" in written[0][:40]
    print(f"{name}: same content {same}, same bytes {equal}, name in the header {named}")
    good &= same and named and not equal
sys.exit(not good)
PYTHON
"${folder}/venv/bin/python" "${folder}/write.py" "${folder}"
