#!/usr/bin/env bash
# ESPnet 202611: a Conformer's encoder layer asks its convolution module at construction, by its signature, whether it
# takes a mask of padding (mask_pad), and keeps the answer. A module whose class or instance is exchanged afterwards is
# called by the old answer: without the argument in its signature it gets a TypeError, and a layer made around a
# convolution without it never masks, so that the last frames of a shorter utterance depend on the batch.
# (202511 passes no mask at all: the same weights give other outputs for padded batches in the two versions.)
#
# Source: espnet2/legacy/nets/pytorch_backend/conformer/encoder_layer.py, EncoderLayer.__init__ and forward;
# convolution.py, mask_padded_frames. Python 3.12 or 3.13.
#
# Seen:
#   a later convolution that takes mask_pad is given it: [True]
#   a later convolution that does not take it: TypeError Plain.forward() got an unexpected keyword argument 'mask_pad'
#   without the mask, the shorter utterance differs by up to 0.186
#
# Exits with 1 if one of the three changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
"${PYTHON:-python3.13}" -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install --quiet espnet==202611 torch==2.11.0 torchaudio==2.11.0
"${folder}/venv/bin/python" - <<'PYTHON'
import torch
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.legacy.nets.pytorch_backend.conformer.convolution import ConvolutionModule

torch.manual_seed(0)

class Plain(ConvolutionModule):
    def forward(self, x):
        return super().forward(x)

class Masked(ConvolutionModule):
    calls = []
    def forward(self, x, mask_pad=None):
        Masked.calls.append(mask_pad is not None)
        return super().forward(x, mask_pad)

sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
model = ConformerEncoder(20, rel_pos_type="latest", **sizes).eval()
x, lengths = torch.randn(2, 80, 20), torch.tensor([80, 40])
with torch.no_grad():
    model(x, lengths)
    layer = model.encoders[0]
    layer.conv_module.__class__ = Masked
    model(x, lengths)
    print("a later convolution that takes mask_pad is given it:", Masked.calls)
    layer.conv_module.__class__ = Plain
    try:
        model(x, lengths)
        error = None
    except TypeError as e:
        error = e
    print("a later convolution that does not take it:", type(error).__name__, error)
    layer.conv_module.__class__ = ConvolutionModule
    layer._conv_takes_mask = False
    without = model(x, lengths)[0]
    layer._conv_takes_mask = True
    difference = float((model(x, lengths)[0] - without)[1, :9].abs().max())
    print(f"without the mask, the shorter utterance differs by up to {difference:.3f}")
raise SystemExit(not (Masked.calls == [True] and isinstance(error, TypeError) and difference > 1e-3))
PYTHON
