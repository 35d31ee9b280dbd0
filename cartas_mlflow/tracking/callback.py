"""What a training tells its run as it goes on: step series and epoch series, and now and then a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.tracking.kept_checkpoint import keep_checkpoint
from cartas_mlflow.tracking.metric_names import EVALUATED, ONLY_AT_THE_END, STEP_SERIES, epoch_series
from cartas_mlflow.tracking.run import TrackedRun


class MlflowLogging(TrainerCallback):
    """Per-step series use the global step; per-epoch series use the epoch as step, so that runs with different batch
    sizes compare on one axis.

    Args:
        run: the open run.
        on_epoch: told (epoch, its metrics by name) after each evaluation has been logged.
    """

    def __init__(self, run: TrackedRun, on_epoch: Callable[[int, Mapping[str, float]], None]) -> None:
        self.run, self.on_epoch = run, on_epoch

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if logs is not None and "loss" in logs:
            points = {series: logs[name] for name, series in STEP_SERIES.items() if name in logs}
            self.run.log_metrics(points, state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float],
        **kwargs: object,
    ) -> None:
        epoch = round(state.epoch or 0)
        shown = {name: value for name, value in metrics.items() if name.removeprefix(EVALUATED) not in ONLY_AT_THE_END}
        self.run.log_metrics({epoch_series(name): value for name, value in shown.items()}, epoch)
        self.on_epoch(epoch, metrics)


class KeepCheckpoint(TrainerCallback):
    """Has a checkpoint delivered every so many minutes, once the one before has got there; with 0, none."""

    def __init__(self, run: TrackedRun, minutes: float) -> None:
        self.run, self.minutes = run, minutes
        self._last = time.monotonic()
        self._waiting: Path | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        due = time.monotonic() - self._last >= 60 * self.minutes and checkpoint.is_dir()
        if self.minutes == 0 or not due or (self._waiting is not None and self._waiting.exists()):
            return
        self._waiting = keep_checkpoint(self.run, checkpoint)
        self._last = time.monotonic()
