"""Rare tokens that calibration never says, in a table whose states are what its rows say."""

import copy

import pytest
import torch

from lrsms.compress.rehearsal import States, agreement, factorize_bands, rehearse
from lrsms.errors import LrsmsError

TOKENS, WIDTH, BOUNDS, SAID = 400, 24, [60, 180], 120


@pytest.fixture(scope="module")
def world():
    """A table, where each token is said, and calibration: of the first tokens alone."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(TOKENS, WIDTH, generator=generator)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0] * 0.4 + torch.eye(WIDTH)

    def states(tokens):
        return 2 * table[tokens] @ turned + 0.5 * torch.randn(len(tokens), WIDTH, generator=generator)

    seen = states(torch.randint(SAID, (4000,), generator=generator))
    return table, states, States.fit(seen, table)


def share_said(states, tokens, table):
    return float(((states @ table.T).argmax(-1) == tokens).double().mean())


def test_states_that_say_a_token_are_foretold_from_its_row(world):
    table, states, fitted = world
    unsaid = torch.arange(SAID, TOKENS)
    assert share_said(states(unsaid), unsaid, table) > 0.9  # so much for the world
    foretold = fitted.foretell(table[unsaid], torch.Generator().manual_seed(1))
    assert share_said(foretold, unsaid, table) > 0.9
    assert (foretold - fitted.foretell(table[unsaid], torch.Generator().manual_seed(2))).abs().max() > 0.1


def test_rehearsal_brings_back_what_truncation_has_lost(world):
    table, states, fitted = world
    banded = factorize_bands(table, torch.arange(TOKENS).float(), BOUNDS, [16, 10, 10], fitted)
    rare = torch.arange(BOUNDS[0], TOKENS).repeat(5)
    x = states(rare)
    before = share_said(x, rare, banded_weight(banded))
    agreed = agreement(banded, table, fitted)
    again = copy.deepcopy(banded)
    rehearse(banded, table, fitted, steps=150)
    after = share_said(x, rare, banded_weight(banded))
    assert before < 0.6 and after > before + 0.1, (before, after)
    gained = [later - earlier for earlier, later in zip(agreed, agreement(banded, table, fitted), strict=True)]
    assert gained[0] > -0.05 and min(gained[1:]) > 0.1, gained
    rehearse(again, table, fitted, steps=150)
    assert banded_weight(again).equal(banded_weight(banded)), "the same seed, the same table"


def banded_weight(banded):
    return torch.cat([band.product() for band in banded.bands])[banded.places.long()].detach()


def test_bands_follow_the_places(world):
    table, _, fitted = world
    places = torch.randperm(TOKENS, generator=torch.Generator().manual_seed(3)).float()
    banded = factorize_bands(table, places, BOUNDS, [17, 19, 21], fitted)
    assert [band.rank for band in banded.bands] == [17, 19, 21]
    errors = (banded_weight(banded) - table).square().mean(1)
    by_band = [float(errors[banded.tokens(number)].mean()) for number in range(3)]
    assert 0.3 > by_band[0] > by_band[1] > by_band[2] > 0, by_band


@pytest.mark.parametrize(
    ("ranks", "message"),
    [([8, 8], "band_ranks: 2 of them, for 3 bands"), ([8, 8, 23], "band_ranks: 23 saves nothing in a band of 220")],
)
def test_ranks_that_cannot_be(world, ranks, message):
    table, _, fitted = world
    with pytest.raises(LrsmsError, match=message):
        factorize_bands(table, torch.arange(TOKENS).float(), BOUNDS, ranks, fitted)


def test_calibration_that_says_nothing():
    with pytest.raises(LrsmsError, match="calibration: says 0 different tokens; take more utterances"):
        States.fit(torch.zeros(10, WIDTH), torch.randn(TOKENS, WIDTH))
