"""Journals that MLflow has not got all of, and their delivery after the fact."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cartas_mlflow.errors import TrackingError
from cartas_mlflow.files import DamagedFile
from cartas_mlflow.tracking.courier import FIRST_PATIENCE, RequestLimits
from cartas_mlflow.tracking.delivery import Delivered, Delivery, Told
from cartas_mlflow.tracking.journal import ENTRIES, FOLDER, Journal, ending, last_entry
from cartas_mlflow.tracking.run import NOTE_TAG, OUTCOME_TAG
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
            _write_end(journal, {})
        with one_at_a_time():
            delivery = Delivery(journal.folder, MlflowClient(), log_model)
            delivery.find_run()
            entries = len(delivery.waiting)
            if delivery.told is None:
                delivery.make_run()
        delivery.deliver()
        delivery.deliver_refused()
        return Sent(delivery.told, entries, cut_off, tuple(delivery.refusals))


def close_abandoned(parent: Path, how_to_go_on: Callable[[Path], str]) -> list[Path]:
    """End a folder's trainings at which no process of this machine works any more; gives their folders.

    They end in their journals. In MLflow they would say RUNNING for ever; :func:`tell_rests` tells it so, or ``sync``.

    Args:
        how_to_go_on: a training's folder -> Markdown for its run's description.
    """
    found = []
    for file in sorted(parent.glob(f"*/{FOLDER}/{ENTRIES}")):
        folder = file.parent.parent
        if ending(file) is not None:
            continue
        with suppress(TrackingError, DamagedFile), held(folder):
            journal = Journal(file.parent)
            if journal.last is None or journal.last.kind == "end" or journal.host not in {None, platform.node()}:
                continue
            _write_end(journal, {NOTE_TAG: f"**Interrompida.** {how_to_go_on(folder)}"})
            found.append(folder)
    return found


def tell_rests(parent: Path, log_model: LogModel) -> list[Path]:
    """Tell MLflow the rest of a folder's trainings that are ended, and whose process died before it had told so.

    Returns:
        The folders of those that have been told to their end now. One that the store in use has not, or does not hear
        now, is left for ``sync``.
    """
    found = []
    for file in sorted(parent.glob(f"*/{FOLDER}/{ENTRIES}")):
        folder = file.parent.parent
        with suppress(TrackingError, DamagedFile):
            if ending(file) is None or not _is_half_told(file):
                continue
            with held(folder):
                _tell_rest(Journal(file.parent), log_model)
            if not _is_half_told(file):
                found.append(folder)
    return found


def _is_half_told(file: Path) -> bool:
    """Whether a run has been told a part of what a journal says."""
    last, runs = last_entry(file), Delivered.of(file.parent)
    return last is not None and bool(runs) and runs[-1].count <= last.number


def _write_end(journal: Journal, tags: Mapping[str, str]) -> None:
    """That the process died, when it spoke last."""
    died = journal.last.time
    journal.write("tags", {"tags": {OUTCOME_TAG: "interrupted", **tags}})
    journal.write("end", {"status": "KILLED", "time": died})


def _tell_rest(journal: Journal, log_model: LogModel) -> None:
    from mlflow import MlflowClient

    with RequestLimits() as limits:
        limits.set(FIRST_PATIENCE)
        delivery = Delivery(journal.folder, MlflowClient(), log_model)
        delivery.find_run()
        if delivery.told is not None:
            limits.set(SECONDS)
            delivery.deliver()


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
