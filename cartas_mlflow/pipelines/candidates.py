"""Which model is meant: a run's, a registered version's, or an adapter folder's; and what it was trained on."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import RegistryError
from cartas_mlflow.registry.model import LOGGED_NAME, ReadingGenerator, open_folder, open_logged
from cartas_mlflow.settings import ServingSettings
from cartas_mlflow.tracking.run import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

UNLIMITED = ServingSettings(any_card=True, max_rows=10_000)
"""For evaluation, which is not serving: rows of any card, and more than a request may hold."""
FINISHED_OUTCOMES = {"finished", "early_stopped"}


@dataclass(frozen=True)
class TrainedOn:
    """Ids of the records on each side of the split that a run used."""

    train: frozenset[str]
    validation: tuple[str, ...]


def best_run(client: MlflowClient, experiment: str, metric: str) -> Run:
    """The finished training of the experiment with the highest ``final_<metric>``.

    Raises:
        RegistryError: no such experiment, or no finished training in it.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        raise RegistryError(f"O experimento {experiment} não existe; indique-o em tracking.experiment, ou um run_id.")
    runs = client.search_runs(
        [found.experiment_id],
        filter_string=f"attributes.status = 'FINISHED' and metrics.final_{metric} > -1",
        order_by=[f"metrics.final_{metric} DESC"],
        max_results=100,
    )
    for run in runs:
        if run.data.tags.get("outcome") in FINISHED_OUTCOMES and logged_model_id(run) is not None:
            return run
    raise RegistryError(f"O experimento {experiment} não tem nenhum treinamento concluído com modelo; treine um antes.")


def find_run(client: MlflowClient, run_id: str) -> Run:
    """Raises:
    RegistryError: there is no such run.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException:
        raise RegistryError(
            f"A execução {run_id} não existe neste MLflow; confira run_id e MLFLOW_TRACKING_URI."
        ) from None


def logged_model_id(run: Run) -> str | None:
    """Id of the reading generator that a run logged (the latest, where there are several)."""
    outputs = run.outputs.model_outputs if run.outputs else []
    return outputs[-1].model_id if outputs else None


def model_id_of(run: Run) -> str:
    """Raises:
    RegistryError: the run logged no model.
    """
    model_id = logged_model_id(run)
    if model_id is None:
        raise RegistryError(
            f"A execução {run.info.run_id} não tem o modelo {LOGGED_NAME}; ela não é um treinamento que chegou ao fim."
        )
    return model_id


def trained_on(client: MlflowClient, run_id: str) -> TrainedOn:
    """The split that a run logged as ``data/split.csv``."""
    path = Path(client.download_artifacts(run_id, "data/split.csv"))
    with path.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    train = frozenset(row["id"] for row in rows if row["side"] == "train")
    return TrainedOn(train, tuple(row["id"] for row in rows if row["side"] == "validation"))


def validation_table(client: MlflowClient, run_id: str) -> list[dict[str, str]]:
    """The validation records of a run with its generated texts: id, fields, ``gerado``, ``real``."""
    path = Path(client.download_artifacts(run_id, "samples/final.csv"))
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def open_model(client: MlflowClient, model: str, serving: ServingSettings) -> ReadingGenerator:
    """The generator that the user means.

    Args:
        model: ``models:/…``, a run's id, or an adapter folder.

    Raises:
        RegistryError: there is no such model.
        BaseModelError: an adapter folder whose base cannot be had.
    """
    from mlflow.exceptions import MlflowException

    if Path(model).is_dir():
        return open_folder(Path(model), serving)
    uri = model if model.startswith("models:/") else f"models:/{model_id_of(find_run(client, model))}"
    try:
        return open_logged(uri, serving)
    except MlflowException as error:
        raise RegistryError(
            f"O modelo {model} não abriu ({first_line(error)}); use models:/nome@champion, models:/nome/versão, "
            "o id de uma execução ou a pasta adapter/ de um treinamento."
        ) from error


def model_id_behind(client: MlflowClient, model: str) -> str | None:
    """Id of the logged model that ``model`` (as :func:`open_model` takes it) stands for; None for a folder."""
    if Path(model).is_dir():
        return None
    if not model.startswith("models:/"):
        return model_id_of(find_run(client, model))
    name = model.removeprefix("models:/")
    if "/" not in name and "@" not in name:
        return name
    registered, separator, alias = name.partition("@")
    if separator:
        version = client.get_model_version_by_alias(registered, alias)
    else:
        version = client.get_model_version(*name.rsplit("/", 1))
    return version.source.removeprefix("models:/") if version.source.startswith("models:/") else None


def inherited_experiment(default: str) -> str:
    """Under ``mlflow run`` the experiment chosen on its command line; else the settings'."""
    import mlflow

    if "MLFLOW_EXPERIMENT_ID" not in os.environ:
        return default
    return mlflow.get_experiment(os.environ["MLFLOW_EXPERIMENT_ID"]).name
