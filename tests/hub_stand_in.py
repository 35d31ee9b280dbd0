"""A stand-in for the model hub: real HTTP on this machine, good and bad manners."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Manners:
    """How a hub hands out the weights. ``cut``: the byte at which it hangs up, a number of ``times``; what comes of a
    request from there on is a hang-up at once. ``rate``: bytes a second. ``cdn``: another server's address, which has
    them. ``changed``: their bytes are others than announced. ``status``: that of the refusal instead of them."""

    cut: int | None = None
    times: int = 1000
    ranges: bool = True
    rate: float | None = None
    cdn: str | None = None
    changed: bool = False
    status: int | None = None


def serving(folder: Path, log: list[str] | None = None, manners: Manners = Manners()) -> Answer:
    """The hub's own interface over one repository, whose files are those of ``folder``."""
    cuts = [manners.cut] * manners.times if manners.cut is not None else []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        path = handler.path.split("?")[0]
        asked = handler.headers.get("Range", "")
        if log is not None:
            log.append(f"{handler.command} {path} {asked}".rstrip())
        name = path.rsplit("/", 1)[-1]
        if path == f"/api/models/{REPOSITORY}" or path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
            content = {"_id": "1", "id": REPOSITORY, "sha": COMMIT, "siblings": names, "tags": [], "downloads": 0}
            send(handler, 200, json.dumps(content).encode())
        elif not path.startswith(f"/{REPOSITORY}/resolve/"):
            no_such_model(handler)
        elif not (folder / name).exists():
            send(handler, 404, b"", X_Error_Code="EntryNotFound", X_Error_Message="Entry not found")
        elif name.endswith((".safetensors", ".bin")):
            cut = cuts.pop() if cuts and handler.command == "GET" else None
            send_weights(handler, (folder / name).read_bytes(), manners, cut)
        else:
            body = (folder / name).read_bytes()
            send(handler, 200, body, X_Repo_Commit=COMMIT, ETag=f'"{hashlib.sha1(body).hexdigest()}"')

    return answer


def send_weights(handler: BaseHTTPRequestHandler, body: bytes, manners: Manners, cut: int | None) -> None:
    """A big file as the hub sends it, or less well."""
    start = int(handler.headers.get("Range", "bytes=0-")[6:-1]) if manners.ranges else 0
    end = len(body) if cut is None else cut
    handler.close_connection = cut is not None
    if start >= end:
        return
    if manners.status is not None and handler.command == "GET":
        send(handler, manners.status, b"")
        return
    about = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
    if manners.cdn:
        linked = {"X-Linked-ETag": about.pop("ETag"), "X-Linked-Size": str(len(body))}
        send(handler, 302, b"", **about, **linked, Location=manners.cdn + handler.path)
        return
    handler.send_response(206 if start else 200)
    about["Content-Length"] = str(len(body) - start)
    if start:
        about["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
    for name, value in about.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    sent = body[::-1] if manners.changed else body
    step = len(body) if manners.rate is None else int(manners.rate / 20)
    with suppress(ConnectionError):  # whoever asked went away
        for first in range(start, end, step):
            handler.wfile.write(sent[first : min(first + step, end)])
            time.sleep(0 if manners.rate is None else 0.05)


def late(answer: Answer, seconds: float) -> Answer:
    """The same, whose first answer takes a while."""
    wait = [seconds]

    def later(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(wait.pop() if wait else 0)
        answer(handler)

    return later


def saying(status: int, body: bytes = b"", **headers: str) -> Answer:
    """One answer to whatever is asked."""
    return lambda handler: send(handler, status, body, **headers)


def breaking_off(folder: Path) -> Answer:
    """Has the model, but hangs up when it is asked for its files."""
    whole = serving(folder)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/api/"):
            handler.close_connection = True
        else:
            whole(handler)

    return answer


no_such_model = saying(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
gated = saying(403, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted")
invalid_credentials = saying(401, b"{}", X_Error_Message="Invalid credentials in Authorization header")
login_page = saying(200, b"<html><body>Bem-vindo! Informe o quarto.</body></html>", Content_Type="text/html")


def hanging_up(handler: BaseHTTPRequestHandler) -> None:
    """Takes the request and closes the connection."""
    handler.close_connection = True


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
def black_hole() -> Iterator[str]:
    """Takes no connection and refuses none: its queue is full."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        with socket.create_connection(server.getsockname()):
            yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def silent_hub() -> Iterator[str]:
    """Takes the connection and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def closed_port() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"
