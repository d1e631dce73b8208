#!/usr/bin/env bash
# torch 2.11.0: within one torch.autocast, a weight stays as it was when it was first used, whatever the optimizer does.
#
# Autocast rounds a parameter to bfloat16 once and keeps the copy until the outermost context ends (cache_enabled=True,
# the default). A training loop within one context computes its loss with the weights of the beginning: the loss hardly
# moves, gradients keep coming, and the true weights run away. The documentation of torch.autocast names the cache; that
# it outlives an optimizer's step is seen here. A context for each step, or cache_enabled=False, follows the weights; but
# not if another context is opened within, as torch.cuda.amp.autocast(False), which turns the cache on for itself and
# leaves it filled. torch.clear_autocast_cache() before each step follows them in any case.
#
# Prints:
#   one context, cache: loss 1.00 -> 1.00, true loss 14400.00
#   one context, cache_enabled=False: loss 1.00 -> 0.00, true loss 0.00
#   one context, cache_enabled=False, torch.cuda.amp.autocast(False) within: loss 1.00 -> 1.00, true loss 14400.00
#   one context for each step: loss 1.00 -> 0.00, true loss 0.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
python3 -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install -q torch==2.11.0 numpy==2.4.6
cat > "${folder}/autocast.py" <<'PYTHON'
import contextlib
import sys

import torch


def train(outer, inner):
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    x, losses = torch.ones(8, 1), []
    with outer():
        for _ in range(121):
            with inner():
                loss = (layer(x).float() - 1).square().mean()
            losses.append(loss.item())
            layer.zero_grad()
            loss.backward()
            with torch.no_grad():
                layer.weight -= 0.5 * layer.weight.grad
    return losses[0], losses[-1], (layer(x) - 1).square().mean().item()


nothing = contextlib.nullcontext
cast = lambda **how: lambda: torch.autocast("cpu", torch.bfloat16, **how)  # noqa: E731
ways = {
    "one context, cache": (cast(), nothing),
    "one context, cache_enabled=False": (cast(cache_enabled=False), nothing),
    "one context, cache_enabled=False, torch.cuda.amp.autocast(False) within": (
        cast(cache_enabled=False), lambda: torch.cuda.amp.autocast(False)
    ),
    "one context for each step": (nothing, cast()),
}
found = {}
for name, contexts in ways.items():
    first, last, true = found[name] = train(*contexts)
    print(f"{name}: loss {first:.2f} -> {last:.2f}, true loss {true:.2f}")
learned = [last < 0.01 and true < 0.01 for _, last, true in found.values()]
sys.exit(learned != [False, True, False, True])
PYTHON
"${folder}/venv/bin/python" "${folder}/autocast.py"
