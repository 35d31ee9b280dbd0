"""The saved view "Comparar" of an experiment's table of runs: what MLflow's *Share* button writes, written by us.

The page of MLflow 3.17 keeps a view as an experiment tag: a JSON object with its name, its times (milliseconds) and, as
text, its state. It ignores what it does not know, so an older page just has no such view.
"""

from __future__ import annotations

import json
import time
from typing import Any

from cartas_mlflow.errors import without_password
from cartas_mlflow.tracking.metric_names import BEST_EPOCH, final
from cartas_mlflow.tracking.run import UTILITY_TAG

LOCAL = "http://127.0.0.1:5000"
KEY, NAME = "comparar", "Comparar"
TAG = f"mlflow.sharedViewState.{KEY}"
METRICS = (
    final("bits_per_character"),
    final("bits_per_character", over="base"),
    final("loss"),
    final("rougeL"),
    final("chrf"),
    final("copied_share"),
    BEST_EPOCH,
)
PARAMS = ("training.learning_rate", "lora.r", "training.epochs", "model.resolved", "derived.train_records")
RUN_NAME, RUN_NAME_WIDTH = "attributes.`Run Name`", 300
LETTER_WIDTH, USUAL_WIDTH = 7.5, 100
"""Pixels. The page by itself cuts a run's name after 22 characters, and a column's after some 13."""


def view_state() -> dict[str, Any]:
    """Trainings with their final figures and the settings that differ most, the best first; no run of a utility."""
    columns = [*(f"metrics.`{name}`" for name in METRICS), *(f"params.`{name}`" for name in PARAMS)]
    return {
        "searchFilter": f"tags.{UTILITY_TAG} IS NULL",
        "orderByKey": columns[0],
        "orderByAsc": True,  # bits: the fewer the better
        "selectedColumns": columns,
        "columnOrder": [RUN_NAME, *columns],
        "columnWidths": {
            RUN_NAME: RUN_NAME_WIDTH,
            **{f"metrics.`{name}`": max(USUAL_WIDTH, round(LETTER_WIDTH * len(name))) for name in METRICS},
        },
    }


def save_view(experiment_id: str) -> None:
    """Give the experiment the view, once: a person may have changed it since."""
    from mlflow import MlflowClient

    client = MlflowClient()
    if TAG in client.get_experiment(experiment_id).tags:
        return
    now = int(time.time() * 1000)
    view = {"name": NAME, "createdAt": now, "updatedAt": now, "state": json.dumps(view_state())}
    client.set_experiment_tag(experiment_id, TAG, json.dumps(view))


def view_place(experiment_id: str) -> str:
    """The view's address: on the tracking server, or where ``mlflow ui`` shows a local store."""
    import mlflow

    uri = without_password(mlflow.get_tracking_uri())
    server = uri.rstrip("/") if uri.startswith("http") else LOCAL
    return f"{server}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={KEY}"
