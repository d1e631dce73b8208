"""Tree-structured Parzen estimators (Bergstra et al. 2011), Optuna's default."""

from optuna.samplers import TPESampler

from lrsms.compress.controllers.base import Context
from lrsms.compress.controllers.optuna_based import OptunaController


def make(context: Context) -> OptunaController:
    """TPE over all groups jointly; workers that run at once do not crowd one place."""
    return OptunaController(context, TPESampler(seed=context.seed, multivariate=True, constant_liar=True))
