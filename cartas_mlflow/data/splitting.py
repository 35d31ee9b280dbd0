"""Records -> training and validation side, stratified by card as far as the readings allow."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
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
    names, classes = _classes(ordered)
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
    for own, places in zip(kept, _drawn_places(classes, counts, random), strict=True):
        train.extend(ordered[place] for place in places[:own])
        validation.extend(ordered[place] for place in places[own:])
    return Split(
        tuple(sorted(train, key=lambda record: record.id)),
        tuple(sorted(validation, key=lambda record: record.id)),
        single=tuple(name for name, count, own in zip(names, counts, kept, strict=True) if count == own == 1),
        unseen=tuple(name for name, own in zip(names, kept, strict=True) if own == 0),
    )


def sample_records(records: Sequence[Record], most: int, seed: int) -> tuple[Record, ...]:
    """At most so many of the records, in their order: each card its share, by largest remainders.

    The same ones whenever the records and the seed are the same.
    """
    if len(records) <= most:
        return tuple(records)
    import numpy as np

    _, classes = _classes(records)
    counts = np.bincount(classes)
    random = np.random.RandomState(seed)
    kept = _largest_remainders(counts, most, random)
    drawn = [places[:own] for own, places in zip(kept, _drawn_places(classes, counts, random), strict=True)]
    return tuple(records[place] for place in sorted(np.concatenate(drawn)))


def _classes(records: Sequence[Record]) -> tuple[list[str], np.ndarray]:
    """The cards, sorted, and each record's place among them."""
    import numpy as np

    names = sorted({record.carta for record in records})
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.fromiter((numbers[record.carta] for record in records), np.int64, len(records))


def _drawn_places(classes: np.ndarray, counts: np.ndarray, random: np.random.RandomState) -> Iterator[np.ndarray]:
    """The places of each class, class by class, in the order in which chance draws them."""
    import numpy as np

    for places in np.split(np.argsort(classes, kind="stable"), np.cumsum(counts)[:-1]):
        yield places[random.permutation(len(places))]


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
    missing = int(held_out - (counts.sum() - kept.sum()))
    spare = [(-own / count, card) for card, (own, count) in enumerate(zip(kept, counts, strict=True)) if own > 1]
    heapq.heapify(spare)
    for _ in range(missing):  # from the card that keeps the largest share
        if not spare:
            break
        card = heapq.heappop(spare)[1]
        kept[card] -= 1
        if kept[card] > 1:
            heapq.heappush(spare, (-kept[card] / counts[card], card))
    if counts.sum() == kept.sum():  # a very small fraction: still one reading to validate with
        kept[(kept * (counts > 1)).argmax()] -= 1
