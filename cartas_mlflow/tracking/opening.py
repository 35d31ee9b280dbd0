"""Open the run that a command works in, and close it with the truth, however it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cartas_mlflow.errors import RunInterrupted, TrackingError, UserError, first_line, without_password
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.run import FAILURE_TAG, OUTCOME_TAG, TrackedRun
from cartas_mlflow.tracking.store import check_tracking_server, one_at_a_time, quiet_mlflow


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

    try:
        with one_at_a_time():
            run = _start(settings, resume_run_id, parent_run_id)
    except MlflowException as error:
        raise TrackingError(
            f"O MLflow em {without_password(mlflow.get_tracking_uri())} não abriu a execução ({first_line(error)}); "
            "confira o experimento e MLFLOW_TRACKING_URI (dentro de mlflow run, um sqlite precisa do caminho absoluto)."
        ) from None
    try:
        try:
            _check_experiment(settings, run, resume_run_id)
            yield run
        except BaseException as error:
            if not _server_is_lost(error):
                _close_early(run, error, log_file)
            raise
        _log_log(run, log_file)
        mlflow.end_run()
    except MlflowException as error:
        if not _server_is_lost(error):
            raise
        _let_go()
        raise TrackingError(
            f"O servidor MLflow em {without_password(mlflow.get_tracking_uri())} parou de responder, e a execução "
            f"{run.id} ficou aberta nele; com o servidor de volta, continue do último checkpoint (training.resume)."
        ) from error


def _start(settings: TrackingSettings, resume_run_id: str | None, parent_run_id: str | None) -> TrackedRun:
    import mlflow

    inherited = os.environ.get("MLFLOW_RUN_ID")
    if settings.system_metrics:
        mlflow.set_system_metrics_sampling_interval(settings.system_metrics_interval)
    if inherited is None and parent_run_id is None:
        mlflow.set_experiment(settings.experiment)
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


def _close_early(run: TrackedRun, error: BaseException, log_file: Path | None) -> None:
    import mlflow

    if isinstance(error, (KeyboardInterrupt, RunInterrupted)):
        status, outcome = "KILLED", {OUTCOME_TAG: "interrupted"}
        run.describe(f"**Interrompida.** {error}".strip())
    else:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
        status, outcome = "FAILED", {OUTCOME_TAG: "failed", FAILURE_TAG: reason}
        run.describe(f"**Falhou:** {reason}")
    run.set_tags(outcome)
    _log_log(run, log_file)
    mlflow.end_run(status)


def _log_log(run: TrackedRun, log_file: Path | None) -> None:
    if log_file is not None:
        run.log_file(log_file, "report")


def _server_is_lost(error: BaseException) -> bool:
    import requests
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and isinstance(error.__context__, requests.RequestException)


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
