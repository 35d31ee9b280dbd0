"""From a journal to MLflow: entry by entry, from the first one that has not got there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from cartas_mlflow.errors import TrackingError
from cartas_mlflow.files import OwnFile
from cartas_mlflow.tracking.failures import failures_told, is_passing
from cartas_mlflow.tracking.journal import ENTRIES, Entry, Reader
from cartas_mlflow.tracking.telling import JOURNAL_TAG, Listener, LogModel, tell

if TYPE_CHECKING:
    from mlflow import MlflowClient

BATCH = 500
"""Points in a request; MLflow's limit is 1000."""
_STATE = "delivered.json"
_MEND = "apague-o, e tudo será entregue de novo, a outra execução"


class Told(OwnFile):
    """A run, and how far it has been told: ``count`` entries, but for those that its store ``refused``."""

    run_id: str = Field(min_length=1)
    experiment_id: str
    count: int = 0
    refused: tuple[int, ...] = ()


class Delivered(OwnFile):
    """``delivered.json``: the runs that have been told of a journal, the latest last."""

    runs: tuple[Told, ...] = ()

    @classmethod
    def of(cls, folder: Path) -> tuple[Told, ...]:
        """The runs that have been told of the journal in this folder.

        Raises:
            DamagedFile: the file is not what was written.
        """
        path = folder / _STATE
        return cls.read(path, _MEND).runs if path.exists() else ()


def remember_told(folder: Path, run_id: str, experiment_id: str, count: int) -> None:
    """Write down that a run has been told so many entries of the journal in a folder."""
    Delivered(runs=(Told(run_id=run_id, experiment_id=experiment_id, count=count),)).write(folder / _STATE)


@dataclass
class Delivery:
    """Tells one journal to one run of the store in use. ``folder``: the journal's."""

    folder: Path
    client: MlflowClient
    log_model: LogModel | None = None
    told: Told | None = None
    refusals: list[str] = field(default_factory=list)
    """What this store refused in this process, a sentence each."""

    def __post_init__(self) -> None:
        self._reader = Reader(self.folder / ENTRIES)
        self._waiting: list[Entry] = []

    @property
    def waiting(self) -> list[Entry]:
        """The entries that the run has not been told."""
        self._waiting += self._reader.news()
        count = 0 if self.told is None else self.told.count
        self._waiting = [entry for entry in self._waiting if entry.number >= count]
        return self._waiting

    @property
    def is_complete(self) -> bool:
        """Whether the run has been told everything that stands in the journal now."""
        return self.told is not None and not self.waiting and not self.told.refused

    def go_on(self, run_id: str, experiment_id: str) -> None:
        """Tell this run from now on, from where it was left."""
        known = {told.run_id: told for told in Delivered.of(self.folder)}
        told = known.get(run_id) or Told(run_id=run_id, experiment_id=experiment_id)
        self._remember(told.model_copy(update={"experiment_id": experiment_id}))

    def find_run(self) -> None:
        """Go on with the latest run of this journal that the store in use has; without one, it will be made.

        Raises:
            TrackingError: the store does not answer.
        """
        self.told = next((told for told in reversed(Delivered.of(self.folder)) if self._exists(told.run_id)), None)

    def make_run(self) -> None:
        """Make the run as the journal's first entry says. One that was made and not remembered is taken.

        The first of all runs makes the store, which takes ``one_at_a_time``.

        Raises:
            TrackingError: the store does not answer, or does not let us.
        """
        import mlflow

        first = self.waiting[0]
        with failures_told():
            if first.body["parent"] is not None and self._exists(first.body["parent"]):
                place = self.client.get_run(first.body["parent"]).info.experiment_id
            else:
                place = mlflow.set_experiment(first.body["experiment"]).experiment_id
            found = self.client.search_runs([place], f"tags.`{JOURNAL_TAG}` = '{first.body['journal']}'", max_results=1)
            run = found[0] if found else self.client.create_run(place, first.time, first.body["tags"])
        self._remember(Told(run_id=run.info.run_id, experiment_id=place))

    def deliver(self, on_told: Callable[[], bool] = lambda: True) -> None:
        """Tell the run everything that it has not been told.

        Args:
            on_told: called after each request that got through; whether to go on.

        Raises:
            TrackingError: the store does not answer, or takes nothing from us; what was told until then stays told.
            DamagedFile: the journal is damaged.
        """
        for batch in self._batches():
            if self.told is None:
                self.make_run()
            refused = self._tell(batch)
            changes = {"count": batch[-1].number + 1, "refused": (*self.told.refused, *refused)}
            self._remember(self.told.model_copy(update=changes))
            if not on_told():
                return

    def deliver_refused(self) -> None:
        """Try again what the store refused.

        Raises:
            TrackingError: the store does not answer.
        """
        if self.told is None or not self.told.refused:
            return
        self.refusals.clear()
        entries = [entry for entry in Reader(self._reader.file).news() if entry.number in self.told.refused]
        refused = tuple(number for entry in entries for number in self._tell([entry]))
        self._remember(self.told.model_copy(update={"refused": refused}))

    def _batches(self) -> Iterator[list[Entry]]:
        """What to tell next, as long as there is something: points together, anything else alone."""
        while waiting := self.waiting:
            batch, points = waiting[:1], 0
            if waiting[0].kind == "points":
                for entry in waiting:
                    points += len(entry.body["points"]) if entry.kind == "points" else BATCH + 1
                    if points > BATCH:
                        break
                    batch = waiting[: entry.number - waiting[0].number + 1]
            yield batch

    def _tell(self, batch: Sequence[Entry]) -> tuple[int, ...]:
        """Tell a batch; gives the numbers of what was refused: an artifact that the store will not take must not hold
        up what comes after it."""
        try:
            with failures_told():
                tell(Listener(self.client, self.told.run_id, self.folder.parent, self.log_model), batch)
        except TrackingError as error:
            if batch[0].kind not in {"artifact", "checkpoint", "model"} or is_passing(error.__cause__):
                raise
            if str(error) not in self.refusals:
                self.refusals.append(str(error))
            return (batch[0].number,)
        return ()

    def _exists(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            with failures_told():
                self.client.get_run(run_id)
        except TrackingError as error:
            cause = error.__cause__
            if isinstance(cause, MlflowException) and cause.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _remember(self, told: Told) -> None:
        self.told = told
        others = [run for run in Delivered.of(self.folder) if run.run_id != told.run_id]
        Delivered(runs=(*others, told)).write(self.folder / _STATE)
