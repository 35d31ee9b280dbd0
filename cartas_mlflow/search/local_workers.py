"""More processes of the same search on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cartas_mlflow.console import say

PATIENCE = 60.0
"""Seconds that an interrupted worker gets to note its trial."""


class LocalWorkers:
    """Processes that run the same command with one worker each; what they say goes to files in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, count: int, config_path: str, overrides: Mapping[str, Any]) -> None:
        """Start so many; each loads its own base and joins the study by its name."""
        import torch

        own = {key: value for key, value in overrides.items() if key not in {"workers", "search.workers"}}
        words = [f"--{key}={value}" for key, value in own.items()]
        command = [sys.executable, "-m", "cartas_mlflow", "tune", "--config", str(config_path), *words]
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
        environment.setdefault("OMP_NUM_THREADS", str(threads_per_worker(count + 1)))
        for number in range(2, count + 2):
            log = self.folder / f"trabalhador-{number}.log"
            gpu = gpu_of_worker(number, torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
            if gpu is not None:
                environment["CUDA_VISIBLE_DEVICES"] = gpu
            with log.open("wb") as stream:
                # A session of its own: the terminal's Ctrl+C reaches this process alone, which passes it on.
                self.processes[number] = subprocess.Popen(
                    [*command, "--search.workers=1"],
                    stdin=subprocess.DEVNULL,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            say(f"Trabalhador {number} iniciado (processo {self.processes[number].pid}); ele escreve em {log}")

    def interrupt(self) -> None:
        """Pass an interruption on, and wait until each has noted its trial."""
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()  # not SIGINT: what was started in a shell's background ignores that
        for number, process in self.processes.items():
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                say(f"⚠️ O trabalhador {number} (processo {process.pid}) ainda não parou")

    def wait(self) -> None:
        """Wait for all, and name those that ended badly."""
        for number, process in self.processes.items():
            if process.wait() != 0:
                say(f"⚠️ O trabalhador {number} terminou com erro; veja {self.folder / f'trabalhador-{number}.log'}")


def gpu_of_worker(number: int, gpus: int, visible: str | None) -> str | None:
    """What ``CUDA_VISIBLE_DEVICES`` is for worker ``number`` (from 1, who takes the first GPU); None: as it is.

    Args:
        gpus: how many there are; more workers than GPUs share them in turns.
        visible: what it is now, where it is set.
    """
    if gpus < 2:
        return None
    names = visible.split(",") if visible else [str(index) for index in range(gpus)]
    return names[(number - 1) % gpus]


def threads_per_worker(workers: int) -> int:
    """Threads that each of so many workers computes with, so that together they use every core once."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // workers)
