"""Which paragraphs a small model should read, and how often: near the essays in their words, and plain.

A paragraph's score is the mean over its words of log p(word | essays) - log p(word | corpus), word pairs mixed in: the
difference of cross entropies of Moore and Lewis (2010, "Intelligent selection of language model training data"). Words
that hardly anyone else writes (slips of the translation, names) count against it.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_PAIR_SHARE = 0.5
_RARE = 5
"""A word with fewer occurrences in the whole corpus is rare."""
RARE_PENALTY = 3.0
"""What a text of rare words only loses, in nats per word."""
DROPPED = 0.15
"""Share of the corpus, from the worst score up, that is left out."""
LIGHTEST, HEAVIEST = 0.4, 2.0


def split_words(text: str) -> list[str]:
    """Return the words of ``text`` in lower case."""
    return _WORD.findall(text.lower())


class Scorer:
    """Compares the words of a text with those of the texts that are wanted."""

    def __init__(self, wanted: Iterable[str], corpus: Iterable[str]) -> None:
        self._near = _Counts(wanted)
        self._all = _Counts(corpus)

    def score(self, text: str) -> float:
        """Return nats per word: 0 is like the corpus, higher is nearer to what is wanted and plainer."""
        words = split_words(text)
        if not words:
            return -math.inf
        total = 0.0
        for before, word in zip(["", *words], words, strict=False):
            total += math.log(self._near.share(before, word, self._all)) - math.log(self._all.share(before, word, None))
        rare = sum(self._all.words[word] < _RARE for word in words)
        return (total - RARE_PENALTY * rare) / len(words)


class _Counts:
    def __init__(self, texts: Iterable[str]) -> None:
        self.words: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        for text in texts:
            words = split_words(text)
            self.words.update(words)
            self.pairs.update(zip(["", *words], words, strict=False))
        self.size = sum(self.words.values())

    def share(self, before: str, word: str, smoother: "_Counts | None") -> float:
        """Share of ``word`` after ``before``; what was never met has the smoother's share, or one in all words."""
        backing = 1 / (self.size + 1) if smoother is None else smoother.share(before, word, None)
        single = (self.words[word] + backing) / (self.size + 1)
        followed = self.words[before]
        pair = (self.pairs[before, word] + single) / (followed + 1)
        return (1 - _PAIR_SHARE) * single + _PAIR_SHARE * pair


def weigh_paragraphs(sources: Mapping[str, Sequence[str]], wanted: Sequence[str]) -> dict[str, list[tuple[float, str]]]:
    """Return (weight, paragraph) of each source; the worst are left out.

    The weight grows with the rank of the score, from 0.4 to 2.0 times a pass.
    """
    scorer = Scorer(wanted, (text for texts in sources.values() for text in texts))
    scores = {name: [scorer.score(text) for text in texts] for name, texts in sources.items()}
    order = sorted(
        (score, len(text)) for name in sources for score, text in zip(scores[name], sources[name], strict=True)
    )
    total, passed, ranks = sum(size for _, size in order), 0, {}
    for score, size in order:
        passed += size
        ranks[score] = passed / total
    weighed = {}
    for name, texts in sources.items():
        pairs = [(ranks[score], text) for score, text in zip(scores[name], texts, strict=True)]
        weighed[name] = [(_weight(rank), text) for rank, text in pairs if rank > DROPPED]
    return weighed


def _weight(rank: float) -> float:
    return round(LIGHTEST + (HEAVIEST - LIGHTEST) * (rank - DROPPED) / (1 - DROPPED), 2)
