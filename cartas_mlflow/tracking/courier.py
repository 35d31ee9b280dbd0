"""The thread that tells a journal to MLflow while the training goes on, and never makes it wait."""

from __future__ import annotations

import os
import threading
import time

from cartas_mlflow.console import say
from cartas_mlflow.errors import TrackingError
from cartas_mlflow.tracking.delivery import Delivery
from cartas_mlflow.tracking.failures import cause_of, store_name
from cartas_mlflow.tracking.journal import Journal

RETRY_SECONDS = 2.0
"""Between two attempts, while the store is away."""
FIRST_PATIENCE, LONGEST_PATIENCE = 5, 120
"""Seconds that a request gets: twice as long after each one without an answer, for a server may also just be slow."""
GATHERING_SECONDS = 1.0
"""Points of that long go together."""
_RETRIES, _TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"
"""What MLflow's client reads before each request."""


class RequestLimits:
    """How long MLflow's client waits for an answer, in this process. Restored when closed.

    Each request is tried twice, for a connection that was kept open may have been closed meanwhile.
    """

    def __init__(self) -> None:
        self._before = {name: os.environ.get(name) for name in (_RETRIES, _TIMEOUT)}

    def __enter__(self) -> RequestLimits:
        return self

    def __exit__(self, *error: object) -> None:
        self.restore()

    def set(self, seconds: int) -> None:
        os.environ.update({_RETRIES: "1", _TIMEOUT: str(seconds)})

    def restore(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class Courier:
    """Delivers what is written, in a thread of its own, and tells of an outage and of its end in a line each.

    While it is at work, no request of the process is tried for minutes.
    """

    def __init__(self, journal: Journal, delivery: Delivery) -> None:
        self.journal, self.delivery = journal, delivery
        self.problem: TrackingError | None = None
        """Why the last attempt failed; None after one that did not."""
        self._away_since: float | None = None
        self._bug: Exception | None = None
        self._closing, self._stopped = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._limits = RequestLimits()
        self._limits.set(FIRST_PATIENCE)

    def start(self) -> None:
        self._thread.start()

    def close(self, seconds: float) -> bool:
        """Wait until everything is delivered; whether it was.

        Args:
            seconds: how long to wait for a store that is away. One that takes what it gets may take its time.

        Raises:
            KeyboardInterrupt: the user does not want to wait.
            Exception: a bug, found while delivering.
        """
        self._closing.set()
        with self.journal.changed:
            self.journal.changed.notify_all()
        began, told = time.monotonic(), False
        try:
            while self._thread.is_alive():
                self._thread.join(0.05)
                away, now = self._away_since, time.monotonic()
                if away is None:
                    continue
                if now - max(away, began) > seconds:
                    break
                if not told:
                    say(f"⏳ Esperando o MLflow por até {seconds:g} s (tracking.wait); Ctrl+C desiste de esperar...")
                    told = True
        finally:
            self.let_go()
        if self._bug is not None:
            raise self._bug
        return not self._thread.is_alive() and self.delivery.is_complete

    def let_go(self) -> None:
        """Deliver nothing more."""
        self._stopped.set()
        self._closing.set()
        self._limits.restore()

    def _work(self) -> None:
        patience, refusals = FIRST_PATIENCE, 0
        while not self._stopped.is_set():
            closing = self._closing.is_set()
            try:
                self.delivery.deliver(self._note_progress)
                if closing:
                    self.delivery.deliver_refused()
            except TrackingError as error:
                self._note_outage(error)
                patience = min(2 * patience, LONGEST_PATIENCE)
                self._be_patient(patience)
                self._stopped.wait(RETRY_SECONDS)
                continue
            except Exception as error:  # the training ends first: close() raises it
                self._bug = error
                return
            self._note_progress()
            for sentence in self.delivery.refusals[refusals:]:
                say(f"⚠️ {sentence} O trabalho continua, e o arquivo fica guardado em {self.journal.root}.")
            refusals, patience = len(self.delivery.refusals), FIRST_PATIENCE
            self._be_patient(patience)
            if closing:
                return
            self._wait_for_news()

    def _wait_for_news(self) -> None:
        with self.journal.changed:
            self.journal.changed.wait_for(lambda: self._closing.is_set() or bool(self.delivery.waiting))
        self._closing.wait(GATHERING_SECONDS)

    def _be_patient(self, seconds: int) -> None:
        if not self._stopped.is_set():
            self._limits.set(seconds)

    def _note_progress(self) -> bool:
        self.problem = None
        if self._away_since is not None:
            self._away_since = None
            say(f"✅ {store_name()} voltou; o que ficou guardado está sendo entregue.")
        return not self._stopped.is_set()

    def _note_outage(self, error: TrackingError) -> None:
        self.problem = error
        if self._away_since is None and not self._stopped.is_set():
            self._away_since = time.monotonic()
            say(
                f"⚠️ {store_name()} não recebe ({cause_of(error)}); o trabalho continua, e o que há a dizer fica em "
                f"{self.journal.folder} até ele voltar."
            )
