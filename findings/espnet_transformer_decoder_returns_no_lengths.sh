#!/usr/bin/env bash
# ESPnet 202511 and 202611: what TransformerDecoder.forward returns beside the scores is no length of each text, though
# its docstring says olens: (batch,). The mask that is summed has been combined with the causal one, and the sum runs
# over its queries, so that it is (batch, tokens) and says how many positions look at each token. In a mask that is
# made of it by broadcasting, as of lengths, nothing raises: positions behind half of the longest text are taken for
# padding, and each text is masked like every other of the batch. RNNDecoder returns the lengths that it was given.
#
# Source: espnet2/asr/decoder/transformer_decoder.py: olens = tgt_mask.sum(1) in BaseTransformerDecoder.forward.
# Python 3.11, 3.12 or 3.13.
#
# Seen (texts of 5 and 2 tokens in one batch):
#   202511 TransformerDecoder returns [[5, 4, 3, 2, 1], [5, 4, 0, 0, 0]], RNNDecoder [5, 2]
#   202511 values (2, 5) masked by it become (2, 2, 5), of which 10 are left, where the texts have 7 tokens
#   202611 TransformerDecoder returns [[5, 4, 3, 2, 1], [5, 4, 0, 0, 0]], RNNDecoder [5, 2]
#   202611 values (2, 5) masked by it become (2, 2, 5), of which 10 are left, where the texts have 7 tokens
#
# Exits with 1 if one of these changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
for version in 202511 202611; do
  "${PYTHON:-python3.13}" -m venv "${folder}/${version}"
  "${folder}/${version}/bin/pip" install --quiet "espnet==${version}" torch==2.11.0 torchaudio==2.11.0
  "${folder}/${version}/bin/python" - "${version}" <<'PYTHON'
import sys

import torch
from espnet2.asr.decoder.rnn_decoder import RNNDecoder
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder

torch.manual_seed(0)
memory, memory_lengths = torch.randn(2, 7, 8), torch.tensor([7, 7])
tokens, lengths = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 0, 0, 0]]), torch.tensor([5, 2])
transformer = TransformerDecoder(10, 8, attention_heads=2, linear_units=8, num_blocks=1).eval()
rnn = RNNDecoder(10, 8, hidden_size=8).eval()
with torch.no_grad():
    scores, returned = transformer(memory, memory_lengths, tokens, lengths)
    of_rnn = rnn(memory, memory_lengths, tokens, lengths)[1]
print(f"{sys.argv[1]} TransformerDecoder returns {returned.tolist()}, RNNDecoder {of_rnn.tolist()}")
mask = torch.arange(scores.shape[1])[None] < returned[:, None]  # as it is made of lengths
masked = torch.ones(2, 5).masked_fill(~mask, 0.0)
left = int(masked.sum())
print(f"{sys.argv[1]} values (2, 5) masked by it become {tuple(masked.shape)}, of which {left} are left, "
      "where the texts have 7 tokens")
seen = returned.tolist() == [[5, 4, 3, 2, 1], [5, 4, 0, 0, 0]] and of_rnn.tolist() == [5, 2]
raise SystemExit(not seen or masked.shape != (2, 2, 5) or left != 10)
PYTHON
  rm -rf "${folder:?}/${version}"
done
