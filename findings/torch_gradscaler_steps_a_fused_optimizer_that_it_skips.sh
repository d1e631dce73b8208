#!/usr/bin/env bash
# torch 2.11: where a gradient is not finite, GradScaler.step does not call the optimizer, unless that is fused: then
# step() is called with found_inf and grad_scale as attributes of the optimizer, and its kernel leaves the weights as they
# are. Hooks of the optimizer (register_step_pre_hook, register_step_post_hook) run in that case, on gradients that are
# not finite, and on scaled ones if scaler.unscale_ was not called. The optimizer's own count does not move.
#
# Source: torch/amp/grad_scaler.py, GradScaler.step (_step_supports_amp_scaling). Python 3.11 to 3.13, on a CPU as well.
#
# Seen, one step of AdamW on a gradient of infinity:
#   fused=False: hook called 0 times, weight changed: False
#   fused=True: hook called 1 times, weight changed: False, found_inf 1.0, grad_scale 8.0
#
# Exits with 1 if one of them changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "${folder}"' EXIT
"${PYTHON:-python3.13}" -m venv "${folder}/venv"
"${folder}/venv/bin/pip" install --quiet torch==2.11.0 numpy==2.4.6
"${folder}/venv/bin/python" - <<'PYTHON'
import torch

seen = {}
for fused in (False, True):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight], lr=0.1, fused=fused)
    calls = []
    optimizer.register_step_post_hook(
        lambda optimizer, args, kwargs: calls.append((float(optimizer.found_inf), float(optimizer.grad_scale)))
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale((weight * torch.tensor([1.0, float("inf"), 1.0])).sum()).backward()
    before = weight.detach().clone()
    scaler.step(optimizer)
    changed = not torch.equal(before, weight)
    more = f", found_inf {calls[0][0]}, grad_scale {calls[0][1]}" if calls else ""
    print(f"fused={fused}: hook called {len(calls)} times, weight changed: {changed}{more}")
    seen[fused] = (calls, changed)
raise SystemExit(seen != {False: ([], False), True: ([(1.0, 8.0)], False)})
PYTHON
