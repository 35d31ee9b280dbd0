"""Where the runs are kept: what cannot be used is one sentence within seconds, a password never shows, and two
processes that start together on nothing do not break each other."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import TrackingError, without_password
from cartas_mlflow.tracking import store
from cartas_mlflow.tracking.store import check_tracking_server, one_at_a_time, where_to_look


@pytest.fixture
def tracking_uri(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """Gives the patch with which a test sets MLFLOW_TRACKING_URI, in an empty folder."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(None)
    yield monkeypatch
    mlflow.set_tracking_uri(None)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes the connection and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_server_that_is_not_there_is_one_sentence_within_seconds(
    tracking_uri: pytest.MonkeyPatch, closed_port: int
) -> None:
    tracking_uri.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    started = time.monotonic()
    with pytest.raises(TrackingError) as error:
        check_tracking_server()
    assert str(error.value) == (
        f"O servidor MLflow em http://127.0.0.1:{closed_port} não responde (ConnectionError); inicie-o com mlflow "
        "server, corrija MLFLOW_TRACKING_URI, ou treine sem ele (-P tracking.offline=true)."
    )
    assert time.monotonic() - started < 3


def test_a_server_that_never_answers_is_given_up(tracking_uri: pytest.MonkeyPatch, silent_port: int) -> None:
    assert store.SERVER_PATIENCE <= 5
    tracking_uri.setattr(store, "SERVER_PATIENCE", 0.2)
    tracking_uri.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    with pytest.raises(TrackingError, match=r"não responde \(ConnectionError\)"):
        check_tracking_server()


def test_the_password_of_a_server_does_not_show(tracking_uri: pytest.MonkeyPatch, closed_port: int) -> None:
    tracking_uri.setenv("MLFLOW_TRACKING_URI", f"http://ana:segredo@127.0.0.1:{closed_port}")
    with pytest.raises(TrackingError) as error:
        check_tracking_server()
    assert "segredo" not in str(error.value)
    assert f"http://127.0.0.1:{closed_port}" in str(error.value)
    assert error.value.__suppress_context__


@pytest.mark.parametrize("uri", ["./mlruns", "mlruns", "file:///tmp/mlruns"])
def test_a_folder_as_store_is_one_sentence(tracking_uri: pytest.MonkeyPatch, uri: str) -> None:
    tracking_uri.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError) as error:
        check_tracking_server()
    assert str(error.value) == (
        f"O MLflow não guarda mais execuções em uma pasta ({uri}); defina MLFLOW_TRACKING_URI=sqlite:///mlflow.db ou o "
        "endereço de um servidor."
    )


def test_an_old_folder_of_runs_that_mlflow_would_go_back_to_is_that_sentence_too(
    tracking_uri: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").write_text("name: Default\n", encoding="utf-8")
    with pytest.raises(TrackingError, match=r"MLFLOW_TRACKING_URI=sqlite:///mlflow\.db"):
        check_tracking_server()


def test_a_folder_that_the_user_insists_on_passes(tracking_uri: pytest.MonkeyPatch) -> None:
    tracking_uri.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    tracking_uri.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    check_tracking_server()


@pytest.mark.parametrize("uri", [None, "sqlite:///mlflow.db", "databricks"])
def test_other_stores_are_not_asked(tracking_uri: pytest.MonkeyPatch, uri: str | None) -> None:
    if uri is not None:
        tracking_uri.setenv("MLFLOW_TRACKING_URI", uri)
    check_tracking_server()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://ana:segredo@host:5000/x", "http://host:5000/x"),
        ("postgresql://ana:seg/re@do@banco/mlflow", "postgresql://banco/mlflow"),
        ("API request to https://token@host/api failed", "API request to https://host/api failed"),
        ("mssql://banco/db?user=ana&password=segredo&x=1", "mssql://banco/db?user=ana&password=***&x=1"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("escreva para ana@exemplo.org", "escreva para ana@exemplo.org"),
    ],
)
def test_addresses_are_shown_without_passwords(text: str, shown: str) -> None:
    assert without_password(text) == shown


@pytest.mark.parametrize(
    ("uri", "place"),
    [
        (None, "mlflow ui"),
        ("sqlite:////tmp/mlflow.db", "mlflow ui --backend-store-uri sqlite:////tmp/mlflow.db"),
        ("postgresql://ana:segredo@banco/mlflow", "mlflow ui --backend-store-uri postgresql://banco/mlflow"),
        ("http://ana:segredo@host:5000/", "http://host:5000/#/experiments/7/runs/abc?workflowType=machine_learning"),
    ],
)
def test_a_run_is_to_be_looked_at_where_it_is(tracking_uri: pytest.MonkeyPatch, uri: str | None, place: str) -> None:
    if uri is not None:
        tracking_uri.setenv("MLFLOW_TRACKING_URI", uri)
    assert where_to_look("7", "abc") == place


def test_a_store_where_nothing_can_be_written_is_one_sentence(tracking_uri: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "arquivo").write_text("", encoding="utf-8")
    tracking_uri.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/arquivo/mlflow.db")
    with pytest.raises(TrackingError) as error, one_at_a_time():
        pass
    assert str(error.value).startswith(f"Não é possível escrever em {tmp_path}/arquivo (")
    assert str(error.value).endswith("; mude MLFLOW_TRACKING_URI para outra pasta.")


def untouched_environment() -> dict[str, str]:
    """Of a process that finds this project, and the store where it starts."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**kept, "PYTHONPATH": str(PROJECT_ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_makes_the_store_leaves_none_that_the_next_cannot_use(tmp_path: Path) -> None:
    # SQLite keeps what a migration made, but not that it was made.
    code = (
        "import os, signal, sys\n"
        "from alembic.script.base import ScriptDirectory\n"
        "from cartas_mlflow.settings import TrackingSettings\n"
        "from cartas_mlflow.tracking.opening import open_run\n"
        "real = ScriptDirectory._upgrade_revs\n"
        "def upgrade(*given):\n"
        "    steps = real(*given)\n"
        "    last = steps[-1].migration_fn\n"
        "    steps[-1].migration_fn = lambda *a, **k: (last(*a, **k), os.kill(os.getpid(), signal.SIGKILL))\n"
        "    return steps\n"
        "if sys.argv[1:]:\n"
        "    ScriptDirectory._upgrade_revs = upgrade\n"
        "with open_run(TrackingSettings(system_metrics=False)) as run:\n"
        "    run.log_metrics({'x': 1.0})\n"
    )
    codes = [
        subprocess.run(
            [sys.executable, "-c", code, *words], env=untouched_environment(), cwd=tmp_path, check=False
        ).returncode
        for words in (["die"], [])
    ]
    assert codes == [-signal.SIGKILL, 0]


@pytest.mark.slow
def test_three_processes_that_start_together_on_nothing_get_a_run_each_and_say_nothing(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    code = (
        "from cartas_mlflow.settings import TrackingSettings\n"
        "from cartas_mlflow.tracking.opening import open_run\n"
        "with open_run(TrackingSettings(system_metrics_interval=0.5)) as run:\n"
        "    run.log_metrics({'x': 1.0})\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=untouched_environment(),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    assert [(process.returncode, output) for process, output in zip(started, outputs, strict=True)] == [(0, "")] * 3
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("cartas-ptt5")
    runs = client.search_runs([experiment.experiment_id])
    assert [(run.info.status, run.data.metrics) for run in runs] == [("FINISHED", {"x": 1.0})] * 3
