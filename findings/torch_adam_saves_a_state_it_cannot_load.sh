#!/usr/bin/env bash
# torch 2.11.0: Adam and AdamW save a state that they cannot load.
#
# Step hooks (Optimizer.register_step_pre_hook, register_step_post_hook) may keep numbers of their own in
# optimizer.state[parameter]; state_dict() saves them with the rest. A parameter that the optimizer itself has never
# stepped, because a hook has taken its gradient, has nothing else there. SGD takes such a state back. Adam's and AdamW's
# load_state_dict reads state["step"] of every parameter that has any state, and ends in KeyError: 'step': a training
# can be saved, and cannot be resumed. A "step" kept beside the numbers is enough.
#
# Prints:
#   SGD: loaded, with the hook's numbers
#   Adam: KeyError: 'step'
#   AdamW: KeyError: 'step'
#   AdamW, a step beside it: loaded, with the hook's numbers
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
cat > "${folder}/load.py" <<'PYTHON'
import sys

import torch


def tried(kind, **beside):
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))

    def take(optimizer, *_):
        optimizer.state[second].update(momentum=second.grad.clone(), **beside)
        second.grad = None

    optimizer = kind([first, second], lr=0.1)
    optimizer.register_step_pre_hook(take)
    (first.sum() + 2 * second.sum()).backward()
    optimizer.step()
    fresh = kind([first, second], lr=0.1)
    try:
        fresh.load_state_dict(optimizer.state_dict())
    except KeyError as error:
        return f"KeyError: {error}"
    return "loaded, with the hook's numbers" if fresh.state[second]["momentum"].tolist() == [2.0, 2.0] else "lost"


found = [tried(kind) for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)]
found.append(tried(torch.optim.AdamW, step=torch.tensor(1.0)))
for name, what in zip(("SGD", "Adam", "AdamW", "AdamW, a step beside it"), found):
    print(f"{name}: {what}")
loaded = "loaded, with the hook's numbers"
sys.exit(found != [loaded, "KeyError: 'step'", "KeyError: 'step'", loaded])
PYTHON
"${folder}/venv/bin/python" "${folder}/load.py"
