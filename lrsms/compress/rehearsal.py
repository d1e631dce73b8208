"""The rows of rare tokens, learnt again after truncation where no text has them.

Truncation of an output layer keeps what matters where calibration looks, and calibration hardly looks where a rare
token is said. But the state that says a token can be foretold from the token's row: by a linear regression over the
tokens that calibration has, to which residuals of those are added at random. At such states the truncated table is
drawn to what the whole one says (Hinton et al. 2015), with no data but calibration's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from tqdm import trange

from lrsms.errors import LrsmsError
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.layers import LowRankEmbedding

_SURE = 0.5  # least probability of the token that is taken as said
_RIDGE = 1e-3  # of the regression; rows have a length of about one
_MOST = 5  # states of one token that count in it
_BATCH, _FORETOLD = 512, 0.6  # states in a step, and which share of them is foretold
_DRAWN = 300  # tokens of a band, to count how many are said
_OTHERS = 4096  # tokens that a step tells apart, beside those of the first band and those said
_RARITY = 0.7, 2000  # the token at place n is drawn as often as (n + 2000) ^ -0.7, Zipf's law made flatter


@dataclass(frozen=True)
class States:
    """Hidden states before an output layer, found in calibration and foretold.

    Attributes:
        seen: ``(states, width)``, of calibration.
        regression: ``(width + 1, width)``, from a token's row and a one to the state that says it.
        residuals: ``(states, width)``, what seen states have beside that.
    """

    seen: Tensor
    regression: Tensor
    residuals: Tensor

    @classmethod
    def fit(cls, seen: Tensor, table: Tensor) -> States:
        """Learn from calibration.

        Args:
            seen: ``(states, width)``.
            table: rows ``(tokens, width)`` of the output.

        Raises:
            LrsmsError: calibration says too few tokens to learn from.
        """
        rows, best = [], []
        for some in seen.split(1024):
            probable, token = (some @ table.T).softmax(-1).max(-1)
            rows.append(some[probable > _SURE])
            best.append(token[probable > _SURE])
        states, said = torch.cat(rows).double(), torch.cat(best)
        tokens, which = said.unique(return_inverse=True)
        if len(tokens) < 2:
            raise LrsmsError(f"calibration: says {len(tokens)} different tokens; take more utterances")
        counts = torch.bincount(which).double()
        means = torch.zeros(len(tokens), seen.shape[1], dtype=torch.double).index_add_(0, which, states)
        known = _with_one(table[tokens].double())
        weights = counts.clamp(max=_MOST)[:, None]
        squares = known.T @ (weights * known) + _RIDGE * torch.eye(known.shape[1], dtype=torch.double)
        regression = torch.linalg.solve(squares, known.T @ (weights * means / counts[:, None]))
        return cls(seen, regression.float(), (states - known[which] @ regression).float())

    def foretell(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """States ``(tokens, width)`` that say the tokens with these ``rows (tokens, width)``, one for each."""
        chosen = torch.randint(len(self.residuals), (len(rows),), generator=generator)
        return _with_one(rows) @ self.regression + self.residuals[chosen]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """``(count, width)`` of those seen."""
        return self.seen[torch.randint(len(self.seen), (count,), generator=generator)]


def parameters_saved(count: int, width: int, bounds: Sequence[int], ranks: Sequence[int]) -> int:
    """Of a table ``(count, width)`` in bands of such ranks.

    Raises:
        LrsmsError: not as many ranks as bands, one that saves nothing, or bounds that the table does not have.
    """
    with torch.device("meta"):
        edges = BandedEmbedding(count, width, bounds).edges
    if len(ranks) != len(edges) - 1:
        raise LrsmsError(f"band_ranks: {len(ranks)} of them, for {len(edges) - 1} bands; give one to each")
    saved = 0
    for rank, (low, high) in zip(ranks, pairwise(edges), strict=True):
        of_band = (high - low) * width - rank * (high - low + width)
        if of_band <= 0:
            raise LrsmsError(f"band_ranks: {rank} saves nothing in a band of {high - low:,} tokens; take less")
        saved += of_band
    return saved


def factorize_bands(
    table: Tensor, places: Tensor, bounds: Sequence[int], ranks: Sequence[int], states: States, seed: int = 0
) -> BandedEmbedding:
    """A table in bands, each truncated for the states that say its tokens.

    Args:
        table: ``(tokens, width)``.
        places: of each token in the bands, ``(tokens,)``.
        bounds: see :class:`lrsms.lowrank.banded.BandedEmbedding`.
        ranks: of each band, one more than there are bounds.
        states: of calibration.
        seed: of what is drawn.

    Raises:
        LrsmsError: not as many ranks as bands, or one that saves nothing.
    """
    generator = torch.Generator().manual_seed(seed)
    count, width = table.shape
    parameters_saved(count, width, bounds, ranks)  # refuses what would save nothing
    banded = BandedEmbedding(count, width, bounds)
    banded.places.copy_(places)
    for number, (rank, (low, high)) in enumerate(zip(ranks, pairwise(banded.edges), strict=True)):
        rows = table[banded.tokens(number)]
        drawn = torch.randint(len(rows), (4 * width,), generator=generator)
        looked_at = torch.cat((states.foretell(rows[drawn], generator), states.draw(2 * width, generator))).double()
        moment = looked_at.T @ looked_at / len(looked_at)
        root = torch.linalg.cholesky(moment + 1e-3 * moment.diagonal().mean() * torch.eye(width, dtype=torch.double))
        left, values, right = torch.linalg.svd(rows.double() @ root, full_matrices=False)
        scale = values[:rank].sqrt()
        layer = LowRankEmbedding(high - low, width, rank=rank)
        with torch.no_grad():
            layer[0].weight.copy_(left[:, :rank] * scale)
            layer[1].weight.copy_(torch.linalg.solve(root.T, right[:rank].T * scale))
        banded.bands[number] = layer
    return banded


def rehearse(banded: BandedEmbedding, table: Tensor, states: States, steps: int, seed: int = 0) -> None:
    """Draw the factors of a table in bands to what the whole table says.

    Args:
        banded: all its bands factored; changed in place.
        table: ``(tokens, width)`` that it came from.
        states: of calibration.
        steps: of Adam, each on 512 states and a random part of the tokens.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    first = banded.edges[1]
    by_place = table[torch.argsort(banded.places)]
    power, offset = _RARITY
    likelihood = (torch.arange(len(table)) + offset) ** -power
    optimizer = torch.optim.Adam(banded.bands.parameters(), lr=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    foretold = int(_FORETOLD * _BATCH)
    bar = trange(steps, desc="rare tokens", unit="step", leave=False, delay=2)
    for _ in bar:
        said = torch.multinomial(likelihood, foretold, replacement=True, generator=generator)
        x = torch.cat((states.foretell(by_place[said], generator), states.draw(_BATCH - foretold, generator)))
        others = torch.randint(first, len(table), (_OTHERS,), generator=generator)
        told_apart = torch.cat((torch.arange(first), said, others)).unique()
        wanted = (x @ by_place[told_apart].T).log_softmax(-1)
        found = torch.cat(
            [
                _logits(band, x, told_apart[(told_apart >= low) & (told_apart < high)] - low)
                for band, (low, high) in zip(banded.bands, pairwise(banded.edges))
            ],
            -1,
        ).log_softmax(-1)
        loss = nn.functional.kl_div(found, wanted, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        bar.set_postfix(divergence=f"{loss.item():.3f}", refresh=False)


def agreement(banded: BandedEmbedding, table: Tensor, states: States, seed: int = 0) -> list[float]:
    """For each band, at foretold states where the whole table says its token, in which share the bands say it, too.

    Args:
        banded: all its bands factored.
        table: ``(tokens, width)`` that it came from.
        states: of calibration.
        seed: of what is drawn, 300 tokens of each band.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.argsort(banded.places)
    by_place = table[order]
    shares = []
    with torch.no_grad():
        factored = torch.cat([band.product() for band in banded.bands])
        for low, high in pairwise(banded.edges):
            said = torch.randint(low, high, (_DRAWN,), generator=generator)
            x = states.foretell(by_place[said], generator)
            by_whole = (x @ by_place.T).argmax(-1) == said
            by_bands = (x @ factored.T).argmax(-1) == said
            shares.append(float((by_whole & by_bands).sum() / by_whole.sum().clamp_min(1)))
    return shares


def _logits(band: nn.Module, x: Tensor, tokens: Tensor) -> Tensor:
    assert isinstance(band, LowRankEmbedding)
    return nn.functional.linear(x, band[1].weight.T) @ band[0].weight[tokens].T


def _with_one(rows: Tensor) -> Tensor:
    return torch.cat((rows, torch.ones_like(rows[:, :1])), 1)
