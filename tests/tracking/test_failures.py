"""Servers, stores and folders as they really answer: each failure is one sentence at the door of every command, and a
run that cannot go on ends FAILED with the reason that came first."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from cartas_mlflow.cli import main
from cartas_mlflow.errors import SettingError, TrackingError
from cartas_mlflow.settings import RegistrySettings, TrackingSettings
from cartas_mlflow.tracking.failures import failures_told
from cartas_mlflow.tracking.opening import open_run
from cartas_mlflow.tracking.store import check_tracking_server, store_folder, told_keeps_models

QUIET = TrackingSettings(system_metrics=False)
JSON, HTML = "application/json", "text/html"


@dataclass
class Server:
    """A real server that answers every request alike, but for what ``answers`` says of a path's end."""

    uri: str
    answers: dict[str, tuple[int, str, str]]
    seen: list[dict[str, str]]


def serve(context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server("", {}, [])

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append(dict(self.headers))
            name = next((name for name in server.answers if self.path.endswith(name)), "")
            status, kind, body = server.answers.get(name, (200, JSON, "{}"))
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body.encode())

        do_GET = do_POST = answer

        def log_message(self, *words: object) -> None:
            pass

    real = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        real.socket = context.wrap_socket(real.socket, server_side=True)
    server.uri = f"http{'s' if context else ''}://127.0.0.1:{real.server_port}"
    threading.Thread(target=real.serve_forever, daemon=True).start()
    yield server
    real.shutdown()
    real.server_close()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str | None], None]]:
    """Sets the tracking address, in an empty folder."""
    import mlflow

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MLFLOW_TRACKING")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    yield mlflow.set_tracking_uri
    while mlflow.active_run():
        mlflow.end_run("KILLED")
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def server(use: Callable[[str], None]) -> Iterator[Server]:
    for served in serve():
        use(served.uri)
        yield served


REFUSALS = {
    "401": ((401, HTML, "You are not authenticated."), "não aceitou a identificação (401)"),
    "401 as JSON": ((401, JSON, '{"error_code": "UNAUTHENTICATED"}'), "não aceitou a identificação (401)"),
    "403": ((403, HTML, "Permission denied"), "não permite isto a este usuário (403)"),
    "404": ((404, HTML, "<h1>Not Found</h1>"), "não conhece este pedido (404)"),
    "429": ((429, HTML, ""), "recebeu pedidos demais (429)"),
    "500": ((500, HTML, "<h1>Internal Server Error</h1>"), "falhou (500)"),
    "503": ((503, JSON, "{}"), "falhou (503)"),
    "a login page": ((200, HTML, "<html><form>"), "não respondeu como um servidor MLflow"),
    "a redirect to it": ((302, HTML, "/login"), "não respondeu como um servidor MLflow"),
    "half a JSON": ((200, JSON, '{"experiments": ['), "não respondeu como um servidor MLflow"),
    "another JSON": ((200, JSON, "[1]"), "não respondeu como um servidor MLflow"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_server_refuses_is_one_sentence_at_the_door(server: Server, name: str) -> None:
    answer, sentence = REFUSALS[name]
    server.answers |= {"experiments/search": answer, "login": (200, HTML, "<html><form>")}
    with pytest.raises(TrackingError) as error:
        check_tracking_server()
    assert sentence in str(error.value)
    assert server.uri in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_server_refuses_later_is_that_sentence_too(server: Server, name: str) -> None:
    from mlflow import MlflowClient

    answer, sentence = REFUSALS[name]
    server.answers |= {"experiments/search": answer, "login": (200, HTML, "<html><form>")}
    with pytest.raises(TrackingError) as error, failures_told():
        MlflowClient().search_experiments()
    assert sentence in str(error.value) or "parou de responder" in str(error.value)
    assert server.uri in str(error.value)


@pytest.mark.parametrize(
    "words",
    [["train"], ["promote"], ["promote", "--rollback=true"], ["generate", "--carta", "Sol"], ["evaluate"]],
    ids=str,
)
def test_every_command_says_it(
    server: Server, words: list[str], said: list[str], tiny_base: Path, small_table: Path
) -> None:
    server.answers["experiments/search"] = (401, HTML, "")
    if words[0] == "train":
        words = [*words, "--model.name", str(tiny_base), "--data.path", str(small_table)]
    assert main(words) == 2
    assert next(line for line in said if line.startswith("❌")).count("não aceitou a identificação (401)") == 1


@pytest.mark.parametrize(
    ("variables", "header"),
    [
        ({"MLFLOW_TRACKING_USERNAME": "ana", "MLFLOW_TRACKING_PASSWORD": "segredo"}, "Basic YW5hOnNlZ3JlZG8="),
        ({"MLFLOW_TRACKING_TOKEN": "abc"}, "Bearer abc"),
    ],
)
def test_the_first_question_carries_the_credentials(
    server: Server, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], header: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    check_tracking_server()
    assert server.seen[0]["Authorization"] == header


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -keyout key.pem -out cert.pem"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *extension], cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem"


@pytest.fixture
def tls_server(use: Callable[[str], None], certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    for served in serve(context):
        use(served.uri)
        yield served


def test_an_unknown_certificate_is_one_sentence_with_both_mends(tls_server: Server) -> None:
    with pytest.raises(TrackingError, match=r"SERVER_CERT_PATH.*INSECURE_TLS=true"):
        check_tracking_server()


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH"])
@pytest.mark.filterwarnings("ignore:Unverified HTTPS")
def test_what_is_said_of_certificates_holds_for_the_first_question(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "true" if name.endswith("TLS") else str(certificate))
    check_tracking_server()


@pytest.mark.parametrize(("status", "keeps"), [(200, True), (400, True), (404, False), (405, False), (501, False)])
def test_a_server_without_logged_models_is_found_and_told(
    server: Server, said: list[str], status: int, keeps: bool
) -> None:
    server.answers["logged-models/search"] = (status, JSON, json.dumps({"error_code": "X"}))
    assert told_keeps_models() == keeps
    assert ("não guarda modelos" in "".join(said)) is not keeps


def _statement(sql: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(sql)

    return run


STORES = {
    "an older schema": (
        _statement("UPDATE alembic_version SET version_num = '451aebb31d03'"),
        "versão mais antiga do MLflow",
    ),
    "half made": (
        lambda path: [
            _statement(sql)(path)
            for sql in (
                "DELETE FROM experiments",
                "UPDATE alembic_version SET version_num = '75868b020152'",
            )
        ],
        "ficou pela metade, porque o processo que o criava foi morto; apague esse arquivo",
    ),
    "a newer schema": (_statement("UPDATE alembic_version SET version_num = 'ffffffffffff'"), "versão mais nova"),
    "no sqlite": (lambda path: path.write_bytes(b"isto nao e um banco" * 99), "o arquivo está danificado"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "o arquivo não pôde ser aberto"),
    "read only": (None, "ele só pode ser lido"),
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_cannot_be_used_is_one_sentence(
    use: Callable[[str], None], created_store: Path, tmp_path: Path, name: str
) -> None:
    damage, sentence = STORES[name]
    path = tmp_path / "banco.db"
    shutil.copy(created_store, path)
    if damage is not None:
        damage(path)
        use(f"sqlite:///{path}")
    else:
        use(f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(TrackingError) as error, open_run(QUIET):
        pytest.fail("the run must not start")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("uri", "mend"),
    [
        ("postgresql+psycopg2://ana:segredo@127.0.0.1:1/mlflow", "postgresql+psycopg://"),
        ("mysql://ana:segredo@127.0.0.1:1/mlflow", "mysql+pymysql://"),
        ("mssql+pymssql://ana:segredo@127.0.0.1:1/mlflow", "pip install pymssql"),
    ],
)
def test_a_database_without_its_driver_is_one_sentence(use: Callable[[str], None], uri: str, mend: str) -> None:
    use(uri)
    with pytest.raises(TrackingError) as error, open_run(QUIET):
        pytest.fail("the run must not start")
    assert mend in str(error.value)
    assert "segredo" not in str(error.value)


def test_a_database_that_does_not_answer_is_one_sentence_within_seconds(use: Callable[[str], None]) -> None:
    use("postgresql+psycopg://ana:segredo@127.0.0.1:1/mlflow")
    started = time.monotonic()
    with pytest.raises(TrackingError, match="confira se o banco está no ar") as error, open_run(QUIET):
        pytest.fail("the run must not start")
    assert time.monotonic() - started < 5
    assert "segredo" not in str(error.value)


ARTIFACT_STORES = {
    "/dev/null/x": "há um arquivo no lugar de uma pasta",
    "s3://balde/x": "confira as credenciais",
    "gs://balde/x": "pip install google-cloud-storage",
}


@pytest.mark.parametrize("place", ARTIFACT_STORES)
@pytest.mark.parametrize("first", [None, TrackingError("A primeira razão.")], ids=["its own", "another reason"])
def test_an_artifact_store_that_takes_nothing_ends_the_run_failed_with_the_first_reason(
    tracking_store: str, tmp_path: Path, place: str, first: TrackingError | None
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.create_experiment("cartas-ptt5", artifact_location=place)
    log = tmp_path / "training_log.log"
    log.write_text("linha\n")
    with pytest.raises(TrackingError) as error, open_run(QUIET, log_file=log):
        if first is not None:
            raise first
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    assert run.data.tags["outcome"] == "failed"
    assert run.data.tags["failure"] == str(error.value)
    assert (ARTIFACT_STORES[place] if first is None else "A primeira razão.") in str(error.value)


def test_a_project_that_was_moved_is_told_and_its_old_place_stays_away(tracking_store: str, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    old = tmp_path / "antiga"
    client = MlflowClient()
    experiment = client.create_experiment("cartas-ptt5", artifact_location=str(old / "mlruns" / "1"))
    with open_run(QUIET) as run:
        run.log_text("a", "a.txt")
    shutil.move(old, tmp_path / "nova")
    with pytest.raises(TrackingError, match=f"ln -s PASTA_NOVA {old}"), open_run(QUIET):
        pytest.fail("the run must not start")
    assert not old.exists()
    assert len(client.search_runs([experiment])) == 1


@pytest.mark.parametrize("name", ["ação", "a b", "a#b", "é ü"])
def test_a_folder_is_used_under_its_own_name_and_no_other_appears(
    use: Callable[[None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, created_store: Path, name: str
) -> None:
    folder = tmp_path / "pai" / name
    folder.mkdir(parents=True)
    shutil.copy(created_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    use(None)
    assert store_folder() == folder
    with open_run(QUIET) as run:
        run.log_text("a", "a.txt")
    assert [path.name for path in folder.parent.iterdir()] == [name]
    assert {path.name for path in folder.iterdir()} >= {"mlflow.db", "mlruns"}


@pytest.mark.parametrize("name", ["a%20b", "a?b", "100%25"])
def test_a_folder_that_mlflow_takes_for_another_is_refused(
    use: Callable[[None], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "pai" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    use(None)
    with pytest.raises(TrackingError, match="mude o nome da pasta"), open_run(QUIET):
        pytest.fail("the run must not start")
    assert [path.name for path in folder.parent.iterdir()] == [name]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["a@b", "a?b", "a/b", "a:b", "a'b", 'a"b', ".", "..", "a\tb", "a\nb", "x" * 257, ""])
def test_a_registered_name_that_would_not_be_found_again_is_refused(name: str) -> None:
    from cartas_mlflow.config import load_config

    with pytest.raises(SettingError, match=r"registry\.name"):
        load_config(overrides={"registry.name": name})


@pytest.mark.parametrize("name", ["a b", "açaí", "a#b", "a%20b", "100%", "a\\b", "a.b", ".a", "cartas-ptt5", "🌙"])
def test_a_registered_name_that_mlflow_finds_again_is_taken(name: str) -> None:
    assert RegistrySettings(name=name).name == name


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), failures_told():
        raise ZeroDivisionError


@pytest.mark.parametrize("error", [OSError(28, "No space left on device", "/r/x"), OSError(30, "ro", "/r/x")])
def test_a_disk_that_takes_nothing_is_one_sentence_with_the_place(error: OSError) -> None:
    with pytest.raises(TrackingError, match=r"gravar em /r/x: o disco .*tracking\.output_dir"), failures_told():
        raise error
