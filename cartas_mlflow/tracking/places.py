"""Whether an experiment is the right one, and its files where MLflow will look for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import TrackingError
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow.entities import Experiment


def check_experiment(settings: TrackingSettings, run: TrackedRun, resume_run_id: str | None) -> None:
    """See that a chosen experiment is the one of the run.

    Raises:
        TrackingError: ``mlflow run`` opened it in another.
    """
    chosen = "experiment" in settings.model_fields_set and resume_run_id is None
    if run.inside_project and chosen and settings.experiment != run.experiment:
        raise TrackingError(
            f"tracking.experiment={settings.experiment} não vale dentro de mlflow run, que já abriu a execução no "
            f"experimento {run.experiment}; use mlflow run --experiment-name {settings.experiment}."
        )


def check_place(experiment: Experiment, own_run_id: str | None) -> None:
    """See that the folder of an experiment's files is still where MLflow will look for it.

    Raises:
        TrackingError: the project has moved.
    """
    # MLflow keeps the folder's absolute path from the experiment's first day, and would make it anew.
    from mlflow import MlflowClient
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    if not is_local_uri(experiment.artifact_location):
        return
    place = Path(local_file_uri_to_path(experiment.artifact_location))
    home = place.parent.parent
    if home.exists():
        return
    runs = MlflowClient().search_runs([experiment.experiment_id], max_results=2)
    if any(run.info.run_id != own_run_id for run in runs):
        raise TrackingError(
            f"Os arquivos do experimento {experiment.name} ficavam em {place}, e a pasta {home} não existe mais: o "
            f"projeto mudou de lugar. Devolva-o, ou crie um atalho (ln -s PASTA_NOVA {home}); ou comece outro "
            "experimento (tracking.experiment; no mlflow run, --experiment-name)."
        )
