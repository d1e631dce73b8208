"""``use_amp`` on a CPU."""

from types import SimpleNamespace

import pytest
import torch
from espnet2.train.trainer import Trainer

from lrsms.espnet.training import trainer as module


@pytest.mark.parametrize(("use_amp", "ngpu", "expected"), [(True, 0, True), (False, 0, False), (True, 1, False)])
def test_amp_without_a_gpu_is_bfloat16(monkeypatch, tmp_path, use_amp, ngpu, expected):
    seen = []

    def train_one_epoch(cls, iterator, **_):
        layer, x, outputs = torch.nn.Linear(2, 2), torch.ones(1, 2), []
        for _ in iterator:
            with torch.autocast("cuda", enabled=False, cache_enabled=True):  # as ESPnet 202511's around a forward pass
                outputs.append(layer(x))
            with torch.no_grad():
                layer.weight.add_(1.0)  # what an optimizer's step does
        first, second = outputs
        seen.append((torch.is_autocast_enabled("cpu"), first.dtype, bool((second > first + 1.5).all())))
        return True

    monkeypatch.setattr(Trainer, "train_one_epoch", classmethod(train_one_epoch))
    monkeypatch.setattr(module, "is_main_process", lambda: False)
    options = SimpleNamespace(use_amp=use_amp, ngpu=ngpu, output_dir=tmp_path)
    assert module.LowRankTrainer.train_one_epoch(iterator=[1, 2], reporter=None, options=options)
    assert seen == [(expected, torch.bfloat16 if expected else torch.float32, True)]
    assert not torch.is_autocast_enabled("cpu")
