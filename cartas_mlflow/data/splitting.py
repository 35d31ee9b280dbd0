"""Records -> a training and a validation side, stratified by card as far as the table allows."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cartas_mlflow.data.records import Record, Records
from cartas_mlflow.errors import DataError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Split:
    """The same rows whatever their order in the file; both sides are sorted by id."""

    train: tuple[Record, ...]
    validation: tuple[Record, ...]

    @property
    def unseen(self) -> tuple[str, ...]:
        """Cards of validation readings that training does not have."""
        return tuple(sorted({row.carta for row in self.validation} - {row.carta for row in self.train}))

    @property
    def single(self) -> tuple[str, ...]:
        """Cards whose only reading is in training."""
        counts = Counter(row.carta for row in (*self.train, *self.validation))
        return tuple(sorted({row.carta for row in self.train if counts[row.carta] == 1}))


def split_records(records: Records, fraction: float, seed: int) -> Split:
    """Stratified by ``carta``, independent of the order of the rows in the file.

    Every card keeps at least one reading in training; a card with a single one has none in validation. Only where all
    cards have a single one does validation get cards that training lacks. The draw is that of scikit-learn's
    ``StratifiedShuffleSplit`` (which refuses such tables), so a table that it takes is split as it splits it.

    Args:
        fraction: share of the rows for validation, rounded up (0.15 of 462 -> 70).

    Raises:
        DataError: fewer than two readings.
    """
    import numpy as np

    total = len(records.rows)
    if total < 2:
        raise DataError(f"{records.source} tem só 1 leitura, e a divisão precisa de pelo menos 2; acrescente leituras.")
    ordered = sorted(records.rows, key=lambda row: row.id)
    classes = np.unique([row.carta for row in ordered], return_inverse=True)[1]
    counts = np.bincount(classes)
    held_out = min(math.ceil(total * fraction), total - 1)
    random = np.random.RandomState(seed)
    kept = _largest_remainders(counts, total - held_out, random)
    # What is left is all of the other side; scikit-learn draws it all the same, and its chance goes on from there.
    _largest_remainders(counts - kept, held_out, random)
    if counts.max() > 1:
        _keep_one_of_each(kept, counts, held_out)
    orders = [random.permutation(count) for count in counts]
    train: list[Record] = []
    validation: list[Record] = []
    for card, order in enumerate(orders):
        places = np.flatnonzero(classes == card)[order]
        train.extend(ordered[place] for place in places[: kept[card]])
        validation.extend(ordered[place] for place in places[kept[card] :])
    return Split(*(tuple(sorted(side, key=lambda row: row.id)) for side in (train, validation)))


def _largest_remainders(counts: np.ndarray, draws: int, random: np.random.RandomState) -> np.ndarray:
    """Readings per card among so many draws: the proportional share rounded down, and one more for the largest
    remainders; among equal ones chance decides (Hamilton's method, as in scikit-learn's ``_approximate_mode``)."""
    import numpy as np

    shares = counts / counts.sum() * draws
    drawn = np.floor(shares)
    remainders = shares - drawn
    missing = int(draws - drawn.sum())
    for value in np.sort(np.unique(remainders))[::-1]:
        if missing <= 0:
            break
        (equal,) = np.where(remainders == value)
        chosen = random.choice(equal, size=min(len(equal), missing), replace=False)
        drawn[chosen] += 1
        missing -= len(chosen)
    return drawn.astype(int)


def _keep_one_of_each(kept: np.ndarray, counts: np.ndarray, held_out: int) -> None:
    """No card without training; validation gives it, and gets back from cards that have readings to spare."""
    kept[kept == 0] = 1
    while counts.sum() - kept.sum() < held_out and kept.max() > 1:
        kept[(kept / counts * (kept > 1)).argmax()] -= 1
    if counts.sum() == kept.sum():  # a very small fraction: still one reading to validate with
        kept[(kept * (counts > 1)).argmax()] -= 1
