"""Register a finished training's model and hold it against the champion; or give the champion's place back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import say
from cartas_mlflow.pipelines import candidates
from cartas_mlflow.registry.promotion import CHAMPION, Contest, Decision, promote, register, roll_back
from cartas_mlflow.settings import RECORD_FIELDS, RegistrySettings
from cartas_mlflow.tracking.progress import progress_bar
from cartas_mlflow.tracking.run import check_tracking_server

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class RegisteredModel:
    """A version in the registry, and whether it is the champion now."""

    name: str
    version: str
    decision: Decision


def promote_run(
    config_path: str = DEFAULT_CONFIG,
    overrides: Mapping[str, Any] | None = None,
    *,
    run_id: str | None = None,
    force: bool = False,
) -> RegisteredModel:
    """Register the model of a run (the experiment's best where none is named) and move the alias if it earns it.

    Raises:
        RegistryError: no such run, no finished training, no model in it.
        TrackingError: the tracking server does not answer.
    """
    check_tracking_server()
    from mlflow import MlflowClient

    config, client = load_config(config_path, overrides), MlflowClient()
    if run_id is None:
        experiment = candidates.inherited_experiment(config.tracking.experiment)
        run = candidates.best_run(client, experiment, config.registry.metric)
        say(f"Melhor treinamento do experimento {experiment}: {run.info.run_name} ({run.info.run_id})")
        run_id = run.info.run_id
    return promote_model(client, run_id, config.registry, force=force)


def promote_model(
    client: MlflowClient, run_id: str, settings: RegistrySettings, *, force: bool = False
) -> RegisteredModel:
    """Register the run's model, unless it is registered already, and decide."""
    run = candidates.find_run(client, run_id)
    model_id = candidates.model_id_of(run)
    version = _registered(client, settings.name, model_id) or register(model_id, settings.name)
    say(f"Registrado: {settings.name}, versão {version.version}")
    decision = promote(
        client, version, settings, lambda champion: _contest(client, run, version, champion), force=force
    )
    say(("🏆 " if decision.promoted else "➖ ") + decision.reason)
    if decision.remark:
        say(decision.remark)
    if decision.promoted:
        say(f"Para servir: mlflow models serve -m models:/{settings.name}@{CHAMPION} --env-manager local")
    return RegisteredModel(settings.name, version.version, decision)


def give_back(config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None) -> None:
    """Roll the champion back to the one before it."""
    check_tracking_server()
    from mlflow import MlflowClient

    name = load_config(config_path, overrides).registry.name
    loser, winner = roll_back(MlflowClient(), name)
    say(f"↩️ {name}: a versão {loser} deixou o posto e a versão {winner} voltou a ser a campeã.")


def _registered(client: MlflowClient, name: str, model_id: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if version.source == f"models:/{model_id}"), None)


def _contest(client: MlflowClient, run: Run, challenger: ModelVersion, champion: ModelVersion) -> Contest:
    import pandas as pd

    table = candidates.validation_table(client, run.info.run_id)
    known = candidates.trained_on(client, champion.run_id)
    rows = [row for row in table if row["id"] not in known.train]
    remark = None
    if len(rows) < len(table):
        remark = (
            f"As divisões diferem: {len(table) - len(rows)} das {len(table)} leituras de validação ficaram de fora da "
            f"comparação porque a versão {champion.version} treinou com elas."
        )
    elif set(known.validation) != {row["id"] for row in table}:
        remark = f"As divisões diferem: a versão {champion.version} foi reavaliada nas leituras de validação desta."
    if not rows:
        return Contest((), (), (), remark)
    say(f"Comparando com a campeã (versão {champion.version}) em {len(rows)} leituras...")
    prompts = pd.DataFrame(rows)[list(RECORD_FIELDS)]
    texts = []
    for side in (challenger, champion):
        generator = candidates.open_model(client, f"models:/{side.name}/{side.version}", candidates.UNLIMITED)
        with progress_bar(len(rows), f"Versão {side.version}") as bar:
            texts.append(generator.write(prompts, on_progress=bar.update))
    return Contest(texts[0], texts[1], [row["real"] for row in rows], remark)
