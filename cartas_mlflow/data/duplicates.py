"""Texts that say the same twice, exactly or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cartas_mlflow.data.matching import clean_name

NEAR = 90.0
"""Similarity (rapidfuzz's ``ratio``, 0 to 100) from which on two texts are nearly the same."""
_ALL_PAIRS = 3000
_NEIGHBOURS = 40
"""Of more texts than ``_ALL_PAIRS`` only so many neighbours in alphabetical order are compared (Hernández and Stolfo's
sorted neighbourhood, 1995), once from their beginnings and once from their ends."""


@dataclass(frozen=True)
class Pair:
    """Places of two texts among the given ones, the first one first; ``similarity``: 0 to 100, 100 where equal."""

    first: int
    second: int
    similarity: float


def find_alike(texts: Sequence[str]) -> list[Pair]:
    """Pairs of texts that differ in case, accents and punctuation only, or in little more; the most alike first.

    Two texts of the same words have similarity 100.
    """
    import numpy as np
    from rapidfuzz import fuzz, process

    plain = [clean_name(text) for text in texts]
    found: dict[tuple[int, int], float] = {}
    if len(plain) <= _ALL_PAIRS:
        for start in range(0, len(plain), 500):
            scores = process.cdist(
                plain[start : start + 500], plain, scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.float32
            )
            for row, column in zip(*np.nonzero(scores), strict=True):
                if start + row < column:
                    found[int(start + row), int(column)] = float(scores[row, column])
    else:
        for key in (lambda place: plain[place], lambda place: plain[place][::-1]):
            order = sorted(range(len(plain)), key=key)
            for at, place in enumerate(order):
                for other in order[at + 1 : at + 1 + _NEIGHBOURS]:
                    score = fuzz.ratio(plain[place], plain[other], score_cutoff=NEAR)
                    if score:
                        found[min(place, other), max(place, other)] = score
    pairs = [Pair(first, second, score) for (first, second), score in found.items()]
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))
