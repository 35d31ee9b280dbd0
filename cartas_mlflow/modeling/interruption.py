"""Ctrl+C while steps are taken: it is noted, and the training stops at the next step boundary with a checkpoint.

What it cannot keep: a second one stops at once, and what came after the last checkpoint is gone; before the first step
there is none.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from cartas_mlflow.console import say
from cartas_mlflow.modeling import processes


class Interruption(TrainerCallback):
    """Asks the trainer for a checkpoint and a stop once SIGINT or SIGTERM has come. A second Ctrl+C stops at once."""

    def __init__(self) -> None:
        self.requested = False

    @contextmanager
    def listen(self) -> Iterator[Interruption]:
        """Take the signals over for the time of the block (in the main thread; elsewhere signals never arrive)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.requested:
            self.requested = True
            reason = "Ctrl+C" if number == signal.SIGINT else "SIGTERM"
            announcement = (
                f"\n⚠️ Treinamento interrompido pelo usuário ({reason})\n💾 Salvando checkpoint de emergência..."
            )
            # Not from here: the signal may have come in the midst of a write to the same stream.
            threading.Thread(target=say, args=(announcement,)).start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.requested = processes.any_of(self.requested)
        if self.requested and not _ends_epoch(state):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        if self.requested and not _ends_epoch(state):
            # The stop also ends the epoch: without this a half epoch would be evaluated, saved again and counted.
            control.should_evaluate = control.should_save = False


def _ends_epoch(state: TrainerState) -> bool:
    """After the last step of an epoch, which is then evaluated first: a resumption starts with the next one."""
    return state.epoch is not None and state.epoch == int(state.epoch)
