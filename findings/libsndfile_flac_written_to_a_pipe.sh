#!/usr/bin/env bash
# libsndfile 1.2.2 (in the wheel of soundfile 0.14.0): a FLAC file that was written to a pipe cannot be read.
#
# STREAMINFO's number of samples is 0 where the encoder could not go back to write it, which the format allows ("a value
# of zero here means the number of total samples is unknown", RFC 9639, section 8.2): flac - and ffmpeg -f flac - write
# such files. libsndfile announces 2**63 - 1 samples, and the first read fails. ffmpeg reads the file.
#
# Prints:
#   announced 9223372036854775807, read: LibsndfileError, ffmpeg reads 48000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.6 av==18.1.0
cat > "${folder}/flac.py" <<'PYTHON'
import sys
from pathlib import Path

import av
import numpy as np
import soundfile

path = Path(sys.argv[1]) / "a.flac"
soundfile.write(path, 0.2 * np.random.default_rng(0).standard_normal(48000).clip(-1, 1), 16000)
content = bytearray(path.read_bytes())
assert content[:5] == b"fLaC\0"  # then STREAMINFO, whose 36 bits of the number of samples end with byte 25
content[21] &= 0xF0
content[22:26] = bytes(4)
path.write_bytes(content)
with soundfile.SoundFile(path) as file:
    announced = file.frames
    try:
        read = len(file.read(48000))
    except soundfile.LibsndfileError as error:
        read = type(error).__name__
with av.open(str(path)) as container:
    heard = sum(frame.samples for frame in container.decode(audio=0))
print(f"announced {announced}, read: {read}, ffmpeg reads {heard}")
sys.exit((announced, read, heard) != (2**63 - 1, "LibsndfileError", 48000))
PYTHON
"${folder}/venv/bin/python" "${folder}/flac.py" "${folder}"
