#!/usr/bin/env bash
# ESPnet 202611: --init_param of a checkpoint that 202511 saved leaves the linear layer behind the subsampling
# (encoder.embed.out; embed.out.0 in 202511) as it was initialized, without an error or a warning.
# load_state_dict alone renames it. --init_param adds the file's weights to the model's own state first, so both names
# are there, and _upgrade_legacy_subsampling_state_dict then drops the old name: the one from the file.
#
# Source: espnet2/torch_utils/load_pretrained_model.py, load_pretrained_model (dst_state.update(src_state));
# espnet2/legacy/nets/pytorch_backend/transformer/subsampling.py, _upgrade_legacy_subsampling_state_dict
# (elif w_new in state_dict and w_old in state_dict: state_dict.pop(w_old)). Python 3.12 or 3.13.
#
# Seen:
#   load_state_dict of 202511's names: loaded
#   --init_param of the same file: embed.out stays as it was initialized, without an error; all others are loaded
#
# Exits with 1 if --init_param loads the layer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
"${PYTHON:-python3.13}" -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install --quiet espnet==202611 torch==2.11.0 torchaudio==2.11.0
"${folder}/venv/bin/python" - <<'PYTHON'
import os
import tempfile

import torch
from torch import nn
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

def model():
    sizes = {"output_size": 16, "attention_heads": 2, "linear_units": 32, "num_blocks": 1}
    return nn.ModuleDict({"encoder": ConformerEncoder(20, rel_pos_type="latest", **sizes)})

trained, plain, init_param = model(), model(), model()
weights = trained.state_dict()
old = {name.replace("embed.out.", "embed.out.0."): value for name, value in weights.items()}  # 202511's names
key = "encoder.embed.out.weight"
plain.load_state_dict(old)
loaded = torch.equal(plain.state_dict()[key], weights[key])
print("load_state_dict of 202511's names:", "loaded" if loaded else "NOT loaded")
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "old.pth")
    torch.save(old, path)
    load_pretrained_model(path, init_param, ignore_init_mismatch=False)
loaded = torch.equal(init_param.state_dict()[key], weights[key])
found = {name: value for name, value in init_param.state_dict().items() if "embed.out" not in name}
others = all(torch.equal(value, weights[name]) for name, value in found.items())
said = "loaded" if loaded else "embed.out stays as it was initialized, without an error;"
print("--init_param of the same file:", said, "all others are loaded" if others else "others differ too")
raise SystemExit(not (not loaded and others))
PYTHON
