"""LSTMs through lrsms.factorize_: their input, and what they share with the linear layer that reads them."""

import copy

import pytest
import torch
from torch import nn

import lrsms
from lrsms.errors import LrsmsError
from lrsms.lowrank import LowRankLSTM, LowRankLSTMCell, Recurrent, low_rank_layers

X = torch.randn(3, 7, 20, generator=torch.Generator().manual_seed(0))


class Reads(nn.Module):
    """An LSTM, something in between, and a linear layer."""

    def __init__(self, between: nn.Module | None = None, **options):
        super().__init__()
        self.rnn = nn.LSTM(20, 24, batch_first=True, **options)
        self.between = between or nn.Identity()
        self.last = nn.Linear(24 * (1 + self.rnn.bidirectional), 12)

    def forward(self, x):
        return self.last(self.between(self.rnn(x)[0]))


def made(cls=Reads, *args, **options) -> nn.Module:
    torch.manual_seed(0)
    return cls(*args, **options).eval()


def whys(plan) -> dict[str, str]:
    return {row.weight: row.why for row in plan.rows}


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}])
def test_an_example_finds_who_reads_an_lstm_and_both_get_thinner(options):
    net, dense = made(**options), made(**options)
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1, example=X)
    assert plan.ranks == {"rnn": 6, "rnn.input": 5}
    assert net.rnn.proj_size == 6 and net.last.in_features == 6 * (1 + net.rnn.bidirectional)
    assert whys(plan)["last.weight"] == "gets thinner with rnn, which it reads"
    assert plan.parameters == sum(parameter.numel() for parameter in net.parameters())
    again = made(**options)
    lrsms.factorize_(again, ranks=plan.ranks, example=X)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(X), net(X))
    again.load_state_dict(dense.state_dict())
    torch.testing.assert_close(again(X), net(X), rtol=1e-4, atol=1e-5)
    expected = net(X)
    lrsms.merge_(net)
    dense.load_state_dict(net.state_dict())
    torch.testing.assert_close(dense(X), expected, rtol=1e-4, atol=1e-5)


def test_a_trained_lstm_of_low_rank_is_kept_exactly():
    """What the projection stands for is right: an LSTM that has the rank loses nothing."""
    net = made(num_layers=2)
    lrsms.factorize_(net, ranks={"rnn": 5, "rnn.input": 4}, example=X)
    expected = net(X)
    lrsms.merge_(net)
    lrsms.factorize_(net, ranks={"rnn": 5, "rnn.input": 4}, example=X)
    torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("between", [nn.LayerNorm(24), nn.ReLU(), nn.Tanh()])
def test_what_stands_between_an_lstm_and_its_reader_is_seen(between):
    net, dense = made(Reads, between), made(Reads, between)
    plan = lrsms.factorize_(net, ratio=0.25, multiple=1, example=X)
    assert set(plan.ranks) == {"rnn.input", "last"}  # each by itself
    assert whys(plan)["rnn.weight_hh_l0"] == (
        "no linear layer is known that alone reads the LSTM's output; example= looks for one"
    )
    roles = {"rnn": Recurrent("last"), "between": "x"}
    with pytest.raises(LrsmsError, match="rnn: cannot be factored: with factors of full rank the output changes"):
        lrsms.factorize_(dense, ranks={"rnn": 6}, roles=roles, example=X)


class AlsoElsewhere(Reads):
    def forward(self, x):
        output, (hidden, _) = self.rnn(x)
        return self.last(output), hidden


class Residual(Reads):
    def forward(self, x):
        output, _ = self.rnn(x)
        return self.last(output), output.mean()


class OwnState(Reads):
    def forward(self, x):
        state = (x.new_zeros(1, len(x), self.rnn.hidden_size),) * 2
        return self.last(self.rnn(x, state)[0])


@pytest.mark.parametrize("cls", [AlsoElsewhere, Residual])
def test_who_else_sees_the_hidden_units_is_seen(cls):
    plan = lrsms.factorize_(made(cls), ratio=0.25, multiple=1, example=X)
    assert set(plan.ranks) == {"rnn.input", "last"}


def test_states_of_the_dense_size_are_found_out_and_nothing_is_changed():
    net, dense = made(OwnState), made(OwnState)
    with pytest.raises(LrsmsError, match=r"RuntimeError: Expected hidden.*hidden_size itself, exclude the LSTM"):
        lrsms.factorize_(net, ratio=0.25, multiple=1, example=X)
    assert torch.equal(net(X), dense(X)) and type(net.rnn) is nn.LSTM
    assert set(lrsms.factorize_(net, ratio=0.25, multiple=1, example=X, ranks={"rnn": 0}).ranks) == {"rnn.input"}


@pytest.mark.parametrize("hooked", ["rnn", "last"])
def test_a_hook_that_sees_the_hidden_units_goes_on_seeing_them(hooked):
    net, sizes = made(), []
    module = net.get_submodule(hooked)
    module.register_forward_hook(
        lambda _, inputs, output: sizes.append((output[0] if hooked == "rnn" else inputs[0]).shape[-1])
    )
    lrsms.factorize_(net, ratio=0.25, multiple=1, example=X)
    sizes.clear()
    net(X)
    assert sizes == [24]


@pytest.mark.parametrize("name", ["lats", "between"])
def test_a_reader_that_is_none_is_refused(name):
    with pytest.raises(LrsmsError, match=f"rnn: {name} is not a linear layer that takes the 24 numbers it gives"):
        lrsms.factorize_(made(), ratio=0.25, roles={"rnn": Recurrent(name)}, example=X)


def test_a_packed_sequence_and_a_state_handed_on():
    class Packed(Reads):
        def forward(self, x):
            packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([7, 5, 2]), batch_first=True)
            output, state = self.rnn(packed)
            output = output._replace(data=self.last(output.data))
            step = self.last(self.rnn(x[:, :1], state)[0])
            return nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0], step

    assert set(lrsms.factorize_(made(Packed), ratio=0.25, multiple=1, example=X).ranks) == {"rnn", "rnn.input"}


def test_without_an_example_the_input_alone_is_factored_and_a_role_does_not_change_that():
    for roles in (None, {"rnn": Recurrent("last")}):
        net, dense = made(), made()
        plan = lrsms.factorize_(net, ratio=0.25, multiple=1, roles=roles, exclude="last")
        assert plan.ranks == {"rnn.input": 5} and isinstance(net.rnn, LowRankLSTM) and not net.rnn.is_projected
        assert "example= looks for one" in whys(plan)["rnn.weight_hh_l0"]
        expected = net(X)
        net.load_state_dict(dense.state_dict())
        torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)
        lrsms.merge_(net)
        assert type(net.rnn) is nn.LSTM
        dense.load_state_dict(net.state_dict())
        torch.testing.assert_close(dense(X), expected, rtol=1e-4, atol=1e-5)


def test_what_is_faster_dense_is_measured_without_a_reader_as_well():
    net = made()
    lrsms.factorize_(net, ranks={"rnn.input": 4})
    expected = net(X)
    assert lrsms.merge_(net, only="faster", frames=4) in ([], ["rnn.input"])
    torch.testing.assert_close(net(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.LSTM(20, 24, proj_size=8), "an LSTM with proj_size=8 has a projection already"),
        (nn.GRU(20, 24), "nn.GRU cannot be factored: an LSTM or LSTMCell can"),
        (nn.RNN(20, 24), "nn.RNN cannot be factored: an LSTM or LSTMCell can"),
        (nn.GRUCell(20, 24), "nn.GRUCell cannot be factored: an LSTM or LSTMCell can"),
    ],
)
def test_other_recurrent_layers_stay_with_the_reason(layer, why):
    net = nn.ModuleDict({"rnn": layer})
    plan = lrsms.factorize_(net, ratio=0.25)
    assert net["rnn"] is layer and set(whys(plan).values()) == {why} and not plan.ranks


def test_a_class_made_from_an_lstm_and_a_shared_weight_are_refused():
    class Own(nn.LSTM):
        pass

    net = nn.ModuleDict({"own": Own(20, 24), "a": nn.LSTM(20, 24), "b": nn.LSTM(20, 24)})
    net["b"].weight_ih_l0 = net["a"].weight_ih_l0
    plan = lrsms.factorize_(net, ratio=0.25)
    assert plan.ranks == {} and not any(low_rank_layers(net))
    assert whys(plan)["own.weight_hh_l0"] == "Own is made from torch's and may compute something else"
    assert whys(plan)["a.weight_hh_l0"] == "its weight_ih_l0 is also another module's"


@pytest.mark.parametrize("state", [True, False])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_cell_takes_what_torchs_takes(state, batch):
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTMCell(20, 24)

        def forward(self, x, state):
            return self.cell(x) if state is None else self.cell(x, state)

    net = made(Cell)
    dense = copy.deepcopy(net)
    inputs = torch.randn(*batch, 20), (torch.randn(*batch, 24), torch.randn(*batch, 24)) if state else None
    plan = lrsms.factorize_(net, ranks={"cell": 44}, example=inputs)
    assert plan.ranks == {"cell": 44} and isinstance(net.cell, LowRankLSTMCell)
    for ours, theirs in zip(net(*inputs), dense(*inputs)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_calibration_fits_an_lstm_to_what_it_sees():
    torch.manual_seed(0)
    net = made()
    with torch.no_grad():
        for parameter in net.rnn.parameters():
            parameter.mul_(3)
    batches = [torch.randn(4, 12, 3) @ torch.randn(3, 20) for _ in range(5)]
    errors = {}
    for name, calibration in (("plain", None), ("fitted", batches)):
        thin = copy.deepcopy(net)
        lrsms.factorize_(thin, ranks={"rnn": 6, "rnn.input": 3}, example=batches[0], calibration=calibration)
        errors[name] = sum(float((thin(x) - net(x)).detach().square().mean()) for x in batches)
    assert errors["fitted"] < errors["plain"]
