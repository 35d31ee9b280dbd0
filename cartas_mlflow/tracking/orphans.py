"""Runs of dead processes that no journal ends any more: they would say RUNNING for ever."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from cartas_mlflow.tracking.delivery import Delivered, Delivery
from cartas_mlflow.tracking.run import NOTE_TAG, OUTCOME_TAG
from cartas_mlflow.tracking.telling import JOURNAL_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

LOOKED_THROUGH = 100
"""Runs of an experiment that say RUNNING, among which the dead ones are looked for."""


def end_superseded(delivery: Delivery, died: int) -> None:
    """End the earlier runs of a training that goes on in another one, as every ``mlflow run`` makes one.

    Args:
        delivery: of the training's journal, to the run in which it goes on.
        died: when the process before this one spoke last; ms since the epoch.
    """
    from mlflow.exceptions import MlflowException

    client, now = delivery.client, delivery.told.run_id
    for told in Delivered.of(delivery.folder):
        if told.run_id == now:
            continue
        try:
            run = client.get_run(told.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # another store's, or deleted for good
                raise
            continue
        if run.info.status == "RUNNING" and run.info.lifecycle_stage == "active":
            _end(client, run, f"**Interrompida.** O treino continua na execução {now}.", died)


def end_unborn(client: MlflowClient, experiment_id: str, own: str) -> int:
    """End the runs that an ``mlflow run`` of this machine made and, killed, never handed over; gives their number.

    Only in a sqlite store, which is of this machine: of a run on a server nobody can tell where it was made.
    """
    import mlflow

    if not mlflow.get_tracking_uri().startswith("sqlite:"):
        return 0
    made = "attributes.status = 'RUNNING' AND tags.`mlflow.source.type` = 'PROJECT'"
    runs = client.search_runs([experiment_id], made, max_results=LOOKED_THROUGH)
    waiting = [run for run in runs if JOURNAL_TAG not in run.data.tags and run.info.run_id != own]
    if not waiting:
        return 0
    worked_on, first_launch = _processes()
    dead = [run for run in waiting if run.info.run_id not in worked_on and run.info.start_time / 1000 < first_launch]
    for run in dead:
        _end(client, run, "**Interrompida** antes de o programa começar.", run.info.start_time)
    return len(dead)


def _end(client: MlflowClient, run: Run, note: str, died: int) -> None:
    from mlflow.entities import RunTag

    tags = [RunTag(OUTCOME_TAG, "interrupted"), RunTag(NOTE_TAG, note)]
    client.log_batch(run.info.run_id, tags=tags)
    client.set_terminated(run.info.run_id, "KILLED", died)


def _processes() -> tuple[set[str], float]:
    """The runs that processes of this machine were handed; when the first other ``mlflow run`` began (s, epoch)."""
    import psutil

    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    worked_on, first = set(), math.inf
    for process in psutil.process_iter(["pid", "cmdline", "create_time", "environ"]):
        facts = process.info  # None where this user may not look
        worked_on.add((facts["environ"] or {}).get("MLFLOW_RUN_ID", ""))
        words = facts["cmdline"] or []
        launches = "run" in words and any("mlflow" in word for word in words[: words.index("run")])
        if launches and facts["pid"] not in own:
            first = min(first, facts["create_time"])
    return worked_on, first
