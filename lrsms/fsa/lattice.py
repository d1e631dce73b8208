"""Searching a graph through the scores of CTC: the best path, and the different ones near it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import torch

from lrsms.fsa import import_k2
from lrsms.fsa.graph import Graph
from lrsms.fsa.options import K2Options


class LatticePath(NamedTuple):
    """One way through a lattice.

    Attributes:
        words: what the graph says on it; empty without a graph.
        token_ids: what CTC says on it, repeats and blanks removed.
        score: log-probability of CTC's alignment and, times its scale, of the language model.
    """

    words: tuple[str, ...]
    token_ids: list[int]
    score: float


class LatticeSearch:
    """Viterbi search of CTC's scores, with a graph or with CTC's topology alone.

    Args:
        graph: words that may be said and how likely they are; None for any sequence of tokens.
        num_tokens: size of CTC's output, if there is no graph.
        lm_scale: of the graph's language model.
        options: beams, sizes.
        device: where to search; a k2 without CUDA searches on the CPU.

    Attributes:
        has_words: whether paths have words.
    """

    def __init__(
        self,
        graph: Graph | None,
        num_tokens: int = 0,
        lm_scale: float | None = None,
        options: K2Options | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self._k2 = k2 = import_k2("this decode_method")
        self._options = options or K2Options()
        self._words = graph.lexicon.words if graph else []
        self.has_words = graph is not None
        lm_scale = self._options.lm_scale if lm_scale is None else lm_scale
        fsa = graph.fsa(lm_scale) if graph else k2.arc_sort(k2.ctc_topo(num_tokens - 1))
        self.device = torch.device(device if k2.with_cuda else "cpu")
        self._graph = k2.create_fsa_vec([fsa]).to(self.device)

    def lattice(self, scores: torch.Tensor):
        """What of the graph is within the beams, as k2's vector of one acceptor.

        Args:
            scores: ``(frames, tokens)`` log-probabilities of CTC, blank first.
        """
        option = self._options
        segments = torch.tensor([[0, 0, len(scores)]], dtype=torch.int32)
        dense = self._k2.DenseFsaVec(scores[None].float().to(self.device), segments)
        return self._k2.intersect_dense_pruned(
            self._graph, dense, search_beam=option.search_beam, output_beam=option.output_beam,
            min_active_states=option.min_active, max_active_states=option.max_active,
        )  # fmt: skip

    def best(self, scores: torch.Tensor) -> LatticePath | None:
        """The best path, or None if the beams leave none."""
        return self._best_of(self.lattice(scores))

    def nbest(self, scores: torch.Tensor) -> list[LatticePath]:
        """Different hypotheses of the lattice, the best first.

        k2 draws ``num_paths`` paths by their probability (with ``nbest_scale``), always the same ones. Each hypothesis
        comes once, with the score of the best of its paths among those drawn.
        """
        lattice = self.lattice(scores)
        best = self._best_of(lattice)
        if best is None:
            return []
        best_paths = {_key(best): best}
        unscaled = lattice.scores.clone()
        lattice.scores = lattice.scores * self._options.nbest_scale
        drawn = self._k2.random_paths(lattice, use_double_scores=True, num_paths=self._options.num_paths)
        lattice.scores = unscaled
        columns = self._columns(lattice)
        for arcs in drawn.tolist()[0]:
            path = self._along(columns, arcs)
            if _key(path) not in best_paths or path.score > best_paths[_key(path)].score:
                best_paths[_key(path)] = path
        return sorted(best_paths.values(), key=lambda path: -path.score)

    def _best_of(self, lattice) -> LatticePath | None:
        if lattice.num_arcs == 0:
            return None
        line = self._k2.shortest_path(lattice, use_double_scores=True)
        return self._along(self._columns(line), range(line.num_arcs))

    def _columns(self, fsa) -> tuple[list[int], list[float], list[list[int]]]:
        """Label, score and words of every arc."""
        words: list[list[int]] = [[]] * fsa.num_arcs
        if self._words:
            outputs = fsa.aux_labels
            words = (outputs[:, None] if isinstance(outputs, torch.Tensor) else outputs).tolist()
        return fsa.labels.tolist(), fsa.scores.tolist(), words

    def _along(self, columns: tuple[list[int], list[float], list[list[int]]], arcs: Iterable[int]) -> LatticePath:
        labels, scores, outputs = columns
        path = list(arcs)
        words = tuple(self._words[number] for arc in path for number in outputs[arc] if number > 0)
        ids = [label for label, _ in groupby(labels[arc] for arc in path) if label > 0]
        return LatticePath(words, ids, sum(scores[arc] for arc in path))


def _key(path: LatticePath) -> tuple:
    return path.words or tuple(path.token_ids)
