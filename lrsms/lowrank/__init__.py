"""Low-rank layers, ranks, and how a dense module becomes a factored one. Imports torch only."""

from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.factorize import factorize_, low_rank_layers
from lrsms.lowrank.initialization import skip_initialization
from lrsms.lowrank.layers import LowRankConv1d, LowRankConv2d, LowRankLinear
from lrsms.lowrank.plan import PlanEntry, RankPlan

__all__ = [
    "LowRankConfig",
    "LowRankConv1d",
    "LowRankConv2d",
    "LowRankLinear",
    "PlanEntry",
    "RankPlan",
    "factorize_",
    "low_rank_layers",
    "skip_initialization",
]
