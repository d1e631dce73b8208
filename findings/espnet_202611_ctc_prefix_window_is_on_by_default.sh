#!/usr/bin/env bash
# ESPnet 202611: Speech2Text and espnet2.bin.asr_inference score CTC prefixes over a window of 100 encoder frames to
# each side by default (ctc_window_margin: 100), an approximation; 202511 scores over the whole utterance. The scorer
# itself is exact by default (window_margin=0). The same model and options can so give other scores and another n-best
# in the two versions; ctc_window_margin: 0 gives 202511's.
#
# Source: espnet2/bin/asr_inference.py, Speech2Text.__init__; espnet2/legacy/nets/ctc_prefix_score.py,
# CTCPrefixScoreTH.__call__ and _window_end. Python 3.12 or 3.13.
#
# Seen:
#   default: Speech2Text(ctc_window_margin=100), CTCPrefixScorer(window_margin=0)
#   six scores of next tokens, one utterance of 400 frames, exact: ..., -3.2268, -289.8213
#   with the default window: ..., -3.2268, -326.2428
#   largest difference 36.4
#
# Exits with 1 if the defaults or the difference change.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
"${PYTHON:-python3.13}" -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install --quiet espnet==202611 torch==2.11.0 torchaudio==2.11.0
"${folder}/venv/bin/python" - <<'PYTHON'
import inspect
import torch
from espnet2.bin.asr_inference import Speech2Text
from espnet2.legacy.nets.scorers.ctc import CTCPrefixScorer

default = inspect.signature(Speech2Text).parameters["ctc_window_margin"].default
own = inspect.signature(CTCPrefixScorer).parameters["window_margin"].default
print(f"default: Speech2Text(ctc_window_margin={default}), CTCPrefixScorer(window_margin={own})")

class Ctc:
    def __init__(self, probabilities):
        self.probabilities = probabilities

    def log_softmax(self, x):
        return self.probabilities.log()

frames, blank, early, late, eos = 400, 0, 1, 2, 3
probabilities = torch.tensor([0.4, 0.58, 0.01, 0.01]).repeat(1, frames, 1)  # blank, early, late, end
probabilities[:, 200:] = torch.tensor([0.4, 0.01, 0.58, 0.01])

def score(margin):
    scorer = CTCPrefixScorer(Ctc(probabilities), eos=eos, window_margin=margin)
    scorer.batch_init_state(torch.zeros(frames, 4))
    last, state = torch.tensor([[eos]]), [None]
    found = []
    for token in (early, late):
        scores, states = scorer.batch_score_partial(last, torch.arange(4)[None], state, None)
        found.append(scores[0])
        state = [scorer.select_state(states, 0, token)]
        last = torch.cat([last, torch.tensor([[token]])], 1)
    return torch.stack(found)[:, 1:]

exact, windowed = score(0), score(default)
print(f"six scores of next tokens, one utterance of {frames} frames, exact:", exact.flatten().tolist())
print("with the default window:", windowed.flatten().tolist())
difference = float((exact - windowed).abs().max())
print(f"largest difference {difference:.3g}")
raise SystemExit(not (default == 100 and own == 0 and difference > 1e-3))
PYTHON
