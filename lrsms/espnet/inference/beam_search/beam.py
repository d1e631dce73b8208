"""Beam search whose hypotheses are rows of tensors from step to step."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from espnet2.bin.asr_inference import Speech2Text

from lrsms.espnet.compat import BatchBeamSearch, BeamSearch, CTCPrefixScorer, Hypothesis, window_of_ctc
from lrsms.espnet.inference.beam_search.ctc_prefix import PrefixScores
from lrsms.espnet.inference.beam_search.scorers import AnyScorer, CachedDecoder, can_cache

_END_STEPS, _END_DIFFERENCE = 3, -10.0  # M and D_end of ESPnet's end_detect


def make_search_fast_(recognizer: Speech2Text) -> bool:
    """Have ``recognizer`` search with :class:`FastBatchBeamSearch` or :class:`FastBeamSearch`, in place.

    Returns:
        False if its search is none that these stand for (transducer, time-synchronous, streaming, n-grams of parts,
        hidden states asked for, CTC's prefix scores over a window of the utterance), and stays.
    """
    search = recognizer.beam_search
    known = {BatchBeamSearch: FastBatchBeamSearch, BeamSearch: FastBeamSearch}
    parts = getattr(search, "part_scorers", {})
    if type(search) not in known or search.return_hs:
        return False
    if any(type(part) is not CTCPrefixScorer or window_of_ctc(part) for part in parts.values()):
        return False
    search.__class__ = known[type(search)]
    return True


class _Attributes:
    """Those of ESPnet's search that :class:`_FastSearch`, which is mixed into it, reads."""

    beam_size: int
    do_pre_beam: bool
    eos: int
    full_scorers: Mapping[str, Any]
    hyp_primer: Sequence[int] | None
    n_vocab: int
    normalize_length: bool
    part_scorers: Mapping[str, Any]
    pre_beam_score_key: str | None
    pre_beam_size: int
    scorers: Mapping[str, Any]
    sos: int
    weights: Mapping[str, float]


class _FastSearch(_Attributes):
    """What ESPnet's two classes do, the same candidates from the same scores, hypotheses of a step together."""

    _batched: bool

    def forward(
        self, x: torch.Tensor, maxlenratio: float = 0.0, minlenratio: float = 0.0, pre_x: torch.Tensor | None = None
    ) -> list[Hypothesis]:
        """The ended hypotheses, best first.

        Args:
            x: what the encoder said, ``(frames, features)``.
            maxlenratio: most tokens, as a share of the frames, or their number if negative; 0 for as many as there
                are frames and ESPnet's rule when to stop (Watanabe et al. 2017, eq. 50).
            minlenratio: least tokens, likewise.
            pre_x: for decoders with two sources; these, and hypotheses that begin with more than one token, are left
                to ESPnet's own search.
        """
        if pre_x is not None or self.hyp_primer is not None:
            return super().forward(x, maxlenratio, minlenratio, pre_x)  # type: ignore[misc]  # ESPnet's
        frames = x.shape[0]
        longest = frames if maxlenratio == 0 else _length(maxlenratio, frames, least=1)
        shortest = _length(minlenratio, frames, least=0)
        scorers = {key: self._opened(scorer, x) for key, scorer in self.full_scorers.items()}
        ctc = {
            key: PrefixScores(scorer.ctc.log_softmax(x[None])[0], 0, scorer.eos)
            for key, scorer in self.part_scorers.items()
        }
        tokens = torch.tensor([[self.sos]], device=x.device)
        totals = torch.zeros(1, dtype=torch.float64, device=x.device)
        by_scorer = dict.fromkeys(self.scorers, totals)
        ended: list[Hypothesis] = []
        best_of_length: dict[int, float] = {}
        for step in range(longest):
            added = {key: scorer(tokens).double() for key, scorer in scorers.items()}
            parents, new, totals, by_scorer, by_ctc = self._step(added, ctc, totals, by_scorer)
            tokens = torch.cat([tokens[parents], new[:, None]], 1)
            last = step == longest - 1
            is_end = torch.ones_like(new, dtype=torch.bool) if last else new == self.eos
            if last:
                tokens = torch.cat([tokens, torch.full_like(new, self.eos)[:, None]], 1)
            ends = is_end.tolist()
            if step >= shortest and any(ends):
                rows = is_end.nonzero().flatten()
                scores = torch.stack(list(by_scorer.values()), 1)[rows].float()
                for ids, total, parts in zip(tokens[rows], totals[rows].float(), scores):
                    ended.append(Hypothesis(ids, total, dict(zip(by_scorer, parts))))
                length = tokens.shape[1]
                best_of_length[length] = max(best_of_length.get(length, -math.inf), float(totals[rows].max()))
            if all(ends) or (maxlenratio == 0 and _is_over(best_of_length, step)):
                break
            if any(ends):
                rows = (~is_end).nonzero().flatten()
                parents, new, totals, tokens = parents[rows], new[rows], totals[rows], tokens[rows]
                by_scorer = {key: values[rows] for key, values in by_scorer.items()}
                by_ctc = {key: values[rows] for key, values in by_ctc.items()}
            for scorer in scorers.values():
                scorer.extend(parents)
            for key, prefixes in ctc.items():
                prefixes.extend(parents, new, by_ctc[key])
        if not ended and minlenratio >= 0.1:
            return self.forward(x, maxlenratio, max(0.0, minlenratio - 0.1))
        return sorted(ended, key=self._rank, reverse=True)

    def _opened(self, scorer, x: torch.Tensor) -> AnyScorer | CachedDecoder:
        return CachedDecoder(scorer, x) if can_cache(scorer) else AnyScorer(scorer, x, self._batched)

    def _rank(self, hypothesis: Hypothesis) -> float:
        return float(hypothesis.score) / (len(hypothesis.yseq) - 1 if self.normalize_length else 1)

    def _step(self, added: dict, ctc: dict[str, PrefixScores], totals: torch.Tensor, by_scorer: dict):
        """The best hypotheses of one more token.

        Args:
            added: scores of every next token ``(hypotheses, vocabulary)`` by scorer.
            ctc: prefix scores of the hypotheses by scorer.
            totals: weighted scores of the hypotheses.
            by_scorer: unweighted.

        Returns:
            Of each new hypothesis the old one, the token, the total, scores by scorer, and what CTC added.
        """
        weighted = [self.weights[key] * scores for key, scores in added.items()]
        full = functools.reduce(torch.add, weighted) if weighted else totals.new_zeros(len(totals), self.n_vocab)
        candidates = None
        if self.do_pre_beam:
            choice = full if self.pre_beam_score_key == "full" else added[self.pre_beam_score_key]
            candidates = choice.topk(self.pre_beam_size)[1]
        total = full if candidates is None else full.gather(1, candidates)
        by_ctc = {key: prefixes(candidates) for key, prefixes in ctc.items()}
        if by_ctc:
            end = full[:, self.eos]
            for key, (scores, end_scores) in by_ctc.items():
                total, end = total + self.weights[key] * scores, end + self.weights[key] * end_scores
            if candidates is not None and not self._batched:  # ends like any other token, if it is a candidate
                end = end.masked_fill((candidates != self.eos).all(1), -torch.inf)
            total = torch.cat([total, end[:, None]], 1)
        total = total + totals[:, None]
        width = total.shape[1]
        totals, chosen = total.flatten().topk(min(self.beam_size, total.numel()))
        parents, places = chosen // width, chosen % width
        if by_ctc:
            if candidates is None:
                candidates = torch.arange(self.n_vocab, device=total.device).expand(len(total), -1)
            candidates = torch.cat([candidates, candidates.new_full((len(candidates), 1), self.eos)], 1)
            whole = {key: torch.cat([scores, end[:, None]], 1) for key, (scores, end) in by_ctc.items()}
            by_ctc = {key: scores[parents, places] for key, scores in whole.items()}
            new = candidates[parents, places]
        else:
            new = places
        by_scorer = {
            key: before[parents] + (by_ctc[key] if key in by_ctc else added[key][parents, new])
            for key, before in by_scorer.items()
        }
        return parents, new, totals, by_scorer, by_ctc


class FastBatchBeamSearch(_FastSearch, BatchBeamSearch):
    """In place of ESPnet's ``BatchBeamSearch``, if every scorer takes hypotheses together."""

    _batched = True


class FastBeamSearch(_FastSearch, BeamSearch):
    """In place of ESPnet's ``BeamSearch``, if one takes them one by one, such as an LSTM decoder."""

    _batched = False


def _length(ratio: float, frames: int, least: int) -> int:
    return -int(ratio) if ratio < 0 else max(least, int(ratio * frames))


def _is_over(best_of_length: dict[int, float], step: int) -> bool:
    """Whether the hypotheses that ended lately are all far from the best."""
    if not best_of_length:
        return False
    best = max(best_of_length.values())
    lengths = (step - back for back in range(_END_STEPS))
    return all(best_of_length.get(length, math.inf) - best < _END_DIFFERENCE for length in lengths)
