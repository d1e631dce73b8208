"""An output layer whose weight is the embedding's: ``logits = x E^T``, with the table ``E`` dense or factored.

Press and Wolf 2017. Factored, ``E = A B^T`` is one pair of factors for both ends; the output is two thin products.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F

from lrsms.lowrank.layers import LowRankEmbedding


class TiedOutput(nn.Module):
    """``(..., embedding_dim) -> (..., num_embeddings)``; it has no weights of its own.

    Args:
        embedding: name of the embedding beside it in the same module.
    """

    def __init__(self, embedding: str):
        super().__init__()
        self.embedding = embedding

    def forward(self, x: Tensor, embedding: nn.Embedding | LowRankEmbedding) -> Tensor:
        """Logits by the weight of ``embedding``, a :class:`torch.nn.Embedding` or its factored form."""
        if isinstance(embedding, LowRankEmbedding):
            up = embedding[1].weight
            if callable(up):  # of torch's dynamic quantization, which has no product with the transpose
                up = up().dequantize()
            return F.linear(F.linear(x, up.T), embedding[0].weight)
        return F.linear(x, embedding.weight)

    @staticmethod
    def macs_saved(embedding: nn.Module, logits: Tensor) -> int:
        """Multiply-accumulates that factors have saved in making ``logits``."""
        if not isinstance(embedding, LowRankEmbedding):
            return 0
        return logits.numel() // embedding.num_embeddings * embedding.parameters_saved


def tied_outputs(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Path of each embedding in ``model`` that is an output as well, and path of that output."""
    for path, module in model.named_modules():
        if isinstance(module, TiedOutput):
            parent = path.rpartition(".")[0]
            yield ".".join(filter(None, (parent, module.embedding))), path
