"""What differs on a GPU; skipped without one."""

import copy

import pytest
import torch
from torch import nn

from lrsms.lowrank.aids import AfterStep
from lrsms.lowrank.layers import LowRankLinear
from lrsms.lowrank.muon import Muon, orthogonalised
from lrsms.lowrank.stacks import stacks_on_gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


def test_muon_finds_the_same_directions_as_on_a_cpu():
    shapes = [(96, 768), (768, 96), (192, 3072), (8, 3, 3, 3), (100, 300), (1, 5)]
    generator = torch.Generator().manual_seed(0)
    # Gradients of a few directions: most singular values are near zero.
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    tensors.append(torch.randn(128, 4, generator=generator) @ torch.randn(4, 512, generator=generator))
    on_gpu = [tensor.cuda() for tensor in tensors]
    found = orthogonalised(on_gpu, stacks_on_gpu(on_gpu))
    for one, other in zip(found, orthogonalised(tensors), strict=True):
        assert (one.cpu() - other).norm() < 0.01 * other.norm()


def test_aids_change_the_same_weights_as_on_a_cpu():
    torch.manual_seed(0)
    models = [nn.Sequential(*(LowRankLinear(40, 40, rank=rank) for rank in (4, 6, 6, 12)))]
    models.append(copy.deepcopy(models[0]).cuda())
    for model in models:
        device = next(model.parameters()).device
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        Muon([layer[index].weight for layer in model for index in (0, 1)]).attach(optimizer)
        optimizer.register_step_post_hook(AfterStep([], [(list(model), 1.0)], []))
        generator = torch.Generator().manual_seed(1)
        for _ in range(8):
            optimizer.zero_grad()
            model(torch.randn(50, 40, generator=generator).to(device)).square().mean().backward()
            optimizer.step()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu(), atol=1e-3, rtol=1e-2)


@pytest.fixture
def flags():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_fast_paths_have_the_gradients_of_espnets_code(precision, tmp_path):
    from lrsms.bench import CONFIGS
    from lrsms.bench.sizes import write_arms
    from lrsms.espnet.bench.dummy import DummyTraining

    rates = ("dropout_rate", "positional_dropout_rate")
    more = ("self_attention_dropout_rate", "src_attention_dropout_rate")
    changes = {"encoder_conf": dict.fromkeys(rates, 0.0), "decoder_conf": dict.fromkeys(rates + more, 0.0)}
    gradients = []
    for path in write_arms(CONFIGS, "tiny", ["lrsms_plain", "lrsms"], tmp_path, changes):
        training = DummyTraining(path, device="cuda", vocab_size=50, update=False)
        training.use_precision(precision)
        training.model.zero_grad = lambda set_to_none=True: None
        assert training.dummy_step(3, 2.0, 0.4).seconds > 0
        gradients.append({name: one.grad for name, one in training.model.named_parameters() if one.grad is not None})
    plain, fast = gradients
    assert plain.keys() == fast.keys()
    whole = [torch.cat([one[name].flatten() for name in plain]) for one in (plain, fast)]
    assert (whole[0] - whole[1]).norm() < {"fp32": 1e-4, "tf32": 1e-2, "bf16": 0.1}[precision] * whole[0].norm()
