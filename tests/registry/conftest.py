"""A champion in a registry behind a real tracking server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from trainings import Trainings, in_store

NAME = "cartas-ptt5"


@dataclass(frozen=True)
class Champion:
    """``uri``: of the model; ``server``: the tracking server's address."""

    uri: str
    server: str


@pytest.fixture(scope="session")
def champion(tracking_server: str, finished_trainings: Trainings, tmp_path_factory: pytest.TempPathFactory) -> Champion:
    """The good training's model, logged over HTTP and registered as the champion."""
    import mlflow
    from mlflow import MlflowClient

    from cartas_mlflow.registry.promotion import CHAMPION, register

    adapter = finished_trainings.adapters["good"]
    with in_store(tracking_server, tmp_path_factory.mktemp("logging")):
        mlflow.set_experiment("leituras")
        with mlflow.start_run():
            model_id = log_model(adapter)
        client = MlflowClient()
        client.set_registered_model_alias(NAME, CHAMPION, register(client, model_id, NAME).version)
    return Champion(f"models:/{NAME}@{CHAMPION}", tracking_server)


def log_model(adapter: Path, *, embed_base: bool = False) -> str:
    """Log the model of an adapter's folder on the active run, or on one of its own."""
    from cartas_mlflow.modeling.base import find_base
    from cartas_mlflow.registry.model import ServedModel, log_reading_model
    from cartas_mlflow.settings import ModelSettings, ServingSettings

    served = ServedModel.load(adapter)
    base = find_base(ModelSettings(name=served.base_name, revision=served.base_revision, fallback=None))
    return log_reading_model(adapter, base, ServingSettings(), description="…", embed_base=embed_base, step=0)
