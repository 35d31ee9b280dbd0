"""Records -> training and validation side, stratified by card as far as the readings allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cartas_mlflow.data.records import Record, Records
from cartas_mlflow.errors import DataError

if TYPE_CHECKING:
    import numpy as np

MIN_RECORDS = 12
"""Fewer readings are no table to learn from, and none to measure on."""


@dataclass(frozen=True)
class Split:
    """The same rows whatever their order in the file; both sides are sorted by id.

    ``single``: cards with one reading, which teach but are not measured; ``unseen``: cards that are measured only.
    """

    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    single: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def split_records(records: Records, fraction: float, seed: int) -> Split:
    """Stratified by ``carta``, independent of the order of the rows in the file.

    Each card gets its share by largest remainders and keeps at least one reading for training; only where every card
    has a single one do some stand in validation alone. The draw is that of scikit-learn's ``StratifiedShuffleSplit``: a
    table that it takes (no card with one reading, no side smaller than the number of cards) is split as it splits it.

    Args:
        fraction: share of the rows for validation, rounded up (0.15 of 462 -> 70).

    Raises:
        DataError: fewer than a dozen readings.
    """
    total = len(records.rows)
    if total < MIN_RECORDS:
        few = "1 leitura válida" if total == 1 else f"{total} leituras válidas"
        raise DataError(f"{records.source} tem só {few}, e são precisas pelo menos {MIN_RECORDS}; acrescente leituras.")
    import numpy as np

    ordered = sorted(records.rows, key=lambda record: record.id)
    names, classes = np.unique([record.carta for record in ordered], return_inverse=True)
    counts = np.bincount(classes)
    held_out = min(math.ceil(total * fraction), total - 1)
    random = np.random.RandomState(seed)
    kept = _largest_remainders(counts, total - held_out, random)
    # What is left is all of the other side; scikit-learn draws it all the same, and its chance goes on from there.
    _largest_remainders(counts - kept, held_out, random)
    if counts.max() > 1:
        _keep_one_of_each(kept, counts, held_out)
    train: list[Record] = []
    validation: list[Record] = []
    for card, count in enumerate(counts):
        places = np.flatnonzero(classes == card)[random.permutation(count)]
        train.extend(ordered[place] for place in places[: kept[card]])
        validation.extend(ordered[place] for place in places[kept[card] :])
    return Split(
        tuple(sorted(train, key=lambda record: record.id)),
        tuple(sorted(validation, key=lambda record: record.id)),
        single=tuple(str(name) for name, count, own in zip(names, counts, kept, strict=True) if count == own == 1),
        unseen=tuple(str(name) for name, own in zip(names, kept, strict=True) if own == 0),
    )


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
