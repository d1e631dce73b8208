"""The silence behind a clip, condensed: few positions stand for all of it.

Whisper hears 30 s, a clip and the silence behind it. Left out, it does not know where a text ends. But that silence is
the same throughout but for its positions, so that runs of neighbours need one position each, that of their mean. An
attention that looks at it counts it as often as there are neighbours: the logarithm of their number is added to its
score, the "proportional attention" of token merging (Bolya et al. 2022, arXiv 2210.09461).

Dimensions: B clips, S positions that are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

POSITIONS = 64  # that stand for the silence
SILENT = 8  # frames of it behind those, whose own output the runs have
NEAR = 4  # positions of silence behind a clip that stay as they are, for convolutions and windows reach that far


def edges(near: Tensor, total: int) -> Tensor:
    """Where the runs begin and end, ``(B, POSITIONS + 1)``; some are empty where little silence is left.

    Args:
        near: ``(B,)``, positions before the runs.
        total: positions of 30 s.
    """
    steps = torch.arange(POSITIONS + 1, device=near.device)
    return near[:, None] + (total - near)[:, None] * steps // POSITIONS


def counts(near: Tensor, total: int, computed: int) -> Tensor:
    """For how many positions of 30 s each of those that are computed stands, ``(B, S)``; none are behind a clip's own.

    Args:
        near: ``(B,)``, positions before the runs.
        total: positions of 30 s.
        computed: S, at least the longest clip's ``near + POSITIONS``.
    """
    places = torch.arange(computed, device=near.device) - near[:, None]
    ends = edges(near, total)
    runs = (ends[:, 1:] - ends[:, :-1]).gather(1, places.clamp(0, POSITIONS - 1))
    return torch.where(places < 0, 1, torch.where(places < POSITIONS, runs, 0))


def condense(frames: Tensor, silent: Tensor, positional: Tensor, near: Tensor) -> Tensor:
    """Clips with their positions, and behind each the condensed silence; ``(B, S, D)``.

    Args:
        frames: ``(B, at least the longest of near, D)``, of the clips.
        silent: ``(B, D)``, of silence.
        positional: ``(positions, D)``, added to frames.
        near: ``(B,)``, how many of ``frames`` each clip has.
    """
    longest = int(near.max()) if not torch.jit.is_tracing() else near.max()
    sums = torch.cat((torch.zeros_like(positional[:1], dtype=torch.float64), positional.double().cumsum(0)))
    ends = edges(near, len(positional))
    lengths = (ends[:, 1:] - ends[:, :-1]).clamp_min(1)[:, :, None]
    runs = silent[:, None] + ((sums[ends[:, 1:]] - sums[ends[:, :-1]]) / lengths).to(positional.dtype)
    clips = frames[:, :longest] + positional[:longest]
    if torch.jit.is_tracing():  # of one clip, whose own positions are all that there are
        return torch.cat((clips, runs), 1)
    places = torch.arange(longest + POSITIONS, device=near.device) - near[:, None]
    behind = places.clamp(0, POSITIONS - 1)[:, :, None].expand(-1, -1, runs.shape[2])
    clips = torch.cat((clips, clips.new_zeros(len(clips), POSITIONS, clips.shape[2])), 1)
    return torch.where((places < 0)[:, :, None], clips, runs.gather(1, behind))
