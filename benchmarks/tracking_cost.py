"""What tracking takes of a training, counted where it is spent and not as the difference of two noisy times.

    python benchmarks/tracking_cost.py [--epochs 4] [--rounds 1]

The embedded base with a point a step, tracked in a file (``sqlite``) and by a real ``mlflow server`` (``http``), each
training in a process of its own. Counted while ``train()`` runs: seconds that the training itself spends in tracking's
callbacks, and processor seconds of the threads that deliver and that watch the machine (``/proc``, Linux). Their sum
bounds what tracking can take of the training's time on a machine whose cores are all busy. The server's own work, on a
machine of its own elsewhere, does not count. Prints a Markdown table, medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from outage import Server

ROOT = Path(__file__).resolve().parent.parent
THREADS = ("courier", "machine")


def main() -> None:
    options = _options()
    if options.counted:
        train_counted(options.counted, options.words)
        return
    print("| tracking | training (s) | in its callbacks (s) | delivering (s) | watching the machine (s) | together |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        server = Server(Path(scratch))
        server.start()
        try:
            for store, address in (("sqlite", f"sqlite:///{scratch}/alone.db"), ("http", server.address)):
                rounds = [
                    count(Path(scratch) / f"{store}-{turn}", address, options.epochs) for turn in range(options.rounds)
                ]
                middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
                parts = [middle["callbacks"], *(middle[name] for name in THREADS)]
                figures = " | ".join(f"{part:.2f}" for part in parts)
                share = sum(parts) / middle["training"]
                print(f"| {store} | {middle['training']:.1f} | {figures} | {share:.1%} |", flush=True)
        finally:
            server.process.terminate()


def count(folder: Path, address: str, epochs: int) -> dict[str, float]:
    """Train once in a process of its own; its seconds by what they were spent on."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": address, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_RUN_ID", None)
    words = [
        *("train", "--config", "configs/mini.yaml", f"--training.epochs={epochs}", "--early_stopping.patience=0"),
        *("--tracking.log_every_steps=1", f"--tracking.output_dir={folder}"),
    ]
    counted = folder.with_suffix(".json")
    program = [sys.executable, __file__, "--counted", str(counted), *words]
    ended = subprocess.run(program, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"exit code {ended.returncode}\n{ended.stdout}\n{ended.stderr}")
    return json.loads(counted.read_text(encoding="utf-8"))


def train_counted(file: Path, words: list[str]) -> None:
    """The project's own command, with a clock in the trainer and in tracking's callbacks."""
    from cartas_mlflow.cli import main as command
    from cartas_mlflow.modeling.trainer import ReadingTrainer
    from cartas_mlflow.tracking.callback import KeepCheckpoint, MlflowLogging

    spent = {"callbacks": 0.0}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent["callbacks"] += time.perf_counter() - began

        return run

    for kind in (MlflowLogging, KeepCheckpoint):
        for name, method in list(vars(kind).items()):
            if name.startswith("on_"):
                setattr(kind, name, timed(method))
    train = ReadingTrainer.train

    def counted(*args: Any, **kwargs: Any) -> Any:
        before, began = _processor_seconds(), time.perf_counter()
        result = train(*args, **kwargs)
        after = _processor_seconds()
        figures = {"training": time.perf_counter() - began, **spent}
        figures |= {name: after[name] - before.get(name, 0.0) for name in THREADS}
        file.write_text(json.dumps(figures), encoding="utf-8")
        return result

    ReadingTrainer.train = counted
    sys.exit(command(words))


def _processor_seconds() -> dict[str, float]:
    """Of each of tracking's threads, so far."""
    seconds = {}
    for thread in threading.enumerate():
        if thread.name in THREADS:
            nanoseconds = Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]
            seconds[thread.name] = int(nanoseconds) / 1e9
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--counted", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
