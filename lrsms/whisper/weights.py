"""Names and shapes of a Whisper model's weights, as openai-whisper has them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from lrsms.errors import LrsmsError
from lrsms.whisper.dimensions import Dimensions
from lrsms.whisper.model import AudioEncoder, TextDecoder


@lru_cache(maxsize=4)
def expected(sizes: Dimensions) -> dict[str, torch.Size]:
    """Names and shapes of a model's weights."""
    with torch.device("meta"):
        model = nn.ModuleDict({"encoder": AudioEncoder(sizes), "decoder": TextDecoder(sizes)})
    return {name: value.shape for name, value in model.state_dict().items()}


def check(state: Mapping[str, Tensor], sizes: Dimensions, where: str) -> None:
    """Compare names and shapes of weights with what the sizes say.

    Raises:
        LrsmsError: one is missing, too many or of another shape.
    """
    wanted = expected(sizes)
    for name, shape in wanted.items():
        if name not in state:
            raise LrsmsError(f"{where}: holds no {name}")
        if state[name].shape != shape:
            raise LrsmsError(f"{where}: {name} is {tuple(state[name].shape)}, but its sizes ask for {tuple(shape)}")
    for name in state:
        if name not in wanted:
            raise LrsmsError(f"{where}: {name} is not a weight of Whisper")
