#!/usr/bin/env bash
# libsndfile 1.2.2 (in the wheel of soundfile 0.14.0): any file whose name ends with .au or .snd is sound.
#
# A file without a header that libsndfile knows is refused, "Format not recognised", unless its name ends with .au,
# .snd, .vox or .gsm: then it is headerless sound, of 8 kHz and mu-law for .au and .snd (format_from_extension in
# src/sndfile.c). A text, an AU file that lost its first bytes, or a file of another format that was renamed is read
# without an error, less the twelve bytes that were looked at for a header. SoundFile.format is RAW then; nothing else
# tells.
#
# Prints:
#   a.wav: LibsndfileError
#   a.au: RAW ULAW, 8000 Hz, 22 samples
#   a.snd: RAW ULAW, 8000 Hz, 22 samples
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q soundfile==0.14.0 numpy==2.4.6
cat > "${folder}/names.py" <<'PYTHON'
import sys
from pathlib import Path

import soundfile

found = []
for name in ("a.wav", "a.au", "a.snd"):
    path = Path(sys.argv[1]) / name
    path.write_text("this is a text and no sound at all")
    try:
        with soundfile.SoundFile(path) as file:
            found.append(f"{file.format} {file.subtype}, {file.samplerate} Hz, {len(file.read())} samples")
    except soundfile.LibsndfileError as error:
        found.append(type(error).__name__)
    print(f"{name}: {found[-1]}")
sys.exit(found != ["LibsndfileError", *["RAW ULAW, 8000 Hz, 22 samples"] * 2])
PYTHON
"${folder}/venv/bin/python" "${folder}/names.py" "${folder}"
