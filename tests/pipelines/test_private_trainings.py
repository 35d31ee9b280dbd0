"""``tracking.log_texts=false``: no reading, real or generated, is in the store, whatever is done with the training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from finished import Trained, train_here
from mlflow import MlflowClient
from trainings import in_store

from cartas_mlflow.config import DEFAULT_CONFIG
from cartas_mlflow.errors import DataError, RegistryError
from cartas_mlflow.pipelines.compare import compare
from cartas_mlflow.pipelines.evaluate import evaluate
from cartas_mlflow.pipelines.promote import promote
from cartas_mlflow.registry.texts import validation_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def private(
    tmp_path_factory: pytest.TempPathFactory, created_store: Path, quick: dict[str, Any], table: Path
) -> Iterator[tuple[Path, Trained]]:
    """A folder with its store, and two private trainings of a table whose every text has a word of its own."""
    folder = tmp_path_factory.mktemp("segredo")
    shutil.copy(created_store, folder / "mlflow.db")
    rows = pd.read_csv(table)
    for column in ("texto", "tema", "evento"):
        rows[column] = [f"{text} {column}secreto{number}" for number, text in enumerate(rows[column])]
    rows.to_csv(folder / "leituras.csv", index=False)
    settings = {
        **quick,
        "data.path": str(folder / "leituras.csv"),
        "training.epochs": 1,
        "tracking.log_texts": False,
        "tracking.checkpoint_minutes": 0.0001,
    }
    with in_store(f"sqlite:///{folder / 'mlflow.db'}", folder):
        trained = train_here(settings)
        train_here(settings, training__seed=7)
        yield folder, trained


def store_words(folder: Path) -> str:
    files = [folder / "mlflow.db", *(path for path in (folder / "mlruns").rglob("*") if path.is_file())]
    assert len(files) > 20
    return "\n".join(path.read_bytes().decode("utf-8", errors="replace") for path in files)


def pieces(text: str) -> list[str]:
    """What would give a text away: five of its words on end."""
    words = text.split()
    return [" ".join(words[at : at + 5]) for at in range(len(words) - 4)]


def test_whatever_is_done_no_reading_is_in_the_store(private: tuple[Path, Trained], said: list[str]) -> None:
    folder, trained = private
    settings = {"tracking.log_texts": False, "registry.resamples": 200}
    evaluate(DEFAULT_CONFIG, {**settings, "data.path": str(folder / "leituras.csv")}, model=trained.result.run_id)
    compare(DEFAULT_CONFIG, settings, runs="last:2")
    promote(DEFAULT_CONFIG, settings, run_id=trained.result.run_id)
    with pytest.raises(DataError):
        evaluate(DEFAULT_CONFIG, {**settings, "data.path": str(folder / "nada.csv")}, model=trained.result.run_id)

    stored = store_words(folder)
    assert "secreto" not in stored
    written = pd.read_csv(trained.folder / "samples" / "final.csv")
    assert written["real"].str.contains("textosecreto").all()
    for text in written["gerado"]:
        assert not any(piece in stored for piece in pieces(text))


def test_figures_curves_model_and_a_report_without_readings_are(private: tuple[Path, Trained]) -> None:
    _, trained = private
    assert trained.artifacts("samples") == []
    assert "report/training_log.log" not in trained.artifacts("report")
    page = trained.artifact("report/relatorio.html").read_text(encoding="utf-8")
    assert "As leituras ficaram no computador que treinou" in page
    assert "secreto" in (trained.folder / "relatorio.html").read_text(encoding="utf-8")
    assert trained.run.data.metrics["final/chrf"] > 0
    assert "Bits por caractere" in trained.run.data.tags["mlflow.note.content"]
    assert trained.run.data.tags["readings.folder"] == str(trained.folder)


def test_elsewhere_the_comparison_says_where_the_readings_are(private: tuple[Path, Trained], tmp_path: Path) -> None:
    _, trained = private
    away = shutil.move(trained.folder / "samples", tmp_path / "samples")
    try:
        with pytest.raises(RegistryError, match=r"ficaram no computador que a treinou \(tracking.log_texts=false\)"):
            validation_table(trained.result.run_id)
    finally:
        shutil.move(away, trained.folder / "samples")


def test_the_served_model_knows_the_cards_and_no_more_of_the_table(private: tuple[Path, Trained]) -> None:
    _, trained = private
    served = json.loads((trained.folder / "adapter" / "served.json").read_text(encoding="utf-8"))
    assert len(served["cards"]) == 2
    assert served["values"] == {}
    (model,) = MlflowClient().search_logged_models([trained.run.info.experiment_id], max_results=1)
    assert model.status == "READY"
