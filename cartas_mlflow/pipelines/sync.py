"""Deliver to MLflow what trainings had to say while it was away, or while nobody looked for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cartas_mlflow.config import DEFAULT_CONFIG, load_config
from cartas_mlflow.console import say
from cartas_mlflow.errors import TrackingError, Undelivered
from cartas_mlflow.registry.candidates import connect
from cartas_mlflow.registry.logged import log_entry
from cartas_mlflow.tracking import leftovers
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.store import where_to_look
from cartas_mlflow.tracking.utility_runs import tell_project_run

if TYPE_CHECKING:
    from mlflow import MlflowClient


@failures_told()
def sync(
    config_path: str = DEFAULT_CONFIG, overrides: Mapping[str, Any] | None = None, *, folder: str | None = None
) -> list[str]:
    """Deliver a training's folder, or everything undelivered under a folder; the ids of the runs.

    Args:
        folder: one training's is delivered to the store in use even if another store has it already; None: everything
            undelivered in ``tracking.output_dir``.

    Raises:
        TrackingError: there is no such folder, or MLflow does not answer; what got there stays there.
        Undelivered: MLflow refused a part.
    """
    config = load_config(config_path, overrides)
    place = Path(folder or config.tracking.output_dir).expanduser()
    say(f"=== ENTREGANDO AO MLFLOW O QUE ESTÁ GUARDADO EM {place} ===")
    found = leftovers.run_folders(place)
    if not found:
        raise TrackingError(f"Não há treino com algo a entregar em {place}; indique a pasta de um treino.")
    waiting = found if found == [place] else [path for path in found if not leftovers.is_delivered(path)]
    if not waiting:
        say("✅ Nada a entregar: o MLflow já recebeu tudo.")
        if "MLFLOW_RUN_ID" in os.environ:
            _tell_project_run(connect(), place, "Nada a entregar.")
        return []
    client = connect()
    sent = [_send(path) for path in waiting]
    _tell_project_run(client, place, "\n".join(f"- {one.run.run_id}: {one.entries} registros" for one in sent))
    refusals = [sentence for one in sent for sentence in one.refusals]
    if refusals:
        raise Undelivered(f"Uma parte foi recusada: {refusals[0]}")
    return [one.run.run_id for one in sent]


def _tell_project_run(client: MlflowClient, place: Path, outcome: str) -> None:
    tell_project_run(client, f"entrega de {place}", outcome, command="sync")


def _send(path: Path) -> leftovers.Sent:
    sent = leftovers.send(path, log_entry)
    run = sent.run
    say(f"✅ {path}: {sent.entries} registros entregues; veja em: {where_to_look(run.experiment_id, run.run_id)}")
    if sent.cut_off:
        say(f"⚠️ O trabalho em {path} não chegou ao fim. Para continuar um treino: --resume {path}")
    return sent
