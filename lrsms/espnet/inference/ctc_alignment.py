"""When each token of a hypothesis was said, by CTC's best path through it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchaudio.functional import forced_align, merge_tokens

BLANK = 0


@dataclass(frozen=True)
class TimedToken:
    """A token and its place in time.

    Attributes:
        token: as in the token list.
        start, end: seconds from the utterance's start.
    """

    token: str
    start: float
    end: float


@torch.no_grad()
def token_times(
    log_probabilities: torch.Tensor, ids: Sequence[int], tokens: Sequence[str], frame_shift: float
) -> list[TimedToken]:
    """Align a hypothesis with the frames of CTC (torchaudio's Viterbi alignment).

    CTC is sure of when a token is, less of how long it takes: spans are often one or two frames.

    Args:
        log_probabilities: ``(frames, tokens)`` of CTC, blank first.
        ids: numbers of the hypothesis's tokens.
        tokens: the tokens themselves.
        frame_shift: seconds between frames.

    Returns:
        One entry for each token, in time; empty if the hypothesis has more tokens than CTC can place.
    """
    repeats = sum(a == b for a, b in itertools.pairwise(ids))
    if not ids or len(ids) + repeats > len(log_probabilities):
        return []
    targets = torch.tensor([list(ids)], dtype=torch.int32)
    path, scores = forced_align(log_probabilities[None].float().cpu(), targets, blank=BLANK)
    spans = merge_tokens(path[0], scores[0], blank=BLANK)
    return [
        TimedToken(token, span.start * frame_shift, span.end * frame_shift)
        for token, span in zip(tokens, spans, strict=True)
    ]


def words_of(
    timed: Sequence[TimedToken], space: str = "<space>", mark: str = "\u2581", pieces: bool | None = None
) -> list[TimedToken]:
    """Join tokens to words.

    Args:
        timed: tokens in order.
        space: the token between words (characters).
        mark: what begins a word (sub-words).
        pieces: whether tokens are pieces of words; None if only the tokens can tell: without a space or a mark
            among them, each is a word.
    """
    if pieces is None:
        pieces = any(token.token == space or token.token.startswith(mark) for token in timed)
    if not pieces:
        return list(timed)
    words: list[list[TimedToken]] = [[]]
    for token in timed:
        if token.token == space:
            words.append([])
        elif token.token.startswith(mark):
            words.append([token])
        else:
            words[-1].append(token)
    return [
        TimedToken("".join(token.token for token in word).lstrip(mark), word[0].start, word[-1].end)
        for word in words
        if word and "".join(token.token for token in word).lstrip(mark)
    ]
