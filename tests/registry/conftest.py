"""A champion in a registry behind a real tracking server."""

from __future__ import annotations

import pytest
from champions import Champion, log_model
from trainings import Trainings, in_store

NAME = "cartas-ptt5"


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
