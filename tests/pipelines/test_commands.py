"""The main job as its users start it: the plain command, ``mlflow run``, a git address, a tracking server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from mlflow import MlflowClient
from mlflow.entities import Run

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import TrackingError
from cartas_mlflow.settings import TrackingSettings
from cartas_mlflow.tracking.opening import open_run

pytestmark = pytest.mark.slow

IGNORED = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "results", "mlruns", "mlflow.db*", "base", ".venv*")


def environment(**others: str) -> dict[str, str]:
    """This process's environment, with this Python's programs first and without what it has set for MLflow."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT_ROOT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        **others,
    }


def run_command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=300, check=False
    )


def all_runs(uri: str) -> list[Run]:
    return list(MlflowClient(uri).search_runs([e.experiment_id for e in MlflowClient(uri).search_experiments()]))


@pytest.fixture
def few(quick: Mapping[str, Any], tmp_path: Path) -> dict[str, str]:
    """One epoch, everything written under this test's folder."""
    settings = {
        **quick,
        "training.epochs": 1,
        "generation.max_new_tokens": 8,
        "tracking.output_dir": tmp_path / "saída",
    }
    return {name: str(value) for name, value in settings.items()}


def test_the_plain_command_trains_says_its_phases_and_nothing_else(
    few: dict[str, str], created_store: Path, tmp_path: Path
) -> None:
    shutil.copy(created_store, tmp_path / "mlflow.db")
    words = [word for name, value in few.items() for word in (f"--{name}", value)]
    done = run_command(sys.executable, "-m", "cartas_mlflow", "train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("=== INICIANDO FINE-TUNING PTT5 - SISTEMA DE CARTAS ===\n1. Carregando")
    assert done.stdout.splitlines()[-1].startswith("  python -m cartas_mlflow promote --run_id ")
    for noise in ("INFO", "mlflow.", "dataset source", "it/s", "🏃"):
        assert noise not in done.stdout + done.stderr, noise
    (run,) = all_runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert run.info.status == "FINISHED"
    assert run.data.params["training.learning_rate"] == "0.005"


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """The project as a git repository under an address that git itself resolves."""
    folder = tmp_path / "repositório"
    shutil.copytree(PROJECT_ROOT, folder, ignore=IGNORED)
    git = ("git", "-c", "user.name=Teste", "-c", "user.email=teste@exemplo.invalid")
    for words in (("init", "--quiet", "--initial-branch=main"), ("add", "--all"), ("commit", "--quiet", "-m", "tudo")):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder.as_uri()


def test_a_git_address_trains_with_one_command(
    few: dict[str, str], created_store: Path, repository: str, tmp_path: Path
) -> None:
    caller = tmp_path / "de quem chama"
    caller.mkdir()
    shutil.copy(created_store, caller / "mlflow.db")
    words = [word for name, value in few.items() for word in ("-P", f"{name}={value}")]
    done = run_command(
        *("mlflow", "run", "https://git.invalid/cartas.git", "--env-manager", "local"),
        *("--experiment-name", "leituras", *words),
        cwd=caller,
        PYTHONPATH="",
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0=f"url.{repository}.insteadOf",
        GIT_CONFIG_VALUE_0="https://git.invalid/cartas.git",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = all_runs(f"sqlite:///{caller}/mlflow.db")
    assert (run.info.status, run.data.tags["outcome"]) == ("FINISHED", "finished")
    assert MlflowClient(f"sqlite:///{caller}/mlflow.db").get_experiment(run.info.experiment_id).name == "leituras"
    assert run.data.tags["mlflow.source.git.repoURL"].endswith("cartas.git")
    assert Path(run.info.artifact_uri).is_relative_to(caller)


@dataclass(frozen=True)
class Server:
    address: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def server(created_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real tracking server."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(created_store, folder / "mlflow.db")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *(
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
                "--artifacts-destination",
                str(folder / "artifacts"),
            ),
        ],
        cwd=folder,
        env=environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    server = Server(f"http://127.0.0.1:{port}", process)
    deadline = time.monotonic() + 120
    while True:
        try:
            if requests.get(f"{server.address}/health", timeout=1).ok:
                break
        except requests.RequestException:
            assert process.poll() is None, "the server has ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.2)
    yield server
    server.stop()


def test_mlflow_run_against_a_server_leaves_one_finished_run_with_what_was_typed(
    few: dict[str, str], server: Server, tmp_path: Path
) -> None:
    typed = {**few, "training.learning_rate": "5e-3", "data.template": "{carta} é {tema}, não é?", "epochs": "1"}
    del typed["training.epochs"]
    words = [word for name, value in typed.items() for word in ("-P", f"{name}={value}")]
    done = run_command(
        *("mlflow", "run", str(PROJECT_ROOT), "--env-manager", "local", "--experiment-name", "pela rede", *words),
        cwd=tmp_path,
        MLFLOW_TRACKING_URI=server.address,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    client = MlflowClient(server.address)
    (run,) = all_runs(server.address)
    assert run.info.status == "FINISHED"
    assert client.get_experiment(run.info.experiment_id).name == "pela rede"
    assert {name: run.data.params[name] for name in ("training.learning_rate", "epochs", "data.template")} == {
        "training.learning_rate": "5e-3",
        "epochs": "1",
        "data.template": "'{carta} é {tema}, não é?'",  # as MLflow logs it; what was used stands below
    }
    assert run.data.params["derived.template"] == "{carta} é {tema}, não é?"
    assert run.data.params["training.epochs"] == "1"
    assert run.info.run_name.startswith("lr 0.005 · r4 · tiny-t5 · perda ")
    assert "final/rougeL" in run.data.metrics
    adapter = {item.path for item in client.list_artifacts(run.info.run_id, "adapter")}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/tokenizer.json"} <= adapter
    page = (
        f"{server.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?workflowType=machine_learning"
    )
    assert f"Ver e comparar:\n  {page}\n" in done.stdout


def test_a_server_that_goes_away_is_one_sentence(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    # The last test of this server.
    import mlflow

    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    mlflow.set_tracking_uri(server.address.replace("//", "//ana:segredo@"))
    try:
        settings = TrackingSettings(system_metrics=False, wait=0)
        with pytest.raises(TrackingError) as error, open_run(settings) as run:
            server.stop()
            run.log_metrics({"x": 1.0})
    finally:
        mlflow.set_tracking_uri(None)
    assert str(error.value) == (
        f"O MLflow em {server.address} parou de responder, e a execução {run.id} ficou incompleta nele; com ele de "
        "volta, repita o comando."
    )
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
