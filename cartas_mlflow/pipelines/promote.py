"""Register a finished training's model and hold it against the champion; or give the champion's place back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import say
from cartas_mlflow.errors import SettingError
from cartas_mlflow.registry import candidates
from cartas_mlflow.registry.contest import RegisteredModel, give_back, promote_model
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.utility_runs import tell_project_run


@failures_told()
def promote(
    config_path: str = DEFAULT_CONFIG,
    overrides: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    force: bool = False,
    rollback: bool = False,
) -> RegisteredModel | None:
    """Register the model of a run (the experiment's best where none is named) and move the alias if it earns it.

    Args:
        force: move it without a contest.
        rollback: register nothing; the previous champion gets the alias back, and the answer is None.

    Raises:
        SettingError: a wrong setting, or a rollback of a certain run.
        RegistryError: no such run, no finished training, no model in it; no champion to roll back to.
        TrackingError: the tracking server does not answer.
    """
    if rollback and (force or run_id is not None):
        raise SettingError("rollback=true não combina com run_id nem com force; peça uma coisa de cada vez.")
    config = load_config(config_path, overrides)
    if rollback:
        give_back(config.registry.name)
        return None
    client = candidates.connect()
    if run_id is None:
        experiment = candidates.chosen_experiment(client, config.tracking)
        run = candidates.best_run(client, experiment, config.registry.metric)
        say(f"Melhor treinamento do experimento {experiment}: {run.info.run_name} ({run.info.run_id})")
        run_id = run.info.run_id
    registered = promote_model(client, run_id, config.registry, force=force)
    name = f"promoção de {registered.name} {registered.version}"
    outcome = f"{registered.decision.reason} Treinamento: `{run_id}`."
    tell_project_run(client, name, outcome, command="promote", training=run_id)
    return registered
