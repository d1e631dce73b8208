"""Dense weights, and factors of another rank, load into a factored model."""

import copy

import pytest
import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank import LowRankConfig, RankPlan, Recurrent, apply_plan_, factorize_state, low_rank_layers
from lrsms.lowrank.recurrent import dense_lstm_weights, merged_lstm


class Everything(nn.Module):
    """One layer of each kind that can be factored."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.conv2d = nn.Conv2d(1, 16, 3, padding=1)
        self.conv1d = nn.Conv1d(16, 24, 1)
        self.linear = nn.Linear(24, 16, bias=False)
        self.norm = nn.LayerNorm(16)
        self.rnn = nn.LSTM(16, 12, num_layers=2, batch_first=True, bidirectional=True)
        self.last = nn.Linear(24, 16)
        self.cell = nn.LSTMCell(16, 16)

    def forward(self, tokens):
        x = self.embed(tokens)
        x = x + self.conv2d(x[:, None]).mean(dim=1)
        x = self.norm(self.linear(self.conv1d(x.transpose(1, 2)).transpose(1, 2)))
        x = self.last(self.rnn(x)[0])
        zeros = x.new_zeros(len(x), 16)
        return torch.cat([x.flatten(1), *self.cell(x[:, 0], (zeros, zeros))], dim=1)


ROLES = {"embed": "embedding", "conv2d": "subsampling", "conv1d": "convolution", "linear": "feed_forward"}
ROLES |= {"rnn": Recurrent("last"), "cell": "recurrent"}
LOW = {"embed": 4, "conv2d": 3, "conv1d": 5, "linear": 4, "rnn": 4, "cell": 6}
FULL = {"embed": 16, "conv2d": 9, "conv1d": 16, "linear": 16, "cell": 32}
TOKENS = torch.tensor([[1, 5, 39, 7, 0, 2], [3, 4, 5, 6, 7, 8]])
PLAIN = ("embed", "conv2d", "conv1d", "linear")


def dense(seed: int = 0) -> Everything:
    torch.manual_seed(seed)
    return Everything()


def factored(ranks: dict[str, int], seed: int = 1) -> nn.Module:
    model = dense(seed)
    return apply_plan_(model, RankPlan.make(model, ROLES, LowRankConfig.parse({"ranks": ranks})))


def best(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank]


def products(model: nn.Module) -> dict[str, torch.Tensor]:
    """What every factored layer stands for, by path, as matrices; of the LSTM, all dense weights in a row."""
    found = {path: model.get_submodule(path).product().detach().flatten(1) for path in PLAIN}
    found["cell"] = model.cell.gates.product().detach()
    weights, reader = dense_lstm_weights(model.rnn.state_dict(), model.last.weight.detach())
    found["rnn"] = torch.cat([weights[name].flatten() for name in sorted(weights)] + [reader.flatten()])[None]
    return found


def assert_is_the_svd_of(model: nn.Module, other: Everything) -> None:
    found = products(model)
    for path in PLAIN:
        weight = other.get_submodule(path).weight.detach().flatten(1)
        torch.testing.assert_close(found[path], best(weight, LOW[path]), rtol=1e-4, atol=1e-5, msg=path)
    gates = torch.cat([other.cell.weight_ih, other.cell.weight_hh], dim=1).detach()
    torch.testing.assert_close(found["cell"], best(gates, LOW["cell"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["rnn"], products(factorize_like(other))["rnn"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.cell.gates.bias, other.cell.bias_ih + other.cell.bias_hh)
    assert torch.equal(model.conv1d.bias, other.conv1d.bias) and torch.equal(model.norm.bias, other.norm.bias)
    assert torch.equal(model.last.bias, other.last.bias) and torch.equal(model.rnn.bias_hh_l1, other.rnn.bias_hh_l1)


def factorize_like(other: Everything) -> nn.Module:
    """``other`` itself, factored; tests/lowrank/test_recurrent.py says that its LSTM is the truncated SVD."""
    model = copy.deepcopy(other)
    return apply_plan_(model, RankPlan.make(model, ROLES, LowRankConfig.parse({"ranks": LOW})))


def test_a_dense_state_dict_loads_as_its_truncated_svd():
    model, other = factored(LOW), dense()
    state = other.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    assert not model.load_state_dict(state).missing_keys  # strict
    assert_is_the_svd_of(model, other)
    assert {path for path, _ in low_rank_layers(model)} == {*PLAIN, "rnn", "cell.gates"}
    assert before.keys() == state.keys() and all(torch.equal(before[name], state[name]) for name in before)


def test_a_dense_state_dict_over_the_models_own_loads_as_its_truncated_svd():
    """The way of ESPnet's --init_param: the model's own state dict, updated by the file's."""
    model, other = factored(LOW), dense()
    model.load_state_dict(model.state_dict() | other.state_dict())
    assert_is_the_svd_of(model, other)


def test_at_full_rank_the_output_is_the_dense_models():
    model, other = factored(FULL), dense()
    model.load_state_dict(other.state_dict())
    assert len(list(low_rank_layers(model))) == len(FULL)
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), other(TOKENS), rtol=1e-5, atol=1e-5)


def test_an_lstm_that_has_the_rank_loads_without_loss():
    source = factored({"rnn": 4}, seed=2)
    other = dense()
    other.rnn, other.last = merged_lstm(source.rnn, source.last)
    model = factored({"rnn": 4})
    model.load_state_dict(other.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(TOKENS), other(TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("over_own", [True, False])
def test_factors_of_another_rank_are_multiplied_out_and_truncated(over_own):
    higher = {path: rank + 3 for path, rank in LOW.items()}
    source, model = factored(higher, seed=2), factored(LOW)
    model.load_state_dict((model.state_dict() if over_own else {}) | source.state_dict())
    wide, found = products(source), products(model)
    for path in (*PLAIN, "cell"):
        torch.testing.assert_close(found[path], best(wide[path], LOW[path]), rtol=1e-4, atol=1e-5, msg=path)
    merged = copy.deepcopy(source)
    merged.rnn, merged.last = merged_lstm(source.rnn, source.last)
    from_dense = factored({"rnn": LOW["rnn"]})
    from_dense.load_state_dict({k: v for k, v in merged.state_dict().items() if k.startswith(("rnn", "last"))}, False)
    torch.testing.assert_close(found["rnn"], products_of_lstm(from_dense), rtol=1e-4, atol=1e-5)
    assert torch.equal(model.conv1d.bias, source.conv1d.bias)


def products_of_lstm(model: nn.Module) -> torch.Tensor:
    weights, reader = dense_lstm_weights(model.rnn.state_dict(), model.last.weight.detach())
    return torch.cat([weights[name].flatten() for name in sorted(weights)] + [reader.flatten()])[None]


def test_factors_of_a_lower_rank_are_kept_whole():
    source, model = factored(LOW, seed=2), factored({path: rank + 3 for path, rank in LOW.items()})
    model.load_state_dict(source.state_dict())
    for path, product in products(source).items():
        torch.testing.assert_close(products(model)[path], product, rtol=1e-4, atol=1e-5, msg=path)


def test_a_state_dict_that_fits_is_untouched():
    model = factored(LOW)
    state = factored(LOW, seed=2).state_dict()
    before = dict(state)
    factorize_state(model, state)
    assert state.keys() == before.keys() and all(state[name] is before[name] for name in before)
    model.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_one_layer_alone_may_be_dense():
    model, other = factored(LOW), dense()
    expected = products(model) | {"linear": best(other.linear.weight.detach(), LOW["linear"])}
    state = model.state_dict() | {"linear.weight": other.linear.weight.detach()}
    model.load_state_dict(state)
    for path, product in products(model).items():
        torch.testing.assert_close(product, expected[path], rtol=1e-4, atol=1e-5, msg=path)


def test_a_part_of_a_larger_model_takes_its_own_keys():
    whole, other = nn.ModuleDict({"encoder": factored(LOW), "decoder": nn.Linear(3, 3)}), dense()
    state = {f"encoder.{name}": value for name, value in other.state_dict().items()}
    whole.load_state_dict(state | {f"decoder.{name}": value for name, value in nn.Linear(3, 3).state_dict().items()})
    assert_is_the_svd_of(whole["encoder"], other)
    state["linear.weight"] = torch.zeros(1)  # not the encoder's
    factorize_state(whole["encoder"], state, "encoder.")
    assert "encoder.linear.0.weight" in state and state["linear.weight"].shape == (1,)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_of_the_weights_is_kept(dtype):
    state = dense().to(dtype).state_dict()
    model = factored(LOW).to(dtype)
    factorize_state(model, state)
    assert {value.dtype for value in state.values()} == {dtype}
    model.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("linear.weight", (16, 30)),
        ("embed.weight", (41, 16)),
        ("conv2d.weight", (16, 1, 5, 3)),
        ("cell.weight_ih", (64, 9)),
    ],
)
@pytest.mark.parametrize("over_own", [True, False])
def test_a_dense_weight_of_another_size_is_refused(over_own, name, shape):
    """Over the model's own state dict it would otherwise be dropped, and the random factors stay."""
    model = factored(LOW)
    state = (model.state_dict() if over_own else {}) | dense().state_dict() | {name: torch.zeros(shape)}
    path = name.rpartition(".")[0]
    with pytest.raises(LrsmsError, match=rf"^{path}(\.gates)?\.weight: \(.*\) in the weights, \(.*\) in the model$"):
        model.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "shape"), [("linear.0.weight", (7, 30)), ("embed.1.weight", (9, 7)), ("rnn.weight_hh_l0", (99, 4))]
)
def test_factors_of_another_size_are_refused_by_torch(name, shape):
    model = factored(LOW)
    state = model.state_dict() | {name: torch.zeros(shape)}
    with pytest.raises(RuntimeError, match=f"size mismatch for {name}"):
        model.load_state_dict(state)


@pytest.mark.parametrize("hidden", [4, 20])
def test_an_lstm_of_another_size_is_refused_by_torch(hidden):
    model, other = factored(LOW), dense()
    other.rnn = nn.LSTM(16, hidden, num_layers=2, batch_first=True, bidirectional=True)
    other.last = nn.Linear(2 * hidden, 16)
    with pytest.raises(RuntimeError, match="size mismatch for rnn.weight_hh_l0"):
        model.load_state_dict(model.state_dict() | other.state_dict())


def test_an_lstm_without_its_reader_is_refused_by_torch():
    model, state = factored(LOW), dense().state_dict()
    del state["last.weight"]
    with pytest.raises(RuntimeError, match="size mismatch for rnn.weight_hh_l0"):
        model.load_state_dict(model.state_dict() | state)


def test_factoring_an_lstm_thins_its_reader_and_nothing_else():
    model = factored({"rnn": 4})
    assert (model.last.in_features, model.last.out_features) == (8, 16)
    assert type(model.linear) is nn.Linear and type(model.cell) is nn.LSTMCell


def test_a_plan_by_hand_is_refused_where_factors_would_compute_something_else():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2.8 * super().forward(x)

    normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
    tied = nn.ModuleDict({"a": nn.Linear(16, 16), "b": nn.Linear(16, 16)})
    tied["b"].weight = tied["a"].weight
    for model, why in (
        (nn.ModuleDict({"a": Scaled(16, 16)}), "Scaled has a forward of its own that is not linear in its weight"),
        (nn.ModuleDict({"a": normed}), "its weight is parametrized by WeightNorm"),
        (tied, "its weight is also another layer's"),
    ):
        plan = RankPlan.make(model, {"a": "feed_forward"}, LowRankConfig.parse({"ranks": {"a": 4}}))
        with pytest.raises(LrsmsError, match=f"a: cannot be factored: {why}"):
            apply_plan_(model, plan)
        assert not any(low_rank_layers(model))


def test_a_plan_replaces_a_layer_at_every_path_and_keeps_hooks_and_frozen_weights():
    layer, seen = nn.Linear(16, 16), []
    layer.requires_grad_(False)
    layer.register_forward_hook(lambda *_: seen.append(1))
    model = nn.ModuleDict({"a": layer, "b": nn.Sequential(layer)})
    apply_plan_(model, RankPlan.make(model, {"a": "feed_forward"}, LowRankConfig.parse({"ranks": {"a": 4}})))
    assert model["a"] is model["b"][0] and model["a"].rank == 4
    model["b"](torch.randn(2, 16))
    assert seen == [1] and not any(parameter.requires_grad for parameter in model.parameters())
