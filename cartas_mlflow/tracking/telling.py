"""What each kind of a journal's entries is to MLflow. Telling an entry again changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.errors import TrackingError
from cartas_mlflow.tracking.journal import FOLDER, Entry, Point, points_of
from cartas_mlflow.tracking.run import FAILURE_TAG, TABLES_TAG, is_generated_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

JOURNAL_TAG = "journal.id"
"""On every run: the id of the journal that it is told from. A run that was made in vain is found again by it."""
CHECKPOINT = "checkpoint"
"""Artifact folder of a training's newest checkpoint and best, and the folder beside the journal where they wait."""

LogModel = Callable[[str, Path, Mapping[str, Any]], None]
"""Logs a model: the run's id, the run's folder, the body of the entry."""


@dataclass(frozen=True)
class Listener:
    """A run that is told what a journal says.

    ``root``: the run's folder; ``log_model``: logs the models that entries name; None: they stay in the folder.
    """

    client: MlflowClient
    run_id: str
    root: Path
    log_model: LogModel | None

    def set_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def tell(listener: Listener, entries: Sequence[Entry]) -> None:
    """Tell entries of one kind; several only of the kind ``points``."""
    _TELLERS[entries[0].kind](listener, entries)


def log_model_points(run_id: str, model_id: str, points: Sequence[Point], dataset: Mapping[str, Any] | None) -> None:
    """Log final metrics on a run, linked to a logged model and to the dataset that they were computed on."""
    import mlflow
    from mlflow.entities import Dataset

    for point in points:
        mlflow.log_metrics(
            {point.name: point.value},
            step=point.step,
            run_id=run_id,
            timestamp=point.timestamp,
            model_id=model_id,
            dataset=None if dataset is None else Dataset(**dataset),
        )


def _tell_open(to: Listener, entries: Sequence[Entry]) -> None:
    body, run = entries[0].body, to.client.get_run(to.run_id)
    if run.info.status != "RUNNING":
        to.client.update_run(to.run_id, "RUNNING")
    if FAILURE_TAG in run.data.tags:
        to.client.delete_tag(to.run_id, FAILURE_TAG)
    to.set_tags({**body["marks"], JOURNAL_TAG: body["journal"]})


def _tell_params(to: Listener, entries: Sequence[Entry]) -> None:
    # `mlflow run` logs what was typed ("5e-5", quotes included) before this process starts; MLflow refuses a second
    # value and then drops the whole batch.
    from mlflow.entities import Param

    known = to.client.get_run(to.run_id).data.params
    news = {key: value for key, value in entries[0].body["params"].items() if key not in known}
    to.client.log_batch(to.run_id, params=[Param(key, value) for key, value in news.items()])


def _tell_tags(to: Listener, entries: Sequence[Entry]) -> None:
    to.set_tags(entries[0].body["tags"])


def _tell_name(to: Listener, entries: Sequence[Entry]) -> None:
    body, now = entries[0].body, to.client.get_run(to.run_id).info.run_name
    if is_generated_name(now) or now == body["instead_of"]:
        to.set_tags({"mlflow.runName": body["name"]})


def _tell_points(to: Listener, entries: Sequence[Entry]) -> None:
    # A store keeps a point that comes again with the same time, step and value once.
    from mlflow.entities import Metric

    to.client.log_batch(to.run_id, [Metric(*point) for entry in entries for point in points_of(entry)])


def _tell_model_points(to: Listener, entries: Sequence[Entry]) -> None:
    body = entries[0].body
    log_model_points(to.run_id, body["model_id"], points_of(entries[0]), body["dataset"])


def _tell_inputs(to: Listener, entries: Sequence[Entry]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = [
        DatasetInput(Dataset(**dataset), [InputTag("mlflow.data.context", context)])
        for context, dataset in entries[0].body["inputs"].items()
    ]
    to.client.log_inputs(to.run_id, inputs)


def _tell_artifact(to: Listener, entries: Sequence[Entry]) -> None:
    body = entries[0].body
    path = to.root / body["path"]
    if not path.exists():
        raise TrackingError(f"O arquivo {path} não existe mais, e não pode ser entregue ao MLflow; recupere-o.")
    if path.is_dir():
        to.client.log_artifacts(to.run_id, str(path), body["folder"])
    else:
        to.client.log_artifact(to.run_id, str(path), body["folder"])


def artifacts_of(run: Run) -> ArtifactRepository:
    """The artifacts of a run. (The client's own way asks the server for logged models, which an older one has not.)"""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(run.info.artifact_uri)


def _tell_checkpoint(to: Listener, entries: Sequence[Entry]) -> None:
    store, body = artifacts_of(to.client.get_run(to.run_id)), entries[0].body
    # The newest comes last: were it there alone, what goes on from it would find no best epoch's beside it.
    kept = [to.root / body[name] for name in ("best", "path") if body.get(name) is not None]
    if kept:
        newest = max(kept[-1].parent.glob("checkpoint-*"), key=_step, default=None)
        if newest != kept[-1]:  # told before, or a newer one follows
            shutil.rmtree(kept[-1], ignore_errors=True)
            return
    for checkpoint in kept:
        store.log_artifacts(str(checkpoint), f"{CHECKPOINT}/{checkpoint.name}")
    names = {f"{CHECKPOINT}/{checkpoint.name}" for checkpoint in kept}
    for older in store.list_artifacts(CHECKPOINT):
        if older.path not in names:
            store.delete_artifacts(older.path)
    shutil.rmtree(to.root / FOLDER / CHECKPOINT, ignore_errors=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _tell_table(to: Listener, entries: Sequence[Entry]) -> None:
    tables = json.loads(to.client.get_run(to.run_id).data.tags.get(TABLES_TAG, "[]"))
    table = {"path": entries[0].body["artifact"], "type": "table"}
    if table not in tables:
        to.set_tags({TABLES_TAG: json.dumps([*tables, table])})


def _tell_model(to: Listener, entries: Sequence[Entry]) -> None:
    if to.log_model is not None:
        to.log_model(to.run_id, to.root, entries[0].body)


def _tell_end(to: Listener, entries: Sequence[Entry]) -> None:
    entry = entries[0]
    to.client.set_terminated(to.run_id, entry.body["status"], entry.body.get("time", entry.time))


_TELLERS: Mapping[str, Callable[[Listener, Sequence[Entry]], None]] = {
    "open": _tell_open,
    "params": _tell_params,
    "tags": _tell_tags,
    "name": _tell_name,
    "points": _tell_points,
    "model_points": _tell_model_points,
    "inputs": _tell_inputs,
    "artifact": _tell_artifact,
    "checkpoint": _tell_checkpoint,
    "table": _tell_table,
    "model": _tell_model,
    "end": _tell_end,
}
