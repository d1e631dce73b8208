#!/usr/bin/env bash
# kaldi-native-fbank 1.23.0, which sherpa-onnx hears with: Whisper's frames are half a hop later than Whisper's own.
#
# openai-whisper and transformers centre frame i at i * 10 ms (torch.stft with center=True). OnlineWhisperFbank centres
# it at i * 10 + 5 ms, as Kaldi does without snip_edges. A model with the same weights then says other words on some
# recordings. 80 samples of silence in front of a recording at 16 kHz put the frames where Whisper has them.
#
# Prints:
#   transformers: frame 50, frames 49 and 51 alike
#   kaldi-native-fbank: frames 49 and 50 alike
#   kaldi-native-fbank, 80 samples of silence before: frame 50, frames 49 and 51 alike
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"

"${folder}/venv/bin/pip" install -q kaldi-native-fbank==1.23.0 transformers==5.14.1 numpy==2.4.6
cat > "${folder}/shift.py" <<'PYTHON'
"""Where in time are the frames? A click in digital silence is loudest in the frame whose window's middle it is in."""
import sys

import kaldi_native_fbank
import numpy as np
from transformers import WhisperFeatureExtractor

RATE, CLICK = 16000, 8000  # the click is 0.5 s from the beginning


def of_transformers(samples):
    frames = WhisperFeatureExtractor()(samples, sampling_rate=RATE, return_tensors="np").input_features[0]
    return frames.mean(axis=0)  # one number for each of 3,000 frames


def of_kaldi_native_fbank(samples):
    features = kaldi_native_fbank.OnlineWhisperFbank(kaldi_native_fbank.WhisperFeatureOptions())
    features.accept_waveform(RATE, samples.tolist())
    features.input_finished()
    power = np.stack([features.get_frame(number) for number in range(features.num_frames_ready)])
    return np.log10(np.maximum(power, 1e-10)).mean(axis=1)


def describe(values):
    before, at, after = values[49:52]
    if np.isclose(before, at, atol=1e-3) and at > after:
        return "frames 49 and 50 alike"
    return "frame 50, frames 49 and 51 alike" if np.isclose(before, after, atol=1e-3) and at > after else "neither"


click = np.zeros(RATE, np.float32)
click[CLICK] = 1.0
later = np.concatenate((np.zeros(80, np.float32), click))
found = [
    f"transformers: {describe(of_transformers(click))}",
    f"kaldi-native-fbank: {describe(of_kaldi_native_fbank(click))}",
    f"kaldi-native-fbank, 80 samples of silence before: {describe(of_kaldi_native_fbank(later))}",
]
print("\n".join(found))
sys.exit(found != [
    "transformers: frame 50, frames 49 and 51 alike",
    "kaldi-native-fbank: frames 49 and 50 alike",
    "kaldi-native-fbank, 80 samples of silence before: frame 50, frames 49 and 51 alike",
])
PYTHON
"${folder}/venv/bin/python" "${folder}/shift.py"
