"""An output layer whose weight is the embedding's: ``logits = x E^T``, with the table ``E`` dense or factored.

Press and Wolf 2017. Factored, ``E = A B^T`` is one pair of factors for both ends; the output is two thin products.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.layers import LowRankEmbedding


class TiedOutput(nn.Module):
    """``(..., embedding_dim) -> (..., num_embeddings)``; it has no weights of its own.

    Args:
        embedding: name of the embedding beside it in the same module.
    """

    def __init__(self, embedding: str):
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor, embedding: nn.Embedding | LowRankEmbedding | BandedEmbedding) -> Tensor:
        """Logits by the weight of ``embedding``, a :class:`torch.nn.Embedding`, its factored form, or bands of them."""
        if isinstance(embedding, BandedEmbedding):
            return embedding.in_order(torch.cat([_logits(x, band) for band in embedding.bands], -1))
        return _logits(x, embedding)

    @staticmethod
    def macs_saved(embedding: nn.Module, logits: Tensor) -> int:
        """Multiply-accumulates that factors have saved in making ``logits``."""
        tables = embedding.bands if isinstance(embedding, BandedEmbedding) else [embedding]
        saved = sum(table.parameters_saved for table in tables if isinstance(table, LowRankEmbedding))
        return logits.numel() // logits.shape[-1] * saved


def _logits(x: Tensor, embedding: nn.Module) -> Tensor:
    if isinstance(embedding, LowRankEmbedding):
        up = embedding[1].weight
        if callable(up):  # of torch's dynamic quantization, which has no product with the transpose
            up = up().dequantize()
        return F.linear(F.linear(x, up.T), embedding[0].weight)
    return F.linear(x, embedding.weight)


@dataclass(frozen=True)
class Tied:
    """An embedding that is an output as well, or one band of it.

    Attributes:
        path: of the embedding.
        output: path of the output.
        tokens: numbers of its tokens ``(tokens,)``; None if it has all.
    """

    path: str
    output: str
    tokens: Tensor | None = None


def tied_outputs(model: nn.Module) -> dict[str, Tied]:
    """The embeddings in ``model`` that are outputs as well, by their paths."""
    found = []
    for output, module in model.named_modules():
        if isinstance(module, TiedOutput):
            path = ".".join(filter(None, (output.rpartition(".")[0], module.embedding)))
            embedding = model.get_submodule(path)
            if isinstance(embedding, BandedEmbedding):
                found += [
                    Tied(f"{path}.bands.{band}", output, embedding.tokens(band)) for band in range(len(embedding.bands))
                ]
            else:
                found.append(Tied(path, output))
    return {one.path: one for one in found}
