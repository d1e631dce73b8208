"""The decoding graph HLG in memory and as a file: CTC's topology, lexicon and n-gram language model in one acceptor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lrsms.errors import LrsmsError
from lrsms.files import atomic_write
from lrsms.fsa import import_k2
from lrsms.fsa.lexicon import Lexicon

GRAPH = "HLG.pt"


@dataclass(frozen=True)
class Graph:
    """What :func:`lrsms.fsa.compile_hlg.make_graph` leaves, in memory.

    Attributes:
        arcs: ``(arcs, 4)`` int32, as k2 stores them: source, destination, label, score's bits.
        outputs: ``(words,)`` int32, words of all arcs in a row.
        splits: ``(arcs + 1,)`` int32, where in ``outputs`` each arc's words begin.
        lexicon: whose tokens are the labels, and whose words the outputs.
    """

    arcs: torch.Tensor
    outputs: torch.Tensor
    splits: torch.Tensor
    lexicon: Lexicon

    def fsa(self, lm_scale: float = 1.0):
        """k2's acceptor, the language model's log-probabilities times ``lm_scale``."""
        k2 = import_k2(GRAPH)
        shape = k2.ragged.create_ragged_shape2(row_splits=self.splits, cached_tot_size=len(self.outputs))
        fsa = k2.Fsa(self.arcs.clone(), aux_labels=k2.RaggedTensor(shape, self.outputs))
        fsa.scores = fsa.scores * lm_scale
        return fsa

    @property
    def states(self) -> int:
        """Number of states of the graph."""
        return int(self.arcs[:, :2].max()) + 1

    def save(self, path: Path) -> None:
        """Write ``path``: tensors, numbers and strings alone."""
        lexicon = self.lexicon
        content = {
            **{"arcs": self.arcs, "outputs": self.outputs, "splits": self.splits},
            **{"tokens": list(lexicon.token_list), "space": lexicon.space, "words": list(lexicon.spellings)},
            "spellings": [list(spelling) for spelling in lexicon.spellings.values()],
        }
        with atomic_write(path) as unfinished:
            torch.save(content, unfinished)

    @classmethod
    def load(cls, path: Path, token_list: Sequence[str], model: Path) -> Graph:
        """Read what :meth:`save` wrote, executing nothing.

        Args:
            path: the file.
            token_list: that of the model which is to be decoded with it.
            model: its ``config.yaml``, for messages.

        Raises:
            LrsmsError: no such file, a damaged one, or one for other tokens.
        """
        try:
            content = torch.load(path, weights_only=True)
            spellings = dict(zip(content["words"], map(tuple, content["spellings"]), strict=True))
            lexicon = Lexicon(tuple(content["tokens"]), spellings, content["space"], {})
            graph = cls(content["arcs"], content["outputs"], content["splits"], lexicon)
        except OSError as error:
            raise LrsmsError(f"{path}: cannot be read: {error.strerror}; make it with lrsms.bin.graph") from None
        except Exception:  # what a damaged or hostile pickle raises has many types
            raise LrsmsError(f"{path}: truncated or not a decoding graph; make it again with lrsms.bin.graph") from None
        check_tokens(token_list, model, lexicon.token_list, path)
        return graph


def check_tokens(of_model: Sequence[str], config: Path, of_graph: Sequence[str], graph: Path) -> None:
    """Refuse to decode a model with the graph of other tokens: its labels are their numbers.

    Raises:
        LrsmsError: the two lists differ; names both files and the first difference.
    """
    if tuple(of_model) == tuple(of_graph):
        return
    places = enumerate(zip(of_model, of_graph))
    first = next((i for i, pair in places if pair[0] != pair[1]), min(len(of_model), len(of_graph)))
    ours, other = (repr(tokens[first]) if first < len(tokens) else "nothing" for tokens in (of_model, of_graph))
    raise LrsmsError(
        f"{config} has {len(of_model)} tokens and {graph} {len(of_graph)}, which differ: number {first} is {ours} in "
        f"the model and {other} in the graph; decode with the data folder, token type and vocabulary of its training"
    )
