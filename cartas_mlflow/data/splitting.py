"""Records -> training and validation side, stratified by card as far as the readings allow."""

from __future__ import annotations

import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cartas_mlflow.data.records import Record, Records
from cartas_mlflow.errors import DataError

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

    Where every card can stand on both sides in its share, scikit-learn draws. Where not, each card gets its share by
    largest remainders, keeps at least one reading for training, and cards with a single one go to training.

    Args:
        fraction: share of the rows for validation, rounded up (0.15 of 462 -> 70).

    Raises:
        DataError: fewer than a dozen readings.
    """
    total = len(records.rows)
    if total < MIN_RECORDS:
        few = "1 leitura válida" if total == 1 else f"{total} leituras válidas"
        raise DataError(f"{records.source} tem só {few}, e são precisas pelo menos {MIN_RECORDS}; acrescente leituras.")
    ordered = sorted(records.rows, key=lambda record: record.id)
    counts = Counter(record.carta for record in ordered)
    held_out = min(math.ceil(total * fraction), total - 1)
    train, validation = _draw_evenly(ordered, held_out, seed) or _draw_by_remainders(ordered, held_out, seed)
    trained = {record.carta for record in train}
    return Split(
        train,
        validation,
        single=tuple(sorted(card for card, count in counts.items() if count == 1 and card in trained)),
        unseen=tuple(sorted(counts.keys() - trained)),
    )


def _draw_evenly(
    ordered: Sequence[Record], held_out: int, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]] | None:
    from sklearn.model_selection import train_test_split

    counts = Counter(record.carta for record in ordered)
    if min(counts.values()) < 2 or min(held_out, len(ordered) - held_out) < len(counts):
        return None
    sides = train_test_split(
        ordered, test_size=held_out, random_state=seed, stratify=[record.carta for record in ordered]
    )
    if any({record.carta for record in side} != counts.keys() for side in sides):
        return None
    train, validation = (tuple(sorted(side, key=lambda record: record.id)) for side in sides)
    return train, validation


def _draw_by_remainders(
    ordered: Sequence[Record], held_out: int, seed: int
) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
    chance = random.Random(seed)
    by_card: dict[str, list[Record]] = defaultdict(list)
    for record in ordered:
        by_card[record.carta].append(record)
    cards = sorted(by_card)
    chance.shuffle(cards)  # equal remainders: not always the first in the alphabet
    room = {card: len(by_card[card]) - 1 for card in cards}
    if not any(room.values()):
        room = dict.fromkeys(cards, 1)  # nothing but single readings: some of them are measured all the same
    held_out = min(held_out, sum(room.values()))
    share = {card: held_out * room[card] / sum(room.values()) for card in cards}
    quota = {card: min(room[card], int(share[card])) for card in cards}
    for card in sorted(cards, key=lambda card: quota[card] - share[card]):
        if sum(quota.values()) < held_out and quota[card] < room[card]:
            quota[card] += 1
    held = {record.id for card in cards for record in chance.sample(by_card[card], quota[card])}
    train = tuple(record for record in ordered if record.id not in held)
    return train, tuple(record for record in ordered if record.id in held)
