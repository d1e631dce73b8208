"""An output that is the embedding, dense and factored."""

import torch
from torch import nn

from lrsms.lowrank import LowRankConfig, RankPlan, apply_plan_
from lrsms.lowrank.merge import merge_
from lrsms.lowrank.tied import TiedOutput, tied_outputs


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 12)
        self.hidden = nn.Linear(12, 12)
        self.output = TiedOutput("table")

    def forward(self, tokens):
        return self.output(self.hidden(self.table(tokens)), self.table)


def test_factored_and_merged_outputs_are_the_tables():
    torch.manual_seed(0)
    model, tokens = Tied(), torch.randint(30, (2, 5))
    expected = model.hidden(model.table(tokens)) @ model.table.weight.T
    torch.testing.assert_close(model(tokens), expected)
    assert [(one.path, one.output) for one in tied_outputs(model).values()] == [("table", "output")]
    plan = RankPlan.make(model, {"table": "output"}, LowRankConfig(ranks={"table": 12}))
    apply_plan_(model, plan)
    assert [name for name, _ in model.named_parameters()] == [
        *("table.0.weight", "table.1.weight", "hidden.weight", "hidden.bias")
    ]
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-4)
    merge_(model)
    torch.testing.assert_close(model(tokens), expected, atol=1e-5, rtol=1e-4)


def test_both_ends_of_a_factored_table_train():
    model = Tied()
    apply_plan_(model, RankPlan.make(model, {"table": "output"}, LowRankConfig(ranks={"table": 3})))
    logits = model(torch.tensor([[1, 2]]))
    logits.square().mean().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in model.table.parameters())
    assert TiedOutput.macs_saved(model.table, logits) == 2 * (30 * 12 - 3 * (30 + 12))
