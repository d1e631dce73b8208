"""The vocabulary of a model in bands, the likely tokens first: what the loop starts from if its config names bands."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.model import Compressible
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.tied import tied_outputs


def write_banded(
    source: Compressible, bounds: Sequence[int], likelihood: torch.Tensor, texts: Iterable[str], folder: Path
) -> None:
    """Write an experiment that computes what ``source`` does, with the table of its tied output in bands.

    A token's place follows from how likely the model finds it and how often texts have it, half and half: the model
    knows words that the texts lack.

    Args:
        source: a model whose output is tied to its embedding, dense.
        bounds: of the bands, see :class:`lrsms.lowrank.banded.BandedEmbedding`.
        likelihood: ``(tokens,)`` of each token in calibration.
        texts: of the training split.
        folder: of the experiment that is written.

    Raises:
        LrsmsError: bounds that the vocabulary does not have.
    """
    path = tied_table(source)
    table = source.model.get_submodule(path)
    banded = BandedEmbedding(table.num_embeddings, table.embedding_dim, bounds)
    said = torch.zeros(table.num_embeddings, dtype=torch.double)
    tokenizer = source.experiment.tokenizer
    for text in texts:
        said += torch.bincount(torch.tensor(tokenizer.encode(text), dtype=torch.long), minlength=len(said))
    banded.put_first(likelihood.double() / likelihood.sum() + said / said.sum().clamp_min(1))
    state = {name: value.clone() for name, value in source.model.state_dict().items()}
    banded.split_state(state, f"{path}.")
    config = copy.deepcopy(source.experiment.config)
    config["decoder"] = source.classes["decoder"]
    config["decoder_conf"] = {**(config.get("decoder_conf") or {}), "bands": list(bounds)}
    target = Experiment(folder, source.experiment.checkpoint)
    target.write(config, {name: value.contiguous() for name, value in state.items()})
    source.experiment.copy_tokens(folder)


def tied_table(source: Compressible) -> str:
    """Path of the table that is embedding and output.

    Raises:
        LrsmsError: there is none that could be put in bands.
    """
    path = "decoder.decoders.token_embedding"
    where = f"{source.experiment.folder}: compress: bands"
    if path not in tied_outputs(source.model):
        raise LrsmsError(
            f"{where}: they are for a Whisper model, whose output is its embedding, in one table; leave bands out"
        )
    if any(layer.rank is not None for layer in source.layers):
        raise LrsmsError(f"{where}: the model is low-rank already; give the dense one, or leave bands out")
    return path
