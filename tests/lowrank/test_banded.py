"""A table of embeddings in bands, dense and factored, beside the one table that it stands for."""

import copy

import pytest
import torch
from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank import LowRankConfig, LowRankEmbedding, RankPlan, apply_plan_, low_rank_layers
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.merge import merge_
from lrsms.lowrank.moments import input_moments
from lrsms.lowrank.tied import TiedOutput

TOKENS, WIDTH, BOUNDS = 30, 12, [4, 14]
ROLES = {r"table(\.bands\.\d+)?": "output"}


class Model(nn.Module):
    """An embedding, a layer, and the output that is the embedding."""

    def __init__(self, table):
        super().__init__()
        self.table = table
        self.hidden = nn.Linear(WIDTH, WIDTH)
        self.output = TiedOutput("table")

    def forward(self, tokens):
        return self.output(self.hidden(self.table(tokens)), self.table)


@pytest.fixture
def pair():
    """One table, and the same in bands in an order of chance."""
    torch.manual_seed(0)
    plain, banded = Model(nn.Embedding(TOKENS, WIDTH)), Model(BandedEmbedding(TOKENS, WIDTH, BOUNDS))
    banded.table.put_first(torch.rand(TOKENS))
    banded.load_state_dict(plain.state_dict(), strict=False)
    return plain, banded


def test_bands_compute_what_the_table_does(pair):
    plain, banded = pair
    tokens = torch.arange(TOKENS)[None]
    assert banded.table.weight.equal(plain.table.weight)
    assert banded.table(tokens).equal(plain.table(tokens))
    torch.testing.assert_close(banded(tokens), plain(tokens), atol=1e-6, rtol=1e-6)


def test_likely_tokens_are_in_the_first_band(pair):
    _, banded = pair
    likelihood = torch.zeros(TOKENS)
    likelihood[[7, 3, 28, 11]] = torch.tensor([0.1, 0.4, 0.2, 0.3])
    banded.table.put_first(likelihood)
    assert banded.table.tokens(0).tolist() == [3, 11, 28, 7]
    assert sorted(torch.cat([banded.table.tokens(band) for band in range(3)]).tolist()) == list(range(TOKENS))


def test_each_band_is_factored_by_itself_trained_and_merged(pair):
    plain, banded = pair
    tokens = torch.arange(TOKENS)[None]
    ranks = {"table.bands.1": 10, "table.bands.2": 12}
    plan = RankPlan.make(banded, ROLES, LowRankConfig(ranks=ranks))
    assert [(entry.depth, entry.inputs, entry.rank) for entry in plan.entries] == [
        (0, 4, None),
        (1, 10, 10),
        (2, 16, 12),
    ]
    apply_plan_(banded, plan)
    assert {path: layer.rank for path, layer in low_rank_layers(banded)} == ranks
    torch.testing.assert_close(banded(tokens), plain(tokens), atol=1e-4, rtol=1e-4)
    assert TiedOutput.macs_saved(banded.table, banded(tokens)) == TOKENS * -(10 * 10 + 12 * 12)  # ranks are full
    banded(tokens).square().mean().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in banded.table.parameters())
    merge_(banded)
    assert [type(band) for band in banded.table.bands] == [nn.Embedding] * 3
    torch.testing.assert_close(banded(tokens), plain(tokens), atol=1e-4, rtol=1e-4)


def test_factored_bands_load_the_table(pair):
    plain, banded = pair
    apply_plan_(banded, RankPlan.make(banded, ROLES, LowRankConfig(ranks={"table.bands.2": 3})))
    before = copy.deepcopy(banded.state_dict())
    for parameter in banded.parameters():
        parameter.data.zero_()
    banded.load_state_dict(plain.state_dict(), strict=False)
    assert isinstance(banded.table.bands[2], LowRankEmbedding)
    for name, value in before.items():
        torch.testing.assert_close(banded.state_dict()[name].abs(), value.abs(), atol=1e-5, rtol=1e-4)


def test_a_state_brings_its_own_order(pair):
    _, banded = pair
    other = Model(BandedEmbedding(TOKENS, WIDTH, BOUNDS))
    other.load_state_dict(banded.state_dict())
    assert other.table.weight.equal(banded.table.weight)
    assert not other.table.places.equal(torch.arange(TOKENS).float())


def test_the_order_survives_what_is_done_to_weights(pair):
    """Half precision has no whole numbers above 2048; ESPnet's averaging divides floats, and adds up integers."""
    _, banded = pair
    places = torch.arange(50000.0)
    large = BandedEmbedding(len(places), 2, [100])
    assert large.to(torch.bfloat16).places.equal(places)
    assert large.bands[0].weight.dtype == torch.bfloat16
    assert (sum([places] * 7) / 7).equal(places) and banded.table.places.is_floating_point()


def test_calibration_sees_each_band_as_the_output_it_is(pair):
    plain, banded = pair
    tokens = torch.randint(TOKENS, (1, 9))
    whole = input_moments(plain, ["table"], lambda: plain(tokens))["table"]
    bands = input_moments(banded, [f"table.bands.{band}" for band in range(3)], lambda: banded(tokens))
    for band in range(3):
        moments = bands[f"table.bands.{band}"]
        torch.testing.assert_close(moments.second, whole.second, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(moments.rows, whole.rows[banded.table.tokens(band)], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("bounds", [[0, 5], [5, 5], [9, 5], [30], [5, 40]])
def test_bounds_that_are_none(bounds):
    with pytest.raises(LrsmsError, match=r"bands: .* are not rising numbers of tokens between 0 and 30"):
        BandedEmbedding(TOKENS, WIDTH, bounds)
