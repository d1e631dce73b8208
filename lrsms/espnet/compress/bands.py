"""The vocabulary of a model in bands, the likely tokens first: what the loop starts from if its config names bands."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lrsms.compress.rehearsal import States, agreement, factorize_bands, rehearse
from lrsms.errors import LrsmsError
from lrsms.espnet.checkpoints.experiment import Experiment
from lrsms.espnet.compress.model import Compressible
from lrsms.espnet.models.ctc_rank import block_ranks
from lrsms.files import write_json
from lrsms.lowrank.banded import BandedEmbedding
from lrsms.lowrank.layers import LowRankEmbedding
from lrsms.lowrank.tied import tied_outputs


@dataclass(frozen=True)
class Factors:
    """How bands are factored before the loop, see :mod:`lrsms.compress.rehearsal`.

    Attributes:
        ranks: of each band.
        states: ``(states, width)`` before the output, of calibration.
        steps: of rehearsal.
        seed: of what is drawn.
    """

    ranks: Sequence[int]
    states: torch.Tensor
    steps: int
    seed: int


@contextmanager
def states_before(output: nn.Module) -> Iterator[list[torch.Tensor]]:
    """What is given to an output layer meanwhile, each ``(states, width)``."""
    states: list[torch.Tensor] = []
    hook = output.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0].detach().flatten(0, -2)))
    try:
        yield states
    finally:
        hook.remove()


def write_banded(
    source: Compressible,
    bounds: Sequence[int],
    likelihood: torch.Tensor,
    texts: Iterable[str],
    folder: Path,
    factors: Factors | None = None,
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
        factors: how to factor the bands at once; None leaves them dense.

    Raises:
        LrsmsError: bounds that the vocabulary does not have, or ranks that save nothing.
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
    options: dict[str, object] = {"bands": list(bounds)}
    if factors is None:
        banded.split_state(state, f"{path}.")
    else:
        weight = state.pop(f"{path}.weight").float()
        states = States.fit(factors.states, weight)
        banded = factorize_bands(weight, banded.places, bounds, factors.ranks, states, factors.seed)
        before = agreement(banded, weight, states)
        rehearse(banded, weight, states, factors.steps, factors.seed)
        _report(banded, before, agreement(banded, weight, states), folder)
        state |= {f"{path}.{name}": value for name, value in banded.state_dict().items()}
        ranks = {f"{path}.bands.{band}": rank for band, rank in enumerate(factors.ranks)}
        options["low_rank"] = {"ranks": block_ranks("decoder", ranks)}
    config = copy.deepcopy(source.experiment.config)
    config["decoder"] = source.classes["decoder"]
    config["decoder_conf"] = {**(config.get("decoder_conf") or {}), **options}
    target = Experiment(folder, source.experiment.checkpoint)
    target.write(config, {name: value.contiguous() for name, value in state.items()})
    source.experiment.copy_tokens(folder)


def _report(banded: BandedEmbedding, before: Sequence[float], after: Sequence[float], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for band, early, late in zip(banded.bands, before, after, strict=True):
        assert isinstance(band, LowRankEmbedding)
        rows.append({"tokens": band.num_embeddings, "rank": band.rank, "before": early, "after": late})
        print(
            f"{band.num_embeddings:,} tokens, rank {band.rank}: of what the whole table says at foretold states, "
            f"the band says {early:.1%}, after rehearsal {late:.1%}"
        )
    write_json(folder / "rehearsal.json", {"bands": rows})


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
