"""The newest checkpoint of a training among its run's artifacts, with the best epoch's, so that it can go on where its
folder is not."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cartas_mlflow.errors import TrackingError
from cartas_mlflow.tracking.delivery import remember_told
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.journal import FOLDER, Journal, Point
from cartas_mlflow.tracking.run import NOTE_TAG, OUTCOME_TAG, TrackedRun
from cartas_mlflow.tracking.telling import CHECKPOINT, JOURNAL_TAG, artifacts_of

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SIGN_OF_LIFE = 120
"""Seconds without a point after which a run that says RUNNING is taken for one whose process died."""
LOOKED_THROUGH = 100
"""Interrupted runs of an experiment among which one with a checkpoint is looked for."""


def keep_checkpoint(run: TrackedRun, checkpoint: Path) -> Path:
    """Have a checkpoint delivered, and the best epoch's, whose adapter is the training's should none be better.

    Returns:
        Where its files wait for that, for the trainer may delete its own.
    """
    best = _best_of(checkpoint)
    entry = {} if best is None else {"best": _lay_aside(run, best)}
    entry["path"] = _lay_aside(run, checkpoint)
    run.journal.write("checkpoint", entry)
    return run.journal.root / entry["path"]


def drop_checkpoint(run: TrackedRun) -> None:
    """A training that reached its end needs none: have it deleted, if there is one."""
    if "checkpoint" in run.journal.kinds:
        run.journal.write("checkpoint", {"path": None})


def find_interrupted(client: MlflowClient, experiment: str) -> str | None:
    """The id of the experiment's interrupted training that has a checkpoint and began last."""
    with failures_told():
        found = client.get_experiment_by_name(experiment)
        if found is None:
            return None
        interrupted = f"tags.{OUTCOME_TAG} = 'interrupted'"
        runs = client.search_runs([found.experiment_id], interrupted, max_results=LOOKED_THROUGH)
        return next((run.info.run_id for run in runs if artifacts_of(run).list_artifacts(CHECKPOINT)), None)


def fetch_training(run_id: str, folder: Path) -> str:
    """Fill a training's folder anew from its run: checkpoint, settings, split, and what the run has been told.

    Returns:
        The experiment's name.

    Raises:
        TrackingError: no such run, none with a checkpoint, or one that is still at work.
    """
    from mlflow import MlflowClient

    client = MlflowClient()
    with failures_told():
        run = client.get_run(run_id)
        experiment = client.get_experiment(run.info.experiment_id).name
        store = artifacts_of(run)
        if not store.list_artifacts(CHECKPOINT):
            raise TrackingError(
                f"A execução {run_id} não tem checkpoint guardado no MLflow (tracking.checkpoint_minutes); continue no "
                "computador onde ela treinava, ou comece um treinamento novo."
            )
        points = [
            Point(name, metric.value, metric.timestamp, metric.step)
            for name in run.data.metrics
            for metric in client.get_metric_history(run_id, name)
        ]
        _check_dead(run, points)
        for artifact in ("config/config_resolved.yaml", "data/split.csv"):
            store.download_artifacts(artifact, str(folder))
            (folder / artifact).rename(folder / Path(artifact).name)
            (folder / artifact).parent.rmdir()
        store.download_artifacts(CHECKPOINT, str(folder))
        (folder / CHECKPOINT).rename(folder / "checkpoints")
    _write_journal(run, experiment, points, folder)
    return experiment


def _check_dead(run: Run, points: Sequence[Point]) -> None:
    age = time.time() - max((point.timestamp for point in points), default=run.info.start_time) / 1000
    if run.info.status == "RUNNING" and age < SIGN_OF_LIFE:
        raise TrackingError(
            f"A execução {run.info.run_id} ainda está trabalhando (deu sinal há {max(age, 0):.0f} s); espere ela "
            f"terminar, ou, se o processo morreu, repita o comando daqui a {SIGN_OF_LIFE / 60:g} minutos."
        )


def _write_journal(run: Run, experiment: str, points: Sequence[Point], folder: Path) -> None:
    """All of it counts as told, so that what the training repeats stands once."""
    tags, journal = run.data.tags, Journal(folder / FOLDER)
    opened = {"journal": tags.get(JOURNAL_TAG, run.info.run_id), "experiment": experiment}
    journal.write("open", {**opened, "parent": None, "tags": {}, "marks": {}})
    journal.add_points(list(points))
    kept = {name: tags[name] for name in (OUTCOME_TAG, NOTE_TAG) if name in tags}
    journal.write("tags", {"tags": kept})
    journal.write("checkpoint", {"path": None})  # the run has one: at the training's end it is to be deleted
    journal.write("end", {"status": "KILLED" if run.info.status == "RUNNING" else run.info.status})
    remember_told(journal.folder, run.info.run_id, run.info.experiment_id, len(journal))


def _best_of(checkpoint: Path) -> Path | None:
    """The best epoch's checkpoint as of this one; None if it is this one, or is not there."""
    step = json.loads((checkpoint / "trainer_state.json").read_bytes())["best_global_step"]
    best = checkpoint.with_name(f"checkpoint-{step}")
    return best if best != checkpoint and best.is_dir() else None


def _lay_aside(run: TrackedRun, checkpoint: Path) -> str:
    """Where a checkpoint's files have a second name from now on, from the run's folder."""
    waiting = run.journal.folder / CHECKPOINT / checkpoint.name
    aside = waiting.with_name(f".{waiting.name}")
    for folder in (aside, waiting):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(checkpoint, aside, copy_function=_link)
    aside.rename(waiting)
    return waiting.relative_to(run.journal.root).as_posix()


def _link(source: str, target: str) -> None:
    """A second name for a file, which takes no room; a copy where the disk knows none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
