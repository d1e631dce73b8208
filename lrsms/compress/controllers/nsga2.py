"""NSGA-II (Deb et al. 2002): the Pareto front of error and cost, from which the budget picks at the end."""

from optuna.samplers import NSGAIISampler

from lrsms.compress.controllers.base import Context
from lrsms.compress.controllers.optuna_based import OptunaController


def make(context: Context) -> OptunaController:
    """NSGA-II with a population that a few hundred trials renew several times."""
    return OptunaController(context, NSGAIISampler(population_size=20, seed=context.seed), objectives=2)
