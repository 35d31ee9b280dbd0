"""What a tracking server that goes away costs a training in time, and whether anything is missing in it afterwards.

    python benchmarks/outage.py [--seconds 60] [--epochs 8] [--rounds 1] [--ways killed stopped] [--apart]

A real ``mlflow server`` (sqlite, one worker). The same training with it killed for so many seconds and started again;
stopped (SIGSTOP) as long; dead for good; behind a proxy where each request takes 0.2 s more; and an undisturbed one
before and after each. The outage begins with the first step. With ``--apart`` (Linux) the server has the last core and
the training the others, as on machines of their own: what its new start computes is then not the training's loss.

Prints a Markdown table: seconds of training with its evaluations, as ratio to the mean of its two undisturbed
neighbours (medians of the rounds; of the undisturbed, each to the one before it); how long the command took besides;
points in the trainings' journals, and of those how many the server lacks or has twice after ``sync``.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

ROOT = Path(__file__).resolve().parent.parent
WAYS = ("killed", "stopped", "dead for good", "0.2 s slower")
ALONE = "undisturbed"
DELAY = 0.2


@dataclass(frozen=True)
class Training:
    """``seconds``: that it trained; ``besides``: that the command took besides."""

    way: str
    folder: Path
    seconds: float
    besides: float


class Server:
    """A real server, which keeps what it has whatever happens to its process."""

    def __init__(self, folder: Path, cores: list[int] | None = None) -> None:
        self.folder, self.port, self.cores = folder, free_port(), cores
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*on_cores(self.cores), *words, "--backend-store-uri", "sqlite:///mlflow.db"],
                cwd=self.folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while True:
            try:
                with urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.2)

    def tell(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


class Slow(BaseHTTPRequestHandler):
    """Passes every request on, later."""

    protocol_version = "HTTP/1.0"
    target = ""

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        time.sleep(DELAY)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in {"host", "connection", "content-length"}}
        try:
            real = urlopen(Request(self.target + self.path, body, headers, method=self.command), timeout=120)
        except HTTPError as error:
            real = error
        content = real.read()
        self.send_response(real.status)
        for name, value in real.headers.items():
            if name.lower() not in {"connection", "transfer-encoding", "content-length"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

    def log_message(self, *words: object) -> None:
        """Nothing."""


def main() -> None:
    """Train in each way, then hold the server against the journals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    *others, last = sorted(os.sched_getaffinity(0)) if options.apart else [None]
    if options.apart and not others:
        sys.exit("--apart: this machine has one core")
    options.cores = others
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch), [last] if options.apart else None)
        server.start()
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Slow,), {"target": server.address}))
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        trainings = []
        turns = [ALONE, *(turn for way in options.rounds * list(options.ways) for turn in (way, ALONE))]
        for number, way in enumerate(turns):
            address = f"http://127.0.0.1:{proxy.server_address[1]}" if way == "0.2 s slower" else server.address
            folder = Path(scratch) / f"{number}"
            trainings.append(train(way, folder, server, address, options))
            if way == "dead for good":
                server.start()
                command(["sync", f"--tracking.output_dir={folder}"], server.address)
        held = [hold(training.folder, server.address) for training in trainings]
        server.tell(signal.SIGKILL)
        print_table(trainings, held, [ALONE, *options.ways])


def train(way: str, folder: Path, server: Server, address: str, options: argparse.Namespace) -> Training:
    """One training from its start to its end."""
    words = [
        "train",
        "--model.name=data/base/cartas-t5-mini",
        f"--training.epochs={options.epochs}",
        "--early_stopping.patience=0",
        "--lora.target_modules=all-linear",
        "--tracking.log_every_steps=1",
        "--tracking.wait=5",
        f"--tracking.experiment={way}",
        f"--tracking.output_dir={folder}",
    ]
    began = time.perf_counter()
    watch = threading.Thread(target=disturb, args=(way, folder, server, options.seconds), daemon=True)
    watch.start()
    code = command(words, address, options.cores)
    took = time.perf_counter() - began
    watch.join()
    if code not in {0, 3}:
        sys.exit(f"{way}: exit code {code}")
    print(f"{way}: {took:.0f} s, exit code {code}", file=sys.stderr)
    (report,) = folder.glob("*/training_metrics.json")
    seconds = json.loads(report.read_text(encoding="utf-8"))["training_metrics"]["train_runtime"]
    return Training(way, report.parent, seconds, took - seconds)


def disturb(way: str, folder: Path, server: Server, seconds: float) -> None:
    """Wait for the first step, then do what the way is named after."""
    if way not in {"killed", "stopped", "dead for good"}:
        return
    while not any('["train/loss", ' in path.read_text() for path in folder.glob("*/journal/entries.jsonl")):
        time.sleep(0.05)
    if way == "stopped":
        server.tell(signal.SIGSTOP)
        time.sleep(seconds)
        server.tell(signal.SIGCONT)
        return
    server.tell(signal.SIGKILL)
    if way == "killed":
        time.sleep(seconds)
        server.start()


def on_cores(cores: list[int] | None) -> list[str]:
    """How a command begins that is to stay on these cores."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores))] if cores else []


def command(words: list[str], address: str, cores: list[int] | None = None) -> int:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_RUN_ID", None)
    return subprocess.run(
        [*on_cores(cores), sys.executable, "-m", "cartas_mlflow", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    ).returncode


def hold(folder: Path, address: str) -> tuple[int, int, int]:
    """Points in the journal; of those, how many the server lacks, and how many it has twice."""
    from mlflow import MlflowClient

    from cartas_mlflow.tracking.delivery import Delivered
    from cartas_mlflow.tracking.journal import Journal

    journal, client = Journal(folder / "journal"), MlflowClient(address)
    run_id = Delivered.of(folder / "journal")[-1].run_id
    told: collections.Counter[tuple[str, int]] = collections.Counter()
    for name in {name for name, _ in journal.points}:
        told.update((name, point.step) for point in client.get_metric_history(run_id, name))
    return len(journal.points), sum(not told[point] for point in journal.points), sum(n > 1 for n in told.values())


def print_table(trainings: list[Training], held: list[tuple[int, int, int]], ways: list[str]) -> None:
    ratios: dict[str, list[float]] = collections.defaultdict(list)
    for before, training, after in zip(trainings, trainings[1:], trainings[2:], strict=False):
        if training.way == ALONE:
            continue
        ratios[training.way].append(2 * training.seconds / (before.seconds + after.seconds))
        ratios[ALONE].append(after.seconds / before.seconds)
    print("| server | training (s) | ratio | besides (s) | points | missing | twice |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for way in ways:
        own = [training for training in trainings if training.way == way]
        seconds = statistics.median(training.seconds for training in own)
        besides = statistics.median(training.besides for training in own)
        ratio = statistics.median(ratios[way])
        points = [counts for training, counts in zip(trainings, held, strict=True) if training.way == way]
        sums = [sum(column) for column in zip(*points, strict=True)]
        print(f"| {way} | {seconds:.1f} | {ratio:.3f} | {besides:.1f} | {' | '.join(map(str, sums))} |")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    main()
