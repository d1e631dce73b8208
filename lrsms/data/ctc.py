"""Utterances too short for their transcript: their CTC loss would be infinite.

CTC (Graves et al. 2006) emits one token per frame and needs a blank between two equal tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from lrsms.data.excluded import Exclusion

if TYPE_CHECKING:
    from lhotse.cut import Cut

    from lrsms.data.tokens import Tokens


def frames_needed(tokens: Sequence[int]) -> int:
    """Fewest frames with a CTC alignment of ``tokens``: their number and that of adjacent repeats."""
    return len(tokens) + sum(left == right for left, right in pairwise(tokens))


def ctc_length_ok(tokens: Sequence[int], frames: int) -> bool:
    """Whether ``frames`` encoder output frames suffice for ``tokens``."""
    return frames >= frames_needed(tokens)


def too_short_for_ctc(
    cuts: Iterable["Cut"], tokens: "Tokens", frames_of: Callable[[float], int]
) -> list[Exclusion]:
    """Cuts whose CTC loss would be infinite.

    Args:
        cuts: with one supervision each.
        frames_of: duration in seconds to frames after the encoder's subsampling.
    """
    exclusions = []
    for cut in cuts:
        needed, frames = frames_needed(tokens.encode(cut.supervisions[0].text)), frames_of(cut.duration)
        if frames < needed:
            detail = f"{cut.duration:.2f} s give {frames} frames after subsampling; the transcript needs {needed}"
            exclusions.append(Exclusion(cut.id, "too_short_for_ctc", detail))
    return exclusions
