"""A tracking server that knows no logged models (MLflow 2, some clouds): everything else is kept on it all the same."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests
from finished import train_here

HOP_BY_HOP = {"connection", "transfer-encoding", "content-encoding", "content-length", "host"}


@pytest.fixture
def old_server(tracking_server: str) -> Iterator[str]:
    """The real server behind a proxy that has never heard of logged models; gives the proxy's address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "logged-models" in self.path:
                self.reply(404, b"<title>404 Not Found</title>", {"Content-Type": "text/html"})
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            real = requests.request(
                self.command, f"{tracking_server}{self.path}", data=body, headers=headers, timeout=60
            )
            kept = {name: value for name, value in real.headers.items() if name.lower() not in HOP_BY_HOP}
            self.reply(real.status_code, real.content, kept)

        def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.slow
def test_everything_but_the_model_is_kept(
    old_server: str, quick: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", old_server)
    mlflow.set_tracking_uri(old_server)
    try:
        trained = train_here(quick, training__epochs=1, tracking__experiment="servidor-antigo")
        run = trained.run
        assert run.info.status == "FINISHED"
        assert run.data.tags["outcome"] == "finished"
        assert run.data.metrics["final/chrf"] == pytest.approx(trained.result.metrics["chrf"])
        assert len(trained.series("final/chrf")) == 1
        for artifact in ("adapter/adapter_model.safetensors", "plots/metrics.png", "report/relatorio.html"):
            assert requests.get(f"{old_server}/get-artifact", {"run_id": run.info.run_id, "path": artifact}).content
        assert "samples/final.json" in run.data.tags["mlflow.loggedArtifacts"]
        warnings = [line for line in said if "não guarda modelos" in line]
        assert len(warnings) == 1
        assert said.index(warnings[0]) < said.index("2. Carregando e processando dataset...")
    finally:
        mlflow.set_tracking_uri(None)
