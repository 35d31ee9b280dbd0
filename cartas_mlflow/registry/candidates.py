"""Which model is meant: a run's, a registered version's, or an adapter folder's; and what it was trained on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import RegistryError, first_line
from cartas_mlflow.evaluation.confidence import BITS
from cartas_mlflow.registry.model import LOGGED_NAME, ReadingGenerator, open_folder, open_logged
from cartas_mlflow.registry.promotion import CHAMPION
from cartas_mlflow.settings import LOWER_IS_BETTER, TrackingSettings
from cartas_mlflow.tracking.metric_names import final, former
from cartas_mlflow.tracking.run import FINISHED_OUTCOMES, OUTCOME_TAG, UTILITY_TAG
from cartas_mlflow.tracking.store import check_tracking_server, one_at_a_time, quiet_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, LoggedModel, Run

HOW_TO_NAME = (
    "use models:/nome@champion, models:/nome/versão, o id de uma execução ou a pasta adapter/ de um treinamento"
)
MODELS = "models:/"
_NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "BAD_REQUEST"}
"""How MLflow answers a name that it does not have; anything else is a failure of the store."""


@dataclass(frozen=True)
class Candidate:
    """A reading generator as the user named it. ``model_id`` and ``run_id``: None for a folder."""

    name: str
    model_id: str | None = None
    run_id: str | None = None

    def open(self, engine: str = "pytorch") -> ReadingGenerator:
        """Load it. ``engine``: as ``serving.engine``.

        Raises:
            RegistryError: files that are gone, or another kind of model.
            BaseModelError: its base cannot be had.
        """
        from mlflow.exceptions import MlflowException

        if self.model_id is None:
            return open_folder(Path(self.name), engine)
        try:
            return open_logged(f"{MODELS}{self.model_id}", engine)
        except (MlflowException, OSError) as error:
            raise RegistryError(f"O modelo {self.name} não abriu ({first_line(error)}); {HOW_TO_NAME}.") from error


def connect() -> MlflowClient:
    """A client of the store in use.

    Raises:
        TrackingError: the tracking server does not answer, or the store cannot be written.
    """
    check_tracking_server()
    quiet_mlflow()
    from mlflow import MlflowClient

    with one_at_a_time():
        client = MlflowClient()
        client.search_experiments(max_results=1)
    return client


def chosen_experiment(client: MlflowClient, settings: TrackingSettings) -> str:
    """The experiment that the user named; or the one that ``mlflow run`` is in; or the settings' default."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None or "experiment" in settings.model_fields_set:
        return settings.experiment
    return client.get_experiment(client.get_run(run_id).info.experiment_id).name


def find_experiment(client: MlflowClient, name: str) -> Experiment:
    """An experiment by its name.

    Raises:
        RegistryError: there is none, or it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        raise RegistryError(f"O experimento {name} não existe; indique em tracking.experiment o dos treinamentos.")
    if found.lifecycle_stage == "deleted":
        raise RegistryError(
            f"O experimento {name} foi apagado; recupere-o (mlflow experiments restore --experiment-id "
            f"{found.experiment_id}), ou indique outro em tracking.experiment."
        )
    return found


def best_run(client: MlflowClient, experiment: str, metric: str) -> Run:
    """The finished training of the experiment with the best final figure.

    Trainings of earlier versions have no bits per character: they come into question where no other has any, by loss.

    Raises:
        RegistryError: no such experiment, or no finished training in it.
    """
    found = find_experiment(client, experiment)
    for known in (BITS, "loss") if metric == BITS else (metric,):
        lower = known in LOWER_IS_BETTER
        names = (final(known), former(final(known)))
        best = {name: run for name in names if (run := _foremost(client, found.experiment_id, name, lower)) is not None}
        if best:
            break
    else:
        raise RegistryError(
            f"O experimento {experiment} não tem nenhum treinamento concluído com modelo; treine um antes, ou indique "
            "outro em tracking.experiment."
        )
    return (min if lower else max)(best.items(), key=lambda item: item[1].data.metrics[item[0]])[1]


def _foremost(client: MlflowClient, experiment_id: str, name: str, lower: bool) -> Run | None:
    """The finished training, with a model, that has the best value of a metric; ``lower``: the lowest."""
    page = None
    while page is None or page.token:
        page = client.search_runs(
            [experiment_id],
            filter_string=f"metrics.`{name}` > -1",
            order_by=[f"metrics.`{name}` {'ASC' if lower else 'DESC'}"],
            max_results=100,
            page_token=page.token if page else None,
        )
        for run in page:
            tags = run.data.tags
            finished = tags.get(OUTCOME_TAG) in FINISHED_OUTCOMES and UTILITY_TAG not in tags
            if finished and logged_model(client, run) is not None:
                return run
    return None


def find_run(client: MlflowClient, run_id: str) -> Run:
    """A run by its id.

    Raises:
        RegistryError: there is no such run.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise
        raise RegistryError(
            f"A execução {run_id} não existe neste MLflow; confira o id e MLFLOW_TRACKING_URI."
        ) from None


def logged_model(client: MlflowClient, run: Run) -> LoggedModel | None:
    """The reading generator that a run logged (the latest, where there are several, of those not deleted since)."""
    outputs = run.outputs.model_outputs if run.outputs else []
    models = [_get_model(client, output.model_id) for output in outputs]
    own = [model for model in models if model is not None and model.name == LOGGED_NAME]
    return max(own, key=lambda model: model.creation_timestamp, default=None)


def check_files(client: MlflowClient, candidate: Candidate) -> None:
    """Make sure that a logged model still has its files: MLflow registers one that has none.

    Raises:
        RegistryError: the folder that they are in was moved or deleted.
    """
    from mlflow.artifacts import list_artifacts

    if candidate.model_id is None or list_artifacts(artifact_uri=f"{MODELS}{candidate.model_id}"):
        return
    place = client.get_logged_model(candidate.model_id).artifact_location
    raise RegistryError(
        f"Os arquivos do modelo de {candidate.name} não estão mais em {place}; se a pasta do projeto mudou de lugar, "
        "devolva-a, ou crie um atalho do lugar antigo para o novo (ln -s PASTA_NOVA PASTA_ANTIGA)."
    )


def choose(name: str) -> Candidate:
    """What the user means; the store is asked only where that is needed.

    Raises:
        RegistryError: see :func:`find_candidate`.
        TrackingError: see :func:`connect`.
    """
    return Candidate(name) if Path(name).is_dir() else find_candidate(connect(), name)


def find_candidate(client: MlflowClient, name: str) -> Candidate:
    """What the user means.

    Args:
        name: ``models:/…`` (a logged model's id, a version, an alias), a run's id, or an adapter folder.

    Raises:
        RegistryError: there is no such model, version, alias or run, or the run logged no reading generator.
    """
    from mlflow.exceptions import MlflowException

    if Path(name).is_dir():
        return Candidate(name)
    if not name.startswith(MODELS):
        run = find_run(client, name)
        model = logged_model(client, run)
        if model is None:
            raise RegistryError(
                f"A execução {name} não tem o modelo {LOGGED_NAME}: ela não é um treinamento que chegou ao fim."
            )
        return Candidate(name, model.model_id, name)
    try:
        model = client.get_logged_model(_model_id(client, name))
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise
        if name.endswith(f"@{CHAMPION}"):
            raise RegistryError(
                f"Ainda não há campeã em {name}; treine (mlflow run . --env-manager local -P epochs=20) e promova "
                "(mlflow run . --env-manager local -e promote), ou indique outro modelo."
            ) from None
        raise RegistryError(f"O modelo {name} não existe ({first_line(error)}); {HOW_TO_NAME}.") from None
    return Candidate(name, model.model_id, model.source_run_id)


def _get_model(client: MlflowClient, model_id: str) -> LoggedModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_logged_model(model_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _model_id(client: MlflowClient, uri: str) -> str:
    """The logged model behind ``models:/…``; a copied version points to the version that it was copied from."""
    name = uri.removeprefix(MODELS)
    registered, separator, alias = name.partition("@")
    if separator:
        return _model_id(client, client.get_model_version_by_alias(registered, alias).source)
    registered, separator, version = name.rpartition("/")
    if not separator:
        return name
    return _model_id(client, client.get_model_version(registered, version).source)
