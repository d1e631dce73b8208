"""Utterances too short for their transcript: their CTC loss would be infinite.

CTC (Graves et al. 2006) emits one token per frame and needs a blank between two equal tokens.
"""

from collections.abc import Sequence
from itertools import pairwise


def frames_needed(tokens: Sequence[int]) -> int:
    """Fewest frames with a CTC alignment of ``tokens``: their number and that of adjacent repeats."""
    return len(tokens) + sum(left == right for left, right in pairwise(tokens))


def ctc_length_ok(tokens: Sequence[int], frames: int) -> bool:
    """Whether ``frames`` encoder output frames suffice for ``tokens``."""
    return frames >= frames_needed(tokens)
