"""Journals that MLflow has not got all of, and their delivery after the fact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.errors import TrackingError
from cartas_mlflow.tracking.courier import RequestLimits
from cartas_mlflow.tracking.delivery import Delivered, Delivery, Told
from cartas_mlflow.tracking.journal import ENTRIES, FOLDER, Journal
from cartas_mlflow.tracking.run import OUTCOME_TAG
from cartas_mlflow.tracking.store import one_at_a_time
from cartas_mlflow.tracking.telling import LogModel

SECONDS = 30
"""Each request of a delivery after the fact gets that long: the command can be repeated."""


@dataclass(frozen=True)
class Sent:
    """What was delivered of a folder: ``entries`` this time; ``cut_off``: its work never came to an end."""

    run: Told
    entries: int
    cut_off: bool
    refusals: tuple[str, ...]


def run_folders(folder: Path) -> list[Path]:
    """The folders with a journal: this one, or those inside it, in the order of their names."""
    if (folder / FOLDER / ENTRIES).is_file():
        return [folder]
    return sorted(path.parent.parent for path in folder.glob(f"**/{FOLDER}/{ENTRIES}"))


def is_delivered(folder: Path) -> bool:
    """Whether a run somewhere has been told everything that the journal in a run's folder says."""
    number = len(Journal(folder / FOLDER))
    return number == 0 or any(told.count >= number and not told.refused for told in Delivered.of(folder / FOLDER))


def told_run(folder: Path) -> str | None:
    """The id of the run in MLflow that was told last of a run's folder."""
    runs = Delivered.of(folder / FOLDER)
    return runs[-1].run_id if runs else None


def send(folder: Path, log_model: LogModel | None) -> Sent:
    """Deliver a run's folder to the store in use: into the run that it has of it, or else into a new one.

    Raises:
        TrackingError: a training is at work in the folder, or the store does not answer.
        DamagedFile: the journal is damaged.
    """
    from mlflow import MlflowClient

    with held(folder), RequestLimits() as limits:
        limits.set(SECONDS)
        journal = Journal(folder / FOLDER)
        cut_off = journal.last.kind != "end"
        if cut_off:
            journal.write("tags", {"tags": {OUTCOME_TAG: "interrupted"}})
            journal.write("end", {"status": "KILLED"})
        with one_at_a_time():
            delivery = Delivery(journal.folder, MlflowClient(), log_model)
            delivery.find_run()
            entries = len(delivery.waiting)
            if delivery.told is None:
                delivery.make_run()
        delivery.deliver()
        delivery.deliver_refused()
        return Sent(delivery.told, entries, cut_off, tuple(delivery.refusals))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Let no other process write or deliver the journal of a run's folder meanwhile.

    Raises:
        TrackingError: one does.
    """
    from filelock import FileLock, Timeout

    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / FOLDER / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise TrackingError(
            f"Outro processo está trabalhando em {folder}, e entrega sozinho o que escreve; espere ele terminar."
        ) from None
    try:
        yield
    finally:
        lock.release()
