"""Training what lrsms.factorize_ has made: the aids, through one call after each step."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

import lrsms
from lrsms.errors import LrsmsError
from lrsms.lowrank.semi_orthogonal import EVERY, orthogonality_error

X = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
Y = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 1) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(net(X), Y).backward()
        optimizer.step()
        lrsms.after_step(net, optimizer)


def factored(**aids) -> nn.Sequential:
    net = chain()
    lrsms.factorize_(net, ratio=0.5, multiple=1, **aids)
    return net


def test_an_optimizer_made_before_is_refused():
    net = chain()
    before = torch.optim.SGD(net.parameters(), lr=0.1)
    lrsms.factorize_(net, ratio=0.5, multiple=1)
    with pytest.raises(LrsmsError, match="holds none of the model's factors.*make the optimizer after factorize_"):
        train(net, before)
    train(net, torch.optim.SGD(net.parameters(), lr=0.1))
    train(net, torch.optim.SGD(net[2].parameters(), lr=0.1))  # a part of them may be what is to be trained


def test_frozen_factors_need_no_optimizer():
    net = factored()
    net.requires_grad_(False)
    extra = nn.Parameter(torch.zeros(1))
    lrsms.after_step(net, torch.optim.SGD([extra], lr=0.1))


def test_frobenius_decay_shrinks_the_product():
    aided, plain = factored(frobenius_decay=1.0), factored()
    for net in (aided, plain):
        train(net, torch.optim.SGD(net.parameters(), lr=0.01), 20)
    assert aided[0].product().norm() < 0.9 * plain[0].product().norm()


def test_two_decays_of_the_factors_are_refused_and_groups_of_parameters_mend_it():
    net = factored(frobenius_decay=0.1)
    with pytest.raises(LrsmsError, match=r"decays them by 0.01 as well.*parameter_groups\(model, weight_decay=0.01\)"):
        train(net, torch.optim.AdamW(net.parameters(), weight_decay=0.01))
    groups = lrsms.parameter_groups(net, weight_decay=0.01)
    assert [len(group["params"]) for group in groups] == [2, 4]
    train(net, torch.optim.AdamW(groups))
    everything = lrsms.parameter_groups(factored(), weight_decay=0.01)
    assert [len(group["params"]) for group in everything] == [6, 0]


def test_the_semi_orthogonal_constraint_acts_on_every_fourth_step():
    net = factored(semi_orthogonal=1.0)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    before = orthogonality_error(net[0])
    train(net, optimizer, EVERY - 1)
    assert orthogonality_error(net[0]) == pytest.approx(before, rel=1e-4)
    train(net, optimizer, 20 * EVERY)
    assert orthogonality_error(net[0]) < 0.1 * before


def test_a_guide_leads_a_root_sequential_and_fades():
    net, dense = factored(self_guided=4), chain()
    net.train()
    torch.testing.assert_close(net(X), dense(X))  # the dense layers alone, at first
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-9)
    train(net, optimizer, 2)
    assert 0 < net.self_guide.share < 1
    train(net, optimizer, 2)
    assert net.self_guide.share == 0.0
    torch.testing.assert_close(net(X), net.eval()(X))
    assert not any("self_guide.weights" in name for name in net.state_dict())


@pytest.mark.parametrize("aids", [{"frobenius_decay": 1.0}, {"semi_orthogonal": 1.0}, {"self_guided": 4}])
def test_aids_go_with_a_copy_of_the_model(aids):
    net = factored(**aids)
    twin = copy.deepcopy(net)
    untouched = copy.deepcopy(net.state_dict())
    train(twin, torch.optim.SGD(twin.parameters(), lr=0.1), 4)
    assert all(torch.equal(value, untouched[name]) for name, value in net.state_dict().items())
    train(net, torch.optim.SGD(net.parameters(), lr=0.1), 4)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value)


def test_aids_of_two_calls_act_each_on_its_own_layers():
    net = chain()
    lrsms.factorize_(net, ranks={"0": 6}, frobenius_decay=0.1)
    lrsms.factorize_(net, ranks={"2": 4}, semi_orthogonal=1.0)
    aids = net.low_rank_aids
    assert [layers for layers, _ in aids.decayed] == [[net[0]]]
    assert [layers for layers, _ in aids.constrained] == [[net[2]]]


def test_a_second_guide_is_refused():
    net = factored(self_guided=4)
    with pytest.raises(LrsmsError, match="self_guide already"):
        lrsms.factorize_(net, ratio=0.5, self_guided=4)


TRAINING = """
import sys, torch, lrsms
from torch import nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
lrsms.factorize_(net, ratio=0.5, multiple=1, semi_orthogonal=1.0, self_guided=4)
torch.distributed.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
wrapped = nn.parallel.DistributedDataParallel(net)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
torch.manual_seed(int(sys.argv[2]))  # each sees other data
for _ in range(6):
    optimizer.zero_grad()
    wrapped(torch.randn(4, 16)).square().mean().backward()
    optimizer.step()
    lrsms.after_step(wrapped, optimizer)
print(net.self_guide.share, net[0][0].weight.double().sum().item(), net[2][1].weight.double().sum().item())
torch.distributed.destroy_process_group()
"""


def test_two_processes_train_it_alike(tmp_path):
    store = str(tmp_path / "store")
    processes = [
        subprocess.Popen([sys.executable, "-c", TRAINING, store, str(rank)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    first, second = (process.communicate(timeout=300)[0].split() for process in processes)
    assert first == second and first[0] == "0.0" and len(first) == 3


def test_what_wraps_the_model_comes_after(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(chain())
        with pytest.raises(LrsmsError, match="factor what it wraps first"):
            lrsms.factorize_(wrapped, ratio=0.25)
    finally:
        torch.distributed.destroy_process_group()


def test_muon_takes_the_factors_of_any_model_but_those_of_embeddings():
    net = nn.Sequential(nn.Embedding(50, 24), nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 10))
    lrsms.factorize_(net, ranks={"0": 4, "1": 4})
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    lrsms.attach_muon(net, optimizer)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.arange(50)), torch.arange(50) % 10)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    taken = {name for name, parameter in net.named_parameters() if "momentum_buffer" in optimizer.state[parameter]}
    assert taken == {"1.0.weight", "1.1.weight"}
    assert losses[-1] < 0.5 * losses[0]


def test_muon_refuses_an_optimizer_of_weights_that_are_gone():
    net = nn.Sequential(nn.Linear(24, 24))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01)
    lrsms.factorize_(net, ranks={"0": 4})
    with pytest.raises(LrsmsError, match="attach_muon: the optimizer holds none of the model's factors"):
        lrsms.attach_muon(net, optimizer)
