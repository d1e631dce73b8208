"""CTC prefix scores of all hypotheses of one utterance, without a loop over its frames."""

from __future__ import annotations

import torch

IMPOSSIBLE = -1e10  # ESPnet's log(0): what no alignment can say, and blank, which is no token


class PrefixScores:
    """Prefix probabilities of Watanabe et al. 2017 (Hybrid CTC/Attention Architecture, algorithm 2), in float64.

    A hypothesis has two forward variables at each frame: all alignments of its tokens that end there in its last token,
    and all that end in blank. The prefix probability of a hypothesis with one more token sums, over the frame at which
    that token begins, what came before times the token's probability: a product of matrices, for all hypotheses and
    candidates at once. The forward variables themselves are wanted only of hypotheses that live on. They are linear
    recurrences over frames, r[t] = (r[t-1] + a[t]) p[t], whose closed form is a cumulative sum of a[t] over the product
    of p before t, here in logarithms.

    Args:
        log_probs: of CTC, ``(frames, tokens)``.
        blank, eos: token numbers.
    """

    def __init__(self, log_probs: torch.Tensor, blank: int, eos: int):
        self.log_probs = log_probs.T.contiguous().double().clamp_(min=IMPOSSIBLE)  # (tokens, frames)
        self.probs = self.log_probs.exp()
        self.probs[blank] = self.probs[eos] = 0.0  # neither is a token of a hypothesis that goes on
        self._blanks = self.log_probs[blank].cumsum(0)
        self._blanks_before = self._blanks - self.log_probs[blank]
        self._last = torch.tensor([eos], device=log_probs.device)
        self._scores = log_probs.new_zeros(1, dtype=torch.float64)
        self._ended = self._blanks[-1:]  # log-probability of each hypothesis as a whole
        before = torch.cat([self._scores, self._blanks[:-1]])
        # Of each hypothesis (2, frames): what may stand before a new token, and before its last token once more.
        self._before = before.expand(1, 2, -1)

    def __call__(self, candidates: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """What each candidate adds to a hypothesis's log-probability.

        Args:
            candidates: token numbers ``(hypotheses, candidates)``; None for all tokens.

        Returns:
            Scores of the candidates, of their shape, and of ending, ``(hypotheses,)``. Among the candidates blank and
            the end of the sentence are as impossible.
        """
        if candidates is None:
            tokens = torch.arange(len(self.probs), device=self.probs.device)[None]
            sums = _log_sum(self._before[:, 0], self.probs.T)
            again = _log_sum(self._before[:, 1:], self.probs[self._last][:, :, None])[:, 0]
        else:  # both in one product: before the candidates, and before the last token once more
            tokens = candidates
            both = _log_sum(self._before, self.probs[torch.cat([candidates, self._last[:, None]], 1)].transpose(1, 2))
            sums, again = both[:, 0, :-1], both[:, 1, -1:]
        sums = torch.where(tokens == self._last[:, None], again, sums)
        return sums.clamp_(min=IMPOSSIBLE) - self._scores[:, None], self._ended.clamp(min=IMPOSSIBLE) - self._scores

    def extend(self, parents: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor) -> None:
        """Go on with hypotheses of one more token.

        Args:
            parents: which hypothesis each of the new ones goes on from, ``(hypotheses,)``.
            tokens: their last tokens.
            scores: what these have added, as ``__call__`` gave it.
        """
        again = tokens == self._last[parents]
        before = self._before[parents, again.long()]
        log_probs = self.log_probs[tokens]
        product = log_probs.cumsum(1)
        token = product + (before - (product - log_probs)).logcumsumexp(1)
        ended_token = torch.nn.functional.pad(token[:, :-1], (1, 0), value=-torch.inf)
        blank = self._blanks + (ended_token - self._blanks_before).logcumsumexp(1)
        either = torch.logaddexp(token, blank)
        self._before = torch.nn.functional.pad(torch.stack([either, blank], 1)[:, :, :-1], (1, 0), value=-torch.inf)
        self._last, self._scores, self._ended = tokens, self._scores[parents] + scores, either[:, -1]


def _log_sum(before: torch.Tensor, probs: torch.Tensor) -> torch.Tensor:
    """``log(exp(before) @ probs)`` over frames; before is scaled, so that a long utterance does not vanish."""
    largest = before.amax(-1, keepdim=True).clamp_(min=IMPOSSIBLE)
    return torch.matmul((before - largest).exp_(), probs).log_() + largest
