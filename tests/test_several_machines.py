"""examples/compose.yaml as far as that goes without Docker: its own command, a real PostgreSQL, a simulated S3."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import mlflow
import pandas as pd
import psycopg
import pytest
import yaml
from databases import Server
from finished import train_here
from mlflow import MlflowClient
from trainings import environment_elsewhere, free_port, in_store, started

from cartas_mlflow.cli import EXIT_OK, main
from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.pipelines.promote import promote
from cartas_mlflow.registry.model import open_logged

COMPOSE = yaml.safe_load((PROJECT_ROOT / "examples" / "compose.yaml").read_text(encoding="utf-8"))
KEYS = {"AWS_ACCESS_KEY_ID": "cartas", "AWS_SECRET_ACCESS_KEY": "segredo", "AWS_DEFAULT_REGION": "us-east-1"}


def files_of(address: str) -> Any:
    """A client of the S3-compatible store."""
    return boto3.client(
        "s3",
        endpoint_url=address,
        region_name=KEYS["AWS_DEFAULT_REGION"],
        aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
    )


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3-compatible store with the arrangement's bucket; gives its address."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    address = f"http://127.0.0.1:{port}"
    words = [str(Path(sys.executable).with_name("moto_server")), "-p", str(port)]
    with started(words, folder, f"{address}/moto-api/"):
        files_of(address).create_bucket(Bucket="cartas")
        yield address


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, postgres_server: Server, s3: str) -> Iterator[dict[str, str]]:
    """The arrangement's server; gives the variables of a machine that trains."""
    with psycopg.connect(postgres_server.address("postgres"), autocommit=True) as connection:
        for name in ("mlflow", "busca"):
            connection.execute(f'DROP DATABASE IF EXISTS "{name}"')
            connection.execute(f'CREATE DATABASE "{name}"')
    port = free_port()
    there = postgres_server.address("mlflow").replace("postgresql://", "postgresql+psycopg://")
    words = [
        re.sub(r"postgresql\+psycopg://\S+", lambda _: there, word)
        .replace("0.0.0.0", "127.0.0.1")
        .replace("--port=5000", f"--port={port}")
        .replace("--workers=2", "--workers=1")
        for word in COMPOSE["services"]["mlflow"]["command"]
    ]
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in words]
    assert not any("$" in word for word in words)
    words[0] = str(Path(sys.executable).with_name("mlflow"))
    variables = {**COMPOSE["services"]["mlflow"]["environment"], **KEYS, "MLFLOW_S3_ENDPOINT_URL": s3}
    address = f"http://127.0.0.1:{port}"
    folder = tmp_path_factory.mktemp("servidor")
    with started(words, folder, f"{address}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", **variables):
        yield {"MLFLOW_TRACKING_URI": address, "OPTUNA_STORAGE": postgres_server.address("busca")}


def test_the_arrangement_names_the_versions_of_this_project() -> None:
    pins = (PROJECT_ROOT / "conda.yaml").read_text(encoding="utf-8")
    (version,) = re.findall(r"mlflow==([\d.]+)", COMPOSE["services"]["mlflow"]["build"]["dockerfile_inline"])
    assert f"- mlflow=={version}\n" in pins
    guide = (PROJECT_ROOT / "docs" / "varias-maquinas.md").read_text(encoding="utf-8")
    assert "examples/compose.yaml" in guide


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "configs" / "accelerate").glob("*.yaml")), ids=lambda p: p.stem)
def test_accelerate_understands_its_files(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert (config.distributed_type.value, config.mixed_precision) == ("MULTI_GPU", "no")
    assert config.num_processes % config.num_machines == 0


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs docker compose's own reader")
def test_docker_compose_understands_the_file() -> None:
    checked = subprocess.run(
        ["docker", "compose", "-f", "examples/compose.yaml", "config", "--quiet"],
        cwd=PROJECT_ROOT,
        env={**os.environ, "CARTAS_PASSWORD": "segredo"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "is not a docker command" in checked.stderr or "unknown shorthand" in checked.stderr:
        pytest.skip("docker without compose")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.slow
def test_a_training_a_search_and_the_champion_live_on_the_shared_server(
    shared: dict[str, str],
    s3: str,
    quick: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPTUNA_STORAGE", shared["OPTUNA_STORAGE"])
    with in_store(shared["MLFLOW_TRACKING_URI"], tmp_path):
        client = MlflowClient()
        trained = train_here(quick, training__epochs=1)
        assert trained.run.info.status == "FINISHED"
        assert trained.run.info.artifact_uri.startswith("mlflow-artifacts:/")
        kept = files_of(s3).list_objects_v2(Bucket="cartas")
        keys = [entry["Key"] for entry in kept["Contents"]]
        assert any(key.endswith("adapter/adapter_model.safetensors") for key in keys)
        assert all(key.startswith("mlflow/") for key in keys)

        promote(run_id=trained.result.run_id)
        champion = open_logged("models:/cartas-ptt5@champion")
        request = {"carta": ["O Louco"], "evento": ["Ano Novo"], "secao": ["Luz"], "tema": ["Amor"]}
        assert champion.write(pd.DataFrame(request))[0]

        settings = {**quick, "training.epochs": 1, "study": "noite", "trials": 2}
        del settings["training.learning_rate"]  # it is searched for
        assert main(["tune", *(f"--{name}={value}" for name, value in settings.items())]) == EXIT_OK
        (study,) = client.search_runs([trained.run.info.experiment_id], "tags.`search.study` = 'noite'")
        assert study.data.tags["outcome"] == "finished"
        assert client.list_artifacts(study.info.run_id, "search")

        image = tmp_path / "imagem"
        words = ["models", "generate-dockerfile", "-m", "models:/cartas-ptt5@champion", "-d", str(image)]
        subprocess.run(
            [sys.executable, "-m", "mlflow", *words, "--env-manager", "virtualenv"],
            env=environment_elsewhere(MLFLOW_TRACKING_URI=shared["MLFLOW_TRACKING_URI"]),
            check=True,
            capture_output=True,
        )
        assert "FROM" in (image / "Dockerfile").read_text(encoding="utf-8")
        assert list(image.rglob("adapter_model.safetensors"))
    mlflow.set_tracking_uri(None)
