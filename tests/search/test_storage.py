"""Where studies are kept: which database, one process at a time, and no password anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from databases import PASSWORD, USER, Server, free_port

from cartas_mlflow.config import PROJECT_ROOT
from cartas_mlflow.errors import SearchError
from cartas_mlflow.search.storage import VARIABLE, find_storage, one_at_a_time, open_storage


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv(VARIABLE, raising=False)
    return monkeypatch


def refusal(address: str, environment: pytest.MonkeyPatch, folder: Path) -> str:
    """The sentence that answers a storage that cannot be used."""
    environment.setenv(VARIABLE, address)
    with pytest.raises(SearchError) as error:
        open_storage(find_storage(folder), heartbeat=10)
    return str(error.value)


def test_a_study_is_kept_in_a_sqlite_file_of_the_folder_by_default(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = find_storage(tmp_path)
    assert address.file == tmp_path / "optuna.db"
    storage = open_storage(address, heartbeat=10)
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    storage.engine.dispose()
    assert (tmp_path / "optuna.db").exists()


@pytest.mark.parametrize(
    ("written", "driver"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg"),
        ("postgresql://u:p@h/d", "postgresql+psycopg"),
        ("mysql://u:p@h/d", "mysql+pymysql"),
        ("postgresql+pg8000://u:p@h/d", "postgresql+pg8000"),
    ],
)
def test_the_kind_of_database_is_enough_to_name_its_driver(
    written: str, driver: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv(VARIABLE, written)
    assert find_storage(tmp_path).url.drivername == driver


@pytest.mark.parametrize(
    ("written", "mend"),
    [
        ("um banco qualquer", "escreva postgresql://usuário:senha@máquina:5432/banco"),
        ("postgresql://u:p@h:porta/d", "escreva postgresql://usuário:senha@máquina:5432/banco"),
        ("oracle://u:p@h/d", "começa com oracle://; use postgresql://, mysql:// ou sqlite:///"),
        ("sqlite://", "dê um arquivo (sqlite:///optuna.db)"),
        ("sqlite:///:memory:", "dê um arquivo (sqlite:///optuna.db)"),
    ],
)
def test_an_address_that_cannot_be_used_is_one_sentence_without_the_address(
    written: str, mend: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv(VARIABLE, written)
    with pytest.raises(SearchError) as error:
        find_storage(tmp_path)
    assert mend in str(error.value)
    assert "u:p" not in str(error.value)


def test_a_driver_that_is_not_installed_names_the_extra_that_brings_it(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "pip install 'cartas-mlflow[mysql]'" in refusal(
        f"mysql+oursql://u:{PASSWORD[:3]}@h/d", environment, tmp_path
    )


def test_what_is_shown_of_an_address_holds_neither_user_nor_password(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv(VARIABLE, "postgresql://ana:abre-te@banco.exemplo:5433/estudos?password=sesamo&sslmode=require")
    address = find_storage(tmp_path)
    assert str(address) == "postgresql em banco.exemplo:5433/estudos"
    assert "abre-te" not in repr(address)
    assert "sesamo" not in repr(address)


def test_a_wrong_password_is_one_sentence_that_does_not_hold_it(
    postgres_server: Server, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = "Errada{y}%@:/?"
    sentence = refusal(postgres_server.address("postgres", wrong), environment, tmp_path)
    assert f"postgresql em 127.0.0.1:{postgres_server.port}/postgres" in sentence
    assert "password authentication failed" in sentence
    assert wrong not in sentence
    assert "Errada" not in sentence


def test_a_host_that_does_not_answer_is_one_sentence_without_the_password(
    postgres_server: Server, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    port = free_port()
    sentence = refusal(f"postgresql://{USER}:Calada123@127.0.0.1:{port}/d", environment, tmp_path)
    assert f"postgresql em 127.0.0.1:{port}/d" in sentence
    assert "Calada123" not in sentence


def test_a_missing_database_is_named(postgres_server: Server, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sentence = refusal(postgres_server.address("nenhuma"), environment, tmp_path)
    assert 'database "nenhuma" does not exist' in sentence
    assert PASSWORD not in sentence


def test_a_folder_that_cannot_be_written_is_one_sentence(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "arquivo").write_text("", encoding="utf-8")
    assert "não pôde ser usado" in refusal(f"sqlite:///{tmp_path}/arquivo/optuna.db", environment, tmp_path)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_one_process_at_a_time_and_a_killed_one_lets_the_next_in(
    kind: str, request: pytest.FixtureRequest, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if kind == "postgres":
        environment.setenv(VARIABLE, request.getfixturevalue("postgres"))
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom cartas_mlflow.search.storage import *\n"
        f"with one_at_a_time(find_storage(Path({str(tmp_path)!r})), 'x'):\n    print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        with one_at_a_time(find_storage(tmp_path), "y"):
            pass  # another name does not wait
        started = time.monotonic()
        threading.Timer(1, holder.kill).start()
        with one_at_a_time(find_storage(tmp_path), "x"):
            assert time.monotonic() - started > 0.9
    finally:
        holder.kill()
        holder.communicate()
