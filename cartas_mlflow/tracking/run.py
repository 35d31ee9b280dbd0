"""What a run says: into its journal, at once, and from there to MLflow when it listens."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.files import write_text
from cartas_mlflow.tracking.journal import Journal, Point
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
NOTE_TAG = "mlflow.note.content"
"""MLflow's own: the description that its pages show."""
UTILITY_TAG = "utility"
"""On a run that looks at trainings and is none: the command that made it."""
STUDY_TAG = "search.study"
"""On a study's own run: the study's name. Its trials are nested under it."""
STATE_TAG = "trial.state"
"""On a trial: complete, pruned, failed or running."""
KEPT_TAG = "readings.folder"
"""The folder, on the machine that trained, where the readings are that MLflow was not to get."""
TABLES_TAG = "mlflow.loggedArtifacts"
"""MLflow's own: which artifacts its pages show as tables."""


@dataclass(frozen=True)
class TrackedRun:
    """An open run. Nothing that it is told waits for MLflow.

    ``id``: MLflow's, or the journal's as long as there is no run in MLflow; ``experiment_id``: None until then.
    """

    id: str
    experiment: str
    inside_project: bool
    """It was created by ``mlflow run``, which logged the ``-P`` values already and sets the final status itself."""
    journal: Journal
    experiment_id: str | None = None
    logs_texts: bool = True
    """False: no reading may leave this machine; what holds some stays in the run's folder."""

    @property
    def page(self) -> str:
        """Where a person can look at the run: an address, or the command that shows a local store."""
        if self.experiment_id is None:
            return f"depois de {sync_command(self.journal.root)}"
        return where_to_look(self.experiment_id, self.id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, leaving alone those that the run has already."""
        self.journal.write("params", {"params": {key: param_text(value) for key, value in params.items()}})

    def describe(self, markdown: str) -> None:
        """Set the run's description, as the UI shows it."""
        self.set_tags({NOTE_TAG: markdown})

    def name(self, name: str, *, instead_of: str | None = None) -> None:
        """Name the run, unless a person has named it. ``instead_of``: the name that this project gave it before."""
        self.journal.write("name", {"name": name, "instead_of": instead_of})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self.journal.write("tags", {"tags": {key: str(value) for key, value in tags.items()}})

    def log_metrics(
        self, metrics: Mapping[str, float], step: int | None = None, *, timestamp: int | None = None
    ) -> None:
        """Log metrics; of a series and step that the run has already, the first point stays.

        Args:
            timestamp: in milliseconds, by default now.
        """
        now = int(time.time() * 1000) if timestamp is None else timestamp
        self.journal.add_points([Point(name, float(value), now, step or 0) for name, value in metrics.items()])

    def log_model_metrics(self, model_id: str, metrics: Mapping[str, float], dataset: Dataset) -> None:
        """Log metrics on the run, linked to a logged model and to the dataset that they were computed on."""
        now = int(time.time() * 1000)
        points = [Point(name, float(value), now, 0) for name, value in metrics.items()]
        self.journal.write("model_points", {"model_id": model_id, "points": points, "dataset": _described(dataset)})

    def log_model(
        self, model: Mapping[str, Any], adapter: Path, metrics: Mapping[str, float], dataset: Dataset
    ) -> None:
        """Log a model of this run; its metrics are the points that the run has, linked to the model and the dataset.

        Args:
            model: what the ``log_model`` of :func:`~cartas_mlflow.tracking.opening.open_run` takes, as JSON has it.
            adapter: the folder that it is made from; inside the run's folder it is not copied.
        """
        points = [self.journal.points[name, 0] for name in metrics]
        kept = self.journal.keep(adapter, "adapter")
        self.journal.write(
            "model", {"model": dict(model), "adapter": kept, "points": points, "dataset": _described(dataset)}
        )

    def log_datasets(
        self, datasets: Mapping[str, Mapping[str, Sequence[str]]], source: str, targets: str
    ) -> dict[str, Dataset]:
        """Log tables as the run's inputs; MLflow computes their digests.

        Args:
            datasets: context (training, validation, …) -> column -> values.
            source: the file that they come from.
            targets: name of the column to be learnt.
        """
        import mlflow.data
        import pandas as pd
        from mlflow.data.dataset_source_registry import get_dataset_source_from_json

        # A path as text has two readings in MLflow, and it warns of the choice; the source itself has one.
        file = get_dataset_source_from_json(json.dumps({"uri": source}), "local")
        logged = {
            context: mlflow.data.from_pandas(
                pd.DataFrame(dict(columns)), source=file, name=Path(source).stem, targets=targets
            )
            for context, columns in datasets.items()
        }
        inputs = {context: _described(dataset) for context, dataset in logged.items()}
        self.journal.write("inputs", {"inputs": inputs})
        return logged

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a file, or a whole folder, under an artifact folder."""
        self.journal.write("artifact", {"path": self.journal.keep(path, folder), "folder": folder})

    def log_table(self, columns: Mapping[str, Sequence[Any]], artifact: str) -> None:
        """Log a table that the UI shows as one, in the place of an earlier one. ``artifact`` ends in .json."""
        # mlflow.log_table asks the server for logged models, which an older one does not know, and adds rows to those
        # that a resumed run already has.
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.log_text(json.dumps({"columns": list(columns), "data": rows}, ensure_ascii=False), artifact)
        self.journal.write("table", {"artifact": artifact})

    def log_csv(self, columns: Mapping[str, Sequence[Any]], artifact: str) -> None:
        """Log a table as CSV, accents as they are."""
        self.log_text(_csv(columns), artifact)

    def log_readings(self, columns: Mapping[str, Sequence[Any]], artifact: str, *, folder: Path | None = None) -> None:
        """Log a table of readings as CSV; or keep it, where none may leave this machine.

        Args:
            folder: where it is kept; None: the run's.
        """
        if self.logs_texts:
            self.log_csv(columns, artifact)
            return
        home = (folder or self.journal.root).absolute()
        write_text(home / artifact, _csv(columns))
        self.set_tags({KEPT_TAG: home})

    def log_text(self, text: str, artifact: str) -> None:
        """Log a text file, accents as they are."""
        write_text(self.journal.place_for(artifact), text)
        self._log_kept(artifact)

    def log_figure(self, figure: Figure, artifact: str) -> None:
        """Log a picture; the ending of ``artifact`` gives its format."""
        place = self.journal.place_for(artifact)
        place.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(place)
        self._log_kept(artifact)

    def _log_kept(self, artifact: str) -> None:
        self.log_file(self.journal.place_for(artifact), artifact.rpartition("/")[0] or None)


def sync_command(folder: Path) -> str:
    """The command that delivers what stands in a run's folder."""
    return f"python -m cartas_mlflow sync {shlex.quote(str(folder))}"


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


def _csv(columns: Mapping[str, Sequence[Any]]) -> str:
    import pandas as pd

    return pd.DataFrame(dict(columns)).to_csv(index=False)


def _described(dataset: Dataset) -> dict[str, str]:
    return {key: value for key, value in dataset.to_dict().items() if value is not None}
