"""Start, resume and close an MLflow run; what it logs once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.tracking.store import where_to_look

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.data.dataset import Dataset

OUTCOME_TAG = "outcome"
"""running, finished, early_stopped, interrupted or failed. `mlflow run` overwrites the run's status by the exit code; a
tag stays."""
FINISHED_OUTCOMES = {"finished", "early_stopped"}
"""What the outcome of a training that reached its end may be."""
FAILURE_TAG = "failure"
"""Why a failed run failed."""
UTILITY_TAG = "utility"
"""On a run that looks at trainings and is none: the command that made it."""
STUDY_TAG = "search.study"
"""On a study's own run: the study's name. Its trials are nested under it."""
STATE_TAG = "trial.state"
"""On a trial: complete, pruned, failed or running."""
TABLES_TAG = "mlflow.loggedArtifacts"
"""MLflow's own: which artifacts its pages show as tables."""


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

    def name(self, name: str, *, instead_of: str | None = None) -> None:
        """Name the run, unless a person has named it. ``instead_of``: the name that this project gave it before."""
        import mlflow

        now = mlflow.get_run(self.id).info.run_name
        if is_generated_name(now) or now == instead_of:
            self.set_tags({"mlflow.runName": name})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        import mlflow

        mlflow.set_tags({key: str(value) for key, value in tags.items()})

    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None, *, timestamp: int | None = None
    ) -> None:
        """Log metrics. ``timestamp``: in milliseconds, by default now."""
        import mlflow

        mlflow.log_metrics(dict(metrics), step=step, timestamp=timestamp)

    def log_model_metrics(
        self, model_id: str, metrics: Mapping[str, float], dataset: Dataset, *, timestamp: int | None = None
    ) -> None:
        """Log metrics on the run, linked to a logged model and to the dataset that they were computed on.

        Args:
            timestamp: with that of metrics that the run has already, they stay one point each.
        """
        import mlflow

        mlflow.log_metrics(dict(metrics), model_id=model_id, dataset=dataset, timestamp=timestamp)

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
        """Log a table that the UI shows as one, in the place of an earlier one. ``artifact`` ends in .json."""
        import mlflow

        # mlflow.log_table asks the server for logged models, which an older one does not know, and adds rows to those
        # that a resumed run already has.
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        mlflow.log_text(json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False), artifact)
        client = mlflow.MlflowClient()
        tables = json.loads(client.get_run(self.id).data.tags.get(TABLES_TAG, "[]"))
        table = {"path": artifact, "type": "table"}
        if table not in tables:
            client.set_tag(self.id, TABLES_TAG, json.dumps([*tables, table]))

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
