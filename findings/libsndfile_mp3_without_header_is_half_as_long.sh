#!/usr/bin/env bash
# libsndfile 1.2.2 (in the wheel of soundfile 0.14.0): of an MP3 it reads as much as the first header says or a guess.
#
# An MP3 has no length of its own. Encoders put one into a first frame without sound (Xing's header, which LAME writes),
# and libsndfile (src/mpeg_decode.c, by mpg123) ends there, without a message, though frames follow:
#
#  * two MP3 files joined into one, which players and ffmpeg play to the end, are as long as the first;
#  * a file of variable bit rate without such a header (lame -t, ffmpeg -write_xing 0, a stream that was recorded) is as
#    long as the bit rate of its first frame lets one guess: here half. frames says the same, so nothing contradicts it.
#
# The same happens to joined FLAC, Ogg and Opus files, and to a FLAC file whose STREAMINFO announces fewer samples than
# follow. ffmpeg's demultiplexer counts packets of all of these without decoding them: av.open(path).demux(audio=0).
#
# Prints:
#   as written: libsndfile announces 48000 samples and reads 48000, packets hold 49536
#   joined: libsndfile announces 48000 samples and reads 48000, packets hold 99648
#   without its first frame: libsndfile announces 23976 samples and reads 23976, packets hold 49536
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.6 av==18.1.0
cat > "${folder}/mp3.py" <<'PYTHON'
import sys
from pathlib import Path

import av
import numpy as np
import soundfile

folder = Path(sys.argv[1])
soundfile.write(folder / "a.mp3", 0.2 * np.random.default_rng(0).standard_normal(48000).clip(-1, 1), 16000)
content = (folder / "a.mp3").read_bytes()
first = content.index(content[:2], 4)  # the second frame: each begins with the same two bytes
assert b"Xing" in content[:first]
found = []
for name, changed in (("as written", content), ("joined", content * 2), ("without its first frame", content[first:])):
    path = folder / "b.mp3"
    path.write_bytes(changed)
    with soundfile.SoundFile(path) as file:
        announced, read = file.frames, len(file.read())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(audio=0) if packet.size]
        held = round(sum(float(packet.duration * packet.time_base) for packet in packets) * 16000)
    print(f"{name}: libsndfile announces {announced} samples and reads {read}, packets hold {held}")
    found.append((announced, read, held))
written, joined, headless = found
sys.exit(not (written[0] == joined[1] == 48000 and joined[2] > 96000 and headless[1] < 25000 and headless[2] > 48000))
PYTHON
"${folder}/venv/bin/python" "${folder}/mp3.py" "${folder}" 2>/dev/null
