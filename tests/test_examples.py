"""The examples do what they say: readings on Spark are those of one process."""

from __future__ import annotations

import importlib.util
import itertools
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from trainings import Trainings

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.registry.model import ServedModel, open_folder
from cartas_mlflow.settings import RECORD_FIELDS

ROWS = 150
"""More than two batches of ``serving.max_rows``."""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed (extra spark)")
@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")
def test_spark_writes_the_texts_of_one_process_and_a_reason_where_there_is_none(
    finished_trainings: Trainings, tmp_path: Path
) -> None:
    adapter = finished_trainings.adapters["good"]
    served = ServedModel.load(adapter)
    combinations = list(itertools.product(served.cards, *(served.values[name] for name in RECORD_FIELDS[1:])))
    asked = pd.DataFrame(random.Random(0).sample(combinations, ROWS), columns=RECORD_FIELDS)
    odd = pd.DataFrame(
        [("O Sou", "Ano Novo", "Luz", "Amor"), (served.cards[0], None, "Luz", "Amor")], columns=RECORD_FIELDS
    )
    prompts = pd.concat([asked, odd]).assign(numero=range(ROWS + len(odd)))
    prompts.to_parquet(tmp_path / "pedidos.parquet", index=False)
    run = MlflowClient(finished_trainings.uri).get_run(finished_trainings.runs["good"])
    (model,) = run.outputs.model_outputs

    done = subprocess.run(
        [
            sys.executable,
            str(PROJECT_ROOT / "examples" / "spark.py"),
            f"models:/{model.model_id}",
            "pedidos.parquet",
            "leituras.parquet",
        ],
        env={
            **os.environ,
            "MLFLOW_TRACKING_URI": finished_trainings.uri,
            "PYTHONPATH": str(PROJECT_ROOT),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": "--master local[2] --conf spark.ui.enabled=false pyspark-shell",
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "✅ 152 linhas em leituras.parquet, 2 delas sem leitura (coluna erro)"
    written = pd.read_parquet(tmp_path / "leituras.parquet").sort_values("numero")
    assert list(written.columns) == [*prompts.columns, "texto", "erro"]
    assert written["texto"].tolist() == [*open_folder(adapter).write(asked), "", ""]
    *none, unknown, empty = written["erro"]
    assert set(none) == {""}
    assert unknown.startswith("este modelo não conhece a carta 'O Sou'") and "evento" in empty
