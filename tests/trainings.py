"""Fixtures of what comes after a training: a store with a few finished ones, small and real."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from cartas_mlflow.settings import TEMPLATES

EXPERIMENT = "leituras"
CARDS = 4
STEPS = 250
RECIPE = {
    "model.fallback": "none",
    "data.validation_fraction": "0.5",
    "lora.target_modules": "all-linear",
    "training.epochs": "1",
    "training.scheduler": "constant",
    "training.warmup_ratio": "0",
    "training.precision": "float32",
    "generation.max_new_tokens": "32",
    "generation.min_new_tokens": "24",
    "generation.no_repeat_ngram_size": "3",
    "tracking.experiment": EXPERIMENT,
    "tracking.system_metrics": "false",
}
"""Half of the readings are for validation, so that there is enough to compare on."""
VARIANTS = {
    "terse": {"training.learning_rate": "1e-9", "generation.max_new_tokens": "1", "generation.min_new_tokens": "0"},
    "good": {"training.learning_rate": "1e-9"},
    "as_good": {"training.learning_rate": "1e-9", "training.seed": "43"},
    "other_split": {"training.learning_rate": "1e-9", "data.split_seed": "7"},
}
"""All but nothing is learnt, so the texts are the base's; the terse one stops after a token."""


@dataclass(frozen=True)
class Trainings:
    """Finished trainings in one store. ``runs``: variant -> run id; ``adapters``: variant -> folder."""

    uri: str
    table: Path
    runs: Mapping[str, str]
    adapters: Mapping[str, Path]


@pytest.fixture(scope="session")
def writing_base(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, bundled_rows: list[dict[str, str]]) -> Path:
    """The tiny base, every weight trained on the readings of the cards that the trainings do not use."""
    import torch
    from transformers import AutoTokenizer, T5ForConditionalGeneration

    torch.manual_seed(0)
    model = T5ForConditionalGeneration.from_pretrained(tiny_base, dropout_rate=0.0).train()
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    rows = bundled_rows[21 * CARDS :]
    prompts = [TEMPLATES["instrucao"].format(**row) for row in rows]
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        chosen = torch.randperm(len(rows))[:8].tolist()
        batch = tokenizer([prompts[index] for index in chosen], padding=True, return_tensors="pt")
        texts = [rows[index]["texto"] for index in chosen]
        labels = tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")["input_ids"]
        model(**batch, labels=labels.masked_fill(labels == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("base") / "writing-t5"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def finished_trainings(
    tmp_path_factory: pytest.TempPathFactory,
    created_store: Path,
    writing_base: Path,
    bundled_rows: list[dict[str, str]],
) -> Trainings:
    """The trainings of :data:`VARIANTS`, on four cards."""
    import pandas as pd

    from cartas_mlflow.pipelines.train import train

    folder = tmp_path_factory.mktemp("trainings")
    table = folder / "leituras.csv"
    pd.DataFrame(bundled_rows[: 21 * CARDS]).to_csv(table, index=False)
    shutil.copy(created_store, folder / "mlflow.db")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    common = {**RECIPE, "data.path": str(table), "model.name": str(writing_base), "tracking.output_dir": str(folder)}
    runs, adapters = {}, {}
    with in_store(uri, folder):
        for name, values in VARIANTS.items():
            result = train(overrides={**common, **values})
            runs[name], adapters[name] = result.run_id, result.adapter
    return Trainings(uri, table, runs, adapters)


@pytest.fixture
def trainings(finished_trainings: Trainings, tmp_path: Path) -> Iterator[Trainings]:
    """The finished trainings, their store in use, in an empty working folder."""
    with in_store(finished_trainings.uri, tmp_path):
        yield finished_trainings


@pytest.fixture
def empty_store(created_store: Path, tmp_path: Path) -> Iterator[str]:
    """A store of this test's own in its working folder; gives its URI."""
    shutil.copy(created_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with in_store(uri, tmp_path):
        yield uri


@contextmanager
def in_store(uri: str, folder: Path) -> Iterator[None]:
    """A store and a working folder, for a while."""
    import mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        mlflow.set_tracking_uri(uri)
        _forget_experiment()
        yield
        mlflow.set_tracking_uri(None)
        _forget_experiment()


def _forget_experiment() -> None:
    # MLflow remembers the experiment of one store when the next is set.
    import mlflow

    mlflow.tracking.fluent._active_experiment_id = None
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment_elsewhere(**others: str) -> dict[str, str]:
    """The environment of a process that knows nothing of this repository, with this Python's programs first."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHON", "PYTEST_"))
    }
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return {**inherited, "PATH": programs, **quiet, **others}


@contextmanager
def started(words: list[str], folder: Path, health: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server that answers at ``health``; its output goes to a file in its folder."""
    import requests

    log = folder / f"{words[1]}.log"
    with (
        log.open("wb") as stream,
        subprocess.Popen(
            words, cwd=folder, env=environment_elsewhere(**variables), stdout=stream, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < deadline, log.read_text(errors="replace")
                try:
                    if requests.get(health, timeout=5).status_code == 200:
                        break
                except requests.ConnectionError:
                    time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory, created_store: Path) -> Iterator[str]:
    """A real ``mlflow server`` that keeps the artifacts itself; gives its address."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(created_store, folder / "mlflow.db")
    address = f"http://127.0.0.1:{(port := free_port())}"
    words = ["mlflow", "server", "--port", str(port), "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db"]
    with started(words, folder, f"{address}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield address
