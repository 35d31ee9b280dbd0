"""A training that reached its end, as its tests look at it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
