"""Open the run that a command works in, and close it with the truth, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import RunInterrupted, TrackingError, first_line, without_password
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.failures import failures_told, lost_connection, reason_of, sentence_of, store_name
from cartas_mlflow.tracking.run import FAILURE_TAG, OUTCOME_TAG, TrackedRun
from cartas_mlflow.tracking.store import check_tracking_server, one_at_a_time, quiet_mlflow

if TYPE_CHECKING:
    from mlflow.entities import Experiment


@contextmanager
def open_run(
    settings: TrackingSettings,
    *,
    resume_run_id: str | None = None,
    parent_run_id: str | None = None,
    log_file: Path | None = None,
) -> Iterator[TrackedRun]:
    """Open the run that ``mlflow run`` created, or the one to resume, or a new one; close it with the truth.

    An exception ends it FAILED and its reason stands in the tag ``failure``; an interruption ends it KILLED.

    Args:
        parent_run_id: the new run is nested under this one, in its experiment.
        log_file: logged under ``report/`` when the run ends, however it ends.

    Raises:
        TrackingError: the tracking server does not answer or goes away, or the experiment cannot be used.
    """
    check_tracking_server()
    quiet_mlflow()
    import mlflow
    from mlflow.exceptions import MlflowException

    with failures_told():
        try:
            with one_at_a_time():
                run = _start(settings, resume_run_id, parent_run_id)
        except MlflowException as error:
            _let_go()
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" and sentence_of(error) is not None:
                raise
            raise TrackingError(
                f"{store_name()} não abriu a execução ({first_line(error)}); confira o experimento e "
                "MLFLOW_TRACKING_URI (dentro de mlflow run, um sqlite precisa do caminho absoluto)."
            ) from None
        try:
            _check_experiment(settings, run, resume_run_id)
            yield run
            _log_log(run, log_file)
        except BaseException as error:
            if lost_connection(error) is None:
                _close_early(run, error, log_file)
                raise
            _let_go()
            raise TrackingError(_left_open(run)) from error
        try:
            mlflow.end_run()
        except MlflowException as error:
            if lost_connection(error) is None:
                raise
            _let_go()
            raise TrackingError(_left_open(run)) from error


def _start(settings: TrackingSettings, resume_run_id: str | None, parent_run_id: str | None) -> TrackedRun:
    import mlflow

    inherited = os.environ.get("MLFLOW_RUN_ID")
    if settings.system_metrics:
        mlflow.set_system_metrics_sampling_interval(settings.system_metrics_interval)
    if inherited is None and parent_run_id is None:
        _check_place(mlflow.set_experiment(settings.experiment), None)
    elif inherited is not None:
        _check_place(mlflow.get_experiment(mlflow.get_run(inherited).info.experiment_id), inherited)
    run = mlflow.start_run(
        run_id=inherited or resume_run_id,
        experiment_id=None if parent_run_id is None else mlflow.get_run(parent_run_id).info.experiment_id,
        run_name=settings.run_name if inherited is None and resume_run_id is None else None,
        parent_run_id=parent_run_id,
        nested=parent_run_id is not None,
        log_system_metrics=settings.system_metrics,
    )
    experiment = mlflow.get_experiment(run.info.experiment_id).name
    tracked = TrackedRun(run.info.run_id, experiment, inherited is not None)
    tracked.set_tags({OUTCOME_TAG: "running"})
    if inherited is not None and settings.run_name is not None:
        tracked.set_tags({"mlflow.runName": settings.run_name})
    if FAILURE_TAG in run.data.tags:
        mlflow.delete_tag(FAILURE_TAG)
    if resume_run_id not in {None, tracked.id}:
        tracked.set_tags({"resumed_from": resume_run_id})
    return tracked


def _check_experiment(settings: TrackingSettings, run: TrackedRun, resume_run_id: str | None) -> None:
    chosen = "experiment" in settings.model_fields_set and resume_run_id is None
    if run.inside_project and chosen and settings.experiment != run.experiment:
        raise TrackingError(
            f"tracking.experiment={settings.experiment} não vale dentro de mlflow run, que já abriu a execução no "
            f"experimento {run.experiment}; use mlflow run --experiment-name {settings.experiment}."
        )


def _check_place(experiment: Experiment, own_run_id: str | None) -> None:
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


def _close_early(run: TrackedRun, error: BaseException, log_file: Path | None) -> None:
    """End the run with the reason that came first; what fails on the way is noted on the error, and hides nothing."""
    import mlflow

    if isinstance(error, (KeyboardInterrupt, RunInterrupted)):
        status, tags, words = "KILLED", {OUTCOME_TAG: "interrupted"}, f"**Interrompida.** {error}".strip()
    else:
        reason = reason_of(error)
        status, tags, words = "FAILED", {OUTCOME_TAG: "failed", FAILURE_TAG: reason}, f"**Falhou:** {reason}"
    steps = (
        lambda: run.set_tags(tags),
        lambda: run.describe(words),
        lambda: _log_log(run, log_file),
        lambda: mlflow.end_run(status),
    )
    for step in steps:
        try:
            step()
        except Exception as second:
            error.add_note(f"Ao encerrar a execução: {type(second).__name__}: {first_line(second)}")
            if lost_connection(second) is not None:
                _let_go()
                return


def _log_log(run: TrackedRun, log_file: Path | None) -> None:
    if log_file is not None:
        run.log_file(log_file, "report")


def _left_open(run: TrackedRun) -> str:
    import mlflow

    return (
        f"O servidor MLflow em {without_password(mlflow.get_tracking_uri())} parou de responder, e a execução {run.id} "
        "ficou aberta nele; com o servidor de volta, continue do último checkpoint (training.resume)."
    )


def _let_go() -> None:
    # Ending the run fails, but MLflow then no longer holds it as active; with its retries that would take four minutes,
    # and as long again when the process ends.
    import mlflow
    from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
    from mlflow.exceptions import MlflowException

    before = MLFLOW_HTTP_REQUEST_MAX_RETRIES.get_raw()
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)
    try:
        mlflow.end_run("FAILED")
    except MlflowException:
        pass
    finally:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()
        if before is not None:
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(before)
