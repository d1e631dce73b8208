"""Training aids: what each does to the factors."""

import copy
import pickle

import pytest
import torch
from torch import nn

from lrsms.lowrank import LowRankConfig, LowRankConv2d, LowRankEmbedding, LowRankLinear, RankPlan, apply_plan_
from lrsms.lowrank.aids import AfterStep
from lrsms.lowrank.frobenius_decay import decay_product_
from lrsms.lowrank.self_guided import SelfGuide, dense_weights
from lrsms.lowrank.semi_orthogonal import constrain_, constrain_all_, orthogonality_error
from lrsms.lowrank.stacks import Stacks

LAYERS = {
    "linear": lambda: LowRankLinear(12, 20, rank=5),
    "convolution": lambda: LowRankConv2d(3, 8, 3, rank=4),
    "embedding": lambda: LowRankEmbedding(30, 12, rank=4),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_frobenius_decay_is_a_gradient_step_on_the_product(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]().double()
    loss = layer.product().square().sum() / 2
    gradients = torch.autograd.grad(loss, [layer[0].weight, layer[1].weight])
    expected = [weight - 0.1 * gradient for weight, gradient in zip((layer[0].weight, layer[1].weight), gradients)]
    decay_product_(layer, 0.1)
    torch.testing.assert_close(layer[0].weight, expected[0])
    torch.testing.assert_close(layer[1].weight, expected[1])


def test_frobenius_decay_leaves_what_the_product_does_not_see():
    layer = LowRankLinear(6, 6, rank=2)
    with torch.no_grad():
        layer[1].weight.zero_()  # the product is 0 whatever the first factor is
    before = layer[0].weight.clone()
    decay_product_(layer, 0.5)
    assert torch.equal(layer[0].weight, before)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_constraint_converges_to_orthogonal_rows_of_one_length(kind):
    torch.manual_seed(0)
    layer = LAYERS[kind]()
    _, down = layer.factors()
    start, norm = orthogonality_error(layer), float(down.detach().norm())
    for _ in range(30):
        constrain_(layer, 1.0)
    assert start > 0.1 and orthogonality_error(layer) < 1e-3
    assert 0.5 * norm < float(down.detach().norm()) < 2 * norm  # the scale floats, it neither vanishes nor explodes


def test_the_constraint_does_in_few_batches_what_it_does_layer_by_layer():
    torch.manual_seed(0)
    layers = [LAYERS[kind]() for kind in (*LAYERS, "linear")]
    one_by_one = copy.deepcopy(layers)
    stacks = Stacks([layer.factors()[1].shape for layer in layers], torch.device("cpu"))
    for _ in range(3):
        constrain_all_(layers, 0.5, stacks)
        constrain_all_(one_by_one, 0.5)
    for layer, other in zip(layers, one_by_one, strict=True):
        torch.testing.assert_close(layer[0].weight, other[0].weight, atol=1e-5, rtol=0)
        assert torch.equal(layer[1].weight, other[1].weight)


def test_a_weaker_constraint_is_slower():
    errors = []
    for strength in (1.0, 0.2):
        torch.manual_seed(0)
        layer = LowRankLinear(40, 40, rank=8)
        for _ in range(5):
            constrain_(layer, strength)
        errors.append(orthogonality_error(layer))
    assert errors[0] < 0.5 * errors[1]


def test_a_semi_orthogonal_factor_stays():
    layer = LowRankLinear(40, 10, rank=8)
    nn.init.orthogonal_(layer[0].weight, gain=3.0)
    before = layer[0].weight.clone()
    constrain_(layer, 1.0)
    torch.testing.assert_close(layer[0].weight, before, rtol=1e-4, atol=1e-5)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 24)
        self.block = nn.ModuleDict({"w": nn.Linear(24, 24), "conv": nn.Conv1d(24, 24, 1)})

    def forward(self, tokens):
        x = self.block["w"](self.embed(tokens))
        return self.block["conv"](x.transpose(1, 2))


ROLES = {r"embed": "embedding", r"block\.w": "feed_forward", r"block\.conv": "convolution"}


def guided(steps: int = 10) -> tuple[nn.Module, nn.Module]:
    """A guided model and the dense one it came from."""
    torch.manual_seed(0)
    model = Small()
    dense = copy.deepcopy(model)
    config = LowRankConfig.parse({"embedding": 0.25, "feed_forward": 0.25, "convolution": 0.25, "multiple": 1})
    plan = RankPlan.make(model, ROLES, config)
    weights = dense_weights(model, plan)
    apply_plan_(model, plan)
    model.self_guide = SelfGuide(model, weights, steps)
    return model, dense


TOKENS = torch.tensor([[1, 2, 3, 9]])


def test_at_first_a_guided_model_is_the_dense_one_in_training_and_low_rank_in_evaluation():
    model, dense = guided()
    torch.testing.assert_close(model.train()(TOKENS), dense(TOKENS), rtol=1e-5, atol=1e-6)
    low_rank = model.eval()(TOKENS)
    assert (low_rank - dense(TOKENS)).abs().max() > 1e-2


def test_the_guide_fades_by_half_a_cosine_and_is_gone():
    model, _ = guided(steps=10)
    shares = []
    for _ in range(12):
        shares.append(model.self_guide.share)
        model.self_guide.advance()
    assert shares[0] == 1.0 and shares[5] == pytest.approx(0.5) and shares[10:] == [0.0, 0.0]
    assert shares == sorted(shares, reverse=True)
    assert torch.equal(model.train()(TOKENS), model.eval()(TOKENS))


def test_gradients_reach_guide_and_factors_until_it_is_gone():
    model, _ = guided(steps=2)
    model.self_guide.advance()
    model.train()(TOKENS).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.self_guide.weights.values())
    assert all(weight.grad.abs().sum() > 0 for weight in (model.block["w"][0].weight, model.block["w"][1].weight))
    model.self_guide.advance()
    model.zero_grad()
    model(TOKENS).square().sum().backward()
    assert all(weight.grad is None for weight in model.self_guide.weights.values())


def test_checkpoints_hold_the_guide_while_it_leads_and_load_after_it_has_gone():
    model, _ = guided(steps=1)
    assert any(".weights." in name for name in model.state_dict())
    model.self_guide.advance()
    gone = model.state_dict()
    assert not any("self_guide.weights" in name for name in gone)
    again, _ = guided(steps=1)
    again.load_state_dict(gone)  # strict
    assert again.self_guide.share == 0.0
    plain, _ = guided()
    del plain.self_guide
    plain.load_state_dict(model.state_dict())  # a model that was never guided takes them as well


def test_a_guided_model_is_copied_and_pickled():
    model, _ = guided()
    expected = model.train()(TOKENS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(TOKENS), expected)
        other.self_guide.advance()
        assert not torch.equal(other(TOKENS), expected)  # its hooks look at its own guide
    assert torch.equal(model(TOKENS), expected)


def test_aids_compute_alike_within_autocast():
    """A trainer may call the optimizer within it, as ours does on a CPU."""
    found = []
    for enabled in (False, True):
        torch.manual_seed(0)
        layer = LowRankLinear(24, 24, rank=6)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        aids = AfterStep([([layer], 0.5)], [([layer], 1.0)], [])
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            for _ in range(8):
                aids(optimizer)
        found.append(layer.product())
    assert torch.equal(*found)
