"""Where MLflow keeps the runs: whether it can be used, its first creation, its address without passwords."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from cartas_mlflow.console import say
from cartas_mlflow.errors import TrackingError, without_password
from cartas_mlflow.tracking.failures import failures_told, lost_connection, no_mlflow, refusal_of, unreachable

if TYPE_CHECKING:
    from requests import Response

SERVER_PATIENCE = 5.0
"""Seconds that a tracking server gets to answer before anything is started on it."""

_SQLITE = "sqlite:///"
_HTTP = ("http://", "https://")


def check_tracking_server() -> None:
    """Find out in seconds, not in the client's four minutes of retries, that a tracking server cannot be used.

    It is asked as MLflow's own client asks: with the same credentials and certificates.

    Raises:
        TrackingError: MLFLOW_TRACKING_URI names an HTTP server that does not answer, or answers as no MLflow does; or
            a folder, which MLflow no longer writes to, or would write to under another name.
    """
    import mlflow
    from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
    from mlflow.utils.uri import is_local_uri

    _settle_sqlite_address()
    uri = mlflow.get_tracking_uri()
    if uri.startswith(_HTTP):
        _knock(uri)
    elif is_local_uri(uri) and not MLFLOW_ALLOW_FILE_STORE.get():
        raise TrackingError(
            f"O MLflow não guarda mais execuções em uma pasta ({uri}); defina "
            "MLFLOW_TRACKING_URI=sqlite:///mlflow.db ou o endereço de um servidor."
        )
    elif uri.startswith(("postgresql", "mysql")):
        _knock_on_database(uri, connect_timeout=round(SERVER_PATIENCE) or 1)
    elif uri.startswith(_SQLITE) and _database_file(uri).exists():
        _knock_on_database(uri, "BEGIN IMMEDIATE", timeout=SERVER_PATIENCE)


def keeps_models() -> bool:
    """Whether the store in use has logged models; a server of MLflow 2, and some clouds', has none.

    Raises:
        MlflowException: it does not answer.
    """
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_HTTP):
        return True
    response = _ask(uri, "logged-models/search", {"experiment_ids": ["0"], "max_results": 1})
    return response.status_code not in {404, 405, 501}


def told_keeps_models() -> bool:
    """Whether the store in use has logged models; told if it has none. One that is away may have them."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        if keeps_models():
            return True
    except MlflowException as error:
        if lost_connection(error) is None:
            raise
        return True
    address = without_password(mlflow.get_tracking_uri())
    say(
        f"⚠️ O servidor MLflow em {address} não guarda modelos (isso veio com o MLflow 3): métricas, "
        "imagens, leituras e a pasta adapter/ são gravadas, mas não há o que promover; para isso, atualize o servidor."
    )
    return False


def _knock(uri: str) -> None:
    import requests
    from mlflow.exceptions import MlflowException

    try:
        response = _ask(uri, "experiments/search", {"max_results": 1})
    except (MlflowException, requests.RequestException) as error:
        cause = lost_connection(error) or error
        if isinstance(cause, requests.exceptions.SSLError):
            raise TrackingError(unreachable(cause)) from None
        raise TrackingError(
            f"O servidor MLflow em {without_password(uri)} não responde ({type(cause).__name__}); inicie-o com "
            "mlflow server, corrija MLFLOW_TRACKING_URI, ou treine sem ele (-P tracking.offline=true)."
        ) from None
    if (refusal := refusal_of(response.status_code)) is not None:
        raise TrackingError(refusal)
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise TrackingError(no_mlflow())


def _knock_on_database(uri: str, statement: str = "SELECT 1", **patience: float) -> None:
    # MLflow tries for a hundred seconds, each time with a warning.
    import sqlalchemy

    with failures_told():
        engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.NullPool, connect_args=patience)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


def _ask(uri: str, endpoint: str, body: Mapping[str, Any]) -> Response:
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(
        get_default_host_creds(uri),
        f"/api/2.0/mlflow/{endpoint}",
        "POST",
        timeout=SERVER_PATIENCE,
        max_retries=0,
        raise_on_status=False,
        json=dict(body),
    )


def _settle_sqlite_address() -> None:
    # MLflow writes its default address with %XX and makes a folder of that name, but opens the database without.
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        return
    database = _database_file(uri)
    folder = str(database.parent.absolute())
    for path in {folder, str(Path.cwd())}:
        if unquote(path) != path or "?" in path:
            raise TrackingError(
                f"O MLflow não trabalha na pasta {path}: com % ou ? no nome, ele grava em outra; mude o nome da pasta."
            )
    plain = f"{_SQLITE}{database}{uri[len(uri.partition('?')[0]) :]}"
    if plain != uri:
        mlflow.set_tracking_uri(plain)


def _database_file(uri: str) -> Path:
    return Path(unquote(uri.removeprefix(_SQLITE).partition("?")[0]))


def quiet_mlflow() -> None:
    """Silence what MLflow prints of itself: the console belongs to the phases. MLFLOW_LOGGING_LEVEL brings it back."""
    import mlflow  # sets its own level when it is imported

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger(mlflow.__name__).setLevel(logging.WARNING)
        # The traceback of every database error, which the project tells in a sentence.
        logging.getLogger(f"{mlflow.__name__}.store.db.utils").setLevel(logging.CRITICAL)
    # It would show the server's address as it was given, password included.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let no other process of this project open the same sqlite store: two that create its tables together destroy it.

    A store that is not there yet is there, whole, from the beginning.

    Raises:
        TrackingError: nothing can be written where the store is to be.
    """
    import mlflow
    from filelock import FileLock

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        yield
        return
    database = _database_file(uri)
    lock = FileLock(database.with_name(f"{database.name}.lock"))
    try:
        lock.acquire()
    except OSError as error:
        raise TrackingError(
            f"Não é possível escrever em {database.parent} ({error.strerror}); mude MLFLOW_TRACKING_URI para outra "
            "pasta."
        ) from None
    try:
        _make_whole(database)
        yield
    finally:
        lock.release()


def _make_whole(database: Path) -> None:
    """Make the tables in a file that takes the store's name once they are complete.

    MLflow makes them in place, one migration after the other: what a process leaves that is killed meanwhile, neither
    it nor its ``db upgrade`` can use.
    """
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import URL, create_engine

    if str(database).startswith(("file:", ":memory:")) or (database.exists() and database.stat().st_size > 0):
        return  # SQLite's own forms of address name no file that could take another's place
    beside = database.with_name(f".{database.name}.new")
    beside.unlink(missing_ok=True)
    engine = create_engine(URL.create("sqlite", database=str(beside)))
    try:
        with failures_told():
            _initialize_tables(engine)
    finally:
        engine.dispose()
    beside.replace(database)


def store_folder() -> Path:
    """The folder of a sqlite store; the working folder where the store is a server."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        return Path.cwd()
    return _database_file(uri).absolute().parent


def where_to_look(experiment_id: str, run_id: str) -> str:
    """Where a run can be looked at: its address on the tracking server, or the command that shows a local store."""
    import mlflow

    uri = without_password(mlflow.get_tracking_uri())
    if uri.startswith(_HTTP):
        # The interface otherwise opens with its pages for agents and prompts, which have none for models.
        return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}" if mlflow.is_tracking_uri_set() else "mlflow ui"
