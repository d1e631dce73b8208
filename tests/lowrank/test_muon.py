"""Steps of Muon for factors, within another optimizer's."""

import copy

import pytest
import torch
from torch import nn

from lrsms.lowrank.aids import AfterStep
from lrsms.lowrank.layers import LowRankLinear
from lrsms.lowrank.muon import Muon, orthogonalised
from lrsms.lowrank.stacks import Stacks


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(LowRankLinear(24, 40, rank=6), nn.LayerNorm(40), LowRankLinear(40, 12, rank=8))


def factors(model):
    return [model[layer][index].weight for layer in (0, 2) for index in (0, 1)]


def train(model, optimizer, steps=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(50, 24, generator=generator)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(6, 24), (40, 6), (12, 12, 1), (8, 3, 3, 3), (1, 5), (5, 1)])
def test_singular_vectors_stay_and_singular_values_are_about_equal(shape):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    others = [torch.randn(6, 10), torch.randn(9, 2)]
    found = orthogonalised([others[0], tensor, others[1]])[1]
    assert found.shape == tensor.shape
    left, values, right = torch.linalg.svd(tensor.flatten(1), full_matrices=False)
    middle = left.T @ found.flatten(1) @ right.T
    torch.testing.assert_close(middle, torch.diag(middle.diagonal()), atol=1e-4, rtol=0)
    equal = 0.2 * max(tensor.flatten(1).shape) ** 0.5
    kept = values > 0.05 * values.max()
    assert ((middle.diagonal() / equal)[kept] > 0.6).all() and (middle.diagonal() / equal < 1.25).all()


def test_autocast_changes_nothing():
    gradients = [torch.randn(24, 60), torch.randn(60, 24)]
    with torch.autocast("cpu", torch.bfloat16):  # in which a trainer may call the optimizer
        within = orthogonalised(gradients)
    assert all(torch.equal(a, b) for a, b in zip(within, orthogonalised(gradients), strict=True))


@pytest.mark.parametrize(
    "shapes",
    [[(6, 24), (40, 6), (8, 3, 3, 3), (1, 5), (5, 1)], [(100, 300), (300, 130), (64, 64), (64, 9), (128, 2, 70)]],
)
def test_few_batches_give_what_many_do(shapes):
    tensors = [torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) for shape in shapes]
    stacks = Stacks([tensor.shape for tensor in tensors], torch.device("cpu"))
    assert len(stacks.members) < len(shapes)
    for one, other in zip(orthogonalised(tensors, stacks), orthogonalised(tensors), strict=True):
        assert one.is_contiguous()
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_tensors_come_back_from_their_batches():
    tensors = [torch.randn(3, 5), torch.randn(70, 4), torch.randn(4, 2, 3), torch.randn(6, 5)]
    stacks = Stacks([tensor.shape for tensor in tensors], torch.device("cpu"))
    batches = stacks.pack(tensors)
    assert [batch.shape for batch in batches] == [(3, 5, 6), (1, 4, 70)]  # a long one would fill all up
    assert sum(batch.count_nonzero() for batch in batches) == sum(tensor.numel() for tensor in tensors)
    assert all(torch.equal(one, other) for one, other in zip(stacks.unpack(batches), tensors, strict=True))


def test_a_gradient_of_zero_gives_no_step():
    for stacks in (None, Stacks([torch.Size([4, 6])], torch.device("cpu"))):
        assert orthogonalised([torch.zeros(4, 6)], stacks)[0].count_nonzero() == 0


def test_factors_take_its_steps_and_the_others_the_optimizers(model):
    alone = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    Muon(factors(model), rate=2.0).attach(optimizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train(model, optimizer, steps=1)
    train(alone, torch.optim.AdamW(alone.parameters(), lr=0.01, weight_decay=0.5), steps=1)
    for (name, parameter), old, other in zip(model.named_parameters(), before, alone.parameters(), strict=True):
        if name.startswith("1.") or name.endswith("bias"):
            assert torch.equal(parameter, other), name
        else:  # whose momentum has the direction of its first gradient
            (direction,) = orthogonalised([other.grad])
            torch.testing.assert_close(parameter, old * (1 - 0.02 * 0.5) - 0.02 * direction, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_step_that_a_gradient_scaler_skips_changes_nothing(model, unscaled):
    found = []
    for fused in (False, True):  # the skipping of which is left to the optimizer
        trained = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(trained.parameters(), lr=0.01, fused=fused)
        Muon(factors(trained)).attach(optimizer)
        aids = AfterStep([], [([trained[0], trained[2]], 1.0)], [])
        optimizer.register_step_post_hook(aids)
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        generator = torch.Generator().manual_seed(0)
        for step in range(5):
            optimizer.zero_grad()
            scaler.scale(trained(torch.randn(50, 24, generator=generator)).square().mean()).backward()
            if step == 1:
                trained[0][0].weight.grad[0, 0] = float("inf")
            if unscaled:
                scaler.unscale_(optimizer)
            before = trained[0][0].weight.detach().clone()
            scaler.step(optimizer)
            scaler.update()
            assert torch.equal(before, trained[0][0].weight) is (step == 1)
        found.append([parameter.detach() for parameter in trained.parameters()])
        assert aids.steps == 4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_weight_without_a_gradient_is_a_zero_among_the_others(model, monkeypatch):
    monkeypatch.setattr(  # as on a GPU
        "lrsms.lowrank.muon.stacks_on_gpu",
        lambda tensors: Stacks([tensor.shape for tensor in tensors], torch.device("cpu")),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    muon = Muon(factors(model))
    muon.attach(optimizer)
    train(model, optimizer, steps=1)
    model[2].requires_grad_(False)
    before = [weight.detach().clone() for weight in factors(model)]
    train(model, optimizer, steps=1)
    assert [torch.equal(old, new) for old, new in zip(before, factors(model), strict=True)] == [
        False,
        False,
        True,
        True,
    ]


def test_it_goes_on_from_a_saved_optimizer(model):
    def attached(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        Muon(factors(model)).attach(optimizer)
        return optimizer

    optimizer = attached(model)
    train(model, optimizer)
    resumed, saved = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    train(model, optimizer, seed=1)
    optimizer = attached(resumed)
    optimizer.load_state_dict(saved)
    train(resumed, optimizer, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def test_frozen_factors_stay(model):
    model[0][0].weight.requires_grad_(False)
    before = model[0][0].weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    Muon(factors(model)).attach(optimizer)
    train(model, optimizer)
    assert torch.equal(model[0][0].weight, before)
