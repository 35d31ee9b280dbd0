"""Where MLflow keeps the runs: whether it can be used, its first creation, its address without passwords."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cartas_mlflow.errors import TrackingError, without_password

SERVER_PATIENCE = 5.0
"""Seconds that a tracking server gets to answer before anything is started on it."""

_SQLITE = "sqlite:///"


def check_tracking_server() -> None:
    """Find out in seconds, not in the client's four minutes of retries, that a tracking server is not there.

    Raises:
        TrackingError: MLFLOW_TRACKING_URI names an HTTP server that does not answer, or a folder, which MLflow no
            longer writes to.
    """
    import mlflow
    import requests
    from mlflow.environment_variables import MLFLOW_ALLOW_FILE_STORE
    from mlflow.utils.uri import is_local_uri

    uri = mlflow.get_tracking_uri()
    if uri.startswith(("http://", "https://")):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=SERVER_PATIENCE)
        except requests.RequestException as error:
            raise TrackingError(
                f"O servidor MLflow em {without_password(uri)} não responde ({type(error).__name__}); inicie-o com "
                "mlflow server ou corrija MLFLOW_TRACKING_URI."
            ) from None
    elif is_local_uri(uri) and not MLFLOW_ALLOW_FILE_STORE.get():
        raise TrackingError(
            f"O MLflow não guarda mais execuções em uma pasta ({uri}); defina "
            "MLFLOW_TRACKING_URI=sqlite:///mlflow.db ou o endereço de um servidor."
        )


def quiet_mlflow() -> None:
    """Silence what MLflow prints of itself: the console belongs to the phases. MLFLOW_LOGGING_LEVEL brings it back."""
    import mlflow  # sets its own level when it is imported

    if "MLFLOW_LOGGING_LEVEL" not in os.environ:
        logging.getLogger(mlflow.__name__).setLevel(logging.WARNING)
    # It would show the server's address as it was given, password included.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let no other process of this project open the same sqlite store: two that create its tables together destroy it.

    Raises:
        TrackingError: nothing can be written where the store is to be.
    """
    import mlflow
    from filelock import FileLock

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        yield
        return
    database = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    lock = FileLock(database.with_name(f"{database.name}.lock"))
    try:
        lock.acquire()
    except OSError as error:
        raise TrackingError(
            f"Não é possível escrever em {database.parent} ({error.strerror}); mude MLFLOW_TRACKING_URI para outra "
            "pasta."
        ) from None
    try:
        yield
    finally:
        lock.release()


def store_folder() -> Path:
    """The folder of a sqlite store; the working folder where the store is a server."""
    import mlflow

    uri = mlflow.get_tracking_uri()
    if not uri.startswith(_SQLITE):
        return Path.cwd()
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute().parent


def where_to_look(experiment_id: str, run_id: str) -> str:
    """Where a run can be looked at: its address on the tracking server, or the command that shows a local store."""
    import mlflow

    uri = without_password(mlflow.get_tracking_uri())
    if uri.startswith(("http://", "https://")):
        # The interface otherwise opens with its pages for agents and prompts, which have none for models.
        return f"{uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"mlflow ui --backend-store-uri {uri}" if mlflow.is_tracking_uri_set() else "mlflow ui"
