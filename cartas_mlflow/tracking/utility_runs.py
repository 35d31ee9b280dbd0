"""Runs of commands that look at trainings: named after what they did, and out of the way of the trainings."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cartas_mlflow.tracking.run import UTILITY_TAG, is_generated_name

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tuck_away(client: MlflowClient, run_id: str, command: str, training: str | None) -> None:
    """Mark a run as no training, and fold it, in MLflow's table, under the training that it is about."""
    client.set_tag(run_id, UTILITY_TAG, command)
    if training is not None:
        client.set_tag(run_id, "mlflow.parentRunId", training)


def tell_project_run(
    client: MlflowClient, name: str, description: str, *, command: str, training: str | None = None
) -> None:
    """Name and describe the run that ``mlflow run`` opened for a command, if it did; a name given by a person stays.

    Args:
        command, training: see :func:`tuck_away`.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id is None:
        return
    tuck_away(client, run_id, command, training)
    if is_generated_name(client.get_run(run_id).info.run_name):
        client.set_tag(run_id, "mlflow.runName", name)
    client.set_tag(run_id, "mlflow.note.content", description)
