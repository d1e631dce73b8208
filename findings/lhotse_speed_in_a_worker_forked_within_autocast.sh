#!/usr/bin/env bash
# torch 2.11.0 with Lhotse 1.33.0: a DataLoader that is first gone through within torch.autocast("cpu", torch.bfloat16)
# forks its workers there, and they have autocast on. Lhotse's perturb_speed and resample are convolutions of torchaudio:
# they come out in bfloat16, and Lhotse's .numpy() of them is a TypeError. A worker that is spawned has no autocast, and
# perturb_volume, which is no convolution, stays float32. A training loop with autocast around all of an epoch meets this
# only where its cuts change speed.
#
# Source: torch/utils/data/dataloader.py starts workers at the first batch; lhotse/augmentation/torchaudio.py, Speed and
# Resample.
#
# Seen, of fork: plain float32, volume float32, speed TypeError, resample TypeError
#       of spawn: plain float32, volume float32, speed float32, resample float32
#
# Exits with 1 if one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
"${PYTHON:-python3.13}" -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install --quiet torch==2.11.0 torchaudio==2.11.0 lhotse==1.33.0 urllib3==2.5.0 soundfile==0.13.1
cat >"${folder}/seen.py" <<'PYTHON'
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
from lhotse import Recording


class Cuts(torch.utils.data.Dataset):
    def __init__(self, cuts):
        self.cuts = cuts

    def __len__(self):
        return len(self.cuts)

    def __getitem__(self, index):
        try:
            return str(self.cuts[index].load_audio().dtype)
        except TypeError:
            return "TypeError"


def seen(folder, method):
    path = folder / "tone.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(16000) / 10), 16000)
    cut = Recording.from_file(path).to_cut()
    cuts = [cut, cut.perturb_volume(0.5), cut.perturb_speed(1.1), cut.resample(8000)]
    loader = torch.utils.data.DataLoader(Cuts(cuts), batch_size=None, num_workers=1, multiprocessing_context=method)
    with torch.autocast("cpu", torch.bfloat16):
        return list(loader)


if __name__ == "__main__":
    expected = {"fork": ["float32", "float32", "TypeError", "TypeError"], "spawn": ["float32"] * 4}
    with tempfile.TemporaryDirectory() as folder:
        found = {method: seen(Path(folder), method) for method in expected}
    for method, kinds in found.items():
        print(f"of {method}:", ", ".join(map(" ".join, zip(("plain", "volume", "speed", "resample"), kinds))))
    raise SystemExit(found != expected)
PYTHON
"${folder}/venv/bin/python" "${folder}/seen.py"
