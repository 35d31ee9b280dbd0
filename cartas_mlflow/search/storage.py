"""Where a study is kept: a sqlite file, or the database that ``OPTUNA_STORAGE`` names. Its password is never shown."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from cartas_mlflow.errors import SearchError

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from sqlalchemy import URL

VARIABLE = "OPTUNA_STORAGE"
"""Environment variable with the database's address; only there, because it holds a password."""
CONNECT_SECONDS = 10
"""A host that does not answer is given up after this long."""
SQLITE_SECONDS = 60
"""How long a process waits for another one's write to a sqlite file."""
GRACE_BEATS = 4
"""Heartbeats missed until a trial counts as dead."""

_DRIVERS = {"postgres": "postgresql+psycopg", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_EXTRAS = {"postgresql": "postgres", "mysql": "mysql"}
_PASSWORD_KEYS = ("password", "passwd", "sslpassword")
_LOCK = {"postgresql": "SELECT pg_advisory_lock({key})", "mysql": "SELECT GET_LOCK('cartas-{key}', 86400)"}


@dataclass(frozen=True)
class StorageAddress:
    """``str(address)`` is what may be shown: no user, no password, no query."""

    url: URL

    def __str__(self) -> str:
        if self.url.get_backend_name() == "sqlite":
            return f"arquivo sqlite {self.url.database}"
        port = f":{self.url.port}" if self.url.port else ""
        return f"{self.url.get_backend_name()} em {self.url.host or 'localhost'}{port}/{self.url.database or ''}"

    def __repr__(self) -> str:
        return f"StorageAddress({self})"

    @property
    def file(self) -> Path | None:
        """The sqlite file; None for a database server."""
        if self.url.get_backend_name() != "sqlite":
            return None
        return Path(self.url.database or "optuna.db").absolute()

    def without_password(self, text: str) -> str:
        """The text, should it hold the password, without it."""
        for secret in self._secrets():
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> set[str]:
        query = [self.url.query[key] for key in _PASSWORD_KEYS if key in self.url.query]
        plain = {str(secret) for secret in (self.url.password, *query) if secret}
        return plain | {write(secret) for secret in plain for write in (quote, quote_plus)}


def find_storage(folder: Path) -> StorageAddress:
    """The database that the environment names; else ``optuna.db`` in the folder.

    Raises:
        SearchError: an address that cannot be read, or a kind of database that studies are not kept in.
    """
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return StorageAddress(URL.create("sqlite", database=str(folder / "optuna.db")))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise SearchError(
            f"{VARIABLE} não é um endereço de banco; escreva postgresql://usuário:senha@máquina:5432/banco "
            "(caracteres especiais da senha em %XX)."
        ) from None
    kind = url.drivername.split("+")[0]
    if kind not in {"sqlite", *_DRIVERS}:
        raise SearchError(f"{VARIABLE} começa com {kind}://; use postgresql://, mysql:// ou sqlite:///.")
    if kind == "sqlite" and url.database in {None, "", ":memory:"}:
        raise SearchError(
            f"{VARIABLE}: um sqlite na memória não pode ser dividido; dê um arquivo (sqlite:///optuna.db)."
        )
    return StorageAddress(url.set(drivername=_DRIVERS.get(url.drivername, url.drivername)))


def open_storage(address: StorageAddress, heartbeat: int) -> RDBStorage:
    """Connect, creating the tables where they are missing; one process at a time.

    Args:
        heartbeat: seconds between signs of life of a running trial.

    Raises:
        SearchError: no driver, no connection, or no right to the database.
    """
    from optuna.exceptions import ExperimentalWarning, OptunaError
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with one_at_a_time(address, "tables"), warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats are what revives a killed worker's trial
            storage = RDBStorage(
                # RDBStorage formats its address: a brace in a password would be a field.
                address.url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
                engine_kwargs={"connect_args": _connect_args(address), "pool_pre_ping": True},
                heartbeat_interval=heartbeat,
                grace_period=GRACE_BEATS * heartbeat,
            )
            if address.file is not None:
                _spare_the_disk(storage)
            return storage
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, OSError) as error:
        raise unusable(address, error) from None


@contextmanager
def one_at_a_time(address: StorageAddress, name: str) -> Iterator[None]:
    """Let one process in at a time, on whatever machine; a process that dies lets the next one in.

    Args:
        name: what is guarded; other names do not wait for it.
    """
    key = int.from_bytes(hashlib.sha256(f"cartas-mlflow {name}".encode()).digest()[:7])
    if address.file is not None:
        from filelock import FileLock

        address.file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(address.file.with_name(f"{address.file.name}.{key:x}.lock")):
            yield
        return
    import sqlalchemy

    # A connection of its own, really closed at the end: that gives the lock back, as a process's death does.
    engine = sqlalchemy.create_engine(address.url, poolclass=sqlalchemy.NullPool, connect_args=_connect_args(address))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sqlalchemy.text(_LOCK[address.url.get_backend_name()].format(key=key)))
        yield


def _spare_the_disk(storage: RDBStorage) -> None:
    """Let sqlite append to a log instead of syncing its file at each of the twenty small writes before a trial."""
    from sqlalchemy import event

    @event.listens_for(storage.engine, "connect")
    def append(connection: Any, record: object) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    storage.remove_session()
    storage.engine.dispose()  # the connections that were opened before


def _connect_args(address: StorageAddress) -> dict[str, int]:
    return {"timeout": SQLITE_SECONDS} if address.file is not None else {"connect_timeout": CONNECT_SECONDS}


def unusable(address: StorageAddress, error: BaseException) -> SearchError:
    """The error as a sentence for the user, without the password."""
    from sqlalchemy.exc import NoSuchModuleError

    kind = address.url.get_backend_name()
    if isinstance(error, (ImportError, NoSuchModuleError)):
        return SearchError(
            f"Falta o conector para {kind}; instale-o com pip install 'cartas-mlflow[{_EXTRAS.get(kind, kind)}]'."
        )
    while error.__cause__ is not None:  # the driver's own words, not those of the layers above it
        error = error.__cause__
    reason = address.without_password((str(error).splitlines() or [""])[0])
    return SearchError(
        f"O banco da busca ({address}) não pôde ser usado ({type(error).__name__}: {reason}); confira {VARIABLE} e se "
        "o banco está no ar, e repita o comando: a busca continua de onde estava."
    )
