"""What lrsms.factorize_ does with inputs: a proof on an example, and truncation by calibration."""

import copy
import itertools

import pytest
import torch
from torch import nn

import lrsms
from lrsms.errors import LrsmsError


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)).eval()


def row(plan, weight: str):
    return next(row for row in plan.rows if row.weight == weight)


# --- proof on an example


class Careless(nn.Module):
    """Its layers look right; only running it shows which can be factored."""

    def __init__(self):
        super().__init__()
        self.good, self.listed, self.idle = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.typed = nn.Linear(32, 32)
        self.again = [self.listed]

    def forward(self, x):
        x = self.again[0](self.good(x))
        return self.typed(x) if type(self.typed) is nn.Linear else -self.typed(x)


@pytest.mark.parametrize("form", ["tensor", "tuple", "dict", "function"])
def test_an_example_proves_each_layer_or_it_stays_dense(form):
    net = Careless().eval()
    x = torch.randn(3, 32)
    example = {"tensor": x, "tuple": (x,), "dict": {"x": x}, "function": lambda model: {"y": [model(x)]}}[form]
    plan = lrsms.factorize_(net, ratio=0.25, example=example)
    assert plan.ranks == {"good": 8}
    assert row(plan, "idle.weight").why == "the example does not run it"
    assert "from where it cannot be replaced, such as a plain list" in row(plan, "listed.weight").why
    assert "with factors of full rank the output changes by" in row(plan, "typed.weight").why
    assert "each was proved at full rank on the example" in str(plan)
    with pytest.raises(LrsmsError, match="typed: cannot be factored: with factors of full rank"):
        lrsms.factorize_(Careless(), ranks={"typed": 4}, example=x)


def test_an_example_that_proves_nothing_is_refused():
    calls = itertools.count(1)

    class Restless(nn.Linear):
        def forward(self, x):
            return super().forward(x) * next(calls)

    net = chain()
    for example, words in (
        (torch.full((3, 32), torch.nan), "no numbers"),
        (lambda model: None, "no tensor"),
    ):
        with pytest.raises(LrsmsError, match=words):
            lrsms.factorize_(net, ratio=0.25, example=example)
    with pytest.raises(LrsmsError, match="another output each time"):
        lrsms.factorize_(nn.Sequential(Restless(32, 32)), ratio=0.25, example=torch.randn(3, 32))


def test_dropout_in_training_mode_does_not_disturb_the_proof():
    net = nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.5), nn.Linear(32, 32)).train()
    assert len(lrsms.factorize_(net, ratio=0.25, example=torch.randn(3, 32)).ranks) == 2


# --- calibration


def test_calibration_keeps_what_the_layers_see():
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32))[0][:6]
    batches = [torch.randn(4, 5, 6) @ basis for _ in range(8)]
    plain, fitted, dense = (nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16)).eval() for _ in range(3))
    for net in (plain, fitted):
        net.load_state_dict(dense.state_dict())
    lrsms.factorize_(plain, ranks={"0": 6})
    lrsms.factorize_(fitted, ranks={"0": 6}, calibration=iter(batches))
    x = torch.randn(4, 6) @ basis
    lost, kept = ((net(x) - dense(x)).norm() / dense(x).norm() for net in (plain, fitted))
    assert kept < 0.05 and lost > 5 * kept


def test_what_calibration_does_not_run_is_said_and_no_batch_is_an_error():
    net = nn.ModuleDict({"seen": nn.Linear(32, 32), "idle": nn.Linear(32, 32)})
    plan = lrsms.factorize_(net, ratio=0.25, calibration=[lambda model: model["seen"](torch.randn(9, 32))])
    assert row(plan, "seen.weight").why == "" and row(plan, "idle.weight").rank == 8
    assert row(plan, "idle.weight").why == "calibration does not run it: the plain matrix was truncated"
    with pytest.raises(LrsmsError, match="calibration: there is no batch in it"):
        lrsms.factorize_(chain(), ratio=0.25, calibration=[])


CALIBRATED = {
    "convolution": (
        lambda: nn.Sequential(nn.Conv1d(12, 20, 3, padding="same", padding_mode="circular")),
        torch.randn(4, 12, 30),
    ),
    "2-D": (lambda: nn.Sequential(nn.Conv2d(6, 20, (3, 2), stride=2, dilation=2, padding=1)), torch.randn(4, 6, 9, 12)),
    "embedding": (lambda: nn.Sequential(nn.Embedding(50, 12)), torch.randint(0, 9, (4, 30))),
    "attention": (lambda: Attending(), torch.randn(4, 10, 16)),
    "cell": (lambda: Celled(), torch.randn(6, 16)),
}


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(query=x, key=x, value=x, need_weights=False)[0]


class Celled(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(16, 12)

    def forward(self, x):
        return self.cell(x)[0]


@pytest.mark.parametrize("kind", CALIBRATED)
def test_calibration_reaches_every_kind_of_layer(kind):
    make, x = CALIBRATED[kind]
    torch.manual_seed(0)
    dense = make().eval()
    errors = {}
    for name, calibration in (("plain", None), ("fitted", [x])):
        net = copy.deepcopy(dense)
        lrsms.factorize_(net, ratio=0.4, multiple=1, calibration=calibration, example=x)
        errors[name] = float((net(x) - dense(x)).detach().square().mean())
    assert errors["fitted"] < errors["plain"]
