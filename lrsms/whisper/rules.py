"""What Whisper's recognition allows as the next token (openai-whisper's ``decoding.py``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrsms.whisper.tokens import NO_TIMESTAMPS, TIMESTAMP_SECONDS, WhisperTokens

_LATEST_START = 1.0  # seconds: no recording's first word begins later


class Rules:
    """Rules of one recognition.

    Args:
        tokens: of the model.
        timestamps: whether times are said.
        seconds: of the recording; no time is later. None for any.
    """

    def __init__(self, tokens: WhisperTokens, timestamps: bool, seconds: float | None = None):
        self.timestamps = timestamps
        self.end, self.first_time = tokens.end, tokens.first_time
        self.no_timestamps = tokens.id(NO_TIMESTAMPS)
        self.never = torch.tensor(tokens.never_said)
        self.never_first = torch.tensor(tokens.never_first)
        self.last_time = len(tokens) - 1
        if seconds is not None:
            self.last_time = min(self.last_time, self.first_time + round(seconds / TIMESTAMP_SECONDS))

    def apply(self, logits: Tensor, said: Sequence[Sequence[int]]) -> Tensor:
        """Logits ``(hypotheses, V)`` with what is not allowed at minus infinity; changed in place.

        Args:
            logits: of the next token.
            said: tokens of each hypothesis, without the prompt.
        """
        logits[:, self.never] = -torch.inf
        if not said[0]:
            logits[:, self.never_first] = -torch.inf
        if not self.timestamps:  # openai-whisper leaves times possible, if a model says them after all
            return logits
        logits[:, self.no_timestamps] = -torch.inf
        logits[:, self.last_time + 1 :] = -torch.inf
        for row, tokens in zip(logits, said):
            self._times(row, tokens)
        return logits

    def _times(self, row: Tensor, tokens: Sequence[int]) -> None:
        """Times come in pairs, never go back, and come where they are likelier than any one word."""
        first = self.first_time
        last = len(tokens) > 0 and tokens[-1] >= first
        before = len(tokens) < 2 or tokens[-2] >= first
        if last and before:
            row[first:] = -torch.inf  # a segment's end or the recording's start has been said: a word must follow
        elif last:
            row[: self.end] = -torch.inf  # the segment's end: the next one begins, or nothing
        times = [token for token in tokens if token >= first]
        if times:
            row[first : times[-1] + (not (last and not before))] = -torch.inf
        if not tokens:
            row[:first] = -torch.inf
            row[first + round(_LATEST_START / TIMESTAMP_SECONDS) + 1 :] = -torch.inf
        likely = row.log_softmax(0)
        if likely[first:].logsumexp(0) > likely[:first].max():
            row[:first] = -torch.inf
