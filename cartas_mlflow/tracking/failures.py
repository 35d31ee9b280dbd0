"""The one place where what MLflow, its stores and the disk answer becomes a sentence; anything else is a bug."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from cartas_mlflow.errors import TrackingError, UserError, first_line, without_password

_DISK = {
    errno.ENOSPC: "o disco está cheio",
    errno.EDQUOT: "a cota do disco acabou",
    errno.EFBIG: "o arquivo passa do tamanho permitido",
    errno.EROFS: "o disco é só de leitura",
    errno.EACCES: "falta permissão",
    errno.EPERM: "falta permissão",
    errno.ENOTDIR: "há um arquivo no lugar de uma pasta",
    errno.EIO: "o disco falhou",
}
_FULL_DISK = re.compile(r"No space left on device|PytorchStreamWriter failed writing")
"""torch and safetensors tell of it in exceptions of their own."""
_MODULES = {
    "psycopg2": (
        "postgresql",
        "escreva postgresql+psycopg://… no endereço e instale com pip install 'cartas-mlflow[postgres]'",
    ),
    "psycopg": ("postgresql", "instale-o com pip install 'cartas-mlflow[postgres]'"),
    "MySQLdb": ("mysql", "escreva mysql+pymysql://… no endereço e instale com pip install 'cartas-mlflow[mysql]'"),
    "pymysql": ("mysql", "instale-o com pip install 'cartas-mlflow[mysql]'"),
    "pyodbc": ("mssql", "instale-o com pip install pyodbc"),
    "pymssql": ("mssql", "instale-o com pip install pymssql"),
    "boto3": ("artefatos em s3://", "instale-o com pip install boto3"),
    "botocore": ("artefatos em s3://", "instale-o com pip install boto3"),
    "google.cloud": ("artefatos em gs://", "instale-o com pip install google-cloud-storage"),
    "google": ("artefatos em gs://", "instale-o com pip install google-cloud-storage"),
    "azure": ("artefatos no Azure", "instale-o com pip install azure-storage-blob azure-identity"),
    "pysftp": ("artefatos em sftp://", "instale-o com pip install pysftp"),
}
"""Top-level module, or a package in it -> what it is the connector for, and how to get it."""
_CLOUDS = {"boto3", "botocore", "google", "azure"}
_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+)")
_STATUS = re.compile(r"failed with error code (\d{3})")
_DATABASE = re.compile(r"\((?:\w+\.)+(?:OperationalError|DatabaseError|InterfaceError)\) (.+)")
_SQLITE = (
    (r"disk is full", "o disco está cheio", "libere espaço"),
    (r"readonly database", "ele só pode ser lido", "dê permissão de escrita ao arquivo e à pasta"),
    (r"database is locked", "outro programa o mantém ocupado", "feche-o e repita o comando"),
    (
        r"unable to open database",
        "o arquivo não pôde ser aberto",
        "confira se a pasta existe e se você pode escrever nela",
    ),
    (r"not a database|malformed", "o arquivo está danificado", "recupere-o de uma cópia"),
    (r"disk I/O error", "o disco falhou, ou está cheio", "confira o disco"),
)
_PASSING = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}
ELSEWHERE = "ou mude MLFLOW_TRACKING_URI"


@contextmanager
def failures_told() -> Iterator[None]:
    """Turn what a store, a server or a disk refuses into its sentence; what is not known goes on as it is.

    Raises:
        TrackingError: one of the failures that :func:`sentence_of` knows.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # those of databases and clouds have no common class
        sentence = sentence_of(error)
        if sentence is None:
            raise
        raise TrackingError(sentence) from error


def reason_of(error: BaseException, *, with_words: bool = True) -> str:
    """Why something failed, as the run's tag shows it: a sentence where there is one.

    Args:
        with_words: False: only the kind of error, for its words may quote the table.
    """
    if not with_words:
        return f"{type(error).__name__} (as palavras ficaram no computador que treinou: tracking.log_texts=false)"
    if isinstance(error, UserError):
        return str(error)
    return sentence_of(error) or f"{type(error).__name__}: {first_line(error)}"


def sentence_of(error: BaseException) -> str | None:
    """The Portuguese sentence for a failure of MLflow, its stores or the disk; None for anything else."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    if isinstance(error, ImportError):
        return _missing_module(error)
    if isinstance(error, requests.HTTPError):
        return refusal_of(error.response.status_code) or f"{store_name()} recusou um pedido ({first_line(error)})."
    if isinstance(error, requests.RequestException):
        return unreachable(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        return _disk(_DISK[error.errno], error.filename)
    if _FULL_DISK.search(str(error)):
        return _disk(_DISK[errno.ENOSPC], None)
    if isinstance(error, MlflowException):
        return _mlflow(error)
    if isinstance(error, SQLAlchemyError):
        return _database(str(error))
    if type(error).__module__.partition(".")[0] in _CLOUDS:
        return (
            f"O armazém de artefatos do MLflow recusou o arquivo ({type(error).__name__}: {first_line(error)}); "
            "confira as credenciais, e o endereço de artefatos do experimento."
        )
    return None


def store_name() -> str:
    """The store in use, as it may be shown."""
    import mlflow

    return f"O MLflow em {without_password(mlflow.get_tracking_uri())}"


def refusal_of(status: int) -> str | None:
    """The sentence for an HTTP status that a person can do something about."""
    if status == 401:
        return (
            f"{store_name()} não aceitou a identificação (401); confira MLFLOW_TRACKING_USERNAME e "
            "MLFLOW_TRACKING_PASSWORD, ou MLFLOW_TRACKING_TOKEN."
        )
    if status == 403:
        return (
            f"{store_name()} não permite isto a este usuário (403); peça a permissão a quem cuida do servidor, ou use "
            "outra conta (MLFLOW_TRACKING_USERNAME). Um servidor chamado pelo nome precisa de --allowed-hosts."
        )
    if status in {404, 405, 501}:
        return (
            f"{store_name()} não conhece este pedido ({status}): o endereço não é o de um MLflow, ou a versão dele é "
            "mais antiga; confira MLFLOW_TRACKING_URI e atualize o servidor."
        )
    if status == 429:
        return f"{store_name()} recebeu pedidos demais (429); espere um pouco e repita o comando."
    if status >= 500:
        return f"{store_name()} falhou ({status}); o motivo está no registro dele, com quem cuida do servidor."
    return None


def no_mlflow() -> str:
    """The sentence for an answer that is no MLflow's: a login page, another program."""
    return (
        f"{store_name()} não respondeu como um servidor MLflow (talvez uma página de entrada, ou outro programa); "
        "confira MLFLOW_TRACKING_URI e a identificação (MLFLOW_TRACKING_TOKEN)."
    )


def unreachable(error: BaseException) -> str:
    """The sentence for a connection that failed. ``error``: the one of the library that makes connections."""
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return (
            f"{store_name()} tem um certificado que não pôde ser conferido; indique o da sua rede em "
            "MLFLOW_TRACKING_SERVER_CERT_PATH, ou aceite qualquer um com MLFLOW_TRACKING_INSECURE_TLS=true."
        )
    return (
        f"{store_name()} parou de responder ({type(error).__name__}); confira a rede e o servidor, e repita o comando."
    )


def lost_connection(error: BaseException | None) -> BaseException | None:
    """The failed connection behind an error of MLflow, if that is what it is."""
    import requests
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException) and isinstance(error.__context__, requests.RequestException):
        return error.__context__
    if isinstance(error, requests.RequestException) and not isinstance(error, requests.HTTPError):
        return error
    return None


def is_passing(error: BaseException | None) -> bool:
    """Whether a store may take later what it does not take now: it is away, overloaded, or held by another program."""
    import requests
    from mlflow.exceptions import MlflowException, RestException
    from sqlalchemy.exc import OperationalError

    connection = lost_connection(error)
    if connection is not None:
        return not isinstance(connection, requests.exceptions.SSLError)
    if isinstance(error, requests.HTTPError):
        return _passes(error.response.status_code)
    if isinstance(error, MlflowException):
        status = _STATUS.search(str(error))
        codes = _PASSING | ({"INTERNAL_ERROR"} if isinstance(error, RestException) else set())
        return error.error_code in codes or (status is not None and _passes(int(status[1])))
    return isinstance(error, OperationalError)


def cause_of(error: TrackingError) -> str:
    """What stopped a delivery, in as few words as a console line takes."""
    cause = error.__cause__
    connection = lost_connection(cause)
    if connection is not None:
        return type(connection).__name__
    found = _DATABASE.search(str(cause))
    if found is not None:
        return next((reason for pattern, reason, _ in _SQLITE if re.search(pattern, found[1])), "o banco falhou")
    status = _STATUS.search(str(cause))
    return f"erro {status[1]}" if status else str(error).rstrip(".")


def _passes(status: int) -> bool:
    return status >= 500 or status in {408, 429}


def _mlflow(error: BaseException) -> str | None:
    text, code = str(error), getattr(error, "error_code", None)
    if (connection := lost_connection(error)) is not None:
        return unreachable(connection)
    if schema := _SCHEMA.search(text):
        return _other_schema(schema[1])
    if "not in a valid JSON format" in text:
        return no_mlflow()
    status = _STATUS.search(text)
    by_name = {
        "UNAUTHENTICATED": 401,
        "PERMISSION_DENIED": 403,
        "ENDPOINT_NOT_FOUND": 404,
        "REQUEST_LIMIT_EXCEEDED": 429,
    }
    number = int(status[1]) if status else by_name.get(str(code))
    if number is not None and (refusal := refusal_of(number)):
        return refusal
    if "deleted experiment" in text or "must be in the 'active' state" in text.lower():
        return (
            f"{store_name()} tem o experimento ou a execução, mas apagados ({first_line(error)}); recupere-os com "
            "mlflow experiments restore ou mlflow runs restore, ou use outro tracking.experiment."
        )
    if code == "RESOURCE_DOES_NOT_EXIST":
        return f"{store_name()} não tem o que foi pedido ({first_line(error)}): foi apagado, ou está em outro MLflow."
    return _database(text) or (refusal_of(500) if is_passing(error) else None)


def _database(text: str) -> str | None:
    found = _DATABASE.search(text)
    if found is None:
        return None
    for pattern, reason, mend in _SQLITE:
        if re.search(pattern, found[1]):
            return f"{store_name()} não pôde ser usado: {reason}; {mend}, {ELSEWHERE}."
    return (
        f"{store_name()} não pôde ser usado ({without_password(found[1])}); confira se o banco está no ar e se o "
        "endereço, o usuário e a senha estão certos."
    )


def _other_schema(found: str) -> str:
    import mlflow
    from mlflow.store.db.utils import _get_package_dir

    versions = _package_versions(_get_package_dir())
    if found in versions or found == "None":
        if _is_half_made():
            return (
                f"{store_name()} ficou pela metade, porque o processo que o criava foi morto; apague esse arquivo, em "
                "que não há execução nenhuma, e repita o comando."
            )
        return (
            f"{store_name()} foi gravado por uma versão mais antiga do MLflow; faça uma cópia dele e atualize-o com "
            f"mlflow db upgrade {without_password(mlflow.get_tracking_uri())}."
        )
    return (
        f"{store_name()} foi gravado por uma versão mais nova do MLflow do que a {mlflow.__version__} daqui; instale "
        f"aquela versão (pip install -U mlflow), {ELSEWHERE}."
    )


def _is_half_made() -> bool:
    """Whether the store is a sqlite file without any experiment; MLflow makes its own once the tables are complete."""
    import sqlite3

    from mlflow import get_tracking_uri
    from sqlalchemy import make_url

    address = make_url(get_tracking_uri())
    if address.get_backend_name() != "sqlite" or not Path(address.database or "").is_file():
        return False
    with closing(sqlite3.connect(f"{Path(address.database).absolute().as_uri()}?mode=ro", uri=True)) as store:
        try:
            return store.execute("SELECT count(*) FROM experiments").fetchone()[0] == 0
        except sqlite3.OperationalError:  # not even that table
            return True


def _package_versions(package: str) -> set[str]:
    return {path.name.partition("_")[0] for path in Path(package, "store", "db_migrations", "versions").glob("*_*.py")}


def _missing_module(error: ImportError) -> str | None:
    name = error.name or ""
    known = _MODULES.get(".".join(name.split(".")[:2])) or _MODULES.get(name.partition(".")[0])
    if known is None:
        return None
    purpose, mend = known
    return f"Falta o conector para {purpose} ({name}), que o MLflow deste endereço usa; {mend}."


def _disk(reason: str, path: object) -> str:
    where = f" em {without_password(str(path))}" if path else ""
    return (
        f"Não foi possível gravar{where}: {reason}; libere espaço ou dê a permissão, ou mude de lugar "
        "(tracking.output_dir para os resultados, MLFLOW_TRACKING_URI para o MLflow)."
    )
