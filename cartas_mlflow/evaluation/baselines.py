"""What a reading has to beat: looking one up; and what it must not do: recite."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cartas_mlflow.evaluation.metrics import split_words

if TYPE_CHECKING:
    import numpy as np

_END, _NEW = -1, -2
"""Instead of a word's number: between two texts; a word that no source has."""
_BLOCK = 2_000_000
"""Words of the sources that are looked through at once."""
_MARKS = 1 << 20


def look_up(prompts: Sequence[tuple[str, ...]], known: Iterable[tuple[tuple[str, ...], str]]) -> list[str]:
    """For each prompt the known text that shares the most fields with it; ties go to the earlier one.

    Args:
        prompts: fields of each prompt, as (carta, evento, secao, tema).
        known: (fields, text) of each training record.
    """
    import numpy as np

    first: dict[tuple[str, ...], str] = {}
    for fields, text in known:
        first.setdefault(fields, text)
    numbers: dict[str, int] = {}
    rows = np.array([[numbers.setdefault(value, len(numbers)) for value in fields] for fields in first])
    texts = list(first.values())
    wanted = [np.array([numbers.get(value, _NEW) for value in fields]) for fields in prompts]
    return [texts[int((rows == fields).sum(axis=1).argmax())] for fields in wanted]


def longest_copied_runs(texts: Sequence[str], sources: Iterable[str]) -> list[int]:
    """For each text, the length in words of its longest run that stands word for word in one of the sources."""
    return Sources(sources).longest_runs(texts)


class Sources:
    """Texts that others may have copied from, as one row of numbered words: 4 bytes a word."""

    def __init__(self, texts: Iterable[str]) -> None:
        import numpy as np

        self._numbers: dict[str, int] = {}
        words = array("i", [_END])
        for text in texts:
            words.extend([self._numbers.setdefault(word, len(self._numbers)) for word in split_words(text)])
            words.append(_END)
        self._words = np.frombuffer(words, np.int32)

    def longest_runs(self, texts: Sequence[str]) -> list[int]:
        """See :func:`longest_copied_runs`."""
        import numpy as np

        split = [[*(self._numbers.get(word, _NEW) for word in split_words(text)), _END] for text in texts]
        owners = np.repeat(np.arange(len(texts)), [len(words) for words in split])
        numbers = np.concatenate([np.array(words, np.int64) for words in split] or [np.array([], np.int64)])
        # Only words of the texts matter: the sources' others are as good as an end.
        own = np.unique(numbers[numbers >= 0])
        renumbered = np.full(len(self._numbers) + 1, _END, np.int64)  # its last place is that of _END
        renumbered[own] = np.arange(len(own))
        words = np.where(numbers >= 0, renumbered[np.maximum(numbers, _END)], _END)
        longest = np.zeros(len(texts), np.int64)
        for block in self._blocks():
            for length, places in enumerate(_growing_runs(words, renumbered[block], max(1, len(own))), start=1):
                longest[owners[places]] = np.maximum(longest[owners[places]], length)
        return longest.tolist()

    def _blocks(self) -> Iterator[np.ndarray]:
        """The words in pieces that begin and end with an end."""
        import numpy as np

        ends = np.flatnonzero(self._words == _END)
        start = 0
        while start < len(self._words) - 1:
            stop = int(ends[min(np.searchsorted(ends, start + _BLOCK), len(ends) - 1)])
            yield self._words[start : stop + 1]
            start = stop


def _growing_runs(words: np.ndarray, source: np.ndarray, vocabulary: int) -> Iterator[np.ndarray]:
    """For runs of 1, 2, 3, … words: the places in ``words`` at which one begins that stands in the source too.

    Runs that are equal have the same number, which with the next word's gives the number of the longer run.
    """
    import numpy as np

    places, found_at = np.flatnonzero(words >= 0), np.flatnonzero(source >= 0)
    runs, found = words[places], source[found_at]
    length, different = 0, vocabulary
    while len(places):
        stands = np.zeros(different, bool)
        stands[found] = True
        places, runs = places[stands[runs]], runs[stands[runs]]
        yield places
        length += 1
        longer = words[places + length] >= 0
        places, runs = places[longer], runs[longer] * vocabulary + words[places[longer] + length]
        known, runs = np.unique(runs, return_inverse=True)
        different = len(known)
        following = source[found_at + length]
        found_at, found = found_at[following >= 0], (found * vocabulary + following)[following >= 0]
        likely = np.zeros(_MARKS, bool)  # few of the source's runs are any text's: a look here spares the search
        likely[known % _MARKS] = True
        kept = likely[found % _MARKS]
        found_at, found = found_at[kept], found[kept]
        numbers = np.searchsorted(known, found)
        kept = known[np.minimum(numbers, different - 1)] == found if different else np.zeros(0, bool)
        found_at, found = found_at[kept], numbers[kept]
