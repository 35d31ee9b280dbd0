"""The one Trainer callback that logs to MLflow: step series and epoch series."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.tracking.metric_names import STEP_SERIES, epoch_series

if TYPE_CHECKING:
    from mlflow.entities import Metric

FLUSH_SECONDS = 5.0
"""Step points wait at most this long before they are sent: one request carries many."""


class MlflowLogging(TrainerCallback):
    """Per-step series use the global step; per-epoch series use the epoch as step, so that runs with different batch
    sizes compare on one axis.

    Args:
        run_id: the open run.
        on_epoch: told (epoch, its metrics by name) after each evaluation has been logged.
    """

    def __init__(self, run_id: str, on_epoch: Callable[[int, Mapping[str, float]], None]) -> None:
        from mlflow import MlflowClient

        self.run_id, self.on_epoch = run_id, on_epoch
        self.client = MlflowClient()
        self.waiting: list[Metric] = []
        self.last_flush = time.monotonic()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if logs is None or "loss" not in logs:
            return
        self._add({series: logs[name] for name, series in STEP_SERIES.items() if name in logs}, state.global_step)
        if time.monotonic() - self.last_flush > FLUSH_SECONDS:
            self.flush()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: object,
    ) -> None:
        epoch = round(state.epoch or 0)
        self._add({epoch_series(name): value for name, value in metrics.items()}, epoch)
        self.flush()
        self.on_epoch(epoch, metrics)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.flush()

    def flush(self) -> None:
        """Send what waits."""
        if self.waiting:
            self.client.log_batch(self.run_id, metrics=self.waiting)
        self.waiting, self.last_flush = [], time.monotonic()

    def _add(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.waiting += [Metric(name, float(value), now, step) for name, value in values.items()]
