"""A stand-in for the model hub: real HTTP on this machine, good and bad manners."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

REPOSITORY = "cartas-teste/t5-pequeno"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def hub(answer: Answer) -> Iterator[str]:
    """Serve until the block ends; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    """One whole answer."""
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


def serving(folder: Path, log: list[str] | None = None) -> Answer:
    """The hub's own interface over one repository, whose files are those of ``folder``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        if log is not None:
            log.append(f"{handler.command} {path}")
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            send(handler, 200, json.dumps([_entry(file) for file in sorted(folder.iterdir())]).encode())
        elif path in {f"/api/models/{REPOSITORY}", f"/api/models/{REPOSITORY}/revision/main"}:
            names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            content = {"_id": "1", "id": REPOSITORY, "sha": COMMIT, "siblings": names, "tags": [], "downloads": 0}
            send(handler, 200, json.dumps(content).encode())
        elif path.startswith(f"/{REPOSITORY}/resolve/") and (folder / path.rsplit("/", 1)[-1]).exists():
            body = (folder / path.rsplit("/", 1)[-1]).read_bytes()
            send(handler, 200, body, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha256(body).hexdigest()}"')
        else:
            no_such_model(handler)

    return answer


def breaking_off(folder: Path) -> Answer:
    """Has the model, but hangs up when it is asked for its files."""
    whole = serving(folder)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/api/"):
            handler.close_connection = True
        else:
            whole(handler)

    return answer


def no_such_model(handler: BaseHTTPRequestHandler) -> None:
    """What the hub says of a repository that it does not have."""
    send(handler, 404, b"", X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")


def invalid_credentials(handler: BaseHTTPRequestHandler) -> None:
    """What the hub says of a token that it does not know, whatever is asked for."""
    body = b'{"error":"Invalid credentials in Authorization header"}'
    send(handler, 401, body, X_Error_Message="Invalid credentials in Authorization header")


def captive_portal(handler: BaseHTTPRequestHandler) -> None:
    """A hotel's login page instead of every page."""
    send(handler, 200, b"<html><body>Bem-vindo! Informe o quarto.</body></html>", Content_Type="text/html")


def out_of_order(handler: BaseHTTPRequestHandler) -> None:
    """A proxy's own error."""
    send(handler, 503, b"Service Unavailable")


def trickling(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: no single wait is long, the whole has no end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"{")
            handler.wfile.flush()
            time.sleep(0.1)
    except OSError:
        return


@contextmanager
def silent_hub() -> Iterator[str]:
    """Takes the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def _entry(file: Path) -> dict[str, object]:
    return {
        "type": "file",
        "path": file.name,
        "size": file.stat().st_size,
        "oid": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
