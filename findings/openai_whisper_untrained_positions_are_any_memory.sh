#!/usr/bin/env bash
# openai-whisper 20250625: Whisper(dims) leaves the decoder's positional embedding as whatever the memory held.
#
# TextDecoder has self.positional_embedding = nn.Parameter(torch.empty(n_ctx, n_state)) and nothing that sets it: it is
# meant to come from a file. A model made from its dimensions alone, for a test or to train from scratch, gives numbers
# that differ from run to run, at times NaN, whatever seed is set; every other weight follows the seed. Two such models
# compared with each other agree in NaN, so that a comparison with equal_nan says nothing.
# torch.utils.deterministic.fill_uninitialized_memory shows it: with it, torch.empty is filled with NaN.
# Source: whisper/model.py (class TextDecoder).
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  "openai-whisper==20250625" "torch==2.11.0" "setuptools<81"
cd "${folder}"
"${folder}/venv/bin/python" - <<'PYTHON'
import sys

import torch
from whisper.model import ModelDimensions, Whisper

torch.use_deterministic_algorithms(True)  # and so torch.utils.deterministic.fill_uninitialized_memory, its default
torch.manual_seed(0)
model = Whisper(ModelDimensions(80, 20, 64, 4, 2, 500, 12, 64, 4, 2)).eval()
unset = [name for name, weight in model.named_parameters() if weight.isnan().all()]
with torch.no_grad():
    logits = model(torch.randn(1, 80, 40), torch.tensor([[1, 2, 3]]))
print("never set:", ", ".join(unset))
print("logits that are numbers: %d of %d" % (logits.isfinite().sum(), logits.numel()))
sys.exit(unset != ["decoder.positional_embedding"] or bool(logits.isfinite().any()))
PYTHON

# Output seen:
# never set: decoder.positional_embedding
# logits that are numbers: 0 of 1500
