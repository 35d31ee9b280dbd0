"""A training that reached its end, as its tests look at it: real, on a tiny base, in seconds."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from cartas_mlflow.pipelines.train import TrainingResult, train

STEPS_PER_EPOCH = 5
"""35 training records in batches of 8."""


@dataclass(frozen=True)
class Trained:
    """A training that reached its end."""

    result: TrainingResult
    client: MlflowClient

    @property
    def run(self) -> Run:
        return self.client.get_run(self.result.run_id)

    @property
    def folder(self) -> Path:
        return self.result.adapter.parent

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "training_metrics.json").read_text(encoding="utf-8"))

    def artifacts(self, path: str | None = None) -> list[str]:
        """Every file of the run's artifacts."""
        found = []
        for item in self.client.list_artifacts(self.result.run_id, path):
            found += self.artifacts(item.path) if item.is_dir else [item.path]
        return sorted(found)

    def artifact(self, path: str) -> Path:
        return Path(self.client.download_artifacts(self.result.run_id, path))

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of a metric's points."""
        return [(point.step, point.value) for point in self.client.get_metric_history(self.result.run_id, name)]


def train_here(settings: Mapping[str, Any], **others: Any) -> Trained:
    """Train in the store in use, with some settings changed (``training__epochs=2``)."""
    import mlflow

    overrides = {**settings, **{name.replace("__", "."): value for name, value in others.items()}}
    return Trained(train(overrides=overrides), MlflowClient(mlflow.get_tracking_uri()))


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory, bundled_rows: list[dict[str, str]]) -> Path:
    """Two cards, 42 readings."""
    import pandas as pd

    path = tmp_path_factory.mktemp("table") / "pequena.csv"
    pd.DataFrame(bundled_rows[:42]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def quick(tiny_base: Path, table: Path) -> dict[str, Any]:
    """Settings with which a training takes seconds; float32 and random batches, so that every bit can be compared."""
    return {
        "model.name": str(tiny_base),
        "data.path": str(table),
        "training.epochs": 3,
        "training.learning_rate": 0.005,
        "training.precision": "float32",
        "training.device": "cpu",
        "training.group_by_length": False,
        "lora.r": 4,
        "lora.target_modules": "all-linear",
        "generation.max_new_tokens": 16,
        "tracking.log_every_steps": 2,
        "tracking.system_metrics": False,
    }


@pytest.fixture(scope="session")
def trained(created_store: Path, quick: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The one training that most of the tests look at."""
    import mlflow

    folder = tmp_path_factory.mktemp("trained")
    shutil.copy(created_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setattr(logging.getLogger("cartas_mlflow"), "level", logging.INFO)
        mlflow.set_tracking_uri(None)
        return train_here(quick)
