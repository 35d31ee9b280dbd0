"""Start, resume and close an MLflow run; what it logs once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.errors import RunInterrupted, TrackingError, UserError, first_line, without_password
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.store import (
    check_tracking_server,
    one_at_a_time,
    quiet_mlflow,
    where_to_look,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.data.dataset import Dataset

OUTCOME_TAG = "outcome"
"""running, finished, early_stopped, interrupted or failed. `mlflow run` overwrites the run's status by the exit code; a
tag stays."""
FAILURE_TAG = "failure"
"""Why a failed run failed."""


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run."""

    id: str
    experiment: str
    inside_project: bool
    """It was created by ``mlflow run``, which logged the ``-P`` values already and sets the final status itself."""

    @property
    def page(self) -> str:
        """Where a person can look at the run: an address, or the command that shows a local store."""
        import mlflow

        return where_to_look(mlflow.get_run(self.id).info.experiment_id, self.id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, leaving alone those that the run has already.

        ``mlflow run`` logs what was typed ("5e-5", quotes included) before this process starts; MLflow refuses a second
        value and then drops the whole batch.
        """
        import mlflow

        known = mlflow.get_run(self.id).data.params
        mlflow.log_params({key: param_text(value) for key, value in params.items() if key not in known})

    def describe(self, markdown: str) -> None:
        """Set the run's description, as the UI shows it."""
        self.set_tags({"mlflow.note.content": markdown})

    def name(self, name: str) -> None:
        """Name the run, unless a person has named it."""
        import mlflow

        if is_generated_name(mlflow.get_run(self.id).info.run_name):
            self.set_tags({"mlflow.runName": name})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        import mlflow

        mlflow.set_tags({key: str(value) for key, value in tags.items()})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        import mlflow

        mlflow.log_metrics(dict(metrics), step=step)

    def log_model_metrics(self, model_id: str, metrics: Mapping[str, float], dataset: Dataset) -> None:
        """Log metrics on the run, linked to a logged model and to the dataset that they were computed on."""
        import mlflow

        mlflow.log_metrics(dict(metrics), model_id=model_id, dataset=dataset)

    def log_datasets(
        self, datasets: Mapping[str, Mapping[str, Sequence[str]]], source: str, targets: str
    ) -> dict[str, Dataset]:
        """Log tables as the run's inputs; MLflow computes their digests.

        Args:
            datasets: context (training, validation, …) -> column -> values.
            source: the file that they come from.
            targets: name of the column to be learnt.
        """
        import mlflow
        import mlflow.data
        import pandas as pd
        from mlflow.data.dataset_source_registry import get_dataset_source_from_json

        # A path as text has two readings in MLflow, and it warns of the choice; the source itself has one.
        file = get_dataset_source_from_json(json.dumps({"uri": source}), "local")
        logged = {}
        for context, columns in datasets.items():
            frame = pd.DataFrame(dict(columns))
            logged[context] = mlflow.data.from_pandas(frame, source=file, name=Path(source).stem, targets=targets)
            mlflow.log_input(logged[context], context=context)
        return logged

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a whole folder, under an artifact folder."""
        import mlflow

        if path.is_dir():
            mlflow.log_artifacts(str(path), folder)
        else:
            mlflow.log_artifact(str(path), folder)

    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact: str) -> None:
        """Log a table that the UI shows as one. ``artifact`` ends in .json."""
        import mlflow

        mlflow.log_table({key: list(values) for key, values in columns.items()}, artifact)

    def log_csv(self, columns: Mapping[str, Sequence[Any]], artifact: str) -> None:
        """Log a table as CSV, accents as they are."""
        import mlflow
        import pandas as pd

        mlflow.log_text(pd.DataFrame(dict(columns)).to_csv(index=False), artifact)

    def log_text(self, text: str, artifact: str) -> None:
        """Log a text file, accents as they are."""
        import mlflow

        mlflow.log_text(text, artifact)

    def log_figure(self, figure: Figure, artifact: str) -> None:
        """Log a picture; the ending of ``artifact`` gives its format."""
        import mlflow

        mlflow.log_figure(figure, artifact)


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


def is_generated_name(name: str | None) -> bool:
    """Whether a run's name is one that MLflow makes up, ``kindly-fox-12``: nobody has named the run."""
    from mlflow.utils.name_utils import _GENERATOR_NOUNS, _GENERATOR_PREDICATES

    first, _, rest = (name or "").partition("-")
    second, _, number = rest.partition("-")
    return not name or (first in _GENERATOR_PREDICATES and second in _GENERATOR_NOUNS and number.isdigit())


def param_text(value: Any) -> str:
    """A setting as a parameter shows it, which is how it can be typed after ``-P``."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
