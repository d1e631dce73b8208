#!/usr/bin/env bash
# torch 2.11.0: an nn.LSTM on the meta device is gone through in Python, frame by frame.
#
# The meta device is there to find shapes without computing. For most modules it is as quick as that, but aten::lstm has
# no meta kernel: its Python decomposition (torch/_decomp/decompositions.py) runs instead, some fifteen operations for
# each frame. Ten seconds of features through a bidirectional LSTM of four layers take minutes on "meta" and less than a
# second on the CPU, where it is one call.
#
# Prints:
#   cpu: 8 operations for 10 frames, 8 for 100
#   meta: 159 operations for 10 frames, 1509 for 100
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
cat > "${folder}/count.py" <<'PYTHON'
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Count(TorchDispatchMode):
    operations = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.operations += 1
        return function(*args, **(kwargs or {}))


found = {}
for device in ("cpu", "meta"):
    lstm = torch.nn.LSTM(8, 8, device=device)
    for frames in (10, 100):
        with torch.no_grad(), Count() as count:
            lstm(torch.zeros(frames, 1, 8, device=device))
        found[device, frames] = count.operations
    print(f"{device}: {found[device, 10]} operations for 10 frames, {found[device, 100]} for 100")
sys.exit(not (found["cpu", 10] == found["cpu", 100] and found["meta", 100] > 5 * found["meta", 10] > 500))
PYTHON
"${folder}/venv/bin/python" "${folder}/count.py"
