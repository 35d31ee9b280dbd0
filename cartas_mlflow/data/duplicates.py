"""Texts that say the same twice, exactly or nearly."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cartas_mlflow.data.matching import clean_name

NEAR = 90.0
"""Similarity (rapidfuzz's ``ratio``, 0 to 100) from which on two texts are nearly the same."""
_ALL_PAIRS = 3000
_NEIGHBOURS = 40
"""Of more texts than ``_ALL_PAIRS`` only so many neighbours in alphabetical order are compared (Hernández and Stolfo's
sorted neighbourhood, 1995), once from their beginnings and once from their ends."""
_COMPARISONS = 4_000_000
"""Of each of these two rounds, at most: from 100,000 texts on there are fewer neighbours."""
_AT_ONCE = 50_000
"""Pairs that one call compares."""
MOST = 200_000
"""Pairs with which the search among neighbours ends."""
_ENDING = 64
"""Characters that the order from the ends goes by."""


@dataclass(frozen=True)
class Pair:
    """Places of two texts among the given ones, the first one first; ``similarity``: 0 to 100, 100 where equal."""

    first: int
    second: int
    similarity: float


def find_alike(texts: Sequence[str]) -> list[Pair]:
    """Pairs of texts that differ in case, accents and punctuation only, or in little more; the most alike first.

    Two texts of the same words have similarity 100. Among more than 3,000 texts those of the same words make a pair
    with the first of them each, and that one alone is compared with its neighbours, until there are :data:`MOST` pairs.
    """
    plain = [clean_name(text) for text in texts]
    found = _compare_all(plain) if len(plain) <= _ALL_PAIRS else _compare_neighbours(plain)
    pairs = [Pair(first, second, score) for (first, second), score in found.items()]
    return sorted(pairs, key=lambda pair: (-pair.similarity, pair.first, pair.second))


def _compare_all(plain: Sequence[str]) -> dict[tuple[int, int], float]:
    import numpy as np
    from rapidfuzz import fuzz, process

    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(plain), 500):
        scores = process.cdist(
            plain[start : start + 500], plain, scorer=fuzz.ratio, score_cutoff=NEAR, dtype=np.float32
        )
        for row, column in zip(*np.nonzero(scores), strict=True):
            if start + row < column:
                found[int(start + row), int(column)] = float(scores[row, column])
    return found


def _compare_neighbours(plain: Sequence[str]) -> dict[tuple[int, int], float]:
    import numpy as np
    from rapidfuzz import fuzz, process

    first_of: dict[str, int] = {}
    firsts = [first_of.setdefault(text, place) for place, text in enumerate(plain)]
    repeated = ((first, place) for place, first in enumerate(firsts) if first != place)
    found = dict.fromkeys(itertools.islice(repeated, MOST), 100.0)
    places = list(first_of.values())
    del first_of, firsts, repeated
    neighbours = max(1, min(_NEIGHBOURS, _COMPARISONS // len(places)))
    for key in (lambda place: plain[place], lambda place: plain[place][: -_ENDING - 1 : -1]):
        places.sort(key=key)
        for start in range(0, len(places), _AT_ONCE // neighbours):
            if len(found) >= MOST:
                return found
            heads = range(start, min(start + _AT_ONCE // neighbours, len(places)))
            pairs = [(places[at], other) for at in heads for other in places[at + 1 : at + 1 + neighbours]]
            scores = process.cpdist(
                [plain[one] for one, _ in pairs],
                [plain[other] for _, other in pairs],
                scorer=fuzz.ratio,
                score_cutoff=NEAR,
                dtype=np.float32,
            )
            for pair in np.flatnonzero(scores):
                one, other = pairs[pair]
                found[min(one, other), max(one, other)] = float(scores[pair])
    return found
