"""Real trainings on a tiny base: each takes seconds."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from finished import Trained, train_here


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
