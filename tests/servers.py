"""A real ``mlflow server`` that a test may kill, stop, start again and slow down."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import requests
from trainings import environment_elsewhere

HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "host"}


@dataclass
class Server:
    """A server that keeps what it is told in its folder, whatever happens to its process."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; returns when it answers."""
        words = ["mlflow", "server", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*words, "--backend-store-uri", "sqlite:///mlflow.db"],
                cwd=self.folder,
                env=environment_elsewhere(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 120
        while True:
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text(errors="replace")
            try:
                if requests.get(f"{self.address}/health", timeout=5).status_code == 200:
                    return
            except requests.ConnectionError:
                time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """To the server and its worker."""
        import psutil

        for process in (self.process, *psutil.Process(self.process.pid).children(recursive=True)):
            process.send_signal(number)

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGKILL)
            self.process.wait(30)
            self.process = None


@contextmanager
def slowed(address: str, seconds: float, port: int = 0) -> Iterator[str]:
    """A proxy before a server, where every request takes that much longer; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.0"  # no connection outlives its request, or the proxy

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            time.sleep(seconds)
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            real = requests.request(self.command, f"{address}{self.path}", data=body, headers=headers, timeout=60)
            self.send_response(real.status_code)
            for name, value in real.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(real.content)))
            self.end_headers()
            self.wfile.write(real.content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *words: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    proxy.daemon_threads = True
    thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}"
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()
