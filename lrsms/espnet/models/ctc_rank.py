"""CTC's rank: that of the linear layer between encoder and CTC, which ESPnet builds outside of both.

A config has it in the encoder's ``low_rank`` block: as the ratio ``output``, or as the rank of ``ctc.ctc_lo`` under
``ranks``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from lrsms.errors import LrsmsError
from lrsms.lowrank import LowRankConfig, RankPlan, apply_plan_

ROLES = {r"ctc_lo": "output"}  # regular expression of a path in ESPnet's CTC module -> role
_ROLE, _PREFIX = "output", "ctc."


def split(config: LowRankConfig) -> tuple[LowRankConfig, LowRankConfig]:
    """The encoder's own ratios and ranks, and CTC's, of what the encoder's block asks for."""
    ratios = {role: ratio for role, ratio in config.ratios.items() if role == _ROLE}
    ranks = {path: rank for path, rank in config.ranks.items() if path.startswith(_PREFIX)}
    own = replace(
        config,
        ratios={role: ratio for role, ratio in config.ratios.items() if role not in ratios},
        ranks={path: rank for path, rank in config.ranks.items() if path not in ranks},
    )
    ranks = {path.removeprefix(_PREFIX): rank for path, rank in ranks.items()}
    return own, replace(config, ratios=ratios, ranks=ranks)


def block_ranks(part: str, ranks: Mapping[str, int]) -> dict[str, int]:
    """What stands under ``low_rank.ranks`` of a part's options.

    Args:
        part: ``encoder``, whose block has CTC's rank too, or ``decoder``.
        ranks: path in the whole model -> rank.
    """
    own = {path.removeprefix(f"{part}."): rank for path, rank in ranks.items() if path.startswith(f"{part}.")}
    ctc = {path: rank for path, rank in ranks.items() if path.startswith(_PREFIX)}
    return own | ctc if part == "encoder" else own


def plan_ctc(ctc: nn.Module | None, config: LowRankConfig) -> RankPlan:
    """The plan of CTC's linear layer.

    Args:
        ctc: ESPnet's CTC module; None if the model has none.
        config: of the encoder.

    Raises:
        LrsmsError: the config gives CTC a ratio or a rank, but there is no CTC.
    """
    config = split(config)[1]
    if ctc is None:
        if config.ratios or config.ranks:
            raise LrsmsError("encoder_conf.low_rank.output: the model has no CTC (model_conf.ctc_weight: 0.0)")
        return RankPlan(config, ())
    return RankPlan.make(ctc, ROLES, config, "encoder_conf.low_rank")


def factorize_ctc(model: nn.Module) -> None:
    """Factor CTC's linear layer in place if the encoder's block gives it a ratio or a rank.

    Args:
        model: with ``encoder`` and ``ctc``; the latter then has a ``rank_plan``.
    """
    config = getattr(model.encoder, "low_rank_config", None)
    if config is None:
        return
    asked = split(config)[1]
    if asked.ratios or asked.ranks:
        plan = plan_ctc(model.ctc, config)
        apply_plan_(model.ctc, plan)
        model.ctc.rank_plan = plan
