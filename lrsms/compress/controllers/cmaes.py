"""CMA-ES (Hansen and Ostermeier 2001): an evolving normal distribution over the wishes."""

from optuna.samplers import CmaEsSampler

from lrsms.compress.controllers.base import Context
from lrsms.compress.controllers.optuna_based import OptunaController


def make(context: Context) -> OptunaController:
    """CMA-ES that starts in the middle of every range; one group alone is beyond it, Optuna then draws at random."""
    middle = {group.name: (len(group.ranks) - 1) / 2 for group in context.space.groups}
    return OptunaController(context, CmaEsSampler(x0=middle, seed=context.seed, warn_independent_sampling=False))
