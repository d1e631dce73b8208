"""Low-rank layers, ranks, and how a dense module becomes a factored one. Imports torch only."""

from lrsms.lowrank.any_model.factorize import factorize_
from lrsms.lowrank.apply_plan import apply_plan_, factorize_state, low_rank_layers
from lrsms.lowrank.config import LowRankConfig
from lrsms.lowrank.initialization import skip_initialization
from lrsms.lowrank.layers import Factored, LowRankConv1d, LowRankConv2d, LowRankEmbedding, LowRankLinear
from lrsms.lowrank.plan import PlanEntry, RankPlan, Recurrent
from lrsms.lowrank.recurrent import LowRankLSTM, LowRankLSTMCell

__all__ = [
    "Factored",
    "LowRankConfig",
    "LowRankConv1d",
    "LowRankConv2d",
    "LowRankEmbedding",
    "LowRankLSTM",
    "LowRankLSTMCell",
    "LowRankLinear",
    "PlanEntry",
    "RankPlan",
    "Recurrent",
    "apply_plan_",
    "factorize_",
    "factorize_state",
    "low_rank_layers",
    "skip_initialization",
]
