"""Start, resume and close an MLflow run; what it logs once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.errors import TrackingError, UserError
from cartas_mlflow.settings import TrackingSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.data.dataset import Dataset

OUTCOME_TAG = "outcome"
"""finished, early_stopped, interrupted or failed. `mlflow run` overwrites the run's status by the exit code; a tag stays."""

SERVER_PATIENCE = 5.0
"""Seconds that a tracking server gets to answer before anything is started on it."""

_GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d{1,3}")


class RunInterrupted(Exception):
    """The user stopped the training and everything is saved: the run ends KILLED, the command with ``exit_code``."""

    def __init__(self, exit_code: int = 130) -> None:
        self.exit_code = exit_code
        super().__init__()


@dataclass(frozen=True)
class TrackedRun:
    """An open MLflow run."""

    id: str
    experiment: str
    inside_project: bool
    """It was created by ``mlflow run``, which logged the ``-P`` values already and sets the final status itself."""

    @property
    def page(self) -> str:
        """Where the run can be looked at: its address on the tracking server, or the command that shows a local store."""
        import mlflow

        uri = mlflow.get_tracking_uri()
        if not uri.startswith(("http://", "https://")):
            return "mlflow ui"
        experiment = mlflow.get_run(self.id).info.experiment_id
        return f"{without_password(uri).rstrip('/')}/#/experiments/{experiment}/runs/{self.id}"

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, leaving alone those that the run has already.

        ``mlflow run`` logs what was typed ("5e-5", quotes included) before this process starts; MLflow refuses a second
        value and then drops the whole batch.
        """
        import mlflow

        known = mlflow.get_run(self.id).data.params
        mlflow.log_params({key: _param(value) for key, value in params.items() if key not in known})

    def describe(self, markdown: str) -> None:
        """Set the run's description, as the UI shows it."""
        self.set_tags({"mlflow.note.content": markdown})

    def name(self, name: str) -> None:
        """Name the run, unless a person has named it."""
        import mlflow

        given = mlflow.get_run(self.id).info.run_name or ""
        if not given or _GENERATED_NAME.fullmatch(given):
            self.set_tags({"mlflow.runName": name})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        import mlflow

        mlflow.set_tags({key: str(value) for key, value in tags.items()})

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        import mlflow

        mlflow.log_metrics(dict(metrics))

    def log_model_metrics(self, model_id: str, metrics: Mapping[str, float], dataset: Dataset) -> None:
        """Log metrics on the run, linked to a logged model and to the dataset that they were computed on."""
        import mlflow

        mlflow.log_metrics(dict(metrics), model_id=model_id, dataset=dataset)

    def log_datasets(
        self, datasets: Mapping[str, Mapping[str, Sequence[str]]], source: str, targets: str
    ) -> dict[str, Dataset]:
        """Log tables (column -> values) as the run's inputs; MLflow computes their digests. Keys: training, validation."""
        import mlflow
        import mlflow.data
        import pandas as pd

        logged = {}
        for context, columns in datasets.items():
            frame = pd.DataFrame(dict(columns))
            logged[context] = mlflow.data.from_pandas(frame, source=source, name=Path(source).stem, targets=targets)
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

    def log_figure(self, figure: Figure, artifact: str) -> None:
        """Log a picture; the ending of ``artifact`` gives its format."""
        import mlflow

        mlflow.log_figure(figure, artifact)


@contextmanager
def open_run(settings: TrackingSettings, *, resume_run_id: str | None = None) -> Iterator[TrackedRun]:
    """Open the run that ``mlflow run`` created, or the one to resume, or a new one; close it with the truth.

    An exception ends it FAILED, an interruption KILLED; the reason stands in the tag ``failure``.

    Raises:
        TrackingError: the tracking server does not answer, or the experiment cannot be used.
    """
    check_tracking_server()
    import mlflow
    from mlflow.exceptions import MlflowException

    inherited = os.environ.get("MLFLOW_RUN_ID")
    if settings.system_metrics:
        mlflow.set_system_metrics_sampling_interval(settings.system_metrics_interval)
    try:
        if inherited is None:
            mlflow.set_experiment(settings.experiment)
        run = mlflow.start_run(
            run_id=inherited or resume_run_id,
            run_name=settings.run_name if inherited is None and resume_run_id is None else None,
            log_system_metrics=settings.system_metrics,
        )
    except MlflowException as error:
        raise TrackingError(
            f"O MLflow em {mlflow.get_tracking_uri()} não abriu a execução ({first_line(error)}); confira "
            "MLFLOW_TRACKING_URI e o experimento."
        ) from error
    experiment = mlflow.get_experiment(run.info.experiment_id).name
    tracked = TrackedRun(run.info.run_id, experiment, inherited is not None)
    if settings.run_name is not None and inherited is not None:
        tracked.set_tags({"mlflow.runName": settings.run_name})
    try:
        yield tracked
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, RunInterrupted))
        tracked.set_tags({OUTCOME_TAG: "interrupted" if interrupted else "failed"})
        if not interrupted:
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
            tracked.set_tags({"failure": reason})
            tracked.describe(f"**Falhou:** {reason}")
        mlflow.end_run("KILLED" if interrupted else "FAILED")
        raise
    mlflow.end_run("FINISHED")


def check_tracking_server() -> None:
    """Find out in seconds, not in the client's four minutes of retries, that a tracking server is not there.

    Raises:
        TrackingError: MLFLOW_TRACKING_URI names an HTTP server that does not answer.
    """
    import mlflow
    import requests

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(("http://", "https://")):
        return
    try:
        requests.get(f"{uri.rstrip('/')}/health", timeout=SERVER_PATIENCE)
    except requests.RequestException as error:
        raise TrackingError(
            f"O servidor MLflow em {without_password(uri)} não responde ({type(error).__name__}); inicie-o com mlflow server "
            "ou corrija MLFLOW_TRACKING_URI."
        ) from None


def without_password(uri: str) -> str:
    """The address without what stands before the ``@``."""
    return re.sub(r"//[^/@]*@", "//", uri)


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return without_password((str(error).splitlines() or [""])[0])


def _param(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
