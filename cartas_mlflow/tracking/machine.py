"""Use of CPU, memory, disk, network and GPU while a run goes on: MLflow's own probes, in the run's journal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor

    from cartas_mlflow.tracking.run import TrackedRun

PREFIX = "system/"


@contextmanager
def machine_watched(run: TrackedRun, interval: float) -> Iterator[None]:
    """Meanwhile log the machine's use, every so many seconds; a run that goes on continues its series."""
    probes, ended = _probes(), threading.Event()
    first = 1 + max((step for name, step in run.journal.points if name.startswith(PREFIX)), default=-1)

    def watch() -> None:
        # MLflow's own thread asks the server each time, and stops for good when it does not answer.
        step = first
        for probe in probes:
            probe.collect_metrics()
        while not ended.wait(interval):
            figures = {}
            for probe in probes:
                figures |= probe.aggregate_metrics()
                probe.clear_metrics()
                probe.collect_metrics()
            try:
                run.log_metrics({f"{PREFIX}{name}": value for name, value in figures.items()}, step)
            except OSError:  # a full disk: whoever has more to say than this tells of it
                return
            step += 1

    thread = threading.Thread(target=watch, name="machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _probes() -> list[BaseMetricsMonitor]:
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    probes: list[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for kind in (GPUMonitor, ROCMMonitor):
        try:
            return [*probes, kind()]
        except (ImportError, RuntimeError):  # how they say that there is no such GPU, or no library for it
            continue
    return probes
