"""lrsms.factorize_: any model of torch's in one line."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import lrsms
from lrsms.errors import LrsmsError
from lrsms.lowrank import Factored, LowRankConv1d, LowRankLinear, low_rank_layers, skip_initialization


class Block(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.up, self.down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)

    def forward(self, x):
        return x + self.down(self.up(self.norm(x)).relu())


class Model(nn.Module):
    """Convolutions, blocks and an output."""

    def __init__(self, size: int = 32):
        super().__init__()
        self.front = nn.Conv1d(16, size, 3, stride=2, padding=1)
        self.depth = nn.Conv1d(size, size, 5, padding=2, groups=size)
        self.blocks = nn.ModuleList(Block(size) for _ in range(4))
        self.scale = nn.Parameter(torch.ones(size, 1))
        self.output = nn.Linear(size, 24)

    def forward(self, x):
        x = (self.depth(self.front(x)) * self.scale).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.output(x)


X = torch.randn(2, 16, 11, generator=torch.Generator().manual_seed(0))


def model(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model().eval()


def chain(layers: int = 4, size: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(layers) for layer in (nn.Linear(size, size), nn.ReLU())]).eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def row(plan, weight: str):
    return next(row for row in plan.rows if row.weight == weight)


def test_a_ratio_factors_what_can_be_and_says_of_every_matrix_what_became_of_it():
    net = model()
    names = [name for name, parameter in net.named_parameters() if parameter.dim() >= 2]
    plan = lrsms.factorize_(net, ratio=0.25)
    assert [row.weight for row in plan.rows] == names
    assert all(row.rank is not None or row.why for row in plan.rows)
    assert all(name in str(plan) for name in names)
    assert row(plan, "depth.weight").why == "a depthwise convolution (groups=32)"
    assert row(plan, "scale").why == "it belongs to Model, which is not a layer known here"
    assert plan.ranks == {path: layer.rank for path, layer in low_rank_layers(net)}
    assert plan.ranks == {"front": 8, "output": 8} | {
        f"blocks.{n}.{name}": 8 for n in range(4) for name in ("up", "down")
    }
    assert isinstance(net.front, LowRankConv1d) and isinstance(net.blocks[3].up, LowRankLinear)
    assert plan.parameters == sum(parameter.numel() for parameter in net.parameters()) < plan.dense_parameters
    assert f"10 of 12 weight matrices factored. Parameters {plan.dense_parameters:,} -> {plan.parameters:,}" in str(
        plan
    )
    assert net(X).shape == (2, 6, 24)


def test_a_target_is_the_whole_models():
    plan = lrsms.factorize_(model(), target="2x", multiple=1)
    assert 2 <= plan.dense_parameters / plan.parameters < 2.1
    plan = lrsms.factorize_(model(), target="2x", multiple=1, ratio={"linear": 0.5, "convolution": 1.0})
    assert 2 <= plan.dense_parameters / plan.parameters < 2.1
    assert row(plan, "front.weight").rank is None or row(plan, "front.weight").rank > plan.ranks["output"]


def test_what_rounding_leaves_of_a_target_is_spent():
    """With all ranks at 8 it would be 2.4x; layers of one name stay alike in all blocks."""
    plan = lrsms.factorize_(model(), target="1.5x")
    assert 1.5 <= plan.dense_parameters / plan.parameters < 1.7
    assert {8, 16} == set(plan.ranks.values())
    assert len({plan.ranks[f"blocks.{n}.up"] for n in range(4)}) == 1


def test_a_target_of_multiply_accumulates_is_counted_on_the_example():
    from torch.utils.flop_counter import FlopCounterMode

    def macs(net: nn.Module) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(X)
        return counter.get_total_flops() / 2

    net, dense = model(), model()
    lrsms.factorize_(net, target={"macs": "1.8x"}, multiple=1, example=X)
    assert 1.8 <= macs(dense) / macs(net) < 1.9
    with pytest.raises(LrsmsError, match="example=, which is missing"):
        lrsms.factorize_(model(), target={"macs": 1.8})


def test_ranks_alone_factor_nothing_else():
    net = model()
    plan = lrsms.factorize_(net, ranks={"blocks.1.up": 5, "output": 0})
    assert plan.ranks == {"blocks.1.up": 5} == {path: layer.rank for path, layer in low_rank_layers(net)}
    assert row(plan, "output.weight").why == "ranks= says so"
    assert row(plan, "blocks.0.up.weight").why == "ranks= does not name it"
    both = lrsms.factorize_(model(), ratio=0.25, ranks={"blocks.1.up": 5, "output": 0})
    assert both.ranks["blocks.1.up"] == 5 and both.ranks["blocks.0.up"] == 8 and "output" not in both.ranks


def test_roles_are_names_of_your_own_and_what_has_none_stays_dense():
    plan = lrsms.factorize_(
        model(),
        ratio={"wide": 0.5, "last": 0.25},
        roles={r"blocks\.\d+\.up": "wide", "output": "last", "front": "first"},
    )
    assert plan.ranks == {f"blocks.{n}.up": 16 for n in range(4)} | {"output": 8}
    assert row(plan, "blocks.0.down.weight").why == "no role matches it"
    assert row(plan, "front.weight").why == "role first has no ratio"


def test_what_is_excluded_stays_with_everything_within():
    plan = lrsms.factorize_(model(), ratio=0.25, exclude=[r"blocks\.[01]", "front"])
    assert set(plan.ranks) == {f"blocks.{n}.{name}" for n in (2, 3) for name in ("up", "down")} | {"output"}
    assert row(plan, "blocks.0.up.weight").why == r"excluded by 'blocks\\.[01]'"
    assert lrsms.factorize_(model(), ratio=0.25, exclude="blocks").ranks == {"front": 8, "output": 8}


def test_break_even_stays_dense_and_says_so():
    plan = lrsms.factorize_(model(), ratio=0.9)
    assert row(plan, "output.weight").why == "rank 24 reaches break-even at 14"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "say how small: target='2x', ratio=0.25"),
        ({"ratio": 1.5}, "ratio: convolution: 1.5 is not a number in (0, 1]"),
        ({"ratio": {"lineal": 0.5}}, "no layer has the role 'lineal'; roles are convolution, linear"),
        (
            {"ratio": 0.5, "exclude": "block"},
            "exclude: 'block' matches no module of Model as a whole; did you mean 'blocks'?",
        ),
        ({"ratio": 0.5, "roles": {"outptu": "x"}}, "roles: 'outptu' matches no module"),
        ({"ratio": 0.5, "exclude": "("}, "is not a regular expression"),
        ({"ranks": {"blocks.1.uq": 3}}, "blocks.1.uq: no layer of that path; did you mean 'blocks.1.up'?"),
        ({"ranks": {"depth": 3}}, "depth: cannot be factored: a depthwise convolution"),
        ({"ranks": {"output": 25}}, "output: 25 is not a rank from 1 to 24, or 0 for dense"),
        ({"ranks": {"output": 2.5}}, "2.5 is not a rank"),
        ({"target": "100x"}, "target: 100x fewer parameters is out of reach"),
        ({"target": "fast"}, "'fast' is not a number of times above 1"),
        ({"ratio": 0.5, "layer_map": "square"}, "factorize_.layer_map: 'square' is unknown"),
        (
            {"ratio": 0.5, "layer_map": [1, 2]},
            "factorize_.layer_map: 2 weights, but there are 4 layers like blocks.0.up",
        ),
        ({"ratio": 0.5, "init": "svdd"}, "factorize_.init: 'svdd' is unknown"),
        ({"ratio": 0.5, "init": "xavier", "calibration": [X]}, "init: 'xavier' does not go with calibration="),
        ({"ratio": 0.5, "example": "x.wav"}, "example: str is not a tensor"),
    ],
)
def test_a_refusal_names_what_would_be_right_and_leaves_the_model_as_it_was(options, words):
    net, dense = model(), model()
    modules, parameters = list(net.modules()), list(net.parameters())
    with pytest.raises(LrsmsError) as error:
        lrsms.factorize_(net, **options)
    assert words in str(error.value)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert torch.equal(net(X), dense(X)) and not net._load_state_dict_pre_hooks


def test_a_failure_while_factoring_puts_everything_back():
    net, dense = model(), model()

    def batches():
        yield X
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):
        lrsms.factorize_(net, ratio=0.25, calibration=batches())
    assert not any(low_rank_layers(net)) and torch.equal(net(X), dense(X))


# --- layer maps, which know blocks by their number


def test_a_linear_map_spreads_over_a_root_sequential():
    plan = lrsms.factorize_(chain(), ratio=0.25, layer_map="linear", multiple=1)
    assert list(plan.ranks.values()) == [4, 7, 9, 12]


def test_a_map_spreads_over_blocks_and_not_over_the_layers_of_one_block():
    torch.manual_seed(0)
    net = nn.ModuleDict({"blocks": nn.ModuleList(chain(2) for _ in range(3))})
    ranks = lrsms.factorize_(net, ratio=0.25, layer_map="linear", multiple=1).ranks
    assert list(ranks) == [f"blocks.{block}.{layer}" for block in range(3) for layer in (0, 2)]
    assert list(ranks.values()) == [4, 4, 8, 8, 12, 12]


def test_a_map_by_stable_rank_looks_at_the_models_own_weights():
    net = chain()
    with torch.no_grad():
        thin = torch.randn(32, 2) @ torch.randn(2, 32)
        net[4].weight.copy_(thin)
    ranks = lrsms.factorize_(net, ratio=0.25, layer_map="stable_rank", multiple=1).ranks
    assert ranks["4"] == min(ranks.values()) < 8 and sum(ranks.values()) == 4 * 8


def test_weights_of_a_map():
    ranks = lrsms.factorize_(chain(), ratio=0.25, layer_map=[1, 1, 2, 1], multiple=1).ranks
    assert list(ranks.values()) == [6, 6, 13, 7] or sorted(ranks.values()) == [6, 6, 7, 13]


# --- what stays with a layer


def test_frozen_layers_stay_frozen_and_biases_are_the_same_parameters():
    net = model()
    net.blocks[1].requires_grad_(False)
    net.output.bias.requires_grad_(False)
    biases = {path: layer.bias for path, layer in net.named_modules() if isinstance(layer, nn.Linear)}
    lrsms.factorize_(net, ratio=0.25)
    assert not any(parameter.requires_grad for parameter in net.blocks[1].parameters())
    assert net.output[0].weight.requires_grad and net.output[1].weight.requires_grad
    assert all(net.get_submodule(path).bias is bias for path, bias in biases.items())
    lrsms.merge_(net)
    assert not any(parameter.requires_grad for parameter in net.blocks[1].parameters())
    assert net.output.weight.requires_grad and not net.output.bias.requires_grad


def test_hooks_stay_and_their_handles_remove_them_from_factored_and_merged_layers():
    net, seen = model(), []
    handles = [
        net.output.register_forward_hook(lambda layer, inputs, output: seen.append("forward") or output + 1),
        net.output.register_forward_pre_hook(lambda layer, inputs: seen.append("before")),
        net.output.register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    lrsms.factorize_(net, ratio=0.25, example=X)
    seen.clear()
    net(X).sum().backward()
    assert seen == ["before", "forward", "backward"]
    with_hook = net(X)
    lrsms.merge_(net)
    close(net(X), with_hook)
    for handle in handles:
        handle.remove()
    seen.clear()
    close(net(X), with_hook - 1)
    assert seen == []


def test_a_hook_on_a_weights_gradient_is_refused():
    net = model()
    net.output.weight.register_hook(lambda gradient: gradient * 0.1)
    plan = lrsms.factorize_(net, ratio=0.25)
    assert row(plan, "output.weight").why == "a hook is on the gradient of its weight" and type(net.output) is nn.Linear


def test_training_mode_stays():
    net = model().train()
    net.output.eval()
    lrsms.factorize_(net, ratio=0.25, example=X)
    assert net.front.training and not net.output.training and net.training


# --- what a factored model can do


def test_state_dicts_go_both_ways():
    net, dense = model(), model()
    plan = lrsms.factorize_(net, ratio=0.25, example=X)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    buffer.seek(0)
    fresh = model(1)
    with skip_initialization():
        lrsms.factorize_(fresh, ranks=plan.ranks)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(fresh(X), net(X))
    expected = net(X)
    fresh.load_state_dict(dense.state_dict())  # dense weights: factored as they come in
    close(fresh(X), expected)
    lrsms.merge_(net)
    stock = Model().eval()
    stock.load_state_dict(net.state_dict())
    close(stock(X), expected)


def test_merging_leaves_the_model_that_was_there():
    net, dense = model(), model()
    lrsms.factorize_(net, ratio=0.25, frobenius_decay=1e-3, self_guided=5)
    lrsms.merge_(net)
    assert [(path, type(module)) for path, module in net.named_modules()] == [
        (path, type(module)) for path, module in dense.named_modules()
    ]
    assert net.state_dict().keys() == dense.state_dict().keys()
    assert net.__dict__.keys() == dense.__dict__.keys() and not net._load_state_dict_pre_hooks
    assert not any(layer._forward_hooks for layer in net.modules())
    assert b"lrsms" not in pickle.dumps(nn.Sequential(net.front, net.blocks[0].up))


def test_copies_and_exports():
    net = model()
    lrsms.factorize_(net, ratio=0.25)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(X), net(X)) and twin.front is not net.front
    exported = torch.export.export(net, (X,)).module()
    close(exported(X), net(X))
    twin.load_state_dict(model(3).state_dict())
    assert not torch.equal(twin(X), net(X))


def test_a_module_at_two_paths_is_replaced_and_stored_at_both():
    torch.manual_seed(0)
    shared = nn.Linear(32, 32)
    net = nn.ModuleDict({"a": nn.Sequential(shared, nn.ReLU()), "b": shared})
    dense = copy.deepcopy(net)
    plan = lrsms.factorize_(net, ratio=0.25)
    assert net["a"][0] is net["b"] and isinstance(net["b"], LowRankLinear)
    assert row(plan, "a.0.weight").why == "also b.weight" and plan.ranks == {"a.0": 8}
    net.load_state_dict(dense.state_dict())
    assert lrsms.factorize_(copy.deepcopy(dense), ranks={"b": 4}).ranks == {"a.0": 4}  # known by either path
    lrsms.merge_(net)
    assert net["a"][0] is net["b"] and type(net["b"]) is nn.Linear
    assert net.state_dict().keys() == dense.state_dict().keys()


def test_it_can_be_called_again_for_other_layers():
    net = model()
    lrsms.factorize_(net, ranks={"output": 8})
    plan = lrsms.factorize_(net, ranks={"front": 6})
    assert row(plan, "output.0.weight").why == "it is factored already"
    assert {path for path, _ in low_rank_layers(net)} == {"output", "front"}
    assert len(net._load_state_dict_pre_hooks) == 1


def test_a_model_that_is_one_layer_is_left_with_the_reason():
    plan = lrsms.factorize_(nn.Linear(32, 32), ratio=0.25)
    assert plan.rows[0].why == "it is the whole model, which cannot be replaced in place"
    assert plan.parameters == plan.dense_parameters


def test_initialization_can_be_for_training_from_scratch():
    net = chain()
    lrsms.factorize_(net, ratio=0.25, init="orthogonal")
    up, down = net[0].factors()
    close(down @ down.T, torch.eye(8) * (down @ down.T)[0, 0])
    assert all(layer.init_method == "orthogonal" for layer in net.modules() if isinstance(layer, Factored))
