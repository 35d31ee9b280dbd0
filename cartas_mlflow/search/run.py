"""The run of a study. Several processes write to it and none holds it open: everything goes through the client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.errors import SearchError, TrackingError
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.run import FAILURE_TAG, OUTCOME_TAG, STATE_TAG, param_text
from cartas_mlflow.tracking.store import check_tracking_server, one_at_a_time, quiet_mlflow, where_to_look


def take_over_run() -> str | None:
    """The run that ``mlflow run`` opened for this process; from now on no other run of the process is taken for it."""
    return os.environ.pop("MLFLOW_RUN_ID", None)


def open_search_run(settings: TrackingSettings, inherited: str | None, name: str, tags: Mapping[str, str]) -> str:
    """Open the run of a new study, or make the inherited one its run; gives its id.

    Raises:
        TrackingError: the tracking server does not answer.
    """
    if settings.offline:
        raise TrackingError(
            "tracking.offline=true não vale para tune: os processos de uma busca se encontram no MLflow; inicie-o, ou "
            "corrija MLFLOW_TRACKING_URI."
        )
    check_tracking_server()
    quiet_mlflow()
    import mlflow
    from mlflow import MlflowClient

    with one_at_a_time():
        client = MlflowClient()
        everything = {**tags, OUTCOME_TAG: "running"}
        if inherited is not None:
            for key, value in {**everything, "mlflow.runName": name}.items():
                client.set_tag(inherited, key, value)
            return inherited
        experiment = mlflow.set_experiment(settings.experiment)
        return client.create_run(experiment.experiment_id, run_name=name, tags=everything).info.run_id


@dataclass(frozen=True)
class SearchRun:
    """An open study's run, written to from any process."""

    id: str

    @classmethod
    def resume(cls, run_id: str, study: str) -> SearchRun:
        """The run goes on, whoever ended it.

        Raises:
            SearchError: this store has no such run.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        client = MlflowClient()
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            raise SearchError(
                f"O estudo {study} pertence à execução {run_id}, que este MLflow não tem; use o MLFLOW_TRACKING_URI "
                "com que ele começou, ou outro nome de estudo (-P study=NOME)."
            ) from None
        client.set_tag(run_id, OUTCOME_TAG, "running")
        return cls(run_id)

    @property
    def experiment_id(self) -> str:
        from mlflow import MlflowClient

        return MlflowClient().get_run(self.id).info.experiment_id

    @property
    def experiment(self) -> str:
        from mlflow import MlflowClient

        return MlflowClient().get_experiment(self.experiment_id).name

    @property
    def page(self) -> str:
        """Where a person can look at the run."""
        return where_to_look(self.experiment_id, self.id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, leaving alone those that the run has already."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        client = MlflowClient()
        known = client.get_run(self.id).data.params
        client.log_batch(
            self.id, params=[Param(key, param_text(value)) for key, value in params.items() if key not in known]
        )

    def set_tag(self, key: str, value: Any) -> None:
        from mlflow import MlflowClient

        MlflowClient().set_tag(self.id, key, param_text(value))

    def log_metric(self, name: str, value: float, step: int) -> None:
        from mlflow import MlflowClient

        MlflowClient().log_metric(self.id, name, value, step=step)

    def log_file(self, path: Path, folder: str) -> None:
        from mlflow import MlflowClient

        MlflowClient().log_artifact(self.id, str(path), folder)

    def adopt(self, worker_run_id: str, study: str) -> None:
        """The run that ``mlflow run`` opened for a worker that joined stands under the study's."""
        from mlflow import MlflowClient

        client = MlflowClient()
        client.set_tag(worker_run_id, "mlflow.parentRunId", self.id)
        client.set_tag(worker_run_id, "mlflow.runName", f"trabalhador de {study}")
        client.set_tag(
            worker_run_id, "mlflow.note.content", f"Trabalhou no estudo `{study}`; resultados na execução-mãe."
        )
        client.set_tag(worker_run_id, OUTCOME_TAG, "worker")

    def end(self, status: str, outcome: str, failure: str | None = None) -> None:
        """End it as ``status`` (FINISHED, KILLED, FAILED)."""
        from mlflow import MlflowClient

        client = MlflowClient()
        client.set_tag(self.id, OUTCOME_TAG, outcome)
        if failure is not None:
            client.set_tag(self.id, FAILURE_TAG, failure)
        client.set_terminated(self.id, status)


def close_dead_run(run_id: str) -> None:
    """End the run of a trial whose process died."""
    from mlflow import MlflowClient

    client = MlflowClient()
    tags = {OUTCOME_TAG: "failed", STATE_TAG: "failed", FAILURE_TAG: "O processo morreu; a tentativa foi refeita."}
    for key, value in {**tags, "mlflow.note.content": f"**Falhou:** {tags[FAILURE_TAG]}"}.items():
        client.set_tag(run_id, key, value)
    client.set_terminated(run_id, "FAILED")
