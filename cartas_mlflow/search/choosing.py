"""How the values of new trials are chosen, and which trials are cut: Optuna's samplers and pruners."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from cartas_mlflow.settings import SearchSettings

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler


def choose_sampler(settings: SearchSettings, seed: int) -> BaseSampler:
    """How new trials are chosen, with the seed given."""
    from optuna import samplers
    from optuna.exceptions import ExperimentalWarning

    startup = settings.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # group: what is conditional is modelled on its own
        if settings.sampler == "tpe":
            return samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=True, group=True)
        if settings.sampler == "gp":
            return samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if settings.sampler == "cmaes":
            return samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
        return samplers.RandomSampler(seed=seed)


def choose_pruner(settings: SearchSettings, first_epoch: int, epochs: int) -> BasePruner:
    """How weak trials are cut: never in the first third of their epochs.

    Args:
        first_epoch: the first epoch that is evaluated.
        epochs: the most epochs that a trial has.
    """
    from optuna import pruners

    # Settings that learn fast often start below those that learn nothing: nothing is cut in the first third.
    earliest = max(first_epoch, math.ceil(epochs / 3))
    if settings.pruner == "hyperband" and epochs > earliest:
        return pruners.HyperbandPruner(min_resource=earliest, max_resource=epochs, reduction_factor=3)
    if settings.pruner == "median":
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=earliest)
    return pruners.NopPruner()
