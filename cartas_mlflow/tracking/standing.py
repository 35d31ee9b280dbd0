"""How a run stands before it is opened again, and that it stands so again if nothing comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cartas_mlflow.tracking.journal import Journal
from cartas_mlflow.tracking.machine import PREFIX
from cartas_mlflow.tracking.run import FAILURE_TAG, NOTE_TAG, OUTCOME_TAG


@dataclass(frozen=True)
class Standing:
    """Status and tags of a run, and how many points its training told."""

    status: str
    tags: Mapping[str, str]
    points: int

    @classmethod
    def of(cls, journal: Journal) -> Standing | None:
        """None where the journal has no run yet."""
        if journal.last is None:
            return None
        status = journal.last.body["status"] if journal.last.kind == "end" else "KILLED"
        kept = {name: journal.tags[name] for name in (FAILURE_TAG, NOTE_TAG) if name in journal.tags}
        outcome = journal.tags.get(OUTCOME_TAG, "interrupted")
        return cls(status, {OUTCOME_TAG: outcome, **kept}, _training_points(journal))

    def is_still_so(self, journal: Journal) -> bool:
        """Whether the training has told nothing since."""
        return _training_points(journal) == self.points

    def restore(self, journal: Journal) -> None:
        """Say once more how it stood."""
        journal.write("tags", {"tags": dict(self.tags)})
        journal.write("end", {"status": self.status})


def _training_points(journal: Journal) -> int:
    """All but those of the machine's use."""
    return sum(not name.startswith(PREFIX) for name, _ in journal.points)
