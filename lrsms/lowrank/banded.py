"""A table of token embeddings in bands, the likely tokens first, each of which is factored by itself.

What tokens have in common shrinks as their number grows, and most of a large vocabulary is hardly ever said: one rank
for all is too low for the likely tokens and too high for the others. Chen et al. 2018 (GroupReduce) factor a vocabulary
in groups of like frequency; Baevski and Auli 2019 train bands of falling width from scratch.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from lrsms.errors import LrsmsError


class BandedEmbedding(nn.Module):
    """Token numbers ``(...)`` to ``(..., embedding_dim)``, as :class:`torch.nn.Embedding`, whose weight it also loads.

    Args:
        num_embeddings, embedding_dim: shape of the table.
        bounds: where a band ends and the next begins, rising: ``[4096, 12288]`` makes bands of 4,096, 8,192 and all
            other tokens.

    Attributes:
        bands: an embedding for each, dense or factored.
        places: ``(num_embeddings,)`` of each token in the bands. In floating point, for ESPnet, when it averages
            checkpoints, adds up integers.

    Raises:
        LrsmsError: bounds that do not rise, or lie outside of the table.
    """

    places: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, bounds: Sequence[int]):
        super().__init__()
        edges = [0, *bounds, num_embeddings]
        if any(low >= high for low, high in pairwise(edges)):
            raise LrsmsError(
                f"bands: {list(bounds)} are not rising numbers of tokens between 0 and {num_embeddings:,}; "
                f"write for example [{num_embeddings // 12}, {num_embeddings // 4}]"
            )
        self.num_embeddings, self.embedding_dim, self.edges = num_embeddings, embedding_dim, edges
        self.bands = nn.ModuleList(nn.Embedding(high - low, embedding_dim) for low, high in pairwise(edges))
        self.register_buffer("places", torch.arange(num_embeddings, dtype=torch.float32))

    def forward(self, tokens: Tensor) -> Tensor:
        """Rows of ``tokens``."""
        places = self.places[tokens].long()
        rows = None
        for (low, high), band in zip(pairwise(self.edges), self.bands):
            own = band((places - low).clamp(0, high - low - 1))
            rows = own if rows is None else torch.where((places >= low)[..., None], own, rows)
        assert rows is not None
        return rows

    @property
    def weight(self) -> Tensor:
        """The table ``(num_embeddings, embedding_dim)`` in the order of token numbers, made anew each time."""
        return torch.cat([band.weight for band in self.bands])[self.places.long()]

    def in_order(self, by_place: Tensor) -> Tensor:
        """What the bands give one after the other, ``(..., num_embeddings)``, in the order of token numbers."""
        return by_place[..., self.places.long()]

    def tokens(self, band: int) -> Tensor:
        """Numbers of the tokens in a band, in its order."""
        return torch.argsort(self.places)[self.edges[band] : self.edges[band + 1]]

    def put_first(self, likelihood: Tensor) -> None:
        """Order the tokens by ``likelihood (num_embeddings,)``; their rows stay where they were, so load them after."""
        order = torch.argsort(likelihood, descending=True, stable=True)
        self.places[order] = torch.arange(len(order), dtype=self.places.dtype, device=self.places.device)

    def split_state(self, state: MutableMapping[str, Tensor], at: str) -> None:
        """Replace a table ``weight`` among the weights of a model by the bands' own.

        Args:
            state: changed in place.
            at: prefix of this module's names in it.
        """
        weight = state.pop(f"{at}weight", None)
        if weight is None:
            return
        places = state.setdefault(f"{at}places", self.places.clone())
        by_place = weight[torch.argsort(places)]
        for number, (low, high) in enumerate(pairwise(self.edges)):
            state[f"{at}bands.{number}.weight"] = by_place[low:high]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        self.split_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _apply(self, fn, recurse=True):
        """Places stay exact where the model goes to half precision."""
        places = self.places
        super()._apply(fn, recurse)
        if self.places.dtype != places.dtype:
            self.places = places.to(self.places.device)
        return self
